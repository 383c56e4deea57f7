"""The run on photographs: network, what it gets right, attacks on that, fine-tuning, errors before and after."""

import dataclasses
import pathlib
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

from advjax.attacks import Attack, fgs, fgv, hot_cold, perturb
from advjax.classifier import Classifier
from advjax.data import (
    CenterCrop,
    ImageSet,
    Mixture,
    RandomCrop,
    Stream,
    batches,
    filled,
    image_folder,
    imagenet,
    to_float,
)
from advjax.evaluate import NO_ANSWER, answers_of, pass_all, ranks_of
from advjax.fingerprint import file_digest
from advjax.models.googlenet import quick_solver
from advjax.models.registry import NETWORKS, Network
from advjax.models.resnet import ResNet
from advjax.models.weights import load_weights
from advjax.training import Trainer, create, train_step, weights_of, with_heads
from experiments.config import Settings, presets, setting
from experiments.networks import classifier_of, key_of, restored_model, train
from experiments.store import Arrays, Store
from experiments.study import Folder, Loaded, Read, Stage

__all__ = ["COMPARED", "PRESETS", "Config", "Photographs", "classifiers", "crop_of", "load", "stages", "types"]

# Attacks that are only compared with, in the order of the paper's Fig. 3; no hard positive is made by them.
COMPARED: dict[str, Attack] = {"FGS": fgs(), "FGV": fgv()}
_SMALL = Network(partial(ResNet, (1, 1, 1, 1), width=16), (224, 224, 3), "one block a stage, 16 channels: for trials")
_NETWORKS: Mapping[str, Network] = {"resnet-small": _SMALL, **{name: net for name, net in NETWORKS.items() if net.crop}}
_TFDS = "imagenet2012"
_OUTPUTS = 1000  # of every published ImageNet network
_STATISTICS = 16  # photographs whose statistics the batch norms of a network that is never trained take
_BLOCK = 64  # photographs decoded and classified at once
_BLOCKS_A_CHECKPOINT = 20
_GOLDFISH = ("goldfish", "n01443537")


@dataclasses.dataclass(frozen=True)
class Config(Settings):
    """One run. The defaults are the preset `paper`: section 5.3, and BVLC's quick_solver where the paper is silent."""

    images: str = setting(
        "",
        "to train on: imagenet2012 (TFDS), or a folder with one for each class or a labels.csv. Stored by digest.",
    )
    validation: str = setting("", "others of the same classes to judge by; empty: random crops of the attacked.")
    model: str = setting("googlenet", "resnet-small, or of `python -m advjax.models`.", among=_NETWORKS)
    weights: str = setting("", "a published checkpoint of it, stored as its SHA-256; empty: random weights.")
    classes: int = setting(
        0,
        "so many classes, drawn by the seed (with weights the goldfish is one); 0: all.",
        least=0,
    )
    images_per_class: int = setting(15, "rightly classified images of a class that are attacked, at most.")
    ranks: int = setting(20, "HC-1 to HC-ranks.")
    compared: int = setting(1_000, "so many of these (up to whole batches) are attacked by FGS and FGV too.")
    threshold: float = setting(0.99, "hard positives of a PASS above it are kept.")
    base_steps: int = setting(
        0,
        "of training before all else, on random crops of these; 0 (and always with weights): none. Without weights "
        "and training no answer is right: the network's own stand in for the labels.",
        least=0,
    )
    base_batch: int = setting(16, "images a step of it.")
    base_rate: float = setting(1e-3, "learning rate of it (Adam).")
    finetune_steps: int = setting(500_000, "steps of fine-tuning, a fresh solver; 0: none.", least=0)
    batch_size: int = setting(80, "images a step of fine-tuning.")
    learning_rate: float = setting(0.01, "of fine-tuning.")
    momentum: float = setting(0.9, "of fine-tuning.")
    weight_decay: float = setting(2e-4, "of fine-tuning.")
    aux_weight: float = setting(0.3, "of the losses of auxiliary heads, where the network has them.")
    crops: int = setting(10, "random crops of each attacked photograph that stand in for validation images.")
    attack_batch: int = setting(16, "images attacked at once, by all ranks.")
    block: int = setting(500, "training steps in one call.")

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.threshold >= 1:
            raise ValueError(f"threshold must be in [0, 1), got {self.threshold}")

    @property
    def compared_networks(self) -> tuple[str, ...]:
        """The network before and after fine-tuning, whose errors are compared; none without fine-tuning."""
        return ("base", "tuned") if self.finetune_steps else ()

    @property
    def own_labels(self) -> bool:
        """Whether the network's own answers stand in for the labels: it has learnt none."""
        return not self.weights and not self.base_steps

    @property
    def cold(self) -> Literal["paper", "abs"]:
        """The cold value: eq. 7's -h_y, which heats the class if h_y < 0, as it often is where nothing was learnt."""
        return "abs" if self.own_labels else "paper"


PRESETS = presets(
    Config,
    {
        "quick": """
            model=resnet-small classes=24 base_steps=100 finetune_steps=60 batch_size=16 learning_rate=0.001
            attack_batch=8 block=20
        """,
        # Fig. 3 with networks that know their classes: a published one, 250 classes, nothing trained.
        "mobilenet": "model=mobilenet-tflite classes=250 images_per_class=1 finetune_steps=0 attack_batch=4",
        "squeezenet": "model=squeezenet-caffe classes=400 images_per_class=1 finetune_steps=0 attack_batch=4",
        "paper": "",
    },
)


class Photographs(NamedTuple):
    """The images attacked and trained on, those judged by if there are any, and the file of the network's weights."""

    images: ImageSet
    validation: ImageSet | None
    checkpoint: str


def load(config: Config, data_dir: Folder | None) -> Loaded[Config, Photographs]:
    """The photographs, of the classes asked for; the configuration holds digests of all that is read.

    Raises:
        ValueError, OSError, ImportError: choices that do not fit together; a file or data set that is not there.
    """
    if not config.images:
        raise ValueError(f"images must name the training photographs: --set images={_TFDS} or images=FOLDER")
    checkpoint, opened = config.weights, partial(_open, published=bool(config.weights), data_dir=data_dir)
    if checkpoint:
        config = dataclasses.replace(config, weights=file_digest(checkpoint), base_steps=0)
    images = opened(config.images, "train")
    validation = opened(config.validation, "validation") if config.validation else None
    if validation is not None and config.own_labels:
        raise ValueError("validation needs weights or base_steps: a network without either knows no labels")
    if validation is not None and validation.classes != images.classes:
        raise ValueError("validation must have the classes of images, in the same order")
    if config.classes:
        drawn = images.draw_classes(config.classes, config.seed)
        if config.weights:  # the classes keep the numbers by which the published network knows them
            numbers = _with_goldfish(images, drawn.numbers)
            images, validation = _of_labels(images, numbers), validation and _of_labels(validation, numbers)
        else:
            images, validation = drawn, validation and validation.of_classes(list(drawn.classes))
    if len(images.classes) <= config.ranks:
        raise ValueError(f"ranks={config.ranks} needs more classes than the {len(images.classes)} of {images.name}")
    checked = "" if validation is None else f"{validation.name} {validation.digest()}"
    config = dataclasses.replace(config, images=f"{images.name} {images.digest()}", validation=checked)
    return Loaded(config, Photographs(images, validation, checkpoint), config.images)


def _open(name: str, split: str, published: bool, data_dir: Folder | None) -> ImageSet:
    if name == _TFDS:
        return imagenet(split, data_dir=data_dir)
    images = image_folder(name)
    numbered = (pathlib.Path(name) / "labels.csv").exists() and len(images.classes) <= _OUTPUTS
    if published and len(images.classes) != _OUTPUTS and not numbered:
        raise ValueError(
            f"with weights the labels of {name} must be ImageNet's: {_OUTPUTS} class folders, or a labels.csv with "
            f"their numbers, got {len(images.classes)} classes"
        )
    return images


def _with_goldfish(images: ImageSet, numbers: tuple[int, ...]) -> tuple[int, ...]:
    """As many classes, the goldfish of Fig. 3 among them if there is one."""
    fish = (number for number, name in enumerate(images.classes) if name in _GOLDFISH)
    return tuple(dict.fromkeys((*fish, *numbers)))[: len(numbers)]


def _of_labels(images: ImageSet, labels: tuple[int, ...]) -> ImageSet:
    return images.take(np.flatnonzero(np.isin(images.labels, labels)))


def crop_of(model: str) -> CenterCrop:
    """How a photograph becomes an input of a network."""
    crop = _NETWORKS[model].crop
    assert crop is not None  # _NETWORKS holds no other
    return crop


def types(ranks: int) -> tuple[str, ...]:
    """The names of all types, in the order of their numbers in the stages."""
    return (*COMPARED, *(f"HC-{rank}" for rank in range(1, ranks + 1)))


def stages(config: Config, data: Photographs, store: Store) -> Iterator[Stage]:
    """The network, the photographs it gets right, the attacks batch by batch, the network tuned, errors of both."""
    images, crop, read, key = data.images, crop_of(config.model), store.read, partial(key_of, config.seed)
    make = partial(make_network, config.model, len(images.classes), bool(config.weights), config.seed)
    loss, every = with_heads(config.aux_weight), _BLOCKS_A_CHECKPOINT * config.block
    if config.base_steps:
        trainer = Trainer(train_step(optax.adam(config.base_rate), loss=loss), config.base_batch, config.block)
        random = RandomCrop(crop.crop, scale=(0.5, 1.0))
        stream = Stream(images, config.base_batch, seed=config.seed, transform=random)
        learn = partial(train, trainer, make(), stream, config.base_steps, key("base"), store.checkpoints("base"))
        yield Stage("base", partial(learn, every=every))
    else:
        yield Stage("base", partial(untrained, make, images, crop, data.checkpoint))
    base = classifier_of(make(), read("base"))
    counts = config.images_per_class, config.own_labels
    yield Stage("chosen", partial(rightly_classified, images, crop, base, *counts, config.seed))
    chosen = read("chosen")
    attacked = range(-(-len(chosen["row"]) // config.attack_batch))
    for number in attacked:
        rows = np.arange(len(chosen["row"]))[number * config.attack_batch :][: config.attack_batch]
        compared = COMPARED if rows[0] < config.compared else {}
        attack = partial(attack_photographs, images, crop, chosen, base, rows, config.attack_batch, compared)
        yield Stage(f"attack/{number:05d}", partial(attack, config.ranks, config.cold, config.threshold))
    solver = quick_solver(config.finetune_steps, config.learning_rate, config.momentum, config.weight_decay)
    trainer = Trainer(train_step(solver, loss=loss), config.batch_size, config.block)
    # Only of the attacked ones are the network's own answers known.
    clean, labels = (images.take(chosen["row"]), chosen["label"]) if config.own_labels else (images, None)
    kept = partial(kept_of, read, len(attacked))

    def tune() -> Arrays:
        positives, sources = kept()
        pool = Mixture(clean, crop, labels, positives, chosen["label"][sources])
        told = config.finetune_steps, key("finetune"), store.checkpoints("tuned")
        stream = Stream(pool, config.batch_size, seed=config.seed)
        return train(trainer, restored_model(make(), read("base")), stream, *told, every=every)

    if config.finetune_steps:
        yield Stage("tuned", tune)
    for name in config.compared_networks:
        network = classifier_of(make(), read(name))
        sets = partial(asked, images, data.validation, crop, chosen, kept, config.crops, config.seed)
        yield Stage(f"judged/{name}", partial(judge, network, sets))


def classifiers(config: Config, data: Photographs, read: Read) -> dict[str, Classifier]:
    """The network before fine-tuning, and after it."""
    make = partial(make_network, config.model, len(data.images.classes), bool(config.weights), config.seed)
    return {name: classifier_of(make(), read(name)) for name in ("base", *config.compared_networks[1:])}


def make_network(model: str, classes: int, published: bool, seed: int) -> nnx.Module:
    """The network with random weights: of 1000 classes where published ones are to be read, else of the images'."""
    rngs = nnx.Rngs(key_of(seed, "weights"))
    return _NETWORKS[model].make(rngs=rngs, **({} if published else {"num_classes": classes}))


def untrained(make: Callable[[], nnx.Module], images: ImageSet, crop: CenterCrop, checkpoint: str) -> Arrays:
    """The weights of a file, or random ones with batch norms that know some photographs: else all images look alike."""
    if checkpoint:
        return weights_of(create(load_weights(nnx.eval_shape(make), checkpoint), optax.identity()))
    model = make()
    some = images.take(np.arange(min(len(images), _STATISTICS))).in_memory(crop).images
    seen = nnx.clone(model)
    seen.train(momentum=0.0)
    nnx.jit(lambda network, pixels: network(pixels))(seen, to_float(some))
    nnx.update(model, nnx.state(seen, nnx.BatchStat))
    return weights_of(create(model, optax.identity()))


def rightly_classified(
    images: ImageSet, crop: CenterCrop, classifier: Classifier, per_class: int, own_labels: bool, seed: int
) -> Arrays:
    """The first `per_class` photographs of each class that the network gets right, in an order of the seed.

    Reads no more photographs than it needs. A network that has learnt nothing is right by definition. A goldfish, if
    there is one, comes first: photograph 0 is that of Fig. 3.

    Returns:
        row int64 [n], indices into `images`; label int32 [n]; read int64 [], the photographs looked at, and right
        int64 [], how many of them were right.
    """
    order = np.random.default_rng(seed).permutation(len(images))
    missing = np.array([per_class if name else 0 for name in images.classes])
    found: list[tuple[int, int, int]] = []
    read = right = 0
    while missing.any() and read < len(order):
        chunk = order[read : read + _BLOCK]
        data = images.take(chunk).in_memory(crop)
        answers = answers_of(classifier, data.images, _BLOCK)
        is_right = answers != NO_ANSWER if own_labels else answers == data.labels
        read, right = read + len(chunk), right + int(is_right.sum())
        for row, label, answer in zip(chunk[is_right], data.labels[is_right], answers[is_right], strict=True):
            if missing[label]:
                missing[label] -= 1
                found.append((int(row), int(answer), int(label)))
    if not found:
        raise ValueError(f"the network gets none of {read} photographs right: train it for more than base_steps")
    fish = next((place for place, (*_, truth) in enumerate(found) if images.classes[truth] in _GOLDFISH), 0)
    found.insert(0, found.pop(fish))
    rows, labels, _ = zip(*found, strict=True)
    counts = {"read": np.array(read), "right": np.array(right)}
    return {"row": np.array(rows, np.int64), "label": np.array(labels, np.int32), **counts}


def attack_photographs(
    images: ImageSet,
    crop: CenterCrop,
    chosen: Arrays,
    classifier: Classifier,
    batch: np.ndarray,
    size: int,
    compared: Mapping[str, Attack],
    ranks: int,
    cold: Literal["paper", "abs"],
    threshold: float,
) -> Arrays:
    """All attacks on the chosen photographs number `batch`, at most `size` many; what is similar enough is kept.

    Returns:
        For each pair of photograph and type: kind int32, the type's number; source int32, the photograph's; success
        bool; prediction int32; score float32, PASS; l2 (per pixel) and linf float32, in grey levels. For each hard
        positive kept: image uint8 [n, H, W, 3]; record int32 [n], its place among the pairs. Of photograph 0, that of
        Fig. 3, likewise: shown and shown_record.
    """
    pixels = images.take(chosen["row"][batch]).in_memory(crop).images
    clean, labels = to_float(filled(pixels, size)), jnp.asarray(filled(chosen["label"][batch], size))
    results = {kind: perturb(attack, classifier, clean, labels) for kind, attack in enumerate(compared.values())}
    hot = jax.tree.map(np.asarray, perturb(hot_cold(ranks=range(1, ranks + 1), cold=cold), classifier, clean, labels))
    for rank in range(ranks):
        results[len(COMPARED) + rank] = jax.tree.map(lambda column, rank=rank: column[rank], hot)
    # What fills the batch up is cut off.
    found = jax.tree.map(lambda *each: np.concatenate([column[: len(batch)] for column in each]), *results.values())
    perturbed = found.to_uint8()
    pairs = {
        "kind": np.repeat(np.array(list(results), np.int32), len(batch)),
        "source": np.tile(batch.astype(np.int32), len(results)),
        "success": found.success,
        "prediction": found.prediction,
        "score": pass_all(perturbed, np.tile(pixels, (len(results), 1, 1, 1)), batch_size=size),
        "l2": found.l2 * np.float32(255 / np.sqrt(np.prod(pixels.shape[1:]))),
        "linf": found.linf * np.float32(255),
    }
    kept = pairs["success"] & (pairs["score"] > threshold) & (pairs["kind"] >= len(COMPARED))
    record, shown = (np.flatnonzero(rows).astype(np.int32) for rows in (kept, pairs["source"] == 0))
    chosen_images = {"image": perturbed[record], "record": record, "shown": perturbed[shown], "shown_record": shown}
    return {**pairs, **chosen_images}


def kept_of(read: Read, attacked: int) -> tuple[np.ndarray, np.ndarray]:
    """The hard positives of all batches: images uint8 [M, H, W, 3], and the photograph that each was made of."""
    parts = [read(f"attack/{number:05d}", "image", "record", "source") for number in range(attacked)]
    sources = [part["source"][part["record"]] for part in parts]
    return np.concatenate([part["image"] for part in parts]), np.concatenate(sources)


def asked(
    images: ImageSet,
    validation: ImageSet | None,
    crop: CenterCrop,
    chosen: Arrays,
    kept: Callable[[], tuple[np.ndarray, np.ndarray]],
    crops: int,
    seed: int,
) -> Iterator[tuple[str, np.ndarray, np.ndarray]]:
    """What a network is judged by, part by part: the name of the set, uint8 images and labels."""
    attacked = images.take(chosen["row"])
    for pixels, rows in _center_crops(attacked, crop):
        yield "attacked", pixels, chosen["label"][rows]
    positives, sources = kept()
    yield "positives", positives, chosen["label"][sources]
    if validation is not None:
        for pixels, rows in _center_crops(validation, crop):
            yield "validation", pixels, validation.labels[rows]
    random = RandomCrop(crop.crop, scale=(0.5, 1.0))
    for number in range(crops if validation is None else 0):  # none of which the attacks saw
        for rows, real in batches(len(attacked), _BLOCK):
            some = [random(attacked[int(row)], np.random.default_rng([seed, number, row])) for row in rows[:real]]
            yield "crops", np.stack([example["image"] for example in some]), chosen["label"][rows[:real]]


def _center_crops(images: ImageSet, crop: CenterCrop) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    for rows, real in batches(len(images), _BLOCK):
        yield images.take(rows[:real]).in_memory(crop).images, rows[:real]


def judge(classifier: Classifier, sets: Callable[[], Iterator[tuple[str, np.ndarray, np.ndarray]]]) -> Arrays:
    """By set, int32 [n]: how many classes have a larger logit than the right one; a logit that is no number: all."""
    found: dict[str, list[np.ndarray]] = {}
    for name, pixels, labels in sets():
        found.setdefault(name, []).append(ranks_of(classifier, pixels, labels, _BLOCK))
    return {name: np.concatenate(parts) for name, parts in found.items()}
