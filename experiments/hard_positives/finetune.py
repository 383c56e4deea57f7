"""Stage "finetune": the rows of Table 1 that go on from the base networks, and the bands of Fig. 6."""

import dataclasses

import numpy as np

from advjax.data import Dataset
from advjax.training import Trainer, TrainState
from experiments.hard_positives.adversaries import stage_name
from experiments.hard_positives.bands import Band, band_rows
from experiments.hard_positives.config import Config
from experiments.hard_positives.judge import HeldOut, judge
from experiments.hard_positives.networks import CHECKPOINT_BLOCKS, fine_tunable, key_of, roomy
from experiments.hard_positives.paper import BAND_TYPES, BASIC, INFIMNIST, ROWS
from experiments.hard_positives.scoring import PASS
from experiments.store import Arrays, Store

__all__ = ["Job", "band_name", "finetune", "jobs", "unmixed_name"]


@dataclasses.dataclass(frozen=True, eq=False)
class Job:
    """One fine-tuning of all networks.

    Attributes:
        name: of its row or band.
        types: the adversarial types trained on.
        mix_clean: whether all clean training images are in the pool too.
        iterations: steps.
        rows: for each base, which images of these types, one after the other; None: all.
    """

    name: str
    types: tuple[str, ...]
    mix_clean: bool
    iterations: int
    rows: list[np.ndarray] | None = None


def unmixed_name(config: Config, row: str) -> str:
    """The name of a row computed with `mix_clean` reversed."""
    return f"{row}, {'adversarial images only' if config.mix_clean else 'mixed with clean images'}"


def band_name(band: Band) -> str:
    """The name of a band's job, in the paper's units, PASS times 1000, with the padding that it is of."""
    return f"{PASS} {1000 * band[0]:.0f}-{1000 * band[1]:.0f}"


def jobs(config: Config, store: Store) -> list[Job]:
    """All fine-tunings of the run, those of the table first; the attacks must be done, for the bands the scores."""
    steps, mix = config.finetune_iterations, config.mix_clean
    rows = [row for row in config.rows if row not in (BASIC, INFIMNIST)]
    table = [Job(row, ROWS[row].types, mix, steps) for row in rows]
    unmixed = [Job(unmixed_name(config, row), ROWS[row].types, not mix, steps) for row in config.unmixed_rows]
    bands = band_rows(config, store) if config.bands else {}
    figure = [Job(band_name(band), BAND_TYPES, mix, config.band_iterations, chosen) for band, chosen in bands.items()]
    return table + unmixed + figure


def finetune(
    config: Config,
    store: Store,
    trainer: Trainer,
    bases: TrainState,
    job: Job,
    train: Dataset,
    held_out: HeldOut,
) -> Arrays:
    """Fine-tunes every base on adversarial images of itself, `orders` times over, and judges the networks."""
    clean = len(train.labels) if job.mix_clean else 0
    images, labels, members = [train.images[:clean]], [train.labels[:clean]], []
    for base in range(config.bases):
        image, source = _adversaries(store, job, base)
        start = sum(map(len, images))
        members += [np.r_[:clean, start : start + len(image)]] * config.orders
        images.append(image)
        labels.append(train.labels[source])
    fitted = trainer.fit(
        fine_tunable(bases, config.orders),
        roomy(images, labels, members, config.pool_size(len(train.labels))),
        job.iterations,
        key_of(config, "finetune", job.name),
        folder=store.root / "checkpoints" / job.name,
        every=CHECKPOINT_BLOCKS * config.block,
        progress=f"fine-tune {config.networks} network(s): {job.name}",
    )
    return {
        **judge(fitted.states, held_out),
        "loss": fitted.loss,
        "adversarial_images": np.array([len(image) for image in images[1:]]),
        "clean_images": np.array(clean),
    }


def _adversaries(store: Store, job: Job, base: int) -> tuple[np.ndarray, np.ndarray]:
    parts = [store.read(stage_name("train", base, kind), "image", "source") for kind in job.types]
    image, source = (np.concatenate([part[name] for part in parts]) for name in ("image", "source"))
    return (image, source) if job.rows is None else (image[job.rows[base]], source[job.rows[base]])
