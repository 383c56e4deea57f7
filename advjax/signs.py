"""Random-sign perturbation: `x + eps x l(x)`, whose signs l are drawn and not computed from a gradient."""

from typing import Literal, TypeAlias, get_args

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

__all__ = ["Granularity", "check_random_sign", "random_sign_of"]

Granularity: TypeAlias = Literal["element", "example", "batch"]
"""What shares one draw: nothing, the elements of an image, or those of all images of the batch."""

_WORD = 32


def random_sign_of(
    keys: jax.Array, x: jax.Array, epsilon: ArrayLike, *, p: float = 0.5, per: Granularity = "element"
) -> jax.Array:
    """Images, or their hidden features, with each element larger or smaller by the share `epsilon`:

        g(x) = x + eps x l(x),     l(x) = sgn(x) with probability p, -sgn(x) otherwise,

    that is x + eps |x| r with r = 1 with probability p, -1 otherwise, and 0 stays 0. With one draw for each element and
    p = 1/2 the sign of x plays no part: r sgn(x) is a fair coin too, and g(x) = x (1 +- eps) is computed with that one.
    With one draw for an image (or a batch), features that are not negative are only rescaled by 1 +- eps; a
    normalization over the batch behind takes a rescaling of the whole batch away again.

    The calculus, where the paper's print is wrong in places. With l held fixed, for x != 0:

        dg/dx = 1 + eps r sgn(x) > 0 for eps < 1, so that f(g(x)) has no stationary point that f has not;
        d2 f(g(x))/dx2 = f''(g(x)) (1 + eps r sgn(x))^2,  and (1 + eps r sgn x)^2 = 1 + 2 eps r sgn(x) + eps^2.

    The paper has 1 + eps^2 for that square, which is its *expectation* for p = 1/2, not its value; and where it has
    eps delta(x) for the second derivative of x + eps x sgn(x) = x + eps |x|, that is 2 eps delta(x). At 0 the
    derivative here is that of one side or the other.

    Args:
        keys: a key for each image [B], as `advjax.keys.image_keys` makes them; for `per="batch"` one key.
        x: [B, ...], floats, in whatever units the network has there.
        epsilon: the share, 0 or more; a scalar, or something that broadcasts against x.
        p: the probability of sgn(x), in [0, 1]; 1/2 in all of the paper's experiments.
        per: "element" ([R], the paper does not say), "example" or "batch".

    Source: Di, Yu and Tian 2018, "Towards adversarial training with moderate performance improvement", section 3.

    >>> from advjax.keys import image_keys
    >>> x = jnp.ones((2, 3))
    >>> g = random_sign_of(image_keys(jax.random.key(0), 2), x, 0.5)
    >>> sorted(set(g.ravel().tolist()))
    [0.5, 1.5]
    """
    check_random_sign(p, per)
    if per == "batch":
        up = _bernoulli(keys, p, ())
    else:
        shape = x.shape[1:] if per == "element" else (1,) * (x.ndim - 1)
        up = jax.vmap(lambda key: _bernoulli(key, p, shape))(keys)
    share = jnp.asarray(epsilon).astype(x.dtype)
    if p != 0.5 or per != "element":  # else the sign of x changes nothing, and reading it costs time
        up = jnp.where(x > 0, up, ~up)
    factor = jnp.where(up, 1 + share, 1 - share)
    return x * factor


def check_random_sign(p: float, per: str) -> None:
    """Raises ValueError unless p is a probability and `per` a granularity."""
    if per not in get_args(Granularity):
        raise ValueError(f'per must be "element", "example" or "batch", got {per!r}')
    if isinstance(p, bool) or not isinstance(p, int | float) or not 0 <= p <= 1:
        raise ValueError(f"p must be a probability, in [0, 1], got {p!r}")


def _bernoulli(key: jax.Array, p: float, shape: tuple[int, ...]) -> jax.Array:
    """Truths of probability p; even ones take a bit each, of which a random word has 32.

    The bits of a word lie along an axis that one word holds, the longest. Along a longer one words would be merged, and
    XLA's CPU backend divides the index of merged axes for each element, in every fusion that reads them.
    """
    lengths = [size if size <= _WORD else 1 for size in shape]
    if p != 0.5 or max(lengths, default=1) == 1:
        return jax.random.bernoulli(key, p, shape)
    axis = len(shape) - 1 - lengths[::-1].index(max(lengths))
    words = jax.random.bits(key, (*shape[:axis], 1, *shape[axis + 1 :]), jnp.uint32)
    place = jax.lax.broadcasted_iota(jnp.uint32, [size if i == axis else 1 for i, size in enumerate(shape)], axis)
    return (words >> place) & jnp.uint32(1) != 0
