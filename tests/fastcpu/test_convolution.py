"""Every form of a convolution equals XLA's own, for random configurations and for each recognized case."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax import lax

from advjax.fastcpu import accelerate, compiled

LAYOUTS = [("NHWC", "HWIO", "NHWC"), ("NCHW", "OIHW", "NCHW"), ("NHWC", "OIHW", "CWNH"), ("HWNC", "IWHO", "NCHW")]


def assert_close(actual, wanted):
    """Equal up to rounding of sums: relative to the largest entry, which is what a dot product's error scales with."""
    for a, w in zip(jax.tree.leaves(actual), jax.tree.leaves(wanted), strict=True):
        assert (a.shape, a.dtype) == (w.shape, w.dtype)
        np.testing.assert_allclose(a, w, rtol=0, atol=5e-6 * float(jnp.abs(w).max(initial=0.0)) + 1e-30)


def assert_same_gradients(function, x, k):
    """Values and both gradients, alone and stacked under `vmap`, accelerated and compiled for it against plain."""

    def gradients(x, k):
        y, pullback = jax.vjp(function, x, k)
        return y, pullback(jnp.sin(jnp.arange(y.size, dtype="float32")).reshape(y.shape))

    plain = jax.jit(gradients)
    assert_close(compiled(accelerate(gradients))(x, k), plain(x, k))
    xs, ks = jnp.stack([x, x * 0.5]), jnp.stack([k, k[::-1]])
    # Against each alone: grouped convolutions are what is rewritten here.
    wanted = jax.tree.map(lambda *each: jnp.stack(each), *map(plain, xs, ks))
    assert_close(compiled(accelerate(jax.vmap(gradients)))(xs, ks), wanted)


@st.composite
def configurations(draw):
    """Shapes and parameters of a convolution that has a result."""
    groups, batch_groups = draw(st.sampled_from([(1, 1), (1, 1), (1, 1), (3, 1), (1, 2), (6, 1)]))
    inputs, outputs = (draw(st.sampled_from([1, 2, 5])) for _ in range(2))
    window = tuple(draw(st.sampled_from([1, 2, 3, 5])) for _ in range(2))
    size = tuple(draw(st.integers(6, 9)) for _ in range(2))
    one_or_two = st.sampled_from([1, 1, 2])
    kernel_step = (draw(one_or_two), draw(one_or_two)) if max(window) <= 3 else (1, 1)
    padding = draw(st.sampled_from(["SAME", "VALID", ((0, 1), (2, 0)), ((3, 3), (3, 3)), ((8, 7), (9, 9))]))
    return {
        "x": (2 * batch_groups, *size, inputs * groups),
        "k": (*window, inputs, outputs * groups * batch_groups),
        "layout": draw(st.sampled_from(LAYOUTS)),
        "window_strides": (draw(one_or_two), draw(one_or_two)),
        "padding": padding,
        "lhs_dilation": (draw(one_or_two), draw(one_or_two)) if not isinstance(padding, str) else (1, 1),
        "rhs_dilation": kernel_step,
        "feature_group_count": groups,
        "batch_group_count": batch_groups,
    }


@settings(max_examples=4)
@given(configurations())
def test_random_convolutions(configuration):
    assert_configuration(configuration)


@pytest.mark.slow
@settings(max_examples=25)
@given(configurations())
def test_more_random_convolutions(configuration):
    assert_configuration(configuration)


def assert_configuration(configuration):
    parameters = dict(configuration)
    x, k, layout = (parameters.pop(name) for name in ("x", "k", "layout"))
    rng = np.random.default_rng(0)
    x, k = (
        jnp.asarray(rng.normal(size=[shape[canonical.index(c)] for c in order]), jnp.float32)
        for shape, canonical, order in zip((x, k), ("NHWC", "HWIO"), layout[:2], strict=True)
    )

    def function(x, k):
        return lax.conv_general_dilated(x, k, dimension_numbers=layout, **parameters)

    assert_same_gradients(function, x, k)


@pytest.mark.parametrize("step", [1, 2])
def test_kernel_gradients_of_one_by_one_windows_are_one_product(step):
    x, k = jnp.ones((4, 8, 8, 6)), jnp.ones((1, 1, 6, 8))

    def summed(k):
        return lax.conv_general_dilated(x, k, (step, step), "SAME", dimension_numbers=LAYOUTS[0]).sum()

    program = str(jax.make_jaxpr(accelerate(jax.grad(summed)))(k))
    assert "dot_general" in program
    assert "while" not in program


# name: (x, kernel, strides, padding, kernel dilation, groups)
LAYERS = {
    "lenet first": ((4, 12, 12, 1), (5, 5, 1, 20), 1, "VALID", 1, 1),
    "first, padded": ((3, 12, 8, 1), (5, 5, 1, 6), 1, "SAME", 1, 1),
    "first, wide result": ((2, 8, 8, 1), (3, 3, 1, 40), 1, "SAME", 1, 1),
    "color": ((2, 8, 8, 3), (3, 3, 3, 8), 1, "SAME", 1, 1),
    "lenet second": ((4, 8, 8, 20), (5, 5, 20, 30), 1, "VALID", 1, 1),
    "color, strided": ((2, 15, 15, 3), (7, 7, 3, 8), 2, "SAME", 1, 1),
    "residual": ((2, 8, 8, 8), (3, 3, 8, 8), 1, "SAME", 1, 1),
    "residual, strided": ((2, 8, 8, 8), (3, 3, 8, 16), 2, "SAME", 1, 1),
    "one by one, strided": ((2, 8, 8, 8), (1, 1, 8, 16), 2, "SAME", 1, 1),
    "one by one, odd, padded": ((3, 7, 6, 5), (1, 1, 5, 9), 1, ((1, 0), (2, 1)), 1, 1),
    "dilated": ((2, 12, 12, 6), (3, 3, 6, 8), 1, "SAME", 2, 1),
    "grouped": ((2, 8, 8, 16), (3, 3, 4, 24), 1, "SAME", 1, 4),
    "depthwise": ((2, 8, 8, 40), (3, 3, 1, 40), 1, "SAME", 1, 40),
    "depthwise, strided": ((2, 9, 8, 5), (3, 3, 1, 5), 2, "SAME", 1, 5),
    "depthwise, dilated": ((3, 9, 9, 4), (3, 2, 1, 4), 1, ((2, -1), (0, 1)), 2, 4),
    "depthwise, two a channel": ((2, 8, 8, 6), (3, 3, 1, 12), 1, "SAME", 1, 6),
    "whole image": ((2, 4, 4, 6), (4, 4, 6, 8), 1, "VALID", 1, 1),
    "small image, strided, odd": ((2, 3, 4, 5), (5, 3, 5, 7), 2, ((2, 3), (1, 2)), 1, 1),
    "small image, dilated": ((2, 3, 2, 5), (3, 3, 5, 6), 1, "SAME", 2, 1),
}


def convolved(x, k):
    return lax.conv_general_dilated(x, k, (1, 1), "VALID", dimension_numbers=LAYOUTS[0])


def test_neighbours_become_one_pixel():
    program = str(jax.make_jaxpr(accelerate(convolved))(jnp.zeros((2, 12, 12, 1)), jnp.zeros((5, 5, 1, 20))))
    assert "f32[2,12,3,4]" in program
    assert "f32[5,2,4,80]" in program


def test_kernel_gradients_take_one_half_of_the_images_after_the_other():
    def gradient(x, k):
        return jax.grad(lambda k: convolved(x, k).sum())(k)

    for images, halves in ((6, True), (5, False)):
        program = str(jax.make_jaxpr(accelerate(gradient))(jnp.zeros((images, 9, 9, 8)), jnp.zeros((3, 3, 8, 8))))
        assert ("dynamic_slice" in program) == halves


def test_depthwise_convolutions_and_both_gradients_are_sums():
    def depthwise(x, k):
        return lax.conv_general_dilated(
            x, k, (2, 2), "SAME", dimension_numbers=LAYOUTS[0], feature_group_count=x.shape[-1]
        )

    def gradients(x, k):
        y, pullback = jax.vjp(depthwise, x, k)
        return y, *pullback(y)

    operands = jnp.zeros((2, 8, 8, 40)), jnp.zeros((3, 3, 1, 40))
    plain, program = (str(jax.make_jaxpr(f)(*operands)) for f in (gradients, accelerate(gradients)))
    assert plain.count("conv_general_dilated") >= 3
    assert "conv_general_dilated" not in program


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_what_is_not_finite_stays_in_its_image(value):
    images = jnp.zeros((3, 12, 12, 1)).at[1, 6, 6].set(value)
    kernel = jnp.ones((5, 5, 1, 20))

    def both(images):
        result, pullback = jax.vjp(lambda x: convolved(x, kernel), images)
        return result, pullback(result)[0]

    fast, plain = (jax.tree.map(lambda a: ~np.isfinite(a), f(images)) for f in (compiled(accelerate(both)), both))
    for found, wanted in zip(fast, plain, strict=True):
        assert found[1].any()
        assert not found[[0, 2]].any()
        assert (found >= wanted).all()  # nothing becomes finite


@pytest.mark.parametrize("name", LAYERS)
def test_layers(name, rng):
    shape, kernel, stride, padding, dilation, groups = LAYERS[name]

    def function(x, k):
        return lax.conv_general_dilated(
            x,
            k,
            (stride, stride),
            padding,
            rhs_dilation=(dilation, dilation),
            dimension_numbers=LAYOUTS[0],
            feature_group_count=groups,
        )

    x, k = (jnp.asarray(rng.normal(size=s), jnp.float32) for s in (shape, kernel))
    assert_same_gradients(function, x, k)


@pytest.mark.parametrize("spatial", [1, 3])
def test_other_numbers_of_dimensions(spatial, rng):
    def function(x, k):
        return lax.conv(x, k, (1,) * spatial, "VALID")

    x, k = (jnp.asarray(rng.normal(size=s), jnp.float32) for s in ((2, 2, *[6] * spatial), (6, 2, *[3] * spatial)))
    assert_same_gradients(function, x, k)


@pytest.mark.parametrize(
    ("x", "k", "steps", "padding"),
    [
        ((2, 6, 6, 8), (3, 3, 8, 3), (2, 2), "SAME"),
        ((2, 3, 5, 3), (4, 3, 3, 2), (2, 3), "VALID"),
        ((2, 1, 2, 3), (2, 4, 3, 2), (2, 1), ((1, 0), (0, 3))),
    ],
)
def test_transposed_convolution(x, k, steps, padding, rng):
    def function(x, k):
        return lax.conv_transpose(x, k, steps, padding, dimension_numbers=LAYOUTS[0])

    x, k = (jnp.asarray(rng.normal(size=s), jnp.float32) for s in (x, k))
    assert_same_gradients(function, x, k)


def test_kernel_gradients_of_transposed_convolutions_spread_no_image():
    def gradient(x, k):
        return jax.grad(lambda k: lax.conv_transpose(x, k, (2, 2), "SAME", dimension_numbers=LAYOUTS[0]).sum())(k)

    operands = jnp.zeros((2, 4, 4, 8)), jnp.zeros((4, 4, 8, 8))
    plain, program = (str(jax.make_jaxpr(f)(*operands)) for f in (gradient, accelerate(gradient)))
    # Neither the forward pass nor anything else here changes: what is left is the forward pass's.
    assert [text.count("lhs_dilation=(2, 2)") for text in (plain, program)] == [2, 1]


def windows(program):
    """Pixels of the image and of the window of each convolution of a jaxpr, and of what it calls."""
    for equation in program.eqns:
        if equation.primitive.name == "conv_general_dilated":
            numbers = equation.params["dimension_numbers"]
            pairs = zip(equation.invars, (numbers.lhs_spec, numbers.rhs_spec), strict=True)
            yield tuple(math.prod(each.aval.shape[axis] for axis in spec[2:]) for each, spec in pairs)
        for value in equation.params.values():
            if hasattr(value, "jaxpr"):
                yield from windows(value.jaxpr)


@pytest.mark.parametrize(
    ("size", "window", "step"), [((2, 2), (3, 3), 1), ((2, 2), (3, 3), 2), ((4, 4), (3, 3), 2), ((2, 8), (5, 5), 1)]
)
def test_no_window_has_more_pixels_than_its_image_for_xla_would_take_twenty_times_as_long(size, window, step):
    x, k = jnp.ones((4, *size, 16)), jnp.ones((*window, 16, 32))

    def gradients(x, k):
        def loss(x, k):
            return jnp.square(lax.conv_general_dilated(x, k, (step, step), "SAME", dimension_numbers=LAYOUTS[0])).sum()

        return jax.grad(loss, (0, 1))(x, k)

    plain, fast = (list(windows(jax.make_jaxpr(f)(x, k).jaxpr)) for f in (gradients, accelerate(gradients)))
    assert any(taps > pixels for pixels, taps in plain)
    assert len(fast) >= 2
    assert all(taps <= pixels for pixels, taps in fast)


def test_empty_batch():
    x, k = jnp.zeros((0, 1, 8, 8)), jnp.ones((4, 1, 3, 3))
    gradient = jax.grad(lambda x: lax.conv(x, k, (1, 1), "VALID").sum())
    assert jax.jit(accelerate(gradient))(x).shape == x.shape


def test_double_precision(rng):
    """64-bit indices and values, where a program asks for them."""
    with jax.enable_x64(True):
        x, k = jnp.asarray(rng.normal(size=(2, 8, 8, 1))), jnp.ones((5, 5, 1, 20), "float32")

        def total(x, k):
            return lax.conv_general_dilated(x, k, (1, 1), "VALID", dimension_numbers=LAYOUTS[0]).sum()

        gradients = jax.grad(total, (0, 1))

        for x_ in (x.astype("float32"), x):
            k_ = k.astype(x_.dtype)
            assert_close(jax.jit(accelerate(gradients))(x_, k_), jax.jit(gradients)(x_, k_))


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_half_precision_changes_its_order_alone(dtype, rng):
    """Only the float32 forms were measured; others keep their arithmetic, so the bits."""

    def gradients(x, k):
        return jax.grad(lambda x, k: lax.conv(x, k, (1, 1), "VALID").sum().astype("float32"), (0, 1))(x, k)

    x, k = (jnp.asarray(rng.normal(size=s), dtype) for s in ((2, 1, 8, 8), (4, 1, 3, 3)))
    for a, b in zip(jax.jit(accelerate(gradients))(x, k), jax.jit(gradients)(x, k), strict=True):
        np.testing.assert_array_equal(np.asarray(a, "float32"), np.asarray(b, "float32"))


def test_canonical_order_gives_the_same_bits(rng):
    """An input gradient that stays a convolution is only reordered."""

    def gradient(x, k):
        return jax.grad(lambda x: jnp.sin(lax.conv(x, k, (1, 1), "SAME")).sum())(x)

    x, k = (jnp.asarray(rng.normal(size=s), jnp.float32) for s in ((2, 8, 10, 10), (6, 8, 3, 3)))
    np.testing.assert_array_equal(jax.jit(accelerate(gradient))(x, k), jax.jit(gradient)(x, k))


def equations(function, *arguments):
    """The names of all primitives in the program of `function`, nested ones included."""
    found = []

    def visit(program):
        for equation in program.eqns:
            found.append(equation.primitive.name)
            for value in equation.params.values():
                for inner in value if isinstance(value, tuple) else (value,):
                    if hasattr(inner, "eqns"):
                        visit(inner)

    visit(jax.make_jaxpr(function)(*arguments))
    return found


def test_a_first_layers_input_gradient_is_a_matrix_product():
    def loss(x, k):
        return jnp.square(lax.conv_general_dilated(x, k, (1, 1), "VALID", dimension_numbers=LAYOUTS[0])).sum()

    x, k = jnp.ones((2, 12, 12, 1)), jnp.ones((5, 5, 1, 20))
    plain, fast = (equations(f, x, k) for f in (jax.grad(loss), accelerate(jax.grad(loss))))
    assert [plain.count(name) for name in ("conv_general_dilated", "dot_general")] == [2, 0]
    assert [fast.count(name) for name in ("conv_general_dilated", "dot_general")] == [1, 1]


@pytest.mark.parametrize("padding", [((-1, 1), (0, 0)), ((0, 0), (2, -1)), ((-2, -1), (-1, 0))])
def test_padding_below_zero(padding, rng):
    """As if cut and padded before. XLA alone reads beyond the image there (JAX 0.10.2, CPU): no reference for this."""

    def gradients(convolve, x, k):
        y, pullback = jax.vjp(convolve, x, k)
        return y, pullback(jnp.sin(jnp.arange(y.size, dtype="float32")).reshape(y.shape))

    def inside(x, k):
        return lax.conv_general_dilated(x, k, (1, 1), padding, dimension_numbers=LAYOUTS[0])

    def before(x, k):
        x = lax.pad(x, 0.0, [(0, 0, 0), *((*widths, 0) for widths in padding), (0, 0, 0)])
        return lax.conv_general_dilated(x, k, (1, 1), "VALID", dimension_numbers=LAYOUTS[0])

    x, k = (jnp.asarray(rng.normal(size=s), jnp.float32) for s in ((2, 6, 6, 5), (2, 3, 5, 6)))
    wanted = jax.jit(functools.partial(gradients, before))(x, k)
    assert_close(jax.jit(accelerate(functools.partial(gradients, inside)))(x, k), wanted)


def test_stacked_networks_are_convolved_one_by_one():
    """`vmap` over kernels makes one grouped convolution, which XLA's CPU backend runs far slower than its parts."""

    def apply(x, k):
        return lax.conv_general_dilated(x, k, (1, 1), "SAME", dimension_numbers=LAYOUTS[0])

    x, k = jnp.ones((3, 2, 8, 8, 8)), jnp.ones((3, 3, 3, 8, 8))
    assert equations(accelerate(jax.vmap(apply)), x, k).count("conv_general_dilated") == 3
