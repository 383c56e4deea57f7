"""The command `advjax train`: adversarial training of a network of the library, from one device to a pod."""

import argparse
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:  # `advjax --help` needs no JAX
    import optax

    from advjax.attacks.attack import Attack
    from advjax.data import Resident
    from advjax.training import TrainState

__all__ = ["add_arguments", "train"]

_ATTACKS = ("none", "linf", "l2", "l1", "pgd")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's arguments; everything that decides the result is stored with the checkpoints."""
    what = parser.add_argument_group("what")
    what.add_argument("--data", choices=("digits", "mnist", "cifar10"), default="digits")
    what.add_argument("--data-dir", help="where TFDS keeps its data sets (default: TFDS_DATA_DIR)")
    what.add_argument("--model", default="lenet", help="a name of `python -m advjax.models`")
    what.add_argument("--seeds", type=int, default=1, help="networks, trained in one program")
    what.add_argument("--seed", type=int, default=0, help="decides orders and draws")
    how = parser.add_argument_group("how")
    how.add_argument("--attack", choices=_ATTACKS, default="none", help="one steepest step in a norm, or linf PGD")
    how.add_argument("--epsilon", type=float, default=0.1, help="radius, in units of [0, 1]")
    how.add_argument("--attack-steps", type=int, default=10, help="of PGD")
    how.add_argument("--clean-weight", type=float, default=0.0, help="weight of the clean images' loss")
    how.add_argument("--optimizer", default="sgd", help="a name of optax")
    how.add_argument("--learning-rate", type=float, default=0.01)
    how.add_argument("--momentum", type=float, help="of sgd or rmsprop")
    how.add_argument("--steps", type=int, default=2000)
    how.add_argument("--batch-size", type=int, default=64, help="images a step and network, over all devices")
    how.add_argument("--validation", type=int, default=0, metavar="N", help="hold back the last N training images")
    how.add_argument("--patience", type=int, help="stop after so many validations without a better one")
    where = parser.add_argument_group("where")
    where.add_argument("--folder", required=True, help="checkpoints and metrics; the same command goes on from them")
    where.add_argument("--every", type=int, default=500, help="steps between checkpoints, and validations")
    where.add_argument("--parameters", choices=("replicated", "sharded"), default="replicated")
    where.add_argument("--networks-over", type=int, default=1, metavar="N", help="divide the seeds over N devices")
    where.add_argument("--tensorboard", action="store_true", help="write TensorBoard events too")
    where.add_argument("--distributed", action="store_true", help="join the job of a TPU pod, Slurm or Kubernetes")
    where.add_argument("--coordinator", metavar="HOST:PORT", help="join by hand, with --processes and --process")
    where.add_argument("--processes", type=int)
    where.add_argument("--process", type=int)


def train(options: argparse.Namespace) -> None:
    """Trains, or goes on training, and prints each network's accuracy on the test set.

    Raises:
        ValueError, TypeError, ImportError, OSError, CheckpointError, NonFiniteLossError: as the parts it uses.
    """
    import jax

    from advjax.data import load
    from advjax.training import Trainer, initialize, measure, placement, train_step

    by_hand = (options.coordinator, options.processes, options.process)
    if options.distributed or any(part is not None for part in by_hand):
        initialize(*by_hand)
    optimizer = _optimizer(options)
    make = _network(options, optimizer)
    data = load(options.data, "train", data_dir=options.data_dir)
    train_set, validation = _split(data.images, data.labels, options.validation)
    simulated = jax.default_backend() == "cpu" and jax.process_count() == 1 and options.networks_over == 1
    devices = jax.devices()[:1] if simulated and options.parameters == "replicated" else jax.devices()
    where = placement(devices, networks=options.networks_over, parameters=options.parameters)
    step = train_step(optimizer, attack=_attack(options), clean_weight=options.clean_weight)
    trainer = Trainer(step, options.batch_size, _block(options), where)
    fitted = trainer.fit(
        make(options.seeds),
        train_set,
        options.steps,
        jax.random.key(options.seed),
        folder=options.folder,
        every=options.every,
        config=_config(options),
        validation=validation,
        patience=options.patience,
        progress=f"{options.model} on {options.data}",
        tensorboard=options.tensorboard,
    )
    test = load(options.data, "test", data_dir=options.data_dir)
    score = measure(fitted.kept, test.images, test.labels, placement=where)
    step_kept = int(np.max(where.to_host(fitted.kept.step)))  # every process must ask
    if jax.process_index() == 0:
        which = "last" if fitted.best is None else f"best (step {step_kept})"
        for network, (loss, accuracy) in enumerate(zip(score.loss, score.accuracy, strict=True)):
            print(f"network {network}, {which}: test accuracy {100 * accuracy:.2f} %, loss {loss:.4f}")
        sys.stdout.flush()


def _network(options: argparse.Namespace, optimizer: "optax.GradientTransformation") -> Callable[[int], "TrainState"]:
    """`make(seeds) -> states` of the named network, if it takes these images."""
    from advjax.models.registry import NETWORKS
    from advjax.training import ensemble

    shapes = {"digits": (28, 28, 1), "mnist": (28, 28, 1), "cifar10": (32, 32, 3)}
    fitting = [name for name, network in NETWORKS.items() if network.shape == shapes[options.data]]
    if options.model not in fitting:
        raise ValueError(f"--model must be one of {', '.join(fitting)} for {options.data}, got {options.model!r}")
    network = NETWORKS[options.model]
    return lambda seeds: ensemble(lambda rngs: network.make(rngs=rngs), optimizer, seeds)


def _optimizer(options: argparse.Namespace) -> "optax.GradientTransformation":
    from advjax.training import optimizer

    momentum = {} if options.momentum is None else {"momentum": options.momentum}
    return optimizer(options.optimizer, options.learning_rate, **momentum)


def _attack(options: argparse.Namespace) -> "Attack | None":
    from advjax.attacks import pgd, steepest

    if options.attack == "none":
        return None
    if not options.epsilon >= 0:
        raise ValueError(f"--epsilon must not be negative or NaN, got {options.epsilon}")
    if options.attack == "pgd":
        if options.attack_steps < 1:
            raise ValueError(f"--attack-steps must be at least 1, got {options.attack_steps}")
        # Madry et al. 2018: steps of 2.5 radii in all.
        return pgd(options.epsilon, step_size=2.5 * options.epsilon / options.attack_steps, steps=options.attack_steps)
    return steepest(options.attack, options.epsilon)


def _split(
    images: np.ndarray, labels: np.ndarray, held_back: int
) -> tuple["Resident", tuple[np.ndarray, np.ndarray] | None]:
    from advjax.data import Resident

    if not 0 <= held_back < len(labels):
        raise ValueError(f"--validation must be in 0..{len(labels) - 1}, got {held_back}")
    if held_back == 0:
        return Resident(images, labels), None
    return Resident(images[:-held_back], labels[:-held_back]), (images[-held_back:], labels[-held_back:])


def _block(options: argparse.Namespace) -> int:
    """The largest divisor of --every up to 100 steps: checkpoints fall between blocks."""
    if options.every < 1:
        raise ValueError(f"--every must be at least 1, got {options.every}")
    return max(block for block in range(1, 101) if options.every % block == 0)


def _config(options: argparse.Namespace) -> dict[str, Any]:
    """What decides the result, beside what `fit` knows: a run goes on with the same alone, anywhere."""
    names = (
        "data",
        "model",
        "attack",
        "epsilon",
        "attack_steps",
        "clean_weight",
        "optimizer",
        "learning_rate",
        "momentum",
    )
    return {name: getattr(options, name) for name in names}
