"""`compiled` gives its options to the outermost program alone, and is `jax.jit` everywhere else."""

import functools
import sys

import jax
import jax.numpy as jnp
import pytest
from jax import lax

from advjax.fastcpu import compiled, compiler_options

IMAGES, KERNEL = jnp.ones((2, 12, 12, 20)), jnp.ones((5, 5, 20, 50))


@compiled
def convolve(x, k):
    return lax.conv_general_dilated(x, k, (1, 1), "VALID", dimension_numbers=("NHWC", "HWIO", "NHWC"))


def test_the_options_keep_convolutions_with_xla():
    def program(**given):
        return jax.jit(convolve.__wrapped__, **given).lower(IMAGES, KERNEL).compile().as_text()

    assert "ynn_fusion" in program()  # else the option is of no use any more
    assert "ynn_fusion" not in program(compiler_options=compiler_options())


def test_the_options_hand_sums_over_pixels_over():
    program = jax.jit(lambda x: x.sum((0, 1, 2)), compiler_options=compiler_options()).lower(IMAGES).compile()
    assert "ynn_fusion" in program.as_text()  # else batch normalization takes up to twenty times as long


def test_within_other_transformations():
    """JAX refuses options within another `jit`: with traced arguments, with concrete ones, and in `eval_shape`."""
    wanted = convolve(IMAGES, KERNEL)
    assert (jax.jit(convolve)(IMAGES, KERNEL) == wanted).all()
    assert (jax.jit(lambda: convolve(IMAGES, KERNEL))() == wanted).all()
    assert (jax.vmap(convolve, (0, None))(IMAGES[:, None], KERNEL)[:, 0] == wanted).all()
    assert jax.eval_shape(convolve, IMAGES, KERNEL).shape == wanted.shape
    gradient = jax.grad(lambda x: convolve(x, KERNEL).sum())(IMAGES)
    assert (gradient == jax.jit(jax.grad(lambda x: convolve(x, KERNEL).sum()))(IMAGES)).all()


def test_static_arguments_and_one_trace():
    traces = []

    @functools.partial(compiled, static_argnums=0, static_argnames="shift")
    def scaled(name, x, *, shift):
        traces.append(name)
        return x + shift

    assert [float(scaled("a", x, shift=1)) for x in (1.0, 2.0)] == [2.0, 3.0]
    assert float(scaled("b", 1.0, shift=2)) == 3.0
    assert traces == ["a", "b"]
    assert scaled._cache_size() == 2


def test_an_argument_static_by_its_name_is_so_in_its_place_too():
    @functools.partial(compiled, static_argnames="count")
    def steps(x, count):
        return x + jnp.arange(count)

    assert steps(jnp.int32(1), 3).tolist() == jax.jit(steps, static_argnums=1)(jnp.int32(1), 3).tolist() == [1, 2, 3]


def test_donation():
    @functools.partial(compiled, donate_argnums=0)
    def double(x):
        return 2 * x

    x = jnp.ones(3)
    double(x)
    assert x.is_deleted()


def test_where_the_kind_of_sums_is_unknown_nothing_is_handed_over(monkeypatch):
    known = jax.jit

    def jit(fun, compiler_options):
        if next(iter(compiler_options.values())):
            raise jax.errors.JaxRuntimeError(f"setting option {next(iter(compiler_options))}: not a valid enum value")
        return known(fun, compiler_options=compiler_options)

    compiler_options.cache_clear()
    monkeypatch.setattr(jax, "jit", jit)
    try:
        assert list(compiler_options().values()) == [""]
    finally:
        compiler_options.cache_clear()


@pytest.mark.parametrize("message", ["No such compile option: 'xla_cpu_experimental_ynn_fusion_type'", "out of memory"])
def test_an_unknown_option_is_left_out(message, monkeypatch):
    def jit(*arguments, **given):
        raise jax.errors.JaxRuntimeError(message)

    compiler_options.cache_clear()
    monkeypatch.setattr(jax, "jit", jit)
    try:
        if "option" in message:
            assert compiler_options() == {}
        else:
            with pytest.raises(jax.errors.JaxRuntimeError, match="memory"):
                compiler_options()
    finally:
        compiler_options.cache_clear()


def test_where_there_are_no_options_no_program_counts_twice(monkeypatch):
    """As on a GPU, where JAX keeps the programs of one function and the same options in one place."""
    monkeypatch.setattr(sys.modules["advjax.fastcpu.compiled"], "compiler_options", dict)
    double = compiled(lambda x: 2 * x)
    assert [float(double(x)) for x in (1.0, 2.0)] == [2.0, 4.0]
    assert double._cache_size() == 1
