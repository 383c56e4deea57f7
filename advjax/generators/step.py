"""One step of the two players: the discriminator learns what the classifier answers, the generator to please it."""

import dataclasses
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

from advjax.generators.losses import AdversarialLoss, Problem, discriminator_losses, generator_losses, targets
from advjax.training import Batch, Metrics, TrainingStep, TrainState
from advjax.training.faults import faults_of, naming
from advjax.training.interface import pixels_of
from advjax.training.streams import reseed

__all__ = ["GeneratorStep", "generator_step"]

# A bad image whose score moves the generator's loss by less than this (by the discriminator's logit) teaches nothing.
_FLAT = 1e-3


class _Solvers(NamedTuple):
    """The two optimizers, or their states."""

    generator: Any
    head: Any


def generator_step(
    generator: optax.GradientTransformation,
    discriminator: optax.GradientTransformation | None = None,
    *,
    problem: Problem,
    gamma: float,
    loss: AdversarialLoss = "ls",
    axis_name: str | None = None,
) -> "GeneratorStep":
    """The step of Algorithm 1, for `Trainer(step).fit(Players(...), ...)`:

        v = G(x), x~ = x + std v, t from the classifier's label of x~ (see `targets`)
        D descends   L_D  = 1/N sum_i discriminator_losses(x~_i, t_i),     x~ and t fixed,
        then s = D(x~) is computed anew, and
        G descends   L_G' = 1/N sum_i generator_losses(x~_i) + gamma mean(v^2),

    the mean of v^2 over images, pixels and channels in the units of v. Only D's last layer and G are trained. G's
    gradient passes through D and its frozen trunk into x~, and never through the classifier, which is asked for its
    label alone: twice an image and step, for x~ and (to count `positive` and `negative`) for x.

    In the history, "loss" is L_G' and "accuracy" the classifier's on x~; beside them the means over images of
    generator_loss, discriminator_loss, l2 (v^2), score (s before the update), wanted (t), probability (the softmax of
    the true class on x~), positive (what the problem wants of an image: wrong becomes right in enhancing, right
    becomes wrong in adversarial), negative (the reverse), and saturated (bad images whose score gives G no gradient).
    Where all bad images of a block of steps are, `Trainer` warns: G stands still. A validation counts a lower accuracy
    as better in the adversarial problem.

    Args:
        generator: an optax transformation, for G; the paper has Adam ([R] 1e-4).
        discriminator: for D's last layer; None: the same as for G.
        problem: "enhancing" or "adversarial".
        gamma: weight of mean(v^2), 0 or more; the paper has 1e-4 (enhancing) and 3 (adversarial).
        loss: "ls" or "lr".
        axis_name: under `pmap` with this axis, as for `train_step`.

    Raises:
        ValueError: another problem or loss; a negative or infinite gamma.

    Source: Yoo et al. 2017, Algorithm 1, eqs. 1 to 12, 25, 26; L2 as a mean is our reading (its equation is lost).

    >>> step = generator_step(optax.adam(1e-4), problem="enhancing", gamma=1e-4)
    >>> step.lower_is_better, step.also[:3]
    (False, ('generator_loss', 'discriminator_loss', 'l2'))
    """
    if problem not in ("enhancing", "adversarial"):
        raise ValueError(f'problem must be "enhancing" or "adversarial", got {problem!r}')
    if loss not in ("ls", "lr"):
        raise ValueError(f'loss must be "ls" or "lr", got {loss!r}')
    if not (np.isfinite(gamma) and gamma >= 0):
        raise ValueError(f"gamma must be 0 or more, and finite, got {gamma}")
    solvers = _Solvers(generator, generator if discriminator is None else discriminator)
    return GeneratorStep(_in_turn(solvers), solvers, problem, gamma, loss, axis_name, problem == "adversarial")


def _in_turn(solvers: "_Solvers") -> optax.GradientTransformation:
    """Both as one transformation, whose state holds that of each; the step itself updates them in turn."""

    def init(params: Any) -> _Solvers:
        parts = (params.raw_mapping[name] for name in _Solvers._fields)
        return _Solvers(*(solver.init(part) for solver, part in zip(solvers, parts, strict=True)))

    def update(gradients: Any, states: _Solvers, params: Any) -> tuple[Any, _Solvers]:
        raise TypeError("the two players are updated in turn, by the step that has these optimizers, not by this one")

    return optax.GradientTransformation(init, update)


@dataclasses.dataclass(frozen=True, eq=False)
class GeneratorStep(TrainingStep):
    """One step, `(state, batch, key) -> (state, metrics)`; made by `generator_step`, which explains it."""

    optimizer: optax.GradientTransformation
    solvers: "_Solvers"
    problem: Problem
    gamma: float
    loss: AdversarialLoss
    axis_name: str | None
    lower_is_better: bool

    also = (
        "generator_loss", "discriminator_loss", "l2", "score", "wanted", "probability", "positive", "negative",
        "saturated",
    )  # fmt: skip

    def doubt(self, row: Mapping[str, Any]) -> str | None:
        for network, (wanted, saturated) in enumerate(zip(row["wanted"], row["saturated"], strict=True)):
            if wanted < 1 and saturated >= 1 - wanted:
                return (
                    f"the discriminator of network {network} was saturated for all bad images of a block of steps, so "
                    "that the generator learns nothing: its learning rate may be too high"
                )
        return None

    def __call__(self, state: TrainState, batch: Batch, key: jax.Array) -> tuple[TrainState, Metrics]:
        images, labels = pixels_of(batch), batch.label
        old_generator, old_head = (state.params.raw_mapping[name] for name in _Solvers._fields)
        model = self._merged(state, old_generator, old_head)

        def perturbation(params: Any) -> tuple[jax.Array, Any]:
            generator = self._merged(state, params, old_head).generator
            generator.train()
            reseed(generator, key, self.axis_name)
            with naming(images):
                v = generator(images)
            return v, nnx.state(generator, nnx.Not(nnx.Any(nnx.Param, nnx.RngState)))

        v, pull, moved = jax.vjp(perturbation, old_generator, has_aux=True)
        # The trunk is frozen, so its features are those of both discriminators, before and after the update.
        features, pull_trunk = jax.vjp(lambda v: model.frozen("trunk", model.generator.added(images, v)), v)
        logits = jax.lax.stop_gradient(model.frozen("classifier", model.generator.added(images, v)))
        wanted = targets(jnp.argmax(logits, -1), labels, self.problem)

        def of_head(params: Any) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
            z = self._merged(state, old_generator, params).judged(features, labels)
            losses = discriminator_losses(z, wanted, self.loss)
            return jnp.mean(losses), (z, losses)

        gradient, (before, head_losses) = jax.grad(of_head, has_aux=True)(old_head)
        head, head_solver = self._update(self.solvers.head, gradient, state.opt_state.head, old_head)

        def of_features(features: jax.Array) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
            z = self._merged(state, old_generator, head).judged(features, labels)
            losses = generator_losses(z, self.loss)
            return jnp.mean(losses), (z, losses)

        along, (z, losses) = jax.grad(of_features, has_aux=True)(features)
        (of_v,) = pull_trunk(along)
        (gradient,) = pull(of_v + 2 * self.gamma * v / v.size)
        generator, solver = self._update(self.solvers.generator, gradient, state.opt_state.generator, old_generator)

        clean = jax.lax.stop_gradient(model.frozen("classifier", images))
        metrics = self._metrics(batch, clean, logits, _Played(v, wanted, before, z, head_losses, losses))
        if self.axis_name is not None:
            moved = jax.tree.map(self._mean, moved)
            metrics = jax.lax.psum(metrics, self.axis_name)
        if not isinstance(metrics.loss, jax.core.Tracer):
            metrics.check()
        params = nnx.State({"generator": generator, "head": head})
        rest = nnx.merge_state(state.rest, nnx.State({"generator": moved.raw_mapping}))
        return TrainState(state.step + 1, params, rest, _Solvers(solver, head_solver), state.graphdef), metrics

    def _merged(self, state: TrainState, generator: Any, head: Any) -> Any:
        """The players in evaluation mode."""
        params = nnx.State({"generator": generator, "head": head})
        model = nnx.merge(state.graphdef, params, state.rest, copy=True)
        model.eval()
        return model

    def _update(
        self, optimizer: optax.GradientTransformation, gradient: Any, solver: Any, params: Any
    ) -> tuple[Any, Any]:
        if self.axis_name is not None:
            gradient = jax.lax.pmean(gradient, self.axis_name)
        # optax mixes integer counts and floats, which strict promotion (a user's setting) would refuse.
        with jax.numpy_dtype_promotion("standard"):
            updates, solver = optimizer.update(gradient, solver, params)
        return optax.apply_updates(params, updates), solver

    def _metrics(self, batch: Batch, clean: jax.Array, logits: jax.Array, played: "_Played") -> Metrics:
        labels, size = batch.label, jnp.float32(batch.label.shape[0])
        l2 = jnp.mean(jnp.square(played.v), (1, 2, 3))
        wanted_before = targets(jnp.argmax(clean, -1), labels, self.problem)
        slope = jax.vmap(jax.grad(lambda z: generator_losses(z, self.loss)))(played.z)
        probability = jnp.take_along_axis(jax.nn.softmax(logits.astype(jnp.float32)), labels[:, None], -1)[:, 0]
        also = {
            "generator_loss": played.losses,
            "discriminator_loss": played.head_losses,
            "l2": l2,
            "score": jax.nn.sigmoid(played.before),
            "wanted": played.wanted,
            "probability": probability,
            "positive": (1 - wanted_before) * played.wanted,
            "negative": wanted_before * (1 - played.wanted),
            "saturated": jnp.where(jnp.abs(slope) < _FLAT, 1 - played.wanted, 0.0),
        }
        also = {name: jnp.sum(also[name].astype(jnp.float32)) for name in self.also}
        loss = also["generator_loss"] + self.gamma * also["l2"]
        correct = jnp.sum(jnp.argmax(logits, -1) == labels, dtype=jnp.float32)
        return Metrics(loss, correct, size, faults_of(None, batch.image, labels, logits.shape[-1]), also)

    def _mean(self, leaf: jax.Array) -> jax.Array:
        return jax.lax.pmean(leaf, self.axis_name) if jnp.issubdtype(leaf.dtype, jnp.floating) else leaf


class _Played(NamedTuple):
    """What the players did: v [B, H, W, C]; targets, D's logits before and after its update, losses [B]."""

    v: jax.Array
    wanted: jax.Array
    before: jax.Array
    z: jax.Array
    head_losses: jax.Array
    losses: jax.Array
