"""Stage "report": tables, `metrics.csv`, figures, `config.json` with the run's durations."""

import csv
import io

import numpy as np

from experiments.robust_optimization.claims import claims
from experiments.robust_optimization.config import Config, Part
from experiments.robust_optimization.figures import draw, one_pixel
from experiments.robust_optimization.paper import FIGURES
from experiments.robust_optimization.preprocess import Images
from experiments.robust_optimization.table import (
    curve_table,
    data_name,
    network_name,
    paper_of,
    schedule,
    set_table,
    table,
    verdict,
)
from experiments.store import Arrays, Store
from experiments.verdicts import SAMPLING

__all__ = ["report", "stage"]


def stage(part: Part, *words: str) -> str:
    """The name of a stage of a part."""
    return "/".join((part.data, *words))


def report(config: Config, parts: list[Part], store: Store, tests: dict[str, Images]) -> str:
    """Writes all files of the report into the store's folder and returns a summary for the terminal.

    `parts` are those of the configuration with the radii that were used.
    """
    lines, metrics, files = [], [], []
    for part in parts:
        test = tests[part.data]
        found = store.read(stage(part, "adversarial"))
        results = {name: store.read(stage(part, "judged", name)) for name in part.networks}
        for name in part.networks:
            results[name]["epoch_test"] = store.read(stage(part, "train", name), "epoch_test")["epoch_test"]
        conclusions = verdict(part, results, len(test.labels))
        statements = claims(part, results, len(test.labels))
        name = FIGURES[paper_of(part)]["table"]
        store.write_text(name, _page(config, part, test, found, results, conclusions, statements))
        figures = draw(part, test, found, results)
        for file, figure in figures.items():
            store.write_figure(file, figure)
        files += [name, *figures]
        metrics += _metrics(part, found, results)
        accuracy = 100 * float(results["baseline"]["test"])
        lines += [f"{data_name(part)}: baseline {accuracy:.2f} %, {len(found['label']):,} adversarial images"]
        lines += conclusions
    store.write_text("metrics.csv", _csv(metrics))
    seconds = store.seconds()
    store.write_config(config, seconds=seconds, seconds_in_all=round(sum(seconds.values()), 1))
    minutes = sum(seconds.values()) / 60
    return "\n".join([*lines, f"{minutes:.1f} minutes of work; in {store.root}: {', '.join(files)}, metrics.csv"])


def _page(
    config: Config,
    part: Part,
    test: Images,
    found: Arrays,
    results: dict[str, Arrays],
    conclusions: list[str],
    statements: list[str],
) -> str:
    number = 2 if part.data == "cifar10" else 1
    stand_in = (
        "**The data are scikit-learn's handwritten digits, not MNIST**: the paper's figures are shown for "
        "the order of the rows, not to be compared with.\n\n"
        if part.data == "digits"
        else ""
    )
    return "\n".join(
        [
            f"# Table {number} of Shaham, Yamada, Negahban 2015: preset `{config.preset}`, seed {config.seed}\n",
            stand_in + table(part, results),
            "\nA are the baseline's own adversarial images, which it gets wrong by construction. PGD-20 is not in the "
            f"paper: 20 steps in the same linf ball, inside [0, 1], on the first "
            f"{min(part.pgd_images, len(test.labels)):,} test images.\n",
            "## The two schedules\n",
            schedule(part),
            f"\nImages read: {test.read}.",
            "\n## What holds\n",
            f"{SAMPLING}\n",
            *(f"- {line}" for line in conclusions),
            "\n## The paper's claims\n",
            *(f"- {line}" for line in statements),
            "\n## The adversarial set A\n",
            set_table(part, found),
            _pixels(part, found),
            f"\n## Accuracy by epsilon (Fig. {6 if number == 2 else 3})\n",
            curve_table(part, results, float(test.std)),
            "",
        ]
    )


def _pixels(part: Part, found: Arrays) -> str:
    if "l1" not in part.norms:
        return ""
    rows = one_pixel(part, found)
    stored = int(found["stored_wrong"][rows].sum())
    return (
        f"\n{len(rows):,} test images are misclassified when exactly one pixel is changed (Fig. 1), {stored:,} of them "
        "also as stored 8-bit images."
    )


def _metrics(part: Part, found: Arrays, results: dict[str, Arrays]) -> list[tuple[str, str, str, float]]:
    """Every number: data, network, metric, value."""
    lines: list[tuple[str, str, str, float]] = []
    for number, norm in enumerate(part.norms):
        own = found["norm"] == number
        lines.append((part.data, "baseline", f"adversarial_images_{norm}", float(own.sum())))
        if "stored_wrong" in found:
            stored = float(found["stored_wrong"][own].sum())
            lines.append((part.data, "baseline", f"adversarial_images_stored_{norm}", stored))
    lines.append((part.data, "baseline", "one_pixel_flips", float(len(one_pixel(part, found)))))
    for name, ours in results.items():
        own = network_name(name)
        lines.append((part.data, own, "test_accuracy", float(ours["test"])))
        lines.append((part.data, own, "pgd20_accuracy", float(ours["pgd"])))
        for norm, right, count in zip(part.norms, ours["adversarial_right"], ours["adversarial_count"], strict=True):
            lines.append((part.data, own, f"adversarial_accuracy_{norm}", float(right / max(count, 1))))
        total = ours["adversarial_right"].sum() / max(ours["adversarial_count"].sum(), 1)
        lines.append((part.data, own, "adversarial_accuracy", float(total)))
        lines += [
            (part.data, own, f"fgs_accuracy_{epsilon:g}", float(value))
            for epsilon, value in zip(part.epsilons, ours["sweep"], strict=True)
        ]
        lines += [
            (part.data, own, f"test_accuracy_epoch_{epoch}", float(value))
            for epoch, value in enumerate(np.asarray(ours["epoch_test"]), start=1)
        ]
    return lines


def _csv(metrics: list[tuple[str, str, str, float]]) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(("data", "network", "metric", "value"))
    writer.writerows((data, network, metric, f"{value:.6g}") for data, network, metric, value in metrics)
    return text.getvalue()
