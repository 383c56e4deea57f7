"""The one command of all papers: `python -m experiments PAPER --preset quick`, and `--list`."""

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from advjax.command import command
from advjax.deadline import OutOfTimeError, deadline
from advjax.training import Preempted
from experiments.config import explained, with_settings
from experiments.store import finished_stages
from experiments.study import Study, run

__all__ = ["alone", "main"]

# "Try again" in <sysexits.h>: what ends before it is done.
_NOT_YET = 75


def main(studies: Mapping[str, Study[Any, Any]], arguments: Sequence[str] | None = None) -> None:
    """Runs the study that the command line names, or lists all, and prints the summary.

    Ends with 0 when the run is done, with 75 when `--minutes` were over before (the same command goes on), and as
    `advjax.command.command` says for anything that its user can mend.
    """
    options = _parser(studies, sys.argv[1:] if arguments is None else arguments)
    if options.list:
        print(_listed(studies))
        return
    out, name = options.out or f"runs/{options.paper}-{options.preset}", f"python -m experiments {options.paper}"
    goes_on = f"the finished stages are in {out}, and the same command goes on from there"
    with command(name, interrupted=goes_on):
        config = with_settings(studies[options.paper].presets[options.preset], options.set)
        try:
            with deadline(options.minutes):
                print(run(studies[options.paper], config, out, options.data_dir))
                return
        except OutOfTimeError:
            told = "in the middle of a stage, which begins anew"
        except Preempted as stopped:
            if options.minutes is None:
                raise
            told = str(stopped)
    done = finished_stages(out)
    print(f"{options.minutes:g} minutes are over, {told}. {len(done)} stages are finished in {out}"
          f"{f', the last is {done[-1]}' if done else ''}; the same command goes on.", file=sys.stderr)  # fmt: skip
    raise SystemExit(_NOT_YET)


def alone(study: Study[Any, Any]) -> None:
    """`main` for a command line that names no study, as it is this one."""
    main({study.name: study}, [study.name, *sys.argv[1:]])


def _parser(studies: Mapping[str, Study[Any, Any]], arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m experiments",
        description="The papers' experiments. A run that was stopped goes on when the same command is given again.",
    )
    parser.add_argument("--list", action="store_true", help="papers, presets, times, and what was measured last")
    papers = parser.add_subparsers(dest="paper", metavar="PAPER")
    for study in studies.values():
        presets = "; ".join(f"{preset}: {time}" for preset, time in study.times.items())
        own = papers.add_parser(
            study.name,
            help=study.doc.partition("\n")[0],
            description=f"{study.title}. {study.doc}",
            epilog=f"fields of --set, with the values of the preset paper:\n{explained(study.presets['paper'])}",
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        own.add_argument("--preset", choices=study.presets, default="quick", help=f"{presets} (default: quick)")
        own.add_argument("--out", help="folder for results (default: runs/PAPER-PRESET)")
        own.add_argument("--data-dir", help="where TFDS keeps the data sets (default: TFDS_DATA_DIR)")
        own.add_argument(
            "--set", nargs="+", action="extend", default=[], metavar="FIELD=VALUE", help="changes fields of the preset"
        )
        own.add_argument("--minutes", type=float, help="stop at a checkpoint before so many are over")
    options = parser.parse_args(arguments)
    if not options.list and options.paper is None:
        parser.error(f"a PAPER is needed, one of {', '.join(studies)}, or --list")
    return options


def _listed(studies: Mapping[str, Study[Any, Any]]) -> str:
    lines = []
    for study in studies.values():
        lines.append(f"{study.name}: {study.title}")
        lines += [f"  {line}" for line in study.listed()]
        for preset in study.presets:
            lines.append(f"  --preset {preset}: {study.times[preset]}")
            committed = study.results / preset / "config.json"
            content = json.loads(committed.read_text()) if committed.exists() else {}
            if not content:
                lines.append("    not measured")
                continue
            day, minutes = content["written"][:10], content["seconds_in_all"] / 60
            lines.append(f"    measured {day}, {minutes:.1f} minutes on {content['hardware']['processor']}:")
            lines += [f"      {line}" for line in content.get("summary", [])]
    return "\n".join(lines)
