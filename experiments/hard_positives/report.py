"""Stage "report": `table1.md`, `metrics.csv`, the figures, `config.json` with the run's durations."""

import dataclasses

import numpy as np

from advjax.attacks.searches import Boundary
from advjax.data import Dataset
from experiments.hard_positives.adversaries import training_types
from experiments.hard_positives.bands import too_small
from experiments.hard_positives.claims import claims
from experiments.hard_positives.config import Config
from experiments.hard_positives.figures import draw
from experiments.hard_positives.finetune import band_name, unmixed_name
from experiments.hard_positives.metrics import Metric, collect, to_csv
from experiments.hard_positives.paper import BASIC, ROWS
from experiments.hard_positives.table import Errors, data_name, errors_of, markdown, mean_std, schedule, table1, verdict
from experiments.store import Store
from experiments.verdicts import SAMPLING

__all__ = ["report"]


def report(config: Config, store: Store, train: Dataset) -> str:
    """Writes all files of the report into the store's folder and returns a summary for the terminal."""
    bands = list(zip(config.bands, config.bands[1:], strict=False))
    names = [*ROWS, *(unmixed_name(config, row) for row in config.unmixed_rows), *map(band_name, bands)]
    rows = {name: errors_of(store.read(f"row/{name}")) for name in names if store.done(f"row/{name}")}
    metrics = collect(config, store, list(rows))
    store.write_text("metrics.csv", to_csv(metrics))
    in_table = {name: errors for name, errors in rows.items() if name in ROWS}
    in_bands = {name: rows[name] for name in map(band_name, bands) if name in rows}
    left_out = {band_name(band): number for band, number in too_small(config, store).items()}
    conclusions = [*verdict(config, in_table), *_said(config, left_out)]
    statements = claims(in_table, in_bands, metrics)
    store.write_text("table1.md", _page(config, rows, metrics, conclusions, statements, left_out, store.data))
    figures = draw(config, store, train, metrics, rows[BASIC], in_bands, list(left_out))
    seconds = store.seconds()
    store.write_config(config, search=_search(), seconds=seconds, seconds_in_all=round(sum(seconds.values()), 1))
    basic = rows[BASIC]
    clean, adversarial = mean_std(100 * basic.clean, 2), mean_std(100 * basic.adversarial, 2)
    return "\n".join(
        [
            f"{BASIC} on {data_name(config)}: clean error {clean} %, held-out adversarial error {adversarial} %",
            *conclusions,
            f"{sum(seconds.values()) / 60:.1f} minutes of work; the paper's figures and schedule beside these are in "
            f"{store.root / 'table1.md'}, with metrics.csv, config.json and {', '.join(figures)}",
        ]
    )


def _said(config: Config, left_out: dict[str, int]) -> list[str]:
    """A sentence for each band of Fig. 6 that has too few images."""
    least = f"fewer than {config.band_minimum:,}"
    return [
        f"{name}: left out of Fig. 6; some base network has {number:,} images there, {least}."
        for name, number in left_out.items()
    ]


def _page(
    config: Config,
    rows: dict[str, Errors],
    metrics: list[Metric],
    conclusions: list[str],
    statements: list[str],
    left_out: dict[str, int],
    data: str,
) -> str:
    stand_in = (
        ""
        if config.data == "mnist"
        else "**The data are scikit-learn's handwritten digits, not MNIST**: the paper's figures are shown for the "
        "order of the rows, not to be compared with.\n\n"
    )
    extra = [name for name in rows if name not in ROWS]
    more = [(name, *_cells(rows[name])) for name in extra]
    more += [(name, "left out", "left out", f"only {number:,}", "") for name, number in left_out.items()]
    header = ("trained on", "clean error %", "adversarial error %", "adversarial images", "networks")
    return "\n".join(
        [
            f"# Table 1 of Rozsa, Rudd, Boult 2016: preset `{config.preset}`, seed {config.seed}\n",
            stand_in + table1(config, {name: rows[name] for name in rows if name in ROWS}),
            "\nErrors are mean ± standard deviation over networks. The default of mixing clean images into the "
            "fine-tuning set was chosen knowing the paper's numbers.\n",
            "## The two schedules\n",
            schedule(config),
            f"\nImages read: {data}.",
            "\n## Is it better?\n",
            f"{SAMPLING}\n",
            *(f"- {line}" for line in conclusions),
            "\n## The paper's claims\n",
            *(f"- {line}" for line in statements),
            "\n## Further training sets: bands of PASS (Fig. 6), and the other choice of mixing\n",
            markdown(header, more) if more else "None were run.",
            _infimnist(metrics),
            "\n## Adversarial images (Figs. 4 and 5)\n",
            _types(config, metrics),
            "\nSuccess is of correctly classified training images; L2 per pixel and L∞ are in grey levels; PASS with "
            "windows inside the image (valid) and, of a few images, with reflected borders (same).\n",
        ]
    )


def _infimnist(metrics: list[Metric]) -> str:
    """The claim of section 2: how many of the InfiMNIST images the base networks get wrong."""
    amplitude = [metric.value for metric in metrics if metric.metric == "amplitude"]
    shares = np.array([metric.value for metric in metrics if metric.metric == "misclassified_share"])
    if not amplitude:
        return ""
    return (
        f"\nThe InfiMNIST-like images have displacements of {amplitude[0]:.2f} pixels, at which base network 0 gets "
        f"the share wrong that the paper reports for InfiMNIST, 2.199 ± 0.132 %; all base networks: "
        f"{mean_std(100 * shares, 3)} %.\n"
    )


def _cells(errors: Errors) -> tuple[str, ...]:
    clean, adversarial = mean_std(100 * errors.clean, 3), mean_std(100 * errors.adversarial, 2)
    return clean, adversarial, f"{errors.trained_on:,}", str(len(errors.clean))


def _types(config: Config, metrics: list[Metric]) -> str:
    names = {"success": 4, "l2_per_pixel": 1, "linf": 1, "pass_valid": 3, "pass_same": 3}
    lines = []
    for kind in training_types(config):
        own = [metric for metric in metrics if metric.item == f"train/{kind}"]
        values = {name: np.array([metric.value for metric in own if metric.metric == name]) for name in names}
        cells = [mean_std(values[name], digits) if len(values[name]) else "" for name, digits in names.items()]
        lines.append((kind, *cells))
    return markdown(("type", "success", "L2 per pixel", "L∞", "PASS (valid)", "PASS (same)"), lines)


def _search() -> dict[str, float]:
    """The numbers of the boundary search, which the paper leaves open."""
    fields = {field.name: getattr(Boundary(), field.name) for field in dataclasses.fields(Boundary)}
    return {name: float(value) for name, value in fields.items()}
