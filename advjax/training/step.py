"""One step of training as a pure function of state, batch and key: perturb the batch, then descend."""

import dataclasses
from collections.abc import Callable
from typing import Any, Literal, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from jax.typing import ArrayLike

from advjax.attacks import Attack, Stack, perturb
from advjax.attacks.constraints import Quantize
from advjax.attacks.part import parts
from advjax.attacks.perturb import IMAGE_AXIS
from advjax.classifier import Classifier, from_nnx
from advjax.entropy import cross_entropies, widened
from advjax.keys import image_keys
from advjax.models.random_sign import HiddenRandomSign, tapped
from advjax.training.faults import faults_of, naming
from advjax.training.interface import Batch, Metrics, TrainingStep, pixels_of
from advjax.training.linen import LinenModel
from advjax.training.pair_loss import PairLoss
from advjax.training.state import TrainState, to_model
from advjax.training.streams import reseed
from advjax.value import static, value

__all__ = ["Augment", "Loss", "Step", "Task", "cross_entropy", "train_step"]

# Which of a pass's keys the taps draw from; random streams have the first numbers.
_HIDDEN = np.uint32(2**32 - 1)

# The model is `Any`: a loss may ask it for more than logits.
Loss: TypeAlias = Callable[[Any, jax.Array, jax.Array], tuple[jax.Array, jax.Array]]
Augment: TypeAlias = Callable[[jax.Array, jax.Array], jax.Array]
"""Keys [B] and images float32 [B, H, W, C] to images float32 [B, H', W', C'], such as `advjax.disturb.RandomFlip()`."""


def cross_entropy(
    model: Callable[[jax.Array], jax.Array], images: jax.Array, labels: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """The losses [B] `-log softmax(h(x))_y` of images [B, H, W, C] with labels [B], and the logits h [B, K].

    The losses are float32 for a network in half precision too, computed from its logits as they are.

    >>> losses, logits = cross_entropy(lambda x: x.reshape(1, 2), jnp.zeros((1, 1, 1, 2)), jnp.array([0]))
    >>> losses.tolist()
    [0.6931471824645996]
    """
    logits = model(images)
    return cross_entropies(logits, labels), logits


def train_step(
    optimizer: optax.GradientTransformation,
    *,
    loss: Loss | PairLoss = cross_entropy,
    augment: Augment | None = None,
    attack: Attack | None = None,
    clean_weight: float = 0.0,
    attack_mode: Literal["eval", "train"] = "eval",
    hidden: HiddenRandomSign | None = None,
    axis_name: str | None = None,
) -> "Step":
    """The step `(state, batch, key) -> (state, metrics)`: perturb the batch, then descend the mean loss

        J(theta) = clean_weight 1/B sum_i J(theta, x_i, y_i) + (1 - clean_weight) 1/B sum_i J(theta, x~_i, y_i),
        theta <- theta + update(grad_theta J),

    with x~ made by `attack` from the present theta and held fixed in the gradient. Without an attack it is ordinary
    training; with `steepest(norm, radius)` it is Algorithm 1 of Shaham et al. 2015, with clean_weight=0.5 and
    `fgs(epsilon)` the training of Goodfellow et al. 2015, with `localized_pgd(region, ...)` that of Rothberg et al.

    The network descends in training mode: batch statistics move, and the random streams (dropout) start anew from
    `key`. The metrics are those of the network before the update: the objective, and the right answers for the images
    that the attack made (without an attack, for the images given).

    Images are uint8, or floats in [0, 1], with an attack of so many levels on that grid. Whether they are is counted
    in the metrics (see `Metrics.check`), which `Trainer` reads; where the step is not compiled, it raises.

    Args:
        optimizer: an optax transformation; its state must have been made by `create` with the same one.
        loss: `(model, images, labels) -> (losses [B], logits [B, K])`, the model in training mode. Its images are
            float32; what the model makes of them comes as it is: of a network in bfloat16, `loss` should widen the
            logits before it takes exponentials, as `cross_entropy` does. Or a `PairLoss`, of the logits of the clean
            and of the attacked images, such as `Trades()`.
        augment: a random change of the images before all else, such as `advjax.disturb.Chain((RandomCrop(32,
            padding=4), RandomFlip()))`; in training alone. It gets a key for each image, by the image's place in the
            whole batch. What it makes stands for the images given from there on; an attack of so many levels rounds
            it to them.
        attack: an attack, as for `perturb`; None trains on the images as they are.
        clean_weight: the weight of the clean images' loss in the objective, in [0, 1); that of the attacked images'
            is 1 - clean_weight.
        attack_mode: "eval" attacks the network as it will be used; "train" attacks it in training mode, with the
            statistics of the batch and fresh dropout masks, and lets its running averages see that pass too, as the
            scripts of Shaham et al. do. Batch statistics tie the images of a batch together: the gradient is then that
            of the whole batch's loss.
        hidden: random signs at taps of the network (`advjax.models.hidden_random_sign`), in the passes of the descent
            alone: neither an attack nor an evaluation sees them. With `random_sign` as the attack, or the tap "input",
            it is the training of Di et al. 2018, in input and hidden space.
        axis_name: under `pmap` or `vmap` with this axis, the gradients and batch statistics are averaged and
            the metrics summed over it, so that S devices with B/S images each make one device's step with B. (A
            `BatchNorm` normalizes by its own device's images, unless it was made with this `axis_name` too.)

    Raises:
        ValueError: clean_weight is not in [0, 1), comes without an attack or with a `PairLoss`; a `PairLoss` without
            an attack; attack_mode is unknown; attack is a stack. From the step: a batch of other types or shapes, or of
            images that the network does not take; an augment that returns other than float32 images, one for each;
            attack_mode="train" with a `LinenModel`; `hidden` with a network that has no such taps.

    >>> from advjax.attacks import steepest
    >>> from advjax.training.state import create
    >>> optimizer = optax.sgd(0.1)
    >>> model = nnx.Sequential(lambda x: x.reshape(x.shape[0], -1), nnx.Linear(4, 3, rngs=nnx.Rngs(0)))
    >>> batch = Batch(jnp.ones((5, 2, 2, 1)), jnp.zeros(5, jnp.int32))
    >>> step = train_step(optimizer, attack=steepest("linf", 0.1))
    >>> state, metrics = step(create(model, optimizer), batch, jax.random.key(0))
    >>> int(state.step), float(metrics.examples)
    (1, 5.0)
    """
    if isinstance(attack, Stack):
        raise ValueError("attack must be a single attack, got a stack, which makes several images of each")
    if not 0 <= clean_weight < 1:
        raise ValueError(f"clean_weight must be in [0, 1), the weight of the clean images' loss, got {clean_weight}")
    if clean_weight and attack is None:
        raise ValueError(f"clean_weight={clean_weight} needs an attack, whose images have the rest, got attack=None")
    if isinstance(loss, PairLoss) and (attack is None or clean_weight):
        raise ValueError(
            "loss is one of pairs of clean and attacked images, which needs an attack and weighs both itself, got "
            f"attack={attack!r} and clean_weight={clean_weight}"
        )
    if attack_mode not in ("eval", "train"):
        raise ValueError(f'attack_mode must be "eval" or "train", got {attack_mode!r}')
    return Step(optimizer, loss, augment, attack, clean_weight, attack_mode, hidden, axis_name)


class Task(NamedTuple):
    """What a step descends on, made before anything is differentiated.

    Attributes:
        batch: as given.
        clean: its images as floats, after augmentation.
        images: what the attack made of them.
        rest: the network's other variables before the first pass.
        adversarial_key, clean_key: of the random streams in the passes of `images` and `clean`.
    """

    batch: Batch
    clean: jax.Array
    images: jax.Array
    rest: Any
    adversarial_key: jax.Array
    clean_key: jax.Array


@dataclasses.dataclass(frozen=True, eq=False)
class Step(TrainingStep):
    """One step of training, `(state, batch, key) -> (state, metrics)`; made by `train_step`, which explains it.

    Its parts, `task`, `gradient` and `updated`, are for steps that do more between them (`advjax.training.recipes`).
    """

    optimizer: optax.GradientTransformation
    loss: Loss | PairLoss
    augment: Augment | None
    attack: Attack | None
    clean_weight: float
    attack_mode: Literal["eval", "train"]
    hidden: HiddenRandomSign | None
    axis_name: str | None

    def __call__(self, state: TrainState, batch: Batch, key: jax.Array) -> tuple[TrainState, Metrics]:
        return self.updated(state, *self.gradient(state.params, state, self.task(state, batch, key)))

    def task(self, state: TrainState, batch: Batch, key: jax.Array) -> Task:
        """Augments and perturbs the batch with the state's weights. Nothing is differentiated through it."""
        clean = pixels_of(batch)
        if self.augment is not None:
            clean = self._augmented(self.augment, clean, key)
        attack_key, adversarial_key, clean_key = jax.random.split(key, 3)
        images, rest = clean, state.rest
        if self.attack is not None:
            images = self._perturbed(self.attack, state, clean, batch.label, attack_key)
        if self.attack is not None and self.attack_mode == "train":
            _, _, rest = self._forward(state, state.params, rest, clean, batch.label, clean_key)
        return Task(batch, clean, images, rest, adversarial_key, clean_key)

    def objective(self, params: Any, state: TrainState, task: Task) -> tuple[jax.Array, tuple[Any, Metrics]]:
        """The mean loss at weights `params`, with the other variables after its passes and this device's metrics."""
        labels = task.batch.label
        losses, logits, after = self._forward(state, params, task.rest, task.images, labels, task.adversarial_key)
        if self.clean_weight or isinstance(self.loss, PairLoss):
            on_clean, clean_logits, after = self._forward(state, params, after, task.clean, labels, task.clean_key)
            if isinstance(self.loss, PairLoss):
                losses = widened(self.loss(clean_logits, logits, labels))
                if losses.shape != labels.shape:
                    raise ValueError(f"the loss must return losses [{labels.size}], got shape {losses.shape}")
            else:
                losses = self.clean_weight * on_clean + (1.0 - self.clean_weight) * losses
        correct = jnp.sum(jnp.argmax(logits, -1) == labels, dtype=jnp.float32)
        faults = faults_of(self.attack, task.batch.image, labels, logits.shape[-1])
        return jnp.mean(losses), (after, Metrics(jnp.sum(losses), correct, jnp.float32(losses.size), faults))

    def gradient(self, params: Any, state: TrainState, task: Task) -> tuple[Any, Any, Metrics]:
        """That of the objective, with the other variables and the metrics, all of the whole batch."""
        grads, (rest, metrics) = jax.grad(self.objective, has_aux=True)(params, state, task)
        return self.gathered(grads, rest, metrics)

    def gathered(self, grads: Any, rest: Any, metrics: Metrics) -> tuple[Any, Any, Metrics]:
        """Those of the whole batch from those of each device's part."""
        if self.axis_name is not None:
            grads, rest = jax.tree.map(self._mean, (grads, rest))
            metrics = jax.lax.psum(metrics, self.axis_name)
        return grads, rest, metrics

    def updated(self, state: TrainState, grads: Any, rest: Any, metrics: Metrics) -> tuple[TrainState, Metrics]:
        """The state after the optimizer's update by `grads`; metrics that are known here are checked."""
        if not isinstance(metrics.loss, jax.core.Tracer):
            metrics.check()
        # optax mixes integer counts and floats, which strict promotion (a user's setting) would refuse.
        with jax.numpy_dtype_promotion("standard"):
            updates, opt_state = self.optimizer.update(grads, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        return TrainState(state.step + 1, params, rest, opt_state, state.graphdef), metrics

    def _forward(
        self, state: TrainState, params: Any, rest: Any, images: jax.Array, labels: jax.Array, key: jax.Array
    ) -> tuple[jax.Array, jax.Array, Any]:
        """Losses [B], logits [B, K], and the other variables after one pass in training mode."""
        model = nnx.merge(state.graphdef, params, rest, copy=True)
        model.train()
        reseed(model, key, self.axis_name)
        batch = images.shape[0]
        tap = self.hidden and self.hidden.tap(jax.random.fold_in(key, _HIDDEN), self._first(batch))
        with naming(images):
            # A loss of pairs reads the logits of both passes afterwards.
            loss = cross_entropy if isinstance(self.loss, PairLoss) else self.loss
            losses, logits = loss(tapped(model, tap) if tap else model, images, labels)
        if tap:
            tap.check()
        if losses.shape != (batch,) or logits.ndim != 2 or logits.shape[0] != batch:
            raise ValueError(
                f"the loss must return losses [B] and logits [B, K] for B = {batch} images of shape "
                f"{images.shape[1:]}, got shapes {losses.shape} and {logits.shape}"
            )
        moved = nnx.state(model, nnx.Not(nnx.Any(nnx.Param, nnx.RngState)))
        return widened(losses), logits, nnx.merge_state(rest, moved)  # a sum needs more digits than its parts

    def _perturbed(
        self, attack: Attack, state: TrainState, images: jax.Array, labels: jax.Array, key: jax.Array
    ) -> jax.Array:
        if self.attack_mode == "train":
            key, model_key = jax.random.split(key)
            variables = (state.params, state.rest, model_key)
            classifier = Classifier(variables, _TrainingApply(state.graphdef), ties_images=True)
        else:
            classifier = from_nnx(to_model(state))
        keys = image_keys(key, images.shape[0], self._first(images.shape[0]))
        return perturb(attack, classifier, images, labels, keys).image

    def _augmented(self, augment: Augment, images: jax.Array, key: jax.Array) -> jax.Array:
        batch = images.shape[0]
        # 3: the other keys of the step are those that `split(key, 3)` gives, `fold_in` of 0 to 2.
        keys = image_keys(jax.random.fold_in(key, 3), batch, self._first(batch))
        result = augment(keys, images.astype(jnp.float32))
        if result.ndim != 4 or result.shape[0] != batch or result.dtype != jnp.float32:
            raise ValueError(
                f"augment must return float32 images [B, H, W, C] for B = {batch}, got {result.dtype} of shape "
                f"{result.shape}"
            )
        for part in () if self.attack is None else parts(self.attack):
            # As `perturb` would, inside a `jit`; outside it would refuse them.
            result = part.snap(result) if isinstance(part, Quantize) else result
        return result

    def _first(self, batch: int) -> ArrayLike:
        """The place of this device's first image in the whole batch, by which draws go."""
        return 0 if self.axis_name is None else jax.lax.axis_index(self.axis_name) * batch

    def _mean(self, leaf: jax.Array) -> jax.Array:
        # Keys and counters of the random streams are no averages.
        return jax.lax.pmean(leaf, self.axis_name) if jnp.issubdtype(leaf.dtype, jnp.floating) else leaf


@value
class _TrainingApply:
    """A network in training mode on one image of `perturb`'s batch, whose statistics are those of the whole batch."""

    graphdef: Any = static()

    def __call__(self, variables: Any, images: jax.Array) -> jax.Array:
        params, rest, key = variables
        model: Any = nnx.merge(self.graphdef, params, rest, copy=True)
        model.train()
        for _, node in nnx.iter_graph(model):
            if isinstance(node, LinenModel):
                raise ValueError('attack_mode="train" needs a network of NNX, whose BatchNorms it reaches, got Linen')
            if isinstance(node, nnx.BatchNorm):
                # Collectives over the mapped axis: also in the gradient, where each image moves all others' statistics.
                axes: Any = IMAGE_AXIS if node.axis_name is None else (node.axis_name, IMAGE_AXIS)
                node.axis_name = axes
        reseed(model, jax.random.fold_in(key, jax.lax.axis_index(IMAGE_AXIS)))
        logits: jax.Array = model(images)
        return logits
