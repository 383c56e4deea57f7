"""Health check: signs that a model only looks robust because the attack's gradients are masked."""

import dataclasses
from collections.abc import Mapping, Sequence

import jax
import jax.numpy as jnp
import numpy as np
import optax

from advjax.attacks.attack import check_count
from advjax.attacks.consistency import is_batch_dependent
from advjax.attacks.iterative import pgd
from advjax.attacks.named import fgs
from advjax.attacks.square import square
from advjax.classifier import Classifier
from advjax.evaluate.batches import Batches, Data, make_batches
from advjax.evaluate.checks import check_key, check_models
from advjax.evaluate.findings import naming
from advjax.evaluate.intervals import sign_test
from advjax.evaluate.measure import judge_of
from advjax.evaluate.stream import Stream, progress_bar
from advjax.fastcpu import compiled

__all__ = ["HealthWarning", "health_check"]

_MANY = 0.05
"""Share of images without a gradient that is worth a warning."""
_BROKEN = 0.01
"""Share of images with a gradient that is not finite that is."""
_LEFT = 0.01
"""Share of images that an unbounded attack may leave."""
_CHANCE = 0.01
"""Probability below which a weaker attack's lead over a stronger one is no accident."""
_DRAWS = 10
"""At which a random model answers."""

Fooled = Mapping[str, np.ndarray]


@dataclasses.dataclass(frozen=True)
class HealthWarning:
    """One sign that robustness is only apparent.

    Attributes:
      name: "batch dependent", "random", "probabilities", "gradients not finite", "vanishing gradients", "one step
        beats many", "unbounded attack fails" or "black box beats white box".
      explanation: what it means and what to do.
      numbers: the measurements that it rests on, by name; shares are of all images.
    """

    name: str
    explanation: str
    numbers: dict[str, float]

    def __str__(self) -> str:
        measured = ", ".join(f"{name} {number:.4g}" for name, number in self.numbers.items())
        return f"{self.name}: {self.explanation} ({measured})"


def health_check(
    classifier: Classifier,
    data: Data,
    *,
    epsilon: float,
    key: jax.Array,
    steps: int = 40,
    queries: int = 200,
    surrogate: Classifier | None = None,
    batch_size: int = 256,
    progress: str | None = None,
    devices: Sequence[jax.Device] | None = None,
) -> list[HealthWarning]:
    """Looks for the signs of masked gradients that Athalye et al. list; none found is no proof of robustness.

    With the linf attacks FGS, PGD (steps of 2.5 epsilon / steps), PGD over the whole of [0, 1] and Square, warns when

    - "batch dependent": an image's logits depend on the image beside it, as in training mode;
    - "random": they depend on a key among the model's variables (of `nnx.Rngs`, say), which stays the same;
    - "probabilities": the model's outputs are non-negative and sum to 1 for every image;
    - "gradients not finite": the cross-entropy's gradient holds NaN or infinity on over 1 % of the images;
    - "vanishing gradients": it has no entry that is neither zero nor such a one on over 5 % of the images;
    - "one step beats many": FGS fools images that PGD does not, and more than the other way round;
    - "unbounded attack fails": PGD with epsilon = 1 leaves over 1 % of the images answered rightly;
    - "black box beats white box": Square, or PGD on a surrogate, fools images that PGD does not, and more than the
      other way round.

    "More" is judged on the same images by an exact one-sided sign test at 1 % (`sign_test`), so that a few images
    by chance give no warning. A random model's answers are those of most of ten fresh draws.

    Args:
      classifier: the model.
      data: as for `evaluate`; a few hundred images are enough, and fewer than about 50 prove little.
      epsilon: linf radius in [0, 1] at which robustness is claimed.
      key: `jax.random.key(seed)`.
      steps: of PGD.
      queries: of Square for each image.
      surrogate: another model for the same task, to transfer PGD from.
      batch_size, progress, devices: as for `evaluate`.

    Returns:
      The warnings, in the order above; an empty list if there is none.

    Raises:
      TypeError, ValueError: an argument is not as above; the message names it.

    Source: Athalye, Carlini, Wagner, "Obfuscated gradients give a false sense of security", ICML 2018, section 3.1;
    Carlini et al., "On evaluating adversarial robustness", arXiv:1902.06705, section 5.

    Example:
      >>> import jax, numpy as np
      >>> from advjax import from_function
      >>> from advjax.evaluate import health_check
      >>> def steps_of_a_tenth(weights, images):
      ...     return (jax.numpy.round(images * 10) / 10 - 0.5).reshape(images.shape[0], -1) @ weights
      >>> classifier = from_function(steps_of_a_tenth, np.float32([[1, -1]] * 4))
      >>> data = np.full((20, 2, 2, 1), 204, np.uint8), np.zeros(20, np.int32)
      >>> found = health_check(classifier, data, epsilon=0.5, key=jax.random.key(0), steps=5, queries=5)
      >>> found[0].name, found[0].numbers
      ('vanishing gradients', {'images': 1.0})
    """
    batches = make_batches(data, batch_size, devices)
    check_key(key)
    check_count("steps", steps)
    check_count("queries", queries)
    if not 0 < epsilon <= 1:
        raise ValueError(f"epsilon must be above 0 and at most 1, got {epsilon}")
    check_models({"classifier": classifier} | ({} if surrogate is None else {"surrogate": surrogate}), batches)
    model, other = jax.device_put((classifier, surrogate), batches.everywhere)
    # Without a grid: the images need not be on one, and a sign of masking is one with or without rounding.
    climb = pgd(epsilon, step_size=2.5 * epsilon / steps, steps=steps, levels=None)
    attacks = {
        "fgs": (model, fgs(epsilon, levels=None)),
        "pgd": (model, climb),
        "unbounded": (model, pgd(1.0, step_size=2.5 / steps, steps=steps, levels=None)),
        "square": (model, square(epsilon, queries=queries, levels=None)),
        **({} if other is None else {"transfer": (other, climb)}),
    }
    judge = judge_of(model, batches.images.shape[1:], _DRAWS)
    with progress_bar(progress, len(batches.labels) * len(attacks)) as advance:
        probes = _probe_all(batches, model)
        stream = Stream(batches, key, advance=advance)
        fooled = {}
        for name, (source, attack) in attacks.items():
            with naming(f"the check's attack {name!r}"):
                (runs,) = stream.attack(name, attack, source, [judge])
            fooled[name] = ~runs["correct"][0]
    return _findings(probes | {"random": np.array(judge.draws > 0)}, fooled)


def _probe_all(batches: Batches, model: Classifier) -> dict[str, np.ndarray]:
    """`_probe` of every image [N]."""
    parts = []
    for index in range(len(batches)):
        batch = batches[index]
        found = jax.device_get(_probe(model, batch.images, batch.labels))
        parts.append({name: array[: batch.valid] for name, array in found.items()})
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


@compiled
def _probe(classifier: Classifier, images: jax.Array, labels: jax.Array) -> dict[str, jax.Array]:
    """Facts about each image [B]: of its logits, its gradient, and the batch that it is in."""

    def total_loss(images: jax.Array) -> tuple[jax.Array, jax.Array]:
        logits = classifier(images).astype(images.dtype)
        return jnp.sum(optax.softmax_cross_entropy_with_integer_labels(logits, labels)), logits

    # In evaluation mode images do not see one another: the gradient of the sum holds each image's own.
    gradients, logits = jax.grad(total_loss, has_aux=True)(images)
    pixels, finite = (1, 2, 3), jnp.isfinite(gradients)
    return {
        "batch dependent": jnp.broadcast_to(is_batch_dependent(classifier, images), labels.shape),
        "probabilities": jnp.all(logits >= 0, axis=-1) & (jnp.abs(jnp.sum(logits, axis=-1) - 1) < 1e-3),
        "not finite": ~jnp.all(finite, axis=pixels),
        "zero": jnp.all((gradients == 0) | ~finite, axis=pixels),
    }


def _findings(probes: Mapping[str, np.ndarray], fooled: Fooled) -> list[HealthWarning]:
    left = {name: float(np.mean(~hits)) for name, hits in fooled.items()}
    share = {name: {"images": float(probe.mean())} for name, probe in probes.items()}
    found = []
    # A random model's logits depend on the batch too, but for another reason.
    if probes["batch dependent"].any() and not probes["random"].any():
        found.append(HealthWarning("batch dependent", _BATCH_DEPENDENT, share["batch dependent"]))
    if probes["random"].any():
        found.append(HealthWarning("random", _RANDOM, share["random"]))
    if probes["probabilities"].all():
        found.append(HealthWarning("probabilities", _PROBABILITIES, share["probabilities"]))
    if probes["not finite"].mean() > _BROKEN:
        found.append(HealthWarning("gradients not finite", _NOT_FINITE, share["not finite"]))
    if probes["zero"].mean() > _MANY:
        found.append(HealthWarning("vanishing gradients", _VANISHING, share["zero"]))
    if _beats(fooled["fgs"], fooled["pgd"]):
        numbers = {"accuracy under one step": left["fgs"], "under many": left["pgd"]}
        found.append(HealthWarning("one step beats many", _ONE_STEP, numbers))
    if left["unbounded"] > _LEFT:
        found.append(HealthWarning("unbounded attack fails", _UNBOUNDED, {"accuracy left": left["unbounded"]}))
    black = [name for name in ("square", "transfer") if name in fooled]
    if any(_beats(fooled[name], fooled["pgd"]) for name in black):
        numbers = {"accuracy under pgd": left["pgd"], **{f"under {name}": left[name] for name in black}}
        found.append(HealthWarning("black box beats white box", _BLACK_BOX, numbers))
    return found


def _beats(weaker: np.ndarray, stronger: np.ndarray) -> bool:
    more, fewer = int(np.sum(weaker & ~stronger)), int(np.sum(stronger & ~weaker))
    return sign_test(more, fewer) < _CHANCE


_BATCH_DEPENDENT = (
    "an image gets other logits beside another image: the model seems to be in training mode, where BatchNorm divides "
    "by the statistics of the batch and attacks, which see one image at a time, look weak. Pass its switch to "
    "`from_nnx` or `from_linen` (`from_nnx(model, name=False)`)"
)
_RANDOM = (
    "the model draws random numbers: gradient attacks climb one fixed draw, and are weaker at others than an attack on "
    "the mean over many draws (`expectation_over(pgd(...), draws=30)`)"
)
_NOT_FINITE = (
    "the gradient of the loss holds NaN or infinity, as that of a square root or a logarithm at 0 does: attacks take "
    "such entries as zero and leave these pixels alone; change the function (`jnp.where` inside it, not around it)"
)
_PROBABILITIES = (
    "the outputs are non-negative and sum to 1: attacks need logits, what comes before the softmax, or the "
    "cross-entropy is taken of a softmax of a softmax and its gradients are flat; make the classifier of the logits, "
    "and if they are large, climb their difference (`Margin`)"
)
_VANISHING = (
    "the loss has no usable gradient at many images, so gradient attacks cannot move. Rounding, thresholds and other "
    "steps inside the model: put the step into `straight_through`, estimate gradients from scores "
    "(`estimated(pgd(...), sigma=...)`, as wide as the steps), search without any (`square`). Saturated or very large "
    "logits: climb their difference (`pgd(objective=Margin())`, `apgd(objective='dlr-targeted')`)"
)
_ONE_STEP = (
    "one step fools images that many smaller steps do not: the loss is jagged around the images, and a gradient "
    "there says little about the model; iterate with more restarts or larger steps, or smooth the gradient: "
    "`estimated` with a wider sigma, `expectation_over` noise, `vmi_fgsm`"
)
_UNBOUNDED = (
    "an attack that may change every pixel at will leaves right answers, though any image can be made any other: it "
    "is the attack that fails, and accuracies at smaller epsilons are no evidence of robustness"
)
_BLACK_BOX = (
    "an attack without gradients fools images that one with gradients does not: the gradients mislead, and the "
    "model is at most as robust as the better attack says: run it longer (`square`), estimate the gradients from "
    "scores (`estimated`), transfer from an `ensemble` of other models (`vmi_fgsm`, `di_fgsm`)"
)
