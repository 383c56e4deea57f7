"""Random signs in hidden space, in training alone: at the taps of a network, or where a layer of one's own stands."""

import dataclasses
import inspect
from collections.abc import Iterable
from functools import cache
from typing import Any

import jax
from flax import nnx
from jax.typing import ArrayLike

from advjax.attacks.settings import check_radius
from advjax.keys import image_keys
from advjax.models.taps import Tap, untapped
from advjax.signs import Granularity, check_random_sign, random_sign_of

__all__ = ["HiddenRandomSign", "RandomSignLayer", "hidden_random_sign", "tapped"]


class RandomSignLayer(nnx.Module):
    """A layer without weights: `x + eps x l(x)` in training mode, x in evaluation mode; see `random_sign_of`.

    For a network of one's own, as one inserts `nnx.Dropout`; the networks of `advjax.models` need none, see
    `hidden_random_sign`. Each call draws anew; `train_step` gives the layer a new key at each step, from which image i
    of the batch draws the same on one device and on several.

    Args:
        epsilon, p, per: as for `random_sign_of`.
        rngs: `nnx.Rngs`; the stream `random_sign`.

    >>> import jax.numpy as jnp
    >>> layer = RandomSignLayer(0.5, rngs=nnx.Rngs(0))
    >>> sorted(set(layer(jnp.ones((2, 8))).ravel().tolist()))
    [0.5, 1.5]
    >>> layer.eval()
    >>> layer(jnp.ones((1, 2))).tolist()
    [[1.0, 1.0]]
    """

    def __init__(self, epsilon: float, p: float = 0.5, per: Granularity = "element", *, rngs: nnx.Rngs) -> None:
        check_radius("epsilon", epsilon)
        check_random_sign(p, per)
        self.epsilon, self.p, self.per = epsilon, p, per
        self.deterministic = False
        # Set by `train_step` under `pmap`: the devices' batches are parts of one.
        self.axis_name: str | None = None
        self.rngs = rngs["random_sign"].fork()

    def __call__(self, x: jax.Array) -> jax.Array:
        """Features [B, ...] of the same shape."""
        if self.deterministic:
            return x
        first = 0 if self.axis_name is None else jax.lax.axis_index(self.axis_name) * x.shape[0]
        return _drawn(self, self.rngs(), x, first)


@dataclasses.dataclass(frozen=True)
class HiddenRandomSign:
    """Random signs at the taps of a network; made by `hidden_random_sign`, which explains it."""

    where: tuple[str, ...]
    epsilon: float
    p: float
    per: Granularity

    def tap(self, key: jax.Array, first: ArrayLike = 0) -> "KeyedTap":
        """The tap of one forward pass, over a batch whose images are the first-th and those after it."""
        return KeyedTap(self, key, first)


class KeyedTap:
    """A `Tap` that draws from a key of its own at each call, and knows where it has been."""

    def __init__(self, signs: HiddenRandomSign, key: jax.Array, first: ArrayLike) -> None:
        self.signs, self.key, self.first = signs, key, first
        self.seen: list[str] = []

    def __call__(self, name: str, x: jax.Array) -> jax.Array:
        self.seen.append(name)
        if name not in self.signs.where:
            return x
        return _drawn(self.signs, jax.random.fold_in(self.key, len(self.seen)), x, self.first)

    def check(self) -> None:
        """Raises ValueError if the network has no tap of some name, or none was asked."""
        missing = [name for name in self.signs.where if name not in self.seen]
        if missing:
            raise ValueError(f"where must name taps that the loss passes, {self.seen}, got {missing} among others")


def hidden_random_sign(
    where: Iterable[str], epsilon: float, p: float = 0.5, per: Granularity = "element"
) -> HiddenRandomSign:
    """Random signs `x + eps x l(x)` at taps of a network, for `train_step(hidden=...)`: in training alone.

    The weights and the network are those of training without: nothing is left of the signs when it is evaluated. Each
    image, tap and step has draws of its own, the same on one device and on several.

    Args:
        where: names of taps (`advjax.models.features` lists them). "input" is the network's own input, in the units to
            which it normalizes images, neither clipped nor rounded: the paper's input space. The paper does not say
            which hidden ones it takes; [R] the network's `hidden_taps`.
        epsilon, p, per: as for `random_sign_of`.

    Raises:
        ValueError: no names; a negative epsilon; p is no probability; another granularity.

    Source: Di, Yu and Tian 2018, section 3.3.

    >>> hidden_random_sign(("input", "pool1"), 0.1).where
    ('input', 'pool1')
    """
    names = (where,) if isinstance(where, str) else tuple(where)
    if not names:
        raise ValueError("where must name at least one tap, got none")
    check_radius("epsilon", epsilon)
    check_random_sign(p, per)
    return HiddenRandomSign(names, float(epsilon), p, per)


def tapped(model: Any, tap: Tap) -> Any:
    """The model itself, made to pass what its taps see through `tap`, behind the tap of each call, if any.

    It stays an instance of its class, with all attributes, so that a loss may ask it for more than logits.

    Raises:
        ValueError: its call takes no `tap`.
    """
    if "tap" not in inspect.signature(type(model).__call__).parameters:
        raise ValueError(
            f"the network must have taps (a parameter `tap` of its call; else insert `RandomSignLayer`), got "
            f"{type(model).__name__}"
        )
    cls: Any = type(model)
    model.__class__ = _tapped_class(cls)
    model.tap_of_training = tap
    return model


# One class for each class of networks: classes of Flax are registered for good.
@cache
def _tapped_class(cls: Any) -> Any:
    class Tapped(cls):
        def __call__(self, images: jax.Array, tap: Tap = untapped, **options: Any) -> jax.Array:
            def both(name: str, x: jax.Array) -> jax.Array:
                return tap(name, self.tap_of_training(name, x))

            logits: jax.Array = super().__call__(images, tap=both, **options)
            return logits

    return Tapped


def _drawn(signs: RandomSignLayer | HiddenRandomSign, key: jax.Array, x: jax.Array, first: ArrayLike) -> jax.Array:
    keys = key if signs.per == "batch" else image_keys(key, x.shape[0], first)
    return random_sign_of(keys, x, signs.epsilon, p=signs.p, per=signs.per)
