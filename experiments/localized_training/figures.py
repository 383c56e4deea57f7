"""Figures of the paper: a digit under the four attacks, and the 25 losses."""

from typing import Any

import numpy as np

from advjax.data import Dataset, to_float
from experiments.drawing import curves, image_rows
from experiments.localized_training.config import ADVERSARIAL, INPUTS, MODELS, Config
from experiments.localized_training.table import data_name, losses_of
from experiments.store import Arrays

__all__ = ["draw"]

_DIGIT = 7


def draw(config: Config, test: Dataset, shown: Arrays, results: dict[str, Arrays]) -> dict[str, Any]:
    """The figures by file name."""
    losses = losses_of(results)
    accuracies = [[100 * results[model][f"right_{name}"].mean() for name in INPUTS] for model in MODELS]
    steps = f"{config.natural_steps:,} and {config.adversarial_steps:,} steps"
    return {
        "fig1.png": _fig1(config, test, shown),
        "fig2.png": curves(
            INPUTS,
            {f"{model} model": row for model, row in zip(MODELS, losses, strict=True)},
            xlabel="input",
            ylabel="mean cross-entropy",
            title=f"{data_name(config)}: natural and adversarial training of {steps}",
            log=True,
        ),
        "accuracy.png": curves(
            INPUTS,
            {f"{model} model": np.asarray(row) for model, row in zip(MODELS, accuracies, strict=True)},
            xlabel="input",
            ylabel="accuracy, %",
            title=f"{data_name(config)}: natural and adversarial training of {steps}",
        ),
    }


def _fig1(config: Config, test: Dataset, shown: Arrays) -> Any:
    column = int(np.flatnonzero(test.labels[shown["source"]] == _DIGIT)[0])
    clean = to_float(test.images[shown["source"][column]])[..., 0]
    regions = [part[column, ..., 0].astype(float) for part in shown["region"]]
    images = [part[column, ..., 0] for part in shown["image"]]
    shares = [f"{name}\n{int(region.sum())} pixels" for name, region in zip(ADVERSARIAL, regions, strict=True)]
    answers = [f"answer {prediction[column]}" for prediction in shown["prediction"]]
    title = f"{data_name(config)}, natural model: what each attack may change (white), and does"
    rows = {"may change": [np.asarray(clean), *regions], "image": [np.asarray(clean), *images]}
    return image_rows(rows, [["digit", *shares], [f"label {_DIGIT}", *answers]], title=title)
