"""The run: each row's networks trained, and what they answer, as they are and under attack."""

import dataclasses
from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any

import jax
import numpy as np
from flax import nnx

from advjax.attacks import Attack, apgd, fgs, pgd, square
from advjax.classifier import Classifier, from_nnx
from advjax.data import Dataset
from advjax.evaluate import answers_of, evaluate, health_check
from advjax.models import condense, hidden_random_sign
from advjax.models.random_sign import HiddenRandomSign
from advjax.training import Resident, Trainer, TrainState, create, stack, to_model, train_step, unstack, weights_of
from advjax.training import with_weights as restored
from experiments.networks import key_of
from experiments.provenance import load_both
from experiments.random_sign.config import Config
from experiments.random_sign.recipes import RECIPES, Recipe
from experiments.random_sign.rows import ROWS
from experiments.store import Arrays, Store
from experiments.study import Folder, Loaded, Read, Stage

__all__ = ["Data", "attacks", "classifiers", "load", "signs", "stages"]

Data = dict[str, tuple[Dataset, Dataset]]
"""By name of the data set its training and test images."""

# In linf, [0, 1] units: the usual ones, and smaller ones, which networks trained without attacks withstand at times.
_OF_DIGITS, _OF_COLORS = (0.05, 0.1, 0.3), (1 / 255, 2 / 255, 8 / 255)
_CHECKPOINT_BLOCKS = 10


def load(config: Config, data_dir: Folder | None) -> Loaded[Config, Data]:
    """The data sets of the rows; with `steps` random images of their shapes, a batch for each step."""
    wanted = {recipe.data: recipe for recipe in (RECIPES[ROWS[row].recipe] for row in config.rows)}
    if config.steps:
        made = {name: _random_images(config, recipe) for name, recipe in wanted.items()}
        return Loaded(config, made, "random numbers")
    found, read = {}, []
    for name in wanted:
        train, test, words = load_both("digits" if (name, config.data) == ("mnist", "digits") else name, data_dir)
        found[name] = train, test
        read.append(words)
    return Loaded(config, found, "; ".join(read))


def _random_images(config: Config, recipe: Recipe) -> tuple[Dataset, Dataset]:
    rng, count = np.random.default_rng(config.seed), config.steps * (config.batch_size or recipe.batch_size)
    images = rng.integers(0, 256, (count, *recipe.shape), np.uint8)
    made = Dataset("random numbers", "train", images, rng.integers(0, recipe.classes, count, np.int32), recipe.classes)
    return made, made


def stages(config: Config, data: Data, store: Store) -> Iterator[Stage]:
    """Each network of the rows, trained and judged; then those of the sweep over epsilon."""
    for name, (row, place) in config.networks.items():
        recipe = RECIPES[ROWS[row].recipe]
        train, test = data[recipe.data]
        learn = partial(learned, config, ROWS[row].recipe, ROWS[row].kind, place, config.epsilon, config.seeds, train)
        yield Stage(f"train/{name}", partial(learn, store.checkpoints(name)))
        if config.steps:
            continue
        networks = partial(judged_networks, config, ROWS[row].recipe, train, store.read, f"train/{name}")
        yield Stage(f"judged/{name}", partial(judge, config, networks, test, attacks(config, recipe.data)))
    for name, (network, place, epsilon) in config.swept.items():
        kept, heldout = divided(config, data[RECIPES[network].data][0])
        kind = "R" if place else "base"
        learn = partial(learned, config, network, kind, place, epsilon, config.sweep_seeds, kept)
        answer = partial(held_out_answers, learn, store.checkpoints("sweep", name), config, network, kept, heldout)
        yield Stage(f"sweep/{name}", answer)


def fresh(config: Config, recipe: str, seeds: int, train: Dataset) -> list[nnx.Module]:
    """Networks before their first step: the same whatever they are trained on."""
    make, options = RECIPES[recipe].network, {}
    if recipe == "mnist/LeNet" and config.standardize:
        pixels = train.images / np.float32(255)
        options = {"mean": float(pixels.mean(dtype=np.float64)), "std": float(pixels.std(dtype=np.float64))}
    keys = [key_of(config.seed, recipe, "weights", index) for index in range(seeds)]
    return [make(rngs=nnx.Rngs(key), **options) for key in keys]


def signs(model: Any, place: str, config: Config, epsilon: float) -> HiddenRandomSign | None:
    """The random signs of a place: the network's own input, its hidden taps, or both; none for no place."""
    names = {"": (), "input": ("input",), "hidden": model.hidden_taps, "both": ("input", *model.hidden_taps)}[place]
    return hidden_random_sign(names, epsilon, config.p, config.per) if names else None


def learned(
    config: Config, recipe: str, kind: str, place: str, epsilon: float, seeds: int, train: Dataset, folder: Any
) -> Arrays:
    """Trains the networks of a row side by side.

    Returns:
        the variables of all, stacked, and loss float32 [seeds, blocks].
    """
    how, models = RECIPES[recipe], fresh(config, recipe, seeds, train)
    batch = config.batch_size or how.batch_size
    epoch = len(train.labels) // batch
    steps = config.steps or (config.epochs or how.epochs) * epoch
    optimizer = how.optimizer(steps, epoch)
    attack = fgs(how.fgsm, levels=None) if kind == "FGSM" else None
    hidden = signs(models[0], place, config, epsilon)
    step = train_step(
        optimizer, loss=how.loss, augment=how.augment, attack=attack, clean_weight=0.5 if attack else 0.0, hidden=hidden
    )
    block = min(config.block, steps)
    trainer, images = Trainer(step, batch, block), Resident(train.images, train.labels)
    states, key = stack([create(model, optimizer) for model in models]), key_of(config.seed, recipe, "order")
    losses, done = [], 0
    for number, end in enumerate([*how.condensed(steps), steps]):
        fitted = trainer.fit(
            states, images, end - done, key, folder=folder / str(number), every=_CHECKPOINT_BLOCKS * block,
            progress=f"train {seeds} network(s): {folder.name}",
        )  # fmt: skip
        states, done = fitted.states, end
        losses.append(np.asarray(fitted.loss))
        if end < steps:
            states = stack([condensed(state) for state in unstack(states)])
    return {**weights_of(states), "loss": np.concatenate(losses, axis=1)}


def condensed(state: TrainState) -> TrainState:
    """The state of a CondenseNet whose groups have lost their next inputs; that of its optimizer stays."""
    model: Any = to_model(state)
    _, *variables = nnx.split(condense(model), nnx.Param, ...)
    params, rest = variables
    return dataclasses.replace(state, params=params, rest=rest)


def judged_networks(config: Config, recipe: str, train: Dataset, read: Read, stage: str) -> list[Classifier]:
    """The trained networks of a stage in evaluation mode."""
    arrays = read(stage)
    seeds = arrays["loss"].shape[0]
    how = RECIPES[recipe].optimizer(1, 1)
    states = stack([create(model, how) for model in fresh(config, recipe, seeds, train)])
    return [from_nnx(to_model(state)) for state in unstack(restored(states, arrays))]


def divided(config: Config, train: Dataset) -> tuple[Dataset, Dataset]:
    """Training images without the held-out ones, and those."""
    order = np.asarray(jax.random.permutation(key_of(config.seed, "held out"), len(train.labels)))
    heldout, kept = order[: config.heldout], order[config.heldout :]

    def part(rows: np.ndarray) -> Dataset:
        return dataclasses.replace(train, images=train.images[rows], labels=train.labels[rows])

    return part(kept), part(heldout)


def held_out_answers(learn: Any, folder: Any, config: Config, recipe: str, kept: Dataset, heldout: Dataset) -> Arrays:
    """right bool [seeds, held out] of networks that were trained without these images."""
    arrays = learn(folder)
    networks = judged_networks(config, recipe, kept, lambda stage: arrays, "")
    return {"right": _right(config, networks, heldout)}


def attacks(config: Config, data: str) -> dict[str, Attack]:
    """FGS, PGD-40, APGD on the cross-entropy and Square at each radius."""
    found: dict[str, Attack] = {}
    for radius in _OF_DIGITS if data == "mnist" else _OF_COLORS:
        found |= {
            f"fgs {radius:.3g}": fgs(radius),
            f"pgd-40 {radius:.3g}": pgd(radius, step_size=radius / 10, steps=40),
            f"apgd {radius:.3g}": apgd(radius, steps=100),
            f"square {radius:.3g}": square(radius, queries=config.square_queries),
        }
    return found


def judge(config: Config, networks: Any, test: Dataset, attacks: Mapping[str, Attack]) -> Arrays:
    """What the networks of a row get right.

    Returns:
        right bool [seeds, N] on the test set; by attack bool [seeds, attacked images]; health: what the health check
        warns of in the first network, in words.
    """
    models = {str(seed): network for seed, network in enumerate(networks())}
    first = test.images[: config.attacked_images], test.labels[: config.attacked_images]
    key = key_of(config.seed, "attack")
    report = evaluate(models, attacks, first, key=key, batch_size=config.attack_batch, progress="attack")
    radius = max(float(name.split()[1]) for name in attacks)
    warnings = health_check(models["0"], first, epsilon=radius, key=key, batch_size=config.attack_batch)
    return {
        "right": _right(config, list(models.values()), test),
        **{name: np.stack([np.asarray(report.cell(seed, name).correct) for seed in models]) for name in attacks},
        "health": np.array([str(warning) for warning in warnings], np.str_),
    }


def _right(config: Config, networks: list[Classifier], images: Dataset) -> np.ndarray:
    answers = [answers_of(network, images.images, config.attack_batch) for network in networks]
    return np.stack([each == images.labels for each in answers])


def classifiers(config: Config, data: Data, read: Read) -> dict[str, Classifier]:
    """All networks by row, place and number."""
    found = {}
    for name, (row, _) in config.networks.items():
        recipe = ROWS[row].recipe
        train, _ = data[RECIPES[recipe].data]
        for seed, network in enumerate(judged_networks(config, recipe, train, read, f"train/{name}")):
            found[f"{name} {seed}"] = network
    return found
