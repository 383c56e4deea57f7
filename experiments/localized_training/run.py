"""The run: what is chosen, the attacks, the five networks and their training, and what each answers."""

import dataclasses
from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

from advjax.attacks import apgd, localized_pgd, perturb, square
from advjax.attacks.attack import Attack
from advjax.attacks.regions import Background, Broad, Exact, Region, Standard
from advjax.classifier import Classifier
from advjax.data import Dataset, to_float
from advjax.evaluate import evaluate, logits_of
from advjax.models.madry import MadryNet
from advjax.training import Resident, Trainer, train_step
from experiments.config import Settings, presets, setting
from experiments.networks import classifier_of, key_of, train
from experiments.provenance import check_counts, load_both
from experiments.store import Arrays, Store
from experiments.study import Folder, Loaded, Read, Stage

__all__ = ["ADVERSARIAL", "MODELS", "PRESETS", "STRONG", "Config", "Data", "classifiers", "load", "stages"]

ADVERSARIAL = ("standard", "background", "exact", "broad")
MODELS = ("natural", *ADVERSARIAL)
STRONG = ("pgd", "apgd-ce", "apgd-dlr", "square")


@dataclasses.dataclass(frozen=True)
class Config(Settings):
    """One run. The defaults are those of the paper; where it says nothing, of MadryLab/mnist_challenge."""

    data: Literal["mnist", "digits"] = setting("mnist", "digits are scikit-learn's (not MNIST, and never called so).")
    held_back: int = setting(5_000, "first images, not trained on (in TensorFlow's reader for validation).", least=0)
    batch_size: int = setting(50, "images a step.")
    learning_rate: float = setting(1e-4, "of Adam, on the sum of the cross-entropies of a batch.")
    natural_steps: int = setting(100_000, "training steps of the natural model.")
    adversarial_steps: int = setting(100_000, "training steps of each of the four others.")
    epsilon: float = setting(0.3, "of every attack, in linf.")
    train_attack_steps: int = setting(100, "of PGD in training (the paper's).")
    train_step_size: float = setting(0.01, "of PGD in training (Madry's).")
    attack_steps: int = setting(100, "of PGD in the evaluation.")
    step_size: float = setting(0.01, "of PGD in the evaluation.")
    localize: Literal["after", "inside"] = setting(
        "after", "cut to the region after PGD (Algorithm 1), or in each step."
    )
    threshold: float = setting(0.0, "a pixel above it belongs to the digit (the paper does not say).")
    neighbors: Literal[4, 8] = setting(8, "of a digit's pixel that Broad protects too (paper: 'directly adjacent').")
    test_images: int = setting(10_000, "first test images, attacked; all are asked as they are.")
    strong_models: tuple[str, ...] = setting(
        MODELS, "attacked by APGD and Square too (not in the paper).", among=MODELS
    )
    strong_images: int = setting(1_000, "first test images, for these attacks.")
    apgd_steps: int = setting(100, "of each run of APGD.")
    square_queries: int = setting(5_000, "of Square, for each image.")
    attack_batch: int = setting(1_000, "images attacked at once.")
    block: int = setting(250, "training steps in one call.")
    checkpoint_every: int = setting(2_500, "training steps between two checkpoints.")

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.epsilon <= 1:
            raise ValueError(f"epsilon must be in (0, 1], got {self.epsilon}")
        if self.checkpoint_every % self.block:
            raise ValueError(f"checkpoint_every must be a multiple of block={self.block}, got {self.checkpoint_every}")


PRESETS = presets(
    Config,
    {
        "quick": """
            data=digits held_back=97 natural_steps=240 adversarial_steps=240 train_attack_steps=3 train_step_size=0.25
            attack_steps=20 step_size=0.03 test_images=100 strong_models=natural,standard strong_images=50
            apgd_steps=20 square_queries=200 attack_batch=100 block=40 checkpoint_every=120
        """,
        "cpu": """
            natural_steps=6_000 adversarial_steps=2_500 train_attack_steps=5 train_step_size=0.15
            test_images=250 strong_models=natural,standard strong_images=200
            apgd_steps=50 square_queries=1_000 attack_batch=250 block=50 checkpoint_every=500
        """,
        "paper": "",
    },
)

Data = tuple[Dataset, Dataset]


def load(config: Config, data_dir: Folder | None) -> Loaded[Config, Data]:
    """The training set without the images that are held back, and the test set."""
    learned, asked, read = load_both(config.data, data_dir)
    own = slice(config.held_back, None)
    learned = dataclasses.replace(learned, images=learned.images[own], labels=learned.labels[own])
    if len(learned.labels) < config.batch_size:
        raise ValueError(f"held_back={config.held_back} leaves {len(learned.labels)} images, less than a batch")
    check_counts(config, {"test_images": asked.labels, "strong_images": asked.labels})
    return Loaded(config, (learned, asked), read)


def stages(config: Config, data: Data, store: Store) -> Iterator[Stage]:
    """Each model trained, then judged by itself; the natural one shown too, and some attacked more strongly."""
    key, four, strong = partial(key_of, config.seed), attacks(config), strong_attacks(config)
    for model in MODELS:
        yield training_stage(config, model, data[0], store)
        asked = classifier_of(network(config.seed), store.read(f"train/{model}")), data[1]
        if model == "natural":
            yield Stage("examples", partial(examples, regions(config), four, *asked, key("examples")))
        judged = partial(judge, four, *asked, config.test_images, key("attack"), config.attack_batch)
        yield Stage(f"judged/{model}", judged)
        if model in config.strong_models:
            judged = partial(judge, strong, *asked, config.strong_images, key("strong"), config.attack_batch)
            yield Stage(f"strong/{model}", judged)


def training_stage(config: Config, model: str, learned: Dataset, store: Store) -> Stage:
    """Trains a model: all images of each batch are replaced by those of its attack (Algorithm 1).

    All five models start from the same weights and see the same images in the same order.
    """
    attack = attacks(config, training=True).get(model)
    # The step's objective is the mean over the batch, Madry's the sum.
    optimizer = optax.chain(optax.scale(float(config.batch_size)), optax.adam(config.learning_rate))
    trainer = Trainer(train_step(optimizer, attack=attack), batch_size=config.batch_size, block=config.block)
    images, key = Resident(learned.images, learned.labels), key_of(config.seed, "order")
    steps = config.natural_steps if model == "natural" else config.adversarial_steps
    learn = partial(train, trainer, network(config.seed), images, steps, key, store.checkpoints(model))
    return Stage(f"train/{model}", partial(learn, every=config.checkpoint_every))


def network(seed: int) -> MadryNet:
    """Madry's network before its first step."""
    return MadryNet(rngs=nnx.Rngs(key_of(seed, "weights")))


def classifiers(config: Config, data: Data, read: Read) -> dict[str, Classifier]:
    """The five trained models."""
    return {model: classifier_of(network(config.seed), read(f"train/{model}")) for model in MODELS}


def regions(config: Config) -> dict[str, Region]:
    """Which pixels each attack of the paper may change."""
    broad = Broad(config.threshold, config.neighbors)
    return {"standard": Standard(), "background": Background(), "exact": Exact(config.threshold), "broad": broad}


def attacks(config: Config, *, training: bool = False) -> dict[str, Attack]:
    """The four attacks of the paper, as the evaluation or the training uses them. Nothing is rounded to 8 bits."""
    steps = config.train_attack_steps if training else config.attack_steps
    step_size = config.train_step_size if training else config.step_size
    options: Any = {"step_size": step_size, "steps": steps, "localize": config.localize, "levels": None}
    return {name: localized_pgd(region, config.epsilon, **options) for name, region in regions(config).items()}


def strong_attacks(config: Config) -> dict[str, Attack]:
    """PGD, APGD on the cross-entropy and on the targeted difference of logits, and Square, on the whole image."""
    return {
        "pgd": attacks(config)["standard"],
        "apgd-ce": apgd(config.epsilon, steps=config.apgd_steps, levels=None),
        "apgd-dlr": apgd(config.epsilon, steps=config.apgd_steps, objective="dlr-targeted", levels=None),
        "square": square(config.epsilon, queries=config.square_queries, levels=None),
    }


def examples(
    regions: Mapping[str, Region], attacks: Mapping[str, Attack], classifier: Classifier, test: Dataset, key: jax.Array
) -> Arrays:
    """One digit of each class under each attack, for Fig. 1.

    Returns:
        source int32 [10]; region bool and image float32 [4, 10, H, W, C], by attack; prediction int32 [4, 10].
    """
    source = np.array([np.flatnonzero(test.labels == digit)[0] for digit in range(test.num_classes)], np.int32)
    images, labels = jnp.asarray(to_float(test.images[source])), jnp.asarray(test.labels[source])
    results = [perturb(attack, classifier, images, labels, key) for attack in attacks.values()]
    return {
        "source": source,
        "region": np.stack([jax.vmap(region)(images) for region in regions.values()]),
        "image": np.stack([result.image for result in results]),
        "prediction": np.stack([result.prediction for result in results]),
    }


def judge(
    attacks: Mapping[str, Attack], classifier: Classifier, test: Dataset, count: int, key: jax.Array, batch: int
) -> Arrays:
    """What a model makes of natural images and of each attack on itself: a row of Fig. 2.

    Returns:
        loss_<input> float32 and right_<input> bool, image by image: of "natural" for all test images, of each attack
        for the first `count`.
    """
    logits = logits_of(classifier, test.images, batch)
    loss = optax.softmax_cross_entropy_with_integer_labels(jnp.asarray(logits), jnp.asarray(test.labels))
    right = (logits.argmax(-1) == test.labels) & ~np.isnan(logits).any(-1)
    found = {"loss_natural": np.asarray(loss), "right_natural": right}
    first = test.images[:count], test.labels[:count]
    report = evaluate({"model": classifier}, attacks, first, key=key, batch_size=batch, progress="attack")
    for name in attacks:
        cell = report.cell("model", name)
        found |= {f"loss_{name}": np.asarray(cell.loss, np.float32), f"right_{name}": np.asarray(cell.correct)}
    return found
