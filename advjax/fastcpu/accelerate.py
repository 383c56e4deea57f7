"""`accelerate(fn)`: the same function, its traced program rewritten for XLA's CPU backend."""

import functools
from collections.abc import Callable
from typing import Any, TypeVar

import jax
from jax.extend.core import jaxpr_as_fun

from advjax.fastcpu.rewrite import rewrite

__all__ = ["accelerate"]

F = TypeVar("F", bound=Callable[..., Any])


def accelerate(fn: F) -> F:
    """A function equal to `fn` whose convolution and pooling gradients run at full speed on a CPU.

    Inside a compiled loop (`fori_loop`, `scan`, `while_loop`) XLA's CPU backend runs a convolution whose
    dimension order is not NHWC/HWIO/NHWC, and every pool gradient, on a slow generic path; every input- and
    kernel-gradient of a convolution is such a one.  It multiplies slowly where pixels have few channels, as in first
    layers, and reads the matrix of a dense layer against its order for the layer's input gradient.  On the CPU backend
    `accelerate` traces `fn` to a jaxpr, replaces each such equation by an equal form, also inside `jit`, `scan`,
    `while_loop`, `cond`, `checkpoint`, `custom_jvp` and `custom_vjp`, and evaluates the result.  On any other backend
    it calls `fn` itself.

    The rewriting looks at the program it is given: apply it outside `grad` and `vmap` and inside `jit`, so that
    it sees the gradient and runs once per compilation::

        attack = jax.jit(accelerate(jax.vmap(attack_of_one_image)))

    Pools and their gradients give the same bits (ties and NaN included); convolutions, their gradients and dense
    layers' input gradients sum in another order and differ by a few float32 rounding errors of the sum (3e-7 relative
    for a first layer's input gradient).  A pixel that is infinite or NaN may make a few more pixels of its row NaN,
    never one of another image.  Equations it does not recognize, and the inside of `shard_map`, stay as they are.

    Args:
        fn: a traceable function of pytrees of arrays; positional and keyword arguments are both traced.

    Returns:
        A function of the same arguments and result.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from advjax.fastcpu import accelerate
        >>> def loss(image):
        ...     return jnp.square(jax.lax.conv(image, jnp.ones((2, 1, 3, 3)), (1, 1), "SAME")).sum()
        >>> def descend(image):
        ...     return jax.lax.fori_loop(0, 3, lambda _, x: x - 0.001 * jax.grad(loss)(x), image)
        >>> image = jnp.ones((1, 1, 4, 4))
        >>> bool(jnp.allclose(jax.jit(accelerate(descend))(image), descend(image)))
        True
    """

    @functools.wraps(fn)
    def accelerated(*args: Any, **kwargs: Any) -> Any:
        if jax.default_backend() != "cpu":
            return fn(*args, **kwargs)
        leaves, structure = jax.tree.flatten((args, kwargs))

        @functools.wraps(fn)
        def flat(*leaves: Any) -> Any:
            args, kwargs = jax.tree.unflatten(structure, leaves)
            return fn(*args, **kwargs)

        program, result = jax.make_jaxpr(flat, return_shape=True)(*leaves)
        return jax.tree.unflatten(jax.tree.structure(result), jaxpr_as_fun(rewrite(program))(*leaves))

    return accelerated  # type: ignore[return-value]
