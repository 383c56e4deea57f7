"""Steps of training, plain and adversarial, of one network and of several, against loops in PyTorch and plain JAX."""

import copy
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

from advjax.attacks import Attack, pgd, steepest
from advjax.entropy import cross_entropies
from advjax.fastcpu import accelerate
from advjax.training import (
    Batch,
    Placement,
    Resident,
    Trainer,
    TrainState,
    create,
    stack,
    to_model,
    train_step,
    unstack,
)
from benchmarks.floor import operations_of
from benchmarks.harness import Answers, Case, Job, Run
from benchmarks.networks import Known, arrays_of, network, torch_copy
from benchmarks.target import Target, torch_with_all_cores

__all__ = ["BATCH", "JOBS", "OPTIMIZER", "Training"]

BATCH, RATE, MOMENTUM = 64, 0.01, 0.9
OPTIMIZER = optax.sgd(RATE, momentum=MOMENTUM)


class Training:
    """Networks that all train on one batch again and again, in whatever order: their weights can be compared.

    `radius`, `size`, `ascents`: of the attack that makes the images; none of `ascents` 0.
    """

    def __init__(self, known: list[Known], steps: int, radius: float, size: float, ascents: int) -> None:
        self.known, self.steps, self.radius, self.size, self.ascents = known, steps, radius, size, ascents
        rng, shape = np.random.default_rng(0), self.known[0].shape
        self.levels = rng.integers(0, 256, (BATCH, *shape)).astype(np.uint8)
        self.images = (self.levels / np.float32(255)).astype(np.float32)
        self.labels = rng.integers(0, 10, BATCH, np.int32)

    @property
    def attack(self) -> Attack | None:
        if self.ascents == 1:
            return steepest("linf", self.radius, levels=None)
        options = {"step_size": self.size, "steps": self.ascents, "random_start": False, "levels": None}
        return pgd(self.radius, **options) if self.ascents else None

    def states(self) -> TrainState:
        """Of all networks, before the first step."""
        return stack([create(known.model, OPTIMIZER) for known in self.known])

    def ours(self, where: Placement | None = None) -> Run:
        trainer = Trainer(train_step(OPTIMIZER, attack=self.attack), BATCH, self.steps, where)
        states = self.states()
        data, key = Resident(self.levels, self.labels), jax.random.key(0)

        def run() -> Any:
            # The states are given away.
            fitted = trainer.fit(jax.tree.map(jnp.copy, states), data, self.steps, key)
            jax.block_until_ready(fitted.states)
            return fitted

        return run

    def in_turn(self) -> Run:
        """A call of `fit` for each network."""
        attack = self.radius, self.size, self.ascents
        calls = [Training([known], self.steps, *attack).ours() for known in self.known]
        return lambda: [model for call in calls for model in call().models]

    def side_by_side(self) -> Run:
        """All networks in one `vmap`, as on an accelerator."""
        step, states = train_step(OPTIMIZER, attack=self.attack), self.states()
        batch, key = Batch(jnp.asarray(self.levels), jnp.asarray(self.labels)), jax.random.key(0)

        def all_at_once(_: int, states: TrainState) -> TrainState:
            return jax.vmap(lambda state: step(state, batch, key)[0])(states)

        program = jax.jit(accelerate(lambda states: jax.lax.fori_loop(0, self.steps, all_at_once, states)))
        return lambda: [to_model(state) for state in unstack(program(states))]

    def plain_jax(self) -> Run:
        """What one writes with Flax and optax alone: a jitted scan over the steps, the networks in turn."""
        x, y = jnp.asarray(self.images), jnp.asarray(self.labels)

        def loss(model: nnx.Module, images: jax.Array) -> jax.Array:
            return optax.softmax_cross_entropy_with_integer_labels(model(images), y).mean()

        def step(carry: tuple[nnx.Module, nnx.Optimizer]) -> tuple[nnx.Module, nnx.Optimizer]:
            model, optimizer = carry
            model.eval()
            moved = x
            for _ in range(self.ascents):
                moved = moved + self.size * jnp.sign(jax.grad(partial(loss, model))(moved))
                moved = jnp.clip(jnp.clip(moved, x - self.radius, x + self.radius), 0, 1)
            model.train()
            optimizer.update(model, nnx.grad(loss)(model, moved))
            return model, optimizer

        all_steps = nnx.jit(nnx.scan(step, length=self.steps, in_axes=nnx.Carry, out_axes=nnx.Carry))

        def run() -> list[nnx.Module]:
            models = [nnx.clone(known.model) for known in self.known]
            return [all_steps((model, nnx.Optimizer(model, OPTIMIZER, wrt=nnx.Param)))[0] for model in models]

        return run

    def torch(self, *, last: bool = False, compiled: bool = False) -> Run:
        """A plain loop, the networks in turn; `last`: channels last in memory."""
        torch = torch_with_all_cores()
        layout = {"memory_format": torch.channels_last} if last else {}
        images = torch.tensor(self.images.transpose(0, 3, 1, 2).copy()).contiguous(**layout)
        labels, copies = torch.tensor(self.labels).long(), [torch_copy(known).to(**layout) for known in self.known]
        starts = [copy.deepcopy(net.state_dict()) for net in copies]
        nets = [torch.compile(net) if compiled else net for net in copies]

        def run() -> list[Any]:
            for net, own, start in zip(nets, copies, starts, strict=True):
                own.load_state_dict(start)
                self._torch_steps(torch, net, own.requires_grad_(True), images, labels)
            return copies

        return run

    def _torch_steps(self, torch: Any, net: Any, own: Any, images: Any, labels: Any) -> None:
        optimizer = torch.optim.SGD(own.parameters(), lr=RATE, momentum=MOMENTUM)
        loss = torch.nn.functional.cross_entropy
        for _ in range(self.steps):
            net.eval()
            x = images
            for _ in range(self.ascents):
                x = x.detach().requires_grad_(True)
                (gradient,) = torch.autograd.grad(loss(net(x), labels), x)
                moved = x.detach() + self.size * gradient.sign()
                x = torch.clamp(moved, images - self.radius, images + self.radius).clamp(0, 1)
            net.train()
            optimizer.zero_grad()
            loss(net(x.detach()), labels).backward()
            optimizer.step()

    def judge(self, trained: Any) -> Answers:
        """How each weight of each network has changed."""
        changes = []
        for known, one in zip(self.known, getattr(trained, "models", trained), strict=True):
            before = arrays_of(known.model, nnx.Param)
            after = arrays_of(one, nnx.Param) if isinstance(one, nnx.Module) else one.arrays()
            changes += [(after[key] - before[key]).ravel() for key in sorted(before)]
        change = np.concatenate(changes)
        if not np.isfinite(change).all():
            raise ValueError("the weights must be finite")
        return {"change of the weights": change, "size of the change": np.abs(change).mean()}

    def operations(self) -> float:
        """Of all steps of all networks: the loss's gradient by the weights, and the attack's by the images."""
        model, x = self.known[0].model, jnp.asarray(self.images)
        graphdef, params, rest = nnx.split(model, nnx.Param, ...)

        def loss(params: Any) -> jax.Array:
            whole = nnx.merge(graphdef, params, rest, copy=True)
            whole.train()
            return cross_entropies(whole(x), jnp.asarray(self.labels)).mean()

        step = operations_of(jax.grad(loss), params)
        if self.ascents:
            step += self.ascents * Target(self.known[0], self.images, self.labels).gradient_operations()
        return len(self.known) * self.steps * step

    def moved(self) -> float:
        """Weights and momentum are read and written, gradients written and read; the images are read."""
        weights = sum(array.nbytes for array in arrays_of(self.known[0].model, nnx.Param).values())
        passes = 1 + self.ascents
        return float(len(self.known) * self.steps * (6 * weights + passes * (weights + self.images.nbytes)))


def _apart(name: str, ascents: int) -> float:
    """How far the weights of two libraries may be apart, in shares of their change.

    Where rounding turns the sign of a gradient, pixels move the other way. The fresh VGG grows rounding: PyTorch's own
    two layouts are 18 % apart after three plain steps, 49 % after one on PGD-10.
    """
    if name == "vgg-cifar":
        return 0.6 if ascents > 1 else 0.3
    return 0.3 if ascents else 0.1


def _case(name: str, count: int, steps: int, attack: tuple[float, float, int], smoke: bool) -> Case:
    training = Training([network(name, seed) for seed in range(count)], 2 if smoke else steps, *attack)
    peers: dict[str, Callable[[], Run]] = {
        "PyTorch loop": training.torch,
        "PyTorch loop, channels last": partial(training.torch, last=True),
        "PyTorch loop, channels last, torch.compile": partial(training.torch, last=True, compiled=True),
    }
    if name == "lenet":  # the others' convolution gradients take XLA's slow path, minutes a step
        peers["plain Flax and optax"] = training.plain_jax
    if count > 1:
        peers |= {"advjax, a call each": training.in_turn, "advjax, vmap": training.side_by_side}
    return Case(
        ours=training.ours(),
        peers=peers,
        judge=training.judge,
        bars={"change of the weights": _apart(name, attack[2]), "size of the change": 0.02},
        operations=training.operations(),
        moved=training.moved(),
        counted="XLA's count of the plain gradients; weights, momentum and gradients once a step, images once a pass",
        notes=f"{training.known[0].weights}, dropout off, one batch again and again",
    )


def _job(work: str, *arguments: Any) -> Job:
    return Job(work, partial(_case, *arguments))


# Radius, step size and ascents.
_PLAIN, _ONE, _TEN = (0.0, 0.0, 0), (0.1, 0.1, 1), (0.3, 0.05, 10)
_SMALL, _SMALL_TEN = (4 / 255, 4 / 255, 1), (8 / 255, 2 / 255, 10)
_BY = "by Trainer.fit, SGD with momentum"
JOBS: Mapping[str, Job] = {
    "train-lenet": _job(f"60 plain steps of LeNet, batch 64, {_BY}", "lenet", 1, 60, _PLAIN),
    "train-lenet-x3": _job(f"20 plain steps of three LeNets at once, batch 64, {_BY}", "lenet", 3, 20, _PLAIN),
    "train-lenet-x9": _job(f"7 plain steps of nine LeNets at once, batch 64, {_BY}", "lenet", 9, 7, _PLAIN),
    "train-lenet-alg1": _job(f"40 steps of Algorithm 1 on LeNet, batch 64, {_BY}", "lenet", 1, 40, _ONE),
    "train-lenet-pgd": _job(f"8 steps of LeNet on PGD-10, batch 64, {_BY}", "lenet", 1, 8, _TEN),
    "train-madry": _job(f"20 plain steps of Madry's net, batch 64, {_BY}", "madry", 1, 20, _PLAIN),
    "train-madry-alg1": _job(f"12 steps of Algorithm 1 on Madry's net, batch 64, {_BY}", "madry", 1, 12, _ONE),
    "train-madry-pgd": _job(f"3 steps of Madry's net on PGD-10, batch 64, {_BY}", "madry", 1, 3, _TEN),
    "train-resnet20": _job(f"10 plain steps of ResNet-20, batch 64, {_BY}", "resnet20", 1, 10, _PLAIN),
    "train-resnet20-alg1": _job(f"6 steps of Algorithm 1 on ResNet-20, batch 64, {_BY}", "resnet20", 1, 6, _SMALL),
    "train-resnet20-pgd": _job(f"2 steps of ResNet-20 on PGD-10, batch 64, {_BY}", "resnet20", 1, 2, _SMALL_TEN),
    "train-vgg": _job(f"3 plain steps of the VGG of 32x32x3, batch 64, {_BY}", "vgg-cifar", 1, 3, _PLAIN),
    "train-vgg-alg1": _job(f"2 steps of Algorithm 1 on the VGG, batch 64, {_BY}", "vgg-cifar", 1, 2, _SMALL),
    "train-vgg-pgd": _job(f"1 step of the VGG on PGD-10, batch 64, {_BY}", "vgg-cifar", 1, 1, _SMALL_TEN),
}
