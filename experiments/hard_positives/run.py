"""The run: base networks, attacks on them, PASS, the networks tuned on the images found, and what each answers."""

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import numpy as np
from flax import nnx

from advjax.classifier import Classifier, from_nnx
from advjax.data import Dataset, calibrate, infimnist_like, misclassified_share
from advjax.evaluate import pass_all, perturb_all
from advjax.fingerprint import file_digest
from advjax.models.counting import abstract
from advjax.models.lenet import LeNet, caffe_solver
from advjax.models.weights import load_weights
from advjax.training import (
    Fitted,
    Resident,
    Trainer,
    TrainState,
    create,
    predict,
    stack,
    to_model,
    train_step,
    unstack,
    weights_of,
    with_weights,
)
from experiments.hard_positives.config import (
    ATTACKS,
    BAND_TYPES,
    BASIC,
    HELD_OUT_TYPES,
    INFIMNIST,
    ROWS,
    Band,
    Config,
)
from experiments.networks import key_of
from experiments.provenance import check_counts, load_both
from experiments.store import Arrays, Store
from experiments.study import Folder, Loaded, Read, Stage

__all__ = ["PASS", "Data", "band_name", "classifiers", "load", "row_names", "stages", "unmixed_name"]

# By what name figures and rows call the score that all of them use: its value depends on SSIM's windows.
PASS = "PASS (valid)"
# One object for the whole run: another would mean another compiled program.
OPTIMIZER = caffe_solver()
# Blocks of steps between two checkpoints of a training.
_CHECKPOINT_BLOCKS = 10
# InfiMNIST's first indices are the test set; the training set follows, and then all that is made of it.
_TEST_INDICES = 10_000
# Images on which each base network's share of errors is measured.
_MEASURED = 10_000

Fit = Callable[..., Fitted]


class Data(NamedTuple):
    """The clean images, and which of them are attacked for what.

    Attributes:
        train, test: the two splits.
        sources: int [n], indices into `train`, the same for every base.
        heldout_from: the split that the held-out images are made of.
        heldout: for each base its own indices into that; if it is `train`, none of them is in `sources`.
        base: the file of the base network's weights; empty: it is trained.
    """

    train: Dataset
    test: Dataset
    sources: np.ndarray
    heldout_from: Dataset
    heldout: list[np.ndarray]
    base: str = ""


class HeldOut(NamedTuple):
    """What the networks are judged by: the clean test set, and adversarial images that no network was trained on.

    Attributes:
        test: the clean test set.
        image, label: of all types and bases uint8 [M, H, W, C], and their true classes int32 [M].
        kind: int32 [M], index into `HELD_OUT_TYPES`.
    """

    test: Dataset
    image: np.ndarray
    label: np.ndarray
    kind: np.ndarray


class Job(NamedTuple):
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


def load(config: Config, data_dir: Folder | None) -> Loaded[Config, Data]:
    """The digits, and the sources of both sets, drawn by the seed; the configuration holds the digest of `base`."""
    file = config.base
    if file:
        config = dataclasses.replace(config, base=file_digest(file))
    train, test, read = load_both(config.data, data_dir)
    order = np.asarray(jax.random.permutation(key_of(config.seed, "sources"), len(train.labels)))
    heldout_from, rest = train, order[config.train_sources :]
    if config.heldout_source == "test":
        key = key_of(config.seed, "held-out sources")
        heldout_from, rest = test, np.asarray(jax.random.permutation(key, len(test.labels)))
    check_counts(config, {"train_sources": order, "heldout_sources": rest})
    rest = rest[: config.heldout_sources]
    heldout = [rest[base :: config.bases] for base in range(config.bases)]
    return Loaded(config, Data(train, test, order[: config.train_sources], heldout_from, heldout, file), read)


def stages(config: Config, data: Data, store: Store) -> Iterator[Stage]:
    """The base networks, their adversarial images with PASS, and each row: networks tuned, and their answers."""
    room, read, seed = config.pool_size(len(data.train.labels)), store.read, config.seed
    trainer = Trainer(train_step(OPTIMIZER), config.batch_size, config.block)

    def fit(name: str, title: str) -> Fit:
        every = _CHECKPOINT_BLOCKS * config.block
        return partial(trainer.fit, every=every, folder=store.checkpoints(name), progress=title)

    learn = fit("base", f"train {config.bases} base network(s)")
    train = partial(train_bases, learn, seed, config.bases, config.base_iterations, data.train, room)
    yield Stage("base", partial(read_base, data.base) if data.base else train)
    bases = with_weights(fresh(seed, "template", config.bases), read("base"))
    networks = of_states(bases)
    for split, base, kind in config.attacked:
        images, rows, limit, same = data.train, data.sources, config.cap_per_type, config.same_per_type
        if split == "heldout":
            images, rows, limit, same = data.heldout_from, data.heldout[base], config.heldout_share(base), 0
        attacked, title = f"attack/{split}/{base}/{kind}", f"attack network {base}, {split} images: {kind}"
        attack = partial(attack_images, ATTACKS[kind], networks[base], images, rows, limit, config.attack_batch)
        yield Stage(attacked, partial(attack, title))
        score = partial(score_type, read, attacked, images, config.pass_per_type, same, config.score_batch)
        yield Stage(f"score/{split}/{base}/{kind}", score)
    held_out = load_held_out(config.bases, read, data.heldout_from, data.test)
    yield Stage(f"row/{BASIC}", partial(judge, bases, held_out))
    for job in jobs(config, read):
        learn, key = (
            fit(job.name, f"fine-tune {config.networks} network(s): {job.name}"),
            key_of(seed, "finetune", job.name),
        )
        tune = partial(finetune, learn, bases, config.orders, job, key, data.train, room, held_out, read)
        yield Stage(f"row/{job.name}", tune)
    if INFIMNIST in config.rows:
        learn = fit("infimnist", f"train {config.bases} network(s) on InfiMNIST-like data")
        numbers = config.infimnist_images, config.infimnist_share, config.infimnist_iterations
        anew = partial(train_infimnist, learn, seed, networks, *numbers, data.train, room, held_out)
        yield Stage(f"row/{INFIMNIST}", anew)


def row_names(config: Config, read: Read) -> list[str]:
    """The rows and bands of the run, whose networks a stage "row/..." has judged."""
    return [BASIC, *(job.name for job in jobs(config, read)), *{INFIMNIST}.intersection(config.rows)]


def classifiers(config: Config, data: Data, read: Read) -> dict[str, Classifier]:
    """All networks by row and number: the base ones, and network b * `orders` + o of each row, tuned from base b."""
    found = {}
    for name in row_names(config, read):
        count = config.bases if name in (BASIC, INFIMNIST) else config.networks
        stored = read("base" if name == BASIC else f"row/{name}")
        states = with_weights(fresh(config.seed, "template", count), stored)
        found.update({f"{name} {number}": each for number, each in enumerate(of_states(states))})
    return found


def fresh(seed: int, purpose: str, count: int) -> TrainState:
    """`count` stacked networks with initial weights of their own."""
    keys = [key_of(seed, purpose, "weights", index) for index in range(count)]
    return stack([create(LeNet(rngs=nnx.Rngs(key)), OPTIMIZER) for key in keys])


def of_states(states: TrainState) -> list[Classifier]:
    """Each stacked network as the attacks see it."""
    return [from_nnx(to_model(state)) for state in unstack(states)]


def roomy(images: list[np.ndarray], labels: list[np.ndarray], members: list[np.ndarray], room: int) -> Resident:
    """A set with room for `room` images, the given ones first: one size, and one program, for all sets of the run."""
    image, label = np.zeros((room, *images[0].shape[1:]), np.uint8), np.zeros(room, np.int32)
    np.concatenate(images, out=image[: sum(map(len, images))])
    np.concatenate(labels, out=label[: sum(map(len, labels))])
    return Resident(image, label, members)


def train_bases(fit: Fit, seed: int, bases: int, steps: int, train: Dataset, room: int) -> Arrays:
    """The base networks: their weights and losses."""
    data = roomy([train.images], [train.labels], [np.arange(len(train.labels))] * bases, room)
    fitted = fit(fresh(seed, "base", bases), data, steps, key_of(seed, "base"))
    return {**weights_of(fitted.states), "loss": fitted.loss}


def read_base(file: str) -> Arrays:
    """The base network of published weights."""
    return weights_of(stack([create(load_weights(abstract(LeNet), file), OPTIMIZER)]))


def attack_images(
    attack: Any,
    classifier: Classifier,
    data: Dataset,
    rows: np.ndarray,
    limit: int,
    batch: int,
    title: str | None = None,
) -> Arrays:
    """The first `limit` successes of `attack` on the images `data[rows]`, in that order.

    An image that the network gets wrong already is no success, whatever is done to it.

    Returns:
        image uint8 [n, H, W, C]; source int32 [n], its index in `data`; prediction int32 [n]; scale, l2 (per
        pixel) and linf float32 [n], in grey levels; attempted and succeeded int64 [], the numbers of correctly
        classified images tried and fooled.
    """
    images, labels = data.images[rows], data.labels[rows]
    tried = perturb_all(attack, classifier, images, labels, batch_size=batch, enough=limit, progress=title)
    kept = np.flatnonzero(tried.success)[:limit]
    found = jax.tree.map(lambda column: column[kept], tried)
    return {
        "image": found.to_uint8(),
        "source": rows[kept].astype(np.int32),
        "prediction": found.prediction,
        "scale": found.scale * np.float32(255),
        "l2": found.l2 * np.float32(255 / np.sqrt(np.prod(images.shape[1:]))),
        "linf": found.linf * np.float32(255),
        "attempted": np.sum(tried.clean_prediction == tried.label),
        "succeeded": np.sum(tried.success),
    }


def score_type(read: Read, attacked: str, originals: Dataset, valid: int, same: int, batch: int) -> Arrays:
    """PASS float32 of the first `valid` images of a stage, and of the first `same` with SSIM's "same" padding."""
    stored = read(attacked, "image", "source")
    perturbed, original = stored["image"][:valid], originals.images[stored["source"][:valid]]
    return {
        "valid": pass_all(perturbed, original, batch_size=batch),
        "same": pass_all(perturbed[:same], original[:same], batch_size=batch, padding="same"),
    }


def load_held_out(bases: int, read: Read, heldout_from: Dataset, test: Dataset) -> HeldOut:
    """The held-out images of all types, each a mix of all bases'."""
    both = [(number, base) for number in range(len(HELD_OUT_TYPES)) for base in range(bases)]
    parts = [read(f"attack/heldout/{base}/{HELD_OUT_TYPES[number]}", "image", "source") for number, base in both]
    image, source = (np.concatenate([part[name] for part in parts]) for name in ("image", "source"))
    kinds = [np.full(len(part["source"]), number, np.int32) for (number, _), part in zip(both, parts, strict=True)]
    return HeldOut(test, image, heldout_from.labels[source], np.concatenate(kinds))


def judge(states: TrainState, held_out: HeldOut) -> Arrays:
    """Which images each of S networks gets wrong.

    Returns:
        clean_wrong bool [S, N]; adversarial_wrong bool [S, M], whose types are kind int32 [M].
    """
    return {
        "clean_wrong": predict(states, held_out.test.images) != held_out.test.labels[None],
        "adversarial_wrong": predict(states, held_out.image) != held_out.label[None],
        "kind": held_out.kind,
    }


def jobs(config: Config, read: Read) -> list[Job]:
    """All fine-tunings of the run, those of the table first; the attacks must be done, for the bands the scores."""
    steps, mix = config.finetune_iterations, config.mix_clean
    rows = [row for row in config.rows if row not in (BASIC, INFIMNIST)]
    table = [Job(row, ROWS[row].types, mix, steps) for row in rows]
    unmixed = [Job(unmixed_name(config, row), ROWS[row].types, not mix, steps) for row in config.unmixed_rows]
    scores = band_scores(config.bases, read) if config.bands else []
    chosen = choose(scores, config.pass_bands, config.band_minimum, key_of(config.seed, "bands"))
    figure = [Job(band_name(band), BAND_TYPES, mix, config.band_iterations, rows) for band, rows in chosen.items()]
    return table + unmixed + figure


def unmixed_name(config: Config, row: str) -> str:
    """The name of a row computed with `mix_clean` reversed."""
    return f"{row}, {'adversarial images only' if config.mix_clean else 'mixed with clean images'}"


def band_name(band: Band) -> str:
    """The name of a band's job, in the paper's units, PASS times 1000, with the padding that it is of."""
    return f"{PASS} {1000 * band[0]:.0f}-{1000 * band[1]:.0f}"


def band_scores(bases: int, read: Read) -> list[np.ndarray]:
    """For each base PASS of all its images of HC-D-9, types in order; of those that were not scored NaN."""

    def of_type(base: int, kind: str) -> np.ndarray:
        valid = read(f"score/train/{base}/{kind}", "valid")["valid"]
        images = len(read(f"attack/train/{base}/{kind}", "source")["source"])
        return np.concatenate([valid, np.full(images - len(valid), np.nan, np.float32)])

    return [np.concatenate([of_type(base, kind) for kind in BAND_TYPES]) for base in range(bases)]


def inside(scores: list[np.ndarray], bands: Sequence[Band]) -> dict[Band, list[np.ndarray]]:
    """For each band, which of each network's scores lie in (low, high]."""
    return {band: [np.flatnonzero((s > band[0]) & (s <= band[1])) for s in scores] for band in bands}


def choose(
    scores: list[np.ndarray], bands: Sequence[Band], minimum: int, key: jax.Array
) -> dict[Band, list[np.ndarray]]:
    """Indices of equally many scores in (low, high] for each band, from each network's scores.

    A band in which some network has fewer than `minimum` scores is left out; the smallest of the others sets the
    number drawn from all.

    >>> scores = [np.array([0.1, 0.2, 0.3, 0.6, 0.7])]
    >>> chosen = choose(scores, [(0.0, 0.5), (0.5, 0.9), (0.9, 1.0)], 1, jax.random.key(0))
    >>> {band: len(indices) for band, (indices,) in chosen.items()}
    {(0.0, 0.5): 2, (0.5, 0.9): 2}
    """
    kept = {band: rows for band, rows in inside(scores, bands).items() if min(map(len, rows)) >= minimum}
    number = min((len(row) for rows in kept.values() for row in rows), default=0)
    # NumPy's generator, seeded by the key: each set has its own size, for which JAX would compile anew.
    rng = np.random.default_rng(np.asarray(jax.random.key_data(key)))
    return {band: [np.sort(rng.choice(row, number, replace=False)) for row in rows] for band, rows in kept.items()}


def finetune(
    fit: Fit,
    bases: TrainState,
    orders: int,
    job: Job,
    key: jax.Array,
    train: Dataset,
    room: int,
    held_out: HeldOut,
    read: Read,
) -> Arrays:
    """Fine-tunes every base on adversarial images of itself, `orders` times over, and judges the networks."""
    each = unstack(bases)
    clean = len(train.labels) if job.mix_clean else 0
    images, labels, members = [train.images[:clean]], [train.labels[:clean]], []
    for base in range(len(each)):
        image, source = _adversaries(read, job, base)
        start = sum(map(len, images))
        members += [np.r_[:clean, start : start + len(image)]] * orders
        images.append(image)
        labels.append(train.labels[source])
    states = stack([state for state in each for _ in range(orders)])
    fitted = fit(states, roomy(images, labels, members, room), job.iterations, key)
    counts = {"adversarial_images": np.array([len(image) for image in images[1:]]), "clean_images": np.array(clean)}
    return {**judge(fitted.states, held_out), **weights_of(fitted.states), "loss": fitted.loss, **counts}


def _adversaries(read: Read, job: Job, base: int) -> tuple[np.ndarray, np.ndarray]:
    parts = [read(f"attack/train/{base}/{kind}", "image", "source") for kind in job.types]
    image, source = (np.concatenate([part[name] for part in parts]) for name in ("image", "source"))
    return (image, source) if job.rows is None else (image[job.rows[base]], source[job.rows[base]])


def train_infimnist(
    fit: Fit,
    seed: int,
    networks: list[Classifier],
    count: int,
    share: float,
    steps: int,
    train: Dataset,
    room: int,
    held_out: HeldOut,
) -> Arrays:
    """As many networks as there are bases, on the InfiMNIST-like images alone, from weights of their own.

    The amplitude is such that base network 0 gets the share `share` of the images wrong.
    """
    bases = len(networks)
    generator = infimnist_like(train.images, train.labels, key_of(seed, "infimnist", "fields"))
    generator = calibrate(generator, networks[0], key_of(seed, "infimnist", "amplitude"), target=share)
    first = _TEST_INDICES + len(train.labels)
    shares = [misclassified_share(generator, network, first + np.arange(_MEASURED)) for network in networks]
    images, labels = generator.in_memory(first + np.arange(count))
    data = roomy([images], [labels], [np.arange(count)] * bases, room)
    fitted = fit(fresh(seed, "infimnist", bases), data, steps, key_of(seed, "infimnist", "order"))
    return {
        **judge(fitted.states, held_out),
        **weights_of(fitted.states),
        "loss": fitted.loss,
        "adversarial_images": np.zeros(bases, np.int64),
        "clean_images": np.array(count),
        "amplitude": np.asarray(generator.amplitude),
        "misclassified_share": np.array(shares, np.float32),
    }
