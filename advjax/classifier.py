"""Classifier: any Flax model or plain function as a pytree of variables and one static apply function.

The only file that knows Flax Linen from NNX.  Always in evaluation mode: batch statistics are the stored ones,
dropout is off.  New weights are new leaves of the same structure, so they never cause a new trace.
"""

import functools
import inspect
from collections.abc import Callable, Collection, Hashable, Mapping, Sequence
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen, nnx
from jax.interpreters.partial_eval import dce_jaxpr

from advjax.content import Content
from advjax.entropy import log_mean_probability
from advjax.value import static, value

__all__ = [
    "Classifier", "check_linen", "ensemble", "fresh_keys", "from_function", "from_linen", "from_nnx", "linen_in_mode",
]  # fmt: skip

# What Flax models call the switch between training and evaluation, and its setting for evaluation.
_EVALUATION = {
    **dict.fromkeys(
        (
            "train", "training", "is_train", "is_training", "train_mode", "training_mode", "is_training_mode",
            "enable_dropout", "use_dropout", "use_batch_stats", "update_stats", "update_batch_stats",
        ),
        False,
    ),
    **dict.fromkeys(
        (
            "deterministic", "is_deterministic", "use_running_average", "use_running_avg", "use_running_stats",
            "eval", "evaluate", "is_eval", "eval_mode", "test", "testing", "is_test", "is_testing", "test_mode",
            "inference", "is_inference", "inference_mode", "disable_dropout",
        ),
        True,
    ),
}  # fmt: skip


@value
class Classifier:
    """A model as the attacks see it: `classifier(images) -> logits`.

    Attributes:
      variables: pytree of arrays, traced.
      apply: static `(variables, images [B, H, W, C]) -> logits [B, K]`; logits are what comes before the softmax.
      ties_images: whether it lets the images of `perturb`'s batch see one another on purpose, over the axis
        `IMAGE_AXIS`: then nobody asks whether an image's logits depend on the others.
    """

    variables: Any
    apply: Callable[[Any, jax.Array], jax.Array] = static()
    ties_images: bool = static(default=False)

    def __call__(self, images: jax.Array) -> jax.Array:
        """Logits [B, K] of images [B, H, W, C], float32 in [0, 1]."""
        return self.apply(self.variables, images)

    @property
    def averaged(self) -> bool:
        """Whether an attack is to climb the mean of several losses: `ensemble(of="losses")`."""
        return isinstance(self.apply, _Ensemble) and self.apply.of == "losses"

    def each(self, images: jax.Array) -> jax.Array:
        """The logits [N, B, K] of the N models whose losses count; of one model, unless it is `averaged`."""
        if isinstance(self.apply, _Ensemble) and self.averaged:
            return self.apply.members_of(self.variables[0], images)
        return self(images)[None]

    def draws(self, images: jax.Array | jax.ShapeDtypeStruct) -> bool:
        """Whether the logits of images [B, H, W, C] depend on a key: a random model, frozen at one draw.

        Found by tracing alone, and only where the variables hold keys (`jax.random.key`, as `nnx.Rngs` does).
        """
        leaves, structure = jax.tree.flatten(self.variables)
        keys = list(map(_is_key, leaves))
        if not any(keys):
            return False

        def logits(leaves: list[Any], images: jax.Array) -> jax.Array:
            return self.apply(jax.tree.unflatten(structure, leaves), images)

        program = jax.make_jaxpr(logits)(leaves, images).jaxpr
        _, used = dce_jaxpr(program, [True] * len(program.outvars))
        return any(is_key and is_used for is_key, is_used in zip(keys, used, strict=False))

    def reseeded(self, key: jax.Array) -> "Classifier":
        """The same model at another draw: each key among its variables becomes one that `key` determines.

        Example:
          >>> import jax
          >>> from advjax import from_function
          >>> def noise(variables, images):
          ...     return jax.random.normal(variables["key"], (images.shape[0], 3))
          >>> frozen = from_function(noise, {"key": jax.random.key(0)})
          >>> first, second = (frozen.reseeded(jax.random.key(draw)) for draw in (1, 2))
          >>> images = jax.numpy.ones((1, 2, 2, 1))
          >>> bool((first(images) != second(images)).all())
          True
        """
        leaves, structure = jax.tree.flatten(self.variables)
        fresh = [
            fresh_keys(leaf, jax.random.fold_in(key, i)) if _is_key(leaf) else leaf for i, leaf in enumerate(leaves)
        ]
        return Classifier(jax.tree.unflatten(structure, fresh), self.apply, self.ties_images)


def ensemble(
    classifiers: Sequence[Classifier],
    *,
    weights: Sequence[float] | None = None,
    of: Literal["logits", "losses", "probabilities"] = "logits",
) -> Classifier:
    """Several classifiers as one, so that an attack fools all of them at once (Liu et al. 2017; Dong et al. 2018).

    With h_i the logits of member i and w_i its weight, the answer h and what attacks climb are those of

        logits:         h = sum_i w_i h_i;
        probabilities:  h = log sum_i w_i softmax(h_i);
        losses:         h = log (1/N) sum_i softmax(h_i), but attacks with an objective J (`fgs`, `pgd`, `apgd`, ...)
                        climb (1/N) sum_i J(h_i).

    Dong et al. 2018, section 3.4, compare the three and find the logits to transfer best.

    Args:
      classifiers: of the same classes.
      weights: one for each, none negative, by default the same; divided by their sum.  Not for `of="losses"`.
      of: what is averaged.

    Raises:
      TypeError, ValueError: no classifiers, or what is none; weights or `of` are not as above.

    Example:
      >>> import jax.numpy as jnp
      >>> from advjax import ensemble, from_function
      >>> def linear(weights, images):
      ...     return images.reshape(images.shape[0], -1) @ weights
      >>> members = [from_function(linear, jnp.full((4, 2), weight)) for weight in (1.0, 3.0)]
      >>> ensemble(members, weights=[1, 3])(jnp.ones((1, 2, 2, 1))).tolist()
      [[10.0, 10.0]]
    """
    for member in classifiers:
        if not isinstance(member, Classifier):
            raise TypeError(f"classifiers must hold Classifiers, got {type(member).__name__}")
    if not classifiers:
        raise ValueError("classifiers must hold at least one Classifier, got none")
    if of not in ("logits", "losses", "probabilities"):
        raise ValueError(f'of must be "logits", "losses" or "probabilities", got {of!r}')
    if weights is not None and of == "losses":
        raise ValueError(f'weights must be None for of="losses", which counts all members alike, got {weights}')
    shares = np.asarray([1.0] * len(classifiers) if weights is None else weights, np.float32)
    if shares.shape != (len(classifiers),) or not np.all(np.isfinite(shares) & (shares >= 0)) or not shares.sum() > 0:
        raise ValueError(f"weights must be {len(classifiers)} numbers of 0 or more, not all 0, got {weights}")
    variables = tuple(member.variables for member in classifiers), jnp.asarray(shares / shares.sum())
    applies = tuple(member.apply for member in classifiers)
    return Classifier(variables, _Ensemble(applies, of), any(member.ties_images for member in classifiers))


@value
class _Ensemble:
    members: tuple[Callable[[Any, jax.Array], jax.Array], ...] = static()
    of: str = static()

    def members_of(self, variables: Any, images: jax.Array) -> jax.Array:
        """The logits [N, B, K] of all members."""
        answers = [apply(own, images) for apply, own in zip(self.members, variables, strict=True)]
        if len({answer.shape for answer in answers}) > 1:
            raise ValueError(f"classifiers must be of the same classes, got logits {[a.shape for a in answers]}")
        return jnp.stack([answer.astype(images.dtype) for answer in answers])

    def __call__(self, variables: Any, images: jax.Array) -> jax.Array:
        own, weights = variables
        logits = self.members_of(own, images)
        if self.of == "losses":
            return log_mean_probability(logits)
        weights = weights.astype(logits.dtype)[:, None, None]
        if self.of == "logits":
            return jnp.sum(weights * logits, axis=0)
        return jax.nn.logsumexp(jax.nn.log_softmax(logits), axis=0, b=weights)


def from_function(function: Callable[[Any, jax.Array], jax.Array], variables: Any) -> Classifier:
    """A classifier from a plain function `(variables, images [B, H, W, C]) -> logits [B, K]`.

    Pass the same function object again (not a new lambda) with other variables and nothing is traced anew.

    Example:
      >>> import jax.numpy as jnp
      >>> from advjax.classifier import from_function
      >>> def linear(weights, images):
      ...     return images.reshape(images.shape[0], -1) @ weights
      >>> from_function(linear, jnp.ones((4, 3)))(jnp.ones((2, 2, 2, 1))).shape
      (2, 3)
    """
    if not callable(function):
        raise TypeError(f"function must be callable as function(variables, images), got {function!r}")
    return Classifier(variables, function if isinstance(function, Hashable) else _FunctionApply(Content(function)))


@value
class _FunctionApply:
    """An object with `__call__` that has no hash, such as a dataclass of arrays."""

    function: Content = static()

    def __call__(self, variables: Any, images: jax.Array) -> jax.Array:
        logits: jax.Array = self.function.held(variables, images)
        return logits


@value
class _Options:
    """What is passed to every call: keys are variables, so that they can be others; the rest is static."""

    fixed: Content = static()
    keyed: bool = static()

    def split(self, variables: Any) -> tuple[Any, dict[str, Any]]:
        """The model's own variables, and the options."""
        own, keys = variables if self.keyed else (variables, {})
        return own, {**self.fixed.held, **keys}


@value
class _NnxApply:
    graphdef: Content = static()
    options: _Options = static()

    def __call__(self, variables: Any, images: jax.Array, **call: Any) -> jax.Array:
        variables, options = self.options.split(variables)
        # A copy: the variables may belong to another trace level, where NNX refuses to touch them.
        return nnx.merge(self.graphdef.held, variables, copy=True)(images, **options, **call)


def from_nnx(model: nnx.Module, **call_options: Any) -> Classifier:
    """A classifier from a Flax NNX module; the module itself is left as it was, training mode included.

    Evaluation mode is that of `model.eval()`, and of the usual switches between training and evaluation where
    `__call__` takes them or a module holds them (`train`, `is_training`, `deterministic`, `use_running_average`,
    `inference`, ...). `call_options` are passed to every call and go before these: where a switch has a name of its
    own, pass it here. (`perturb` and `evaluate` warn of a model that stays in training mode.)

    Example:
      >>> import jax.numpy as jnp
      >>> from flax import nnx
      >>> from advjax.classifier import from_nnx
      >>> model = nnx.Sequential(nnx.Dropout(0.5, rngs=nnx.Rngs(0)), lambda x: x.mean((1, 2)))
      >>> from_nnx(model)(jnp.ones((2, 8, 8, 3))).tolist()
      [[1.0, 1.0, 1.0], [1.0, 1.0, 1.0]]
    """
    if not isinstance(model, nnx.Module):
        raise TypeError(f"model must be a flax.nnx.Module, got {type(model).__name__}")
    evaluated = nnx.clone(model)
    # An attribute may have taken the method's name.
    (evaluated.eval if callable(evaluated.eval) else functools.partial(nnx.Module.eval, evaluated))()
    for _, node in list(nnx.iter_graph(evaluated)):
        for name in _held_switches(node) if isinstance(node, nnx.Module) else ():
            setattr(node, name, _EVALUATION[name])
    graphdef, variables = nnx.split(evaluated)
    variables, options = _options(_switches(model) | call_options, variables)
    return Classifier(variables, _NnxApply(Content(graphdef), options))


@value
class _LinenApply:
    module: Content = static()
    options: _Options = static()

    def __call__(self, variables: Any, images: jax.Array, **call: Any) -> jax.Array:
        variables, options = self.options.split(variables)
        logits: jax.Array = self.module.held.apply(variables, images, **options, **call)
        return logits


def from_linen(module: linen.Module, variables: Mapping[str, Any], **call_options: Any) -> Classifier:
    """A classifier from a Flax Linen module and its variables (`{"params": ..., "batch_stats": ...}`).

    The usual switches between training and evaluation (`train`, `is_training`, `deterministic`,
    `use_running_average`, `inference`, ...) are set where `__call__` takes them or they are fields of the module;
    `call_options` are passed to every call and go before them. With `rngs=...` among these the model is a random one.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from flax import linen
      >>> from advjax.classifier import from_linen
      >>> class Net(linen.Module):
      ...     @linen.compact
      ...     def __call__(self, x, train=True):
      ...         x = linen.Dense(3)(x.reshape(x.shape[0], -1))
      ...         return linen.Dropout(0.5, deterministic=not train)(x)
      >>> net, images = Net(), jnp.ones((2, 4, 4, 1))
      >>> from_linen(net, net.init(jax.random.key(0), images, train=False))(images).shape
      (2, 3)
    """
    check_linen(module, variables)
    module, passed = linen_in_mode(module, training=False, given=call_options)
    if "rngs" in call_options:
        call_options["rngs"] = jax.tree.map(_typed_key, call_options["rngs"])
    variables, options = _options(passed | call_options, variables)
    return Classifier(variables, _LinenApply(Content(module), options))


def check_linen(module: linen.Module, variables: Mapping[str, Any]) -> None:
    """Raises TypeError or ValueError unless these are a Linen module and its variables."""
    if not isinstance(module, linen.Module):
        raise TypeError(f"module must be a flax.linen.Module, got {type(module).__name__}")
    if not isinstance(variables, Mapping) or "params" not in variables:
        raise ValueError('variables must be the whole mapping that init returns, with a "params" entry')


def linen_in_mode(
    module: linen.Module, *, training: bool, given: Collection[str] = ()
) -> tuple[linen.Module, dict[str, Any]]:
    """The module with the switches that it holds set to training or evaluation, and those to pass to a call.

    Switches that are `given` to the call anyway are left alone.
    """
    held: dict[str, Any] = {name: _EVALUATION[name] ^ training for name in _held_switches(module) if name not in given}
    # What a field sets, a call leaves to it where its default is None, and may not set again (`merge_param`).
    taken = inspect.signature(module.__call__).parameters
    passed = {
        name: setting ^ training
        for name, setting in _switches(module).items()
        if name not in held or taken[name].default is not None
    }
    return module.clone(**held) if held else module, passed


def _switches(module: Any) -> dict[str, bool]:
    """The switches that `__call__` takes, set to evaluation."""
    taken = inspect.signature(module.__call__).parameters
    by_name = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    return {
        name: setting
        for name, setting in _EVALUATION.items()
        # Some of the names mean other things too; a switch has no default, or a truth value, or None.
        if name in taken
        and taken[name].kind in by_name
        and taken[name].default in (inspect.Parameter.empty, None, True, False)
    }


def _held_switches(module: Any) -> list[str]:
    """The switches among the module's own attributes."""
    return [name for name in _EVALUATION if isinstance(vars(module).get(name), bool)]


def _options(options: dict[str, Any], variables: Any) -> tuple[Any, _Options]:
    """The variables, with those of the options that are keys; and how to find both again."""
    keys = {name: option for name, option in options.items() if _all_keys(option)}
    fixed = Content({name: options[name] for name in sorted(options) if name not in keys})
    return (variables, keys) if keys else variables, _Options(fixed, bool(keys))


def _all_keys(option: Any) -> bool:
    leaves = jax.tree.leaves(option)
    return bool(leaves) and all(map(_is_key, leaves))


def _is_key(leaf: Any) -> bool:
    return hasattr(leaf, "dtype") and bool(jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key))


def _typed_key(key: Any) -> Any:
    return key if _is_key(key) else jax.random.wrap_key_data(key)


def fresh_keys(key: Any, source: jax.Array) -> jax.Array:
    """Keys of the shape and implementation (`rbg` or another) of `key`, drawn from `source`."""
    data = jax.eval_shape(jax.random.key_data, key)
    return jax.random.wrap_key_data(jax.random.bits(source, data.shape, data.dtype), impl=jax.random.key_impl(key))
