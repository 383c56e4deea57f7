"""The input gradient of a dense layer equals the plain product; other products stay as they are."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from advjax.fastcpu import accelerate


def times_transposed(x, matrix):
    return lax.dot_general(x, matrix, (((x.ndim - 1,), (1,)), ((), ())))


def becomes_a_convolution(function, *arrays):
    return "conv_general_dilated" in str(jax.make_jaxpr(accelerate(function))(*arrays))


@pytest.mark.parametrize("shape", [(2, 512), (7, 512), (7, 1, 512), (2, 3, 512), (32, 512)])
def test_a_large_transposed_matrix(shape, rng):
    x, matrix = (jnp.asarray(rng.normal(size=s), jnp.float32) for s in (shape, (64, 512)))
    assert becomes_a_convolution(times_transposed, x, matrix)
    fast = jax.jit(accelerate(times_transposed))(x, matrix)
    wanted = np.asarray(x, np.float64) @ np.asarray(matrix, np.float64).T
    assert fast.shape == wanted.shape
    np.testing.assert_allclose(fast, wanted, rtol=0, atol=2e-6 * np.abs(wanted).max())


def test_gradient_of_a_dense_layer_under_vmap(rng):
    weights, x = (jnp.asarray(rng.normal(size=s), jnp.float32) for s in ((128, 512), (5, 128)))

    def gradients(x):
        return jax.vmap(jax.grad(lambda x: jnp.tanh(x @ weights).sum()))(x)

    assert becomes_a_convolution(gradients, x)
    np.testing.assert_allclose(jax.jit(accelerate(gradients))(x), jax.jit(gradients)(x), atol=1e-5)


@pytest.mark.parametrize(
    ("function", "shapes", "dtype"),
    [
        (times_transposed, [(7, 500), (64, 500)], "float32"),
        (times_transposed, [(512,), (64, 512)], "float32"),
        (times_transposed, [(1, 512), (64, 512)], "float32"),
        (times_transposed, [(33, 512), (64, 512)], "float32"),
        (times_transposed, [(4, 4, 4, 512), (64, 512)], "float32"),
        (times_transposed, [(7, 512), (64, 512)], "bfloat16"),
        (times_transposed, [(0, 512), (64, 512)], "float32"),
        (times_transposed, [(7, 512), (0, 512)], "float32"),
        (jnp.matmul, [(7, 512), (512, 64)], "float32"),
        (jax.vmap(times_transposed), [(2, 7, 512), (2, 64, 512)], "float32"),
        (jax.vmap(jnp.dot), [(64, 512), (64, 512)], "float32"),
    ],
)
def test_others_stay_as_they_are(function, shapes, dtype):
    arrays = [jnp.ones(shape, dtype) for shape in shapes]
    assert not becomes_a_convolution(function, *arrays)
    np.testing.assert_array_equal(jax.jit(accelerate(function))(*arrays), jax.jit(function)(*arrays))
