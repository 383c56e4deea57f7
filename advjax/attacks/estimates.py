"""Gradients of what has none: estimated from scores (NES, SPSA), or passed through as if nothing was there (BPDA)."""

from collections.abc import Callable
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

from advjax.attacks.attack import Asks, Attack
from advjax.attacks.part import Number
from advjax.attacks.settings import check_count, check_real
from advjax.attacks.views import See, Seeing, View
from advjax.value import number, static, value

__all__ = ["Estimated", "estimated", "straight_through"]


@value
class Estimated(View):
    """The model as it is, with gradients estimated from its scores; see `estimated`."""

    sigma: Number = number()
    samples: int = static()
    method: Literal["nes", "spsa"] = static()
    random = True

    def __post_init__(self) -> None:
        check_real("sigma", self.sigma, "a finite number above 0", lambda size: np.isfinite(size) & (size > 0))
        check_count("samples", self.samples)
        if self.method not in ("nes", "spsa"):
            raise ValueError(f'method must be "nes" or "spsa", got {self.method!r}')

    def asks(self, asks: Asks) -> Asks:
        return "scores" if asks == "gradients" else asks

    def gradient_calls(self, of_one: int) -> int:
        return 1 + 2 * self.samples

    def __call__(self, see: See) -> See:
        @jax.custom_vjp
        def seen(image: jax.Array, key: jax.Array, sigma: jax.Array) -> jax.Array:
            return see(image, key)

        def forward(image: jax.Array, key: jax.Array, sigma: jax.Array) -> tuple[jax.Array, tuple[jax.Array, ...]]:
            return see(image, key), (image, key, sigma)

        def backward(kept: tuple[jax.Array, ...], cotangent: jax.Array) -> tuple[jax.Array, None, None]:
            image, key, sigma = kept
            draw_key, see_key = jax.random.split(key)

            def add(sample: jax.Array, total: jax.Array) -> jax.Array:
                ray = self._ray(jax.random.fold_in(draw_key, sample), image)
                # Both at the same draws of a random model, so that their difference is that of the images.
                own = jax.random.fold_in(see_key, sample)
                difference = see(image + sigma * ray, own) - see(image - sigma * ray, own)
                return total + jnp.sum(cotangent * difference) * ray

            total: jax.Array = jax.lax.fori_loop(0, self.samples, add, jnp.zeros_like(image))
            return total / (2 * self.samples * sigma), None, None

        seen.defvjp(forward, backward)
        return lambda image, key: seen(image, key, jnp.asarray(self.sigma).astype(image.dtype))

    def _ray(self, key: jax.Array, image: jax.Array) -> jax.Array:
        if self.method == "spsa":
            return jax.random.rademacher(key, image.shape, image.dtype)
        return jax.random.normal(key, image.shape, image.dtype)


def estimated(attack: Attack, *, samples: int, sigma: Number = 0.001, method: Literal["nes", "spsa"] = "nes") -> Seeing:
    """The attack with gradients estimated from the scores (Ilyas et al. 2018, NES; Uesato et al. 2018, SPSA).

    A gradient is a vector-Jacobian product `J(x)^T v` of the logits h, with v the slope of what the attack climbs.
    Here it is, with random rays u_i,

        (1 / (2 n sigma)) sum_i <v, h(x + sigma u_i) - h(x - sigma u_i)> u_i,

    where the u_i are standard normal for NES (Ilyas et al., algorithm 1) and signs for SPSA (Uesato et al., algorithm
    1, where 1/u = u).  For small sigma its mean over draws is the gradient; for a larger one it is that of a smoothed
    model, which steps and rounding in the model do not hide.  The papers take the difference of the loss itself; v is
    its slope at x.

    Each gradient costs 1 + 2 n evaluations, and `Perturbation.calls` counts them all.

    Args:
      attack: an attack that takes gradients, of any kind; not a stack.
      samples: n, 1 or more.
      sigma: length of the rays, in [0, 1] units, above 0; one number, or one for each image [B].  More than half a step
        where the model rounds.
      method: "nes" or "spsa".

    Raises:
      ValueError: samples below 1, sigma of 0 or less, an unknown method; a stack of attacks.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from advjax import estimated, from_function, perturb, pgd
      >>> def model(w, x):
      ...     x = jnp.round(x * 10) / 10
      ...     return jnp.stack([x.sum((1, 2, 3)), w - x.sum((1, 2, 3))], -1)
      >>> attack = estimated(pgd(0.2, step_size=0.1, steps=4), samples=20, sigma=0.1)
      >>> images = jnp.full((1, 2, 2, 1), 153 / 255)
      >>> result = perturb(attack, from_function(model, jnp.float32(4.0)), images, jnp.array([0]), jax.random.key(0))
      >>> result.success.tolist(), result.calls.tolist(), result.asks  # 4 steps of 41, and two
      ([True], [166], 'scores')
    """
    return Seeing(attack, Estimated(sigma, samples, method))


def straight_through(
    function: Callable[[jax.Array], jax.Array], surrogate: Callable[[jax.Array], jax.Array] | None = None
) -> Callable[[jax.Array], jax.Array]:
    """The function, with the gradient of another: the identity, by default (Athalye et al. 2018, BPDA).

    For a step of a model that no gradient passes, such as rounding or JPEG: with g the function and s the surrogate,
    s ~ g, it is g(x) forward and `J_s(x)^T v` backward.

    Args:
      function: array -> array; any, as long as JAX can trace it.
      surrogate: a differentiable one of the same shapes; None: the identity, for a function that keeps the shape.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from advjax import from_function
      >>> from advjax.attacks import straight_through
      >>> def quantize(images):
      ...     return jnp.round(images * 10) / 10
      >>> def defended(weights, images):
      ...     return quantize(images).reshape(images.shape[0], -1) @ weights
      >>> def attacked(weights, images):  # answers as `defended`, and has a gradient
      ...     return straight_through(quantize)(images).reshape(images.shape[0], -1) @ weights
      >>> classifier = from_function(attacked, jnp.ones((4, 3)))
      >>> jax.grad(lambda x: classifier(x).sum())(jnp.ones((1, 2, 2, 1))).ravel().tolist()
      [3.0, 3.0, 3.0, 3.0]
    """

    def identity(array: jax.Array) -> jax.Array:
        return array

    @jax.custom_jvp
    def through(array: jax.Array) -> jax.Array:
        return function(array)

    @through.defjvp
    def _(primals: tuple[Any], tangents: tuple[Any]) -> tuple[jax.Array, jax.Array]:
        _, tangent = jax.jvp(identity if surrogate is None else surrogate, primals, tangents)
        return function(*primals), tangent

    return through
