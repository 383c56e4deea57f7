"""The run: what is chosen, the networks, Algorithm 1 that trains them, the set A, and what each network answers."""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from advjax.attacks import pgd, steepest
from advjax.classifier import Classifier, from_nnx
from advjax.data import Resident, Standardized, padded_grey, yuv_contrast
from advjax.evaluate import answers_of, epsilon_of_count, perturb_all, sign_ray
from advjax.models.shaham import ShahamNet
from advjax.models.vgg_cifar import VggCifar
from advjax.training import Trainer, train_step
from advjax.training.optimizers import torch_rate, torch_sgd
from experiments.config import Settings, presets, setting
from experiments.networks import key_of, restored_model, train
from experiments.provenance import check_counts, load_both
from experiments.store import Arrays, Store
from experiments.study import Folder, Loaded, Read, Stage

__all__ = ["PRESETS", "Config", "Data", "classifiers", "load", "radii_of", "stages"]

_NORMS = ("l1", "l2", "linf")


@dataclasses.dataclass(frozen=True)
class Config(Settings):
    """One run. The defaults are those of MNIST, from the authors' scripts.

    Radii are in units of the standardized images that the network computes with; one is 70.18 grey levels of MNIST.
    """

    data: Literal["mnist", "digits", "cifar10"] = setting("mnist", "digits are scikit-learn's, never called MNIST.")
    norms: tuple[str, ...] = setting(_NORMS, "of the robust networks and the set A; linf is one.", among=_NORMS)
    radii: tuple[float, ...] = setting((2.0, 2.0, 0.2), "by norm, in training and in the set A (the paper: none).")
    epochs: int = setting(120, "of every network (paper: of the baseline; where robust scripts stop is not known).")
    batch_size: int = setting(100, "images a step; an epoch's last batch is filled from the next epoch.")
    shuffle: bool = setting(False, "a new order each epoch, or the file's order each epoch.")
    learning_rate: float = setting(0.01, "of torch7's SGD.")
    momentum: float = setting(0.9, "of torch7's SGD.")
    dampening: float = setting(0.9, "of torch7's SGD, where it is the momentum by default.")
    learning_rate_decay: float = setting(5e-6, "d of the rate learning_rate / (1 + d t) at step t.")
    halve_every: int = setting(0, "halves the rate at the start of each such epoch, counted from 1; 0: never.", least=0)
    weight_decay: float = setting(1e-3, "times each parameter, biases too, is added to its gradient.")
    input_norm: bool = setting(True, "robust networks begin with a batch norm without parameters (scripts only).")
    attack_mode: Literal["eval", "train"] = setting("train", "of the network under attack (train: as in scripts).")
    own_test_statistics: bool = setting(True, "the test set is standardized by its own mean and deviation (scripts).")
    epsilons: tuple[float, ...] = setting(tuple(round(0.05 * k, 2) for k in range(21)), "of Figs. 3 and 6 (our grid).")
    test_images: int = setting(0, "of the test set, the first; 0: all.", least=0)
    pgd_images: int = setting(1000, "so many of them are attacked by PGD too (not in the paper).")
    set_size: int = setting(0, "moves the radius of linf until A has so many test images; 0: as given.", least=0)
    attack_batch: int = setting(500, "images attacked at once.")

    def __post_init__(self) -> None:
        super().__post_init__()
        if len(set(self.norms)) != len(self.norms) or "linf" not in self.norms:
            raise ValueError(f'norms must be distinct and hold "linf", got {self.norms}')
        if len(self.radii) != len(self.norms) or not all(self.radii):
            raise ValueError(f"radii must be a positive number for each of the norms {self.norms}, got {self.radii}")
        if not self.epsilons:
            raise ValueError("epsilons must be at least one number, got none")

    @property
    def networks(self) -> tuple[str, ...]:
        """The names of the networks: "baseline", and the norm of each robust one."""
        return "baseline", *self.norms


PRESETS = presets(
    Config,
    {
        "quick": "data=digits epochs=40 batch_size=20 learning_rate=0.05",
        "cpu": "epochs=15",
        "paper": "",
        # The scripts give the l2 radius. That of linf is not given: it is calibrated to the paper's count of images.
        "paper-cifar10": """
            data=cifar10 norms=l2,linf radii=0.2,0.02 set_size=1547 epochs=300 batch_size=128 shuffle=true
            learning_rate=1.0 learning_rate_decay=1e-7 halve_every=25 weight_decay=5e-4
            input_norm=false own_test_statistics=false
            epsilons=0,.005,.01,.015,.02,.025,.03,.035,.04,.045,.05,.055,.06,.065,.07,.075,.08,.085,.09,.095,.1
        """,
    },
)

Data = tuple[Standardized, Standardized]


def load(config: Config, data_dir: Folder | None) -> Loaded[Config, Data]:
    """The training set and the first `test_images` of the test set."""
    learned, asked, read = load_both(config.data, data_dir)
    check_counts(config, {"test_images": asked.labels, "batch_size": learned.labels})
    if config.data == "cifar10":
        both = yuv_contrast(learned, asked)
    else:
        both = padded_grey(learned, asked, padding=2, own_test_statistics=config.own_test_statistics)
    return Loaded(config, (both[0], both[1].first(config.test_images)), read)


def stages(config: Config, data: Data, store: Store) -> Iterator[Stage]:
    """The baseline, the radius of linf if it is calibrated, the robust networks, the set A, and each one's answers."""
    test = data[1]
    yield training_stage(config, "baseline", {}, data, store)
    baseline = classifiers(config, data, store.read, ["baseline"])["baseline"]
    if config.set_size:
        find = partial(calibrated, dict(zip(config.norms, config.radii, strict=True)), config.set_size)
        yield Stage("radius", partial(find, baseline, test, config.attack_batch))
    radii = radii_of(config, store.read)
    for norm in config.norms:
        yield training_stage(config, norm, radii, data, store)
    yield Stage("adversarial", partial(adversarial_set, radii, baseline, test, config.attack_batch))
    found = store.read("adversarial")
    for name, classifier in classifiers(config, data, store.read).items():
        own, key = (radii["linf"], config.pgd_images), key_of(config.seed, config.data, "pgd")
        judged = partial(judge, classifier, test, found, config.epsilons, *own, key, config.attack_batch)
        yield Stage(f"judged/{name}", judged)


def training_stage(config: Config, name: str, radii: dict[str, float], data: Data, store: Store) -> Stage:
    """Algorithm 1: at each step the batch is moved by eq. 11, and the network learns from that alone.

    The test set is asked after each epoch, for Fig. 5 alone: nothing is chosen by it, and the weights are those after
    the last epoch.
    """
    learned, test = data
    per_epoch = len(learned.labels) // config.batch_size  # whole batches only
    rate = torch_rate(config.learning_rate, config.learning_rate_decay, per_epoch, config.halve_every)
    optimizer = torch_sgd(rate, config.momentum, config.dampening, config.weight_decay)
    attack = eq11(name, radii[name], learned) if name in radii else None
    step = train_step(optimizer, attack=attack, attack_mode=config.attack_mode)
    trainer, model = Trainer(step, config.batch_size, per_epoch), network(config, name, learned)
    images = Resident(learned.images, learned.labels, shuffle=config.shuffle)
    steps, key = config.epochs * per_epoch, key_of(config.seed, config.data, "order")
    learn = partial(train, trainer, model, images, steps, key, store.checkpoints(name), every=per_epoch)
    return Stage(f"train/{name}", partial(learn, validation=(test.images, test.labels)))


def network(config: Config, name: str, statistics: Standardized) -> nnx.Module:
    """A network before its first step, standardizing by some images' statistics; all begin with the same weights."""
    rngs = nnx.Rngs(key_of(config.seed, config.data, "weights"))
    if config.data == "cifar10":
        return VggCifar(mean=statistics.mean.tolist(), std=[float(statistics.std)] * 3, rngs=rngs)
    mean, std = 255 * float(statistics.mean[0]), 255 * float(statistics.std)
    return ShahamNet(mean=mean, std=std, input_norm=config.input_norm and name != "baseline", rngs=rngs)


def classifiers(config: Config, data: Data, read: Read, names: Sequence[str] = ()) -> dict[str, Classifier]:
    """The trained networks in evaluation mode, standardizing by the statistics of the test set."""
    found = {}
    for name in names or config.networks:
        model = restored_model(network(config, name, data[0]), read(f"train/{name}"))
        if isinstance(model, ShahamNet):
            model.mean[...] = jnp.float32(255 * float(data[1].mean[0]))
            model.std[...] = jnp.float32(255 * float(data[1].std))
        found[name] = from_nnx(model)
    return found


def radii_of(config: Config, read: Read) -> dict[str, float]:
    """By norm, the radii of the run: that of linf as it was calibrated."""
    radii = dict(zip(config.norms, config.radii, strict=True))
    return {**radii, "linf": float(read("radius")["radius"])} if config.set_size else radii


def eq11(norm: Any, radius: float, images: Standardized) -> Any:
    """One step of steepest ascent in a norm, of a radius in standardized units; nothing is clipped or rounded."""
    return steepest(norm, radius * images.std, levels=None, box=False)


def adversarial_set(radii: Mapping[str, float], baseline: Classifier, test: Standardized, batch: int) -> Arrays:
    """Eq. 11 in each norm at its training radius on all test images; kept where a right answer turns wrong.

    An image that two norms turn is in the set twice.

    Returns:
        image float32 [M, H, W, C]; source int32 [M], its index in the test set; label and prediction int32 [M]; norm
        int32 [M], the place of its norm in `radii`; l0 int32 [M], how many pixels were changed; stored_wrong bool [M],
        of sets that are stored as 8-bit images: whether the baseline is still wrong once the image is clipped to [0, 1]
        and rounded to 8 bits.
    """
    found = []
    for number, (norm, radius) in enumerate(radii.items()):
        result = perturb_all(eq11(norm, radius, test), baseline, test.images, test.labels, batch_size=batch)
        rows = np.flatnonzero(result.success).astype(np.int32)
        kept = jax.tree.map(lambda column, rows=rows: column[rows], result)
        columns = {"image": kept.image, "label": kept.label, "prediction": kept.prediction, "source": rows}
        found.append({**columns, "l0": kept.l0.astype(np.int32), "norm": np.full(len(rows), number, np.int32)})
    merged = {name: np.concatenate([part[name] for part in found]) for name in found[0]}
    if test.images.dtype == np.uint8:
        stored = (np.round(np.clip(merged["image"], 0, 1) * 255) / 255).astype(np.float32)
        merged["stored_wrong"] = answers_of(baseline, stored, batch) != merged["label"]
    return merged


def calibrated(radii: Mapping[str, float], size: int, baseline: Classifier, test: Standardized, batch: int) -> Arrays:
    """radius float64 [], in linf, at which the set A has `size` images, the other norms at their radii.

    Raises:
        ValueError: the other norms give that many images already; or no radius up to 1, far beyond what the networks
            of the paper withstand, gives so many.
    """
    others = 0
    for norm in radii.keys() - {"linf"}:
        attack = eq11(norm, radii[norm], test)
        others += int(np.sum(perturb_all(attack, baseline, test.images, test.labels, batch_size=batch).success))
    if others >= size:
        raise ValueError(f"set_size={size} is no more than the {others} images that the other norms give")
    along, unit = sign_ray(baseline, test.images, test.labels, batch), float(test.std)
    try:
        radius = epsilon_of_count(lambda radius: along(radius * unit), size - others, 1.0)
    except ValueError as error:
        raise ValueError(f"set_size={size} cannot be reached beside {others} images of other norms: {error}") from error
    return {"radius": np.asarray(radius)}


def judge(
    classifier: Classifier,
    test: Standardized,
    found: Arrays,
    epsilons: Sequence[float],
    radius: float,
    pgd_images: int,
    key: jax.Array,
    batch: int,
) -> Arrays:
    """Which images a network gets right. PGD-20, in the linf ball of `radius`, is not in the paper.

    Returns:
        test bool [N], clean; adversarial bool [M], of the set A `found`; sweep bool [E, N], under eq. 2 at each of
        `epsilons` with its own gradient (Fig. 3); pgd bool [pgd_images].
    """
    first, size = (test.images[:pgd_images], test.labels[:pgd_images]), radius * test.std
    attack = pgd(size, step_size=size / 8, steps=20, levels=None)
    attacked = perturb_all(attack, classifier, *first, batch_size=batch, key=key)
    along = sign_ray(classifier, test.images, test.labels, batch)
    return {
        "test": answers_of(classifier, test.images, batch) == test.labels,
        "adversarial": answers_of(classifier, found["image"], batch) == found["label"],
        "sweep": np.stack([along(float(epsilon * test.std)) for epsilon in epsilons]),
        "pgd": answers_of(classifier, np.asarray(attacked.image), batch) == first[1],
    }
