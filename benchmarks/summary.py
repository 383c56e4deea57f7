"""The records of all jobs as two pages: SUMMARY.md, a row each, and DETAILS.md, every side of each."""

import json
import statistics
from pathlib import Path
from typing import Any

from advjax.files import write_text

__all__ = ["read_records", "side_rows", "write_pages", "write_record"]

_HEAD = """# Every job beside what a user would pick instead

Written by `make bench` from `records/`; each row has its own date and machine, both sides on it in turn. Seconds are
medians; a ratio above 1 means that advjax is faster than the *fastest* peer, and the range is that of single repeats.
The floor is the larger of operations over this machine's matrix rate and bytes over its bandwidth, measured beside.
All sides, answers and counts: [DETAILS.md](DETAILS.md).

| job | work | advjax, s | fastest peer, s | ratio | x floor | results | date, machine |
|---|---|---:|---|---:|---:|---|---|
"""


def write_record(folder: Path, name: str, record: dict[str, Any]) -> None:
    """The record of one job, whole or not at all, and both pages anew; other jobs keep their rows."""
    (folder / "records").mkdir(parents=True, exist_ok=True)
    write_text(folder / "records" / f"{name}.json", json.dumps(record, indent=1) + "\n")
    write_pages(folder)


def read_records(folder: Path) -> dict[str, dict[str, Any]]:
    """All records by the job's name."""
    return {path.stem: json.loads(path.read_text()) for path in sorted((folder / "records").glob("*.json"))}


def write_pages(folder: Path) -> None:
    """SUMMARY.md and DETAILS.md from the records, in the order of the jobs."""
    from benchmarks.jobs import JOBS

    records = read_records(folder)
    known = [name for name in JOBS if name in records]
    write_text(folder / "SUMMARY.md", _HEAD + "".join(_row(name, records[name]) for name in known))
    details = "".join(_section(name, records[name]) for name in known)
    write_text(folder / "DETAILS.md", f"# All sides of every job\n\nWritten by `make bench`.\n{details}")


def _row(name: str, record: dict[str, Any]) -> str:
    sides = record["sides"]
    ours, peers = sides["advjax"]["seconds"], _timed_peers(sides)
    ratio, fastest = "", "none"
    if peers:
        best = min(peers, key=lambda peer: statistics.median(peers[peer]))
        theirs = peers[best]
        each = [b / a for a, b in zip(ours, theirs, strict=True)]
        fastest = f"{best}: {_number(statistics.median(theirs))}"
        ratio = f"**{statistics.median(theirs) / statistics.median(ours):.2f}** ({min(each):.2f}-{max(each):.2f})"
    floor = record["floor"]["times"]
    seconds = f"{_number(statistics.median(ours))} ({_number(min(ours))}-{_number(max(ours))})"
    machine = record["machine"]
    cells = [
        name,
        record["work"],
        seconds,
        fastest,
        ratio,
        "" if floor is None else f"{floor:.1f}",
        _agreement(record),
        f"{record['date']}, {machine['processor']}, {machine['cores']} cores",
    ]
    return f"| {' | '.join(cells)} |\n"


def _timed_peers(sides: dict[str, Any]) -> dict[str, list[float]]:
    # "advjax, some other way" is no peer.
    return {
        name: side["seconds"] for name, side in sides.items() if not name.startswith("advjax") and "seconds" in side
    }


def _agreement(record: dict[str, Any]) -> str:
    peers = {name: side for name, side in record["sides"].items() if not name.startswith("advjax")}
    if not any("answers" in side for side in peers.values()):
        return "no peer"
    amiss = [name for name, side in peers.items() if side.get("absent", "").startswith("disagrees")]
    if amiss:
        return f"differ: {', '.join(amiss)}"
    return "agree" if record["agreed"] else "reported"


def _section(name: str, record: dict[str, Any]) -> str:
    floor, machine, load = record["floor"], record["machine"], record.get("load", float("nan"))
    versions = ", ".join(f"{package} {version}" for package, version in record["versions"].items())
    rates = floor["rates"]
    bars = ", ".join(f"{answer} to {bar:g}" for answer, bar in record["agreed"].items())
    lines = [
        f"\n## {name}\n",
        f"{record['work']}." + (f" {record['notes'].capitalize()}." if record["notes"] else ""),
        "",
        f"{record['date']}, {machine['processor']}, {machine['cores']} cores, {', '.join(machine['devices'])}; "
        f"{versions}.",
        f"Load average at the start {load:.1f}; {record['repeats']} repeats, the sides in turn"
        + (f"; what must agree: {bars} relative." if bars else "."),
        f"Floor {_number(floor['seconds'])} s: {_rate(floor['operations'], rates['operations'], 'FLOP')}, "
        f"{_rate(floor['bytes'], rates['bytes'], 'B')} ({floor['counted']}; {rates['best']}). "
        f"Peak memory of the process, all sides: {record['memory']:.0f} MiB.",
        "",
        "| side | s, median | least - most | first call, s | peak memory alone, MiB | answers |",
        "|---|---:|---|---:|---:|---|",
        *side_rows(record),
    ]
    return "\n".join([*lines, *(["", *record["details"]] if record["details"] else []), ""])


def side_rows(record: dict[str, Any]) -> list[str]:
    """A row of DETAILS.md for each side."""
    return [_side_row(name, side) for name, side in record["sides"].items()]


def _side_row(name: str, side: dict[str, Any]) -> str:
    answers = ", ".join(f"{answer} {value:.4g}" for answer, value in side.get("answers", {}).items())
    times = side.get("seconds")
    cells = [
        name,
        _number(statistics.median(times)) if times else "",
        f"{_number(min(times))} - {_number(max(times))}" if times else "",
        f"{side['first']:.1f}" if "first" in side else "",
        f"{side['memory']:.0f}" if "memory" in side else "",
        "; ".join(filter(None, (side.get("absent", ""), answers))),
    ]
    return f"| {' | '.join(cells)} |"


def _rate(amount: float, rate: float, unit: str) -> str:
    return f"{amount / 1e9:.3g} G{unit} at {rate / 1e9:.3g} G{unit}/s"


def _number(value: float) -> str:
    return f"{value:.3g}" if value < 100 else f"{value:.0f}"
