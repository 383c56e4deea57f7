"""Stage "report": `fig2.md`, `metrics.csv`, the figures, `config.json` with the run's durations."""

import csv
import io

import numpy as np

from advjax.data import Dataset
from experiments.localized_training.claims import claims
from experiments.localized_training.config import INPUTS, MODELS, STRONG, Config
from experiments.localized_training.figures import draw
from experiments.localized_training.paper import ACCURACIES
from experiments.localized_training.table import (
    accuracy_table,
    data_name,
    loss_table,
    losses_of,
    orderings,
    schedule,
    strong_table,
    worst,
)
from experiments.store import Arrays, Store

__all__ = ["report"]


def report(config: Config, store: Store, train: Dataset, test: Dataset) -> str:
    """Writes all files of the report into the store's folder and returns a summary for the terminal."""
    results = {model: store.read(f"judged/{model}") for model in MODELS}
    strong = {model: store.read(f"strong/{model}") for model in MODELS if model in config.strong_models}
    found = orderings(losses_of(results))
    statements = claims(losses_of(results), results)
    trained_on = len(train.labels) - config.held_back
    store.write_text("fig2.md", _page(config, trained_on, results, strong, found, statements, store.data))
    figures = draw(config, test, store.read("examples"), results)
    for name, figure in figures.items():
        store.write_figure(name, figure)
    store.write_text("metrics.csv", _csv(results, strong))
    seconds = store.seconds()
    store.write_config(config, seconds=seconds, seconds_in_all=round(sum(seconds.values()), 1))
    clean = results["natural"]["right_natural"]
    return "\n".join(
        [
            f"natural model on {data_name(config)}: {100 * clean.mean():.2f} % of {len(clean):,} test images",
            *found,
            *(f"APGD + Square, {model} model: {100 * worst(own).mean():.1f} % left" for model, own in strong.items()),
            f"{sum(seconds.values()) / 60:.1f} minutes of work; the 25 losses beside the paper's are in "
            f"{store.root / 'fig2.md'}, with metrics.csv and {', '.join(figures)}",
        ]
    )


def _page(
    config: Config,
    trained_on: int,
    results: dict[str, Arrays],
    strong: dict[str, Arrays],
    found: list[str],
    statements: list[str],
    data: str,
) -> str:
    stand_in = (
        ""
        if config.data == "mnist"
        else "**The data are scikit-learn's handwritten digits, not MNIST**: the paper's losses are shown for the "
        "order of the rows, not to be compared with.\n\n"
    )
    return "\n".join(
        [
            f"# Fig. 2 of Rothberg, Chen, Ji: preset `{config.preset}`, seed {config.seed}\n",
            stand_in + "Mean cross-entropy, white-box; in brackets the paper's, after the longer training below.\n",
            loss_table(results),
            "\n## The two schedules\n",
            schedule(config, trained_on),
            f"\nImages read: {data}.",
            "\n## The paper's orderings\n",
            "Each model was trained once: what another seed would change is in no figure here.\n",
            *(f"- {claim}" for claim in found),
            "\n## The paper's percentages\n",
            *(f"- {claim}" for claim in statements),
            "\n## Accuracies\n",
            "In percent. The paper gives two of them, of the natural model: "
            f"{ACCURACIES['natural']:g} on natural images and {ACCURACIES['exact']:g} under the exact mask attack.\n",
            accuracy_table(results),
            "\n## APGD and Square beside PGD, the whole image open\n",
            f"Accuracy in percent, epsilon {config.epsilon:g}: PGD of {config.attack_steps} steps from one random "
            f"start; APGD of {config.apgd_steps} steps, on the cross-entropy and on the difference of logits towards "
            f"nine targets; Square of {config.square_queries:,} queries; and what withstands all of APGD and Square.\n",
            strong_table(strong) if strong else "Not run.",
            "",
        ]
    )


def _csv(results: dict[str, Arrays], strong: dict[str, Arrays]) -> str:
    """Every number: model, input, metric, images, value."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(("model", "input", "metric", "images", "value"))

    def write(model: str, name: str, metric: str, values: np.ndarray) -> None:
        writer.writerow((model, name, metric, len(values), f"{values.mean(dtype=np.float64):.6g}"))

    for model, found in results.items():
        for name in INPUTS:
            write(model, name, "loss", found[f"loss_{name}"])
            write(model, name, "accuracy", found[f"right_{name}"])
    for model, found in strong.items():
        for name in ("clean", *STRONG):
            write(model, f"strong/{name}", "accuracy", found[name])
        write(model, "strong/apgd+square", "accuracy", worst(found))
    return text.getvalue()
