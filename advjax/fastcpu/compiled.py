"""`compiled(fn)`: `jax.jit` with the compiler options under which the forms of this package are the fast ones."""

import functools
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import jax
import jax.numpy as jnp

__all__ = ["compiled", "compiler_options"]

F = TypeVar("F", bound=Callable[..., Any])

# XLA of JAX 0.10 hands float32 convolutions of more than 16 channels to YNNPACK, which takes 1.2 to 3.4 times as long
# for the measured ones as XLA itself (benchmarks/NOTES.md). Only the kind that is named here is handed over: sums over
# pixels (batch normalization, the gradient of a bias), for which XLA itself takes up to twenty times as long.
_HANDED_OVER = "xla_cpu_experimental_ynn_fusion_type"
_KINDS = ("LIBRARY_FUSION_TYPE_REDUCE", "")  # where the first is not known, nothing is handed over


@functools.cache
def compiler_options() -> dict[str, str]:
    """What to give `jax.jit(..., compiler_options=)` on the default backend: empty but on a CPU.

    Empty too where this release of jaxlib does not know the option, and without sums where it does not know their kind:
    it changes the speed and the last bits of sums, nothing else.

    Example:
        >>> from advjax.fastcpu import accelerate, compiler_options
        >>> double = jax.jit(accelerate(lambda x: 2 * x), compiler_options=compiler_options())
        >>> float(double(1.0))
        2.0
    """
    if jax.default_backend() != "cpu":
        return {}
    for kinds in _KINDS:
        try:
            jax.jit(lambda: jnp.zeros(()), compiler_options={_HANDED_OVER: kinds}).lower().compile()
        except jax.errors.JaxRuntimeError as error:
            if _HANDED_OVER not in str(error):
                raise
        else:
            return {_HANDED_OVER: kinds}
    return {}


def compiled(
    fn: F,
    *,
    static_argnums: int | Sequence[int] | None = None,
    static_argnames: str | Sequence[str] | None = None,
    donate_argnums: int | Sequence[int] | None = None,
) -> F:
    """`jax.jit(fn)`, compiled with `compiler_options()` wherever it is the outermost program.

    JAX takes compiler options of the outermost `jit` alone and refuses them within another. There, and under every
    other transformation, `fn` is a plain `jit`, compiled as its surroundings are.

    Args:
        fn: a traceable function of pytrees of arrays.
        static_argnums: as for `jax.jit`.
        static_argnames: as for `jax.jit`.
        donate_argnums: as for `jax.jit`.

    Returns:
        A function of the same arguments and result.

    Example:
        >>> from advjax.fastcpu import compiled
        >>> double = compiled(lambda x: 2 * x)
        >>> float(double(1.0)), float(jax.jit(double)(1.0))
        (2.0, 2.0)
    """
    given: dict[str, Any] = {
        "static_argnums": static_argnums,
        "static_argnames": static_argnames,
        "donate_argnums": donate_argnums,
    }
    inner = jax.jit(fn, **given)

    @functools.cache
    def outermost() -> Any:
        options = compiler_options()
        return jax.jit(fn, **given, compiler_options=options) if options else inner

    @functools.wraps(fn)
    def call(*args: Any, **kwargs: Any) -> Any:
        # Inside a traced program every new array is a tracer, even where no argument is one.
        arrays = (*jax.tree.leaves((args, kwargs)), jax.lax.iota("int32", 1))
        within = any(isinstance(array, jax.core.Tracer) for array in arrays)
        return (inner if within else outermost())(*args, **kwargs)

    # As `jax.jit` has it, for tests that nothing is traced twice.
    call._cache_size = lambda: sum(each._cache_size() for each in {inner, outermost()})  # type: ignore[attr-defined]
    return call  # type: ignore[return-value]
