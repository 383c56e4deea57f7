"""Matrix products with a transposed matrix: the input gradients of dense layers."""

from collections.abc import Callable
from typing import Any

import jax
from jax import lax
from jax.extend.core import JaxprEqn

__all__ = ["product"]

# With fewer columns of the matrix, or fewer rows of it for each of x, the product as it stands is no slower.
_COLUMNS, _ROWS = 512, 2


def product(equation: JaxprEqn) -> Callable[..., jax.Array] | None:
    """The rule for `dot_general`: x [..., K] times the transpose of a large matrix [N, K], as a convolution.

    XLA's CPU backend reads such a matrix against its order in memory; where K is a power of two that takes up to 8
    times as long. As a convolution of N single pixels, whose kernel is x, the matrix is read as it lies. Then x and
    the result are transposed instead: where x has as many rows as the matrix that costs more than it saves, and a
    single row is quick either way.
    """
    p = equation.params
    (x_contracted, matrix_contracted), (x_batch, matrix_batch) = p["dimension_numbers"]
    avals: list[Any] = [atom.aval for atom in (*equation.invars, *equation.outvars)]
    x, matrix = avals[0], avals[1]
    transposed = matrix.ndim == 2 and tuple(matrix_contracted) == (1,) and tuple(x_contracted) == (x.ndim - 1,)
    if not transposed or x_batch or matrix_batch or {aval.dtype.name for aval in avals} != {"float32"}:
        return None
    rows, columns = matrix.shape
    if columns < _COLUMNS or not columns < x.size <= rows // _ROWS * columns:
        return None

    def rewritten(x: jax.Array, matrix: jax.Array) -> jax.Array:
        kernel = lax.transpose(x.reshape(1, -1, x.shape[-1]), [0, 2, 1])
        order = lax.ConvDimensionNumbers((0, 2, 1), (2, 1, 0), (0, 2, 1))
        result = lax.conv_general_dilated(
            lax.expand_dims(matrix, [1]), kernel, (1,), "VALID", dimension_numbers=order,
            precision=p["precision"], preferred_element_type=p["preferred_element_type"],
        )  # fmt: skip
        return lax.transpose(lax.squeeze(result, [1]), [1, 0]).reshape(*x.shape[:-1], matrix.shape[0])

    return rewritten
