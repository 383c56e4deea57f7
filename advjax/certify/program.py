"""Interval arithmetic: a traced program evaluated where some of its values are known to lie between two bounds only."""

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.extend.core import ClosedJaxpr, Jaxpr, JaxprEqn, Literal, Var

__all__ = ["Interval", "Values", "affine_from", "bounded", "read", "used", "values_of"]


class Interval(NamedTuple):
    """All arrays between two, entry by entry."""

    lower: jax.Array
    upper: jax.Array

    @property
    def center(self) -> jax.Array:
        """The middle."""
        return 0.5 * (self.lower + self.upper)

    @property
    def radius(self) -> jax.Array:
        """Half the width."""
        return 0.5 * (self.upper - self.lower)


Values = Mapping[Var, Any]
"""What is known of a program's variables: arrays, and intervals of arrays."""

# Affine in all operands together.
_SUMS = frozenset(
    ["add", "add_any", "sub", "neg", "reduce_sum", "cumsum", "reduce_window_sum", "reshape", "transpose", "rev",
     "broadcast_in_dim", "squeeze", "slice", "concatenate", "pad", "copy"]
)  # fmt: skip
# Affine in each operand, if the others are given.
_PRODUCTS = frozenset(["mul", "dot_general", "conv_general_dilated"])
# Nowhere decreasing in any operand: the ends go to the ends.
_INCREASING = (_SUMS - {"sub", "neg"}) | frozenset(
    ["max", "min", "clamp", "reduce_max", "reduce_min", "reduce_window_max", "reduce_window_min", "cummax", "exp",
     "expm1", "tanh", "logistic", "erf", "sign", "floor", "ceil", "round", "convert_element_type"]
)  # fmt: skip
# Programs within: under which name they are held.
_CALLS = {
    "jit": "jaxpr",
    "pjit": "jaxpr",
    "checkpoint": "jaxpr",
    "remat2": "jaxpr",
    "closed_call": "call_jaxpr",
    "custom_jvp_call": "call_jaxpr",
    "custom_vjp_call": "call_jaxpr",
}


def values_of(program: ClosedJaxpr, inputs: Sequence[Any]) -> dict[Var, Any]:
    """What is known at a program's beginning: its constants, and arrays or intervals for its inputs."""
    names = (*program.jaxpr.constvars, *program.jaxpr.invars)
    return dict(zip(names, (*program.consts, *inputs), strict=True))


def bounded(equations: Sequence[JaxprEqn], known: Values) -> dict[Var, Any]:
    """What is known after the equations: intervals where something of an interval came in, else arrays.

    Raises:
        NotImplementedError: an equation of an interval has no rule; the message names its primitive.
    """
    values = dict(known)
    for equation in equations:
        inputs = [read(values, atom) for atom in equation.invars]
        outputs = _outputs(equation, inputs)
        values.update(zip(equation.outvars, outputs, strict=True))
    return values


def read(values: Values, atom: Any) -> Any:
    """The value of a variable, or of a literal."""
    return atom.val if isinstance(atom, Literal) else values[atom]


def used(equations: Sequence[JaxprEqn], results: Collection[Any]) -> set[Var]:
    """The variables that equations read, and those among the results."""
    atoms = [*results, *(atom for equation in equations for atom in equation.invars)]
    return {atom for atom in atoms if not isinstance(atom, Literal)}


def affine_from(program: Jaxpr) -> int:
    """The number of the equation from which on all is affine in what depends on the program's inputs."""
    varying, begin = set(program.invars), 0
    for index, equation in enumerate(program.eqns):
        name = equation.primitive.name
        depends = [not isinstance(atom, Literal) and atom in varying for atom in equation.invars]
        if any(depends):
            varying |= set(equation.outvars)
            one_varies = name in _PRODUCTS and sum(depends) == 1
            divided = name == "div" and not depends[1]
            begin = begin if name in _SUMS or one_varies or divided else index + 1
    return begin


def _outputs(equation: JaxprEqn, inputs: list[Any]) -> Sequence[Any]:
    primitive = equation.primitive
    if primitive.name in _CALLS:
        inner = equation.params[_CALLS[primitive.name]]
        closed = inner if isinstance(inner, ClosedJaxpr) else ClosedJaxpr(inner, [])
        values = bounded(closed.jaxpr.eqns, values_of(closed, inputs))
        return [read(values, atom) for atom in closed.jaxpr.outvars]

    def exactly(*operands: Any) -> Any:
        return primitive.bind(*operands, **equation.params)

    if not any(isinstance(each, Interval) for each in inputs):
        result = exactly(*inputs)
        return result if primitive.multiple_results else [result]
    if primitive.name in _INCREASING:
        return [Interval(*(exactly(*(end(each) for each in inputs)) for end in (_lower, _upper)))]
    rule = _RULES.get(primitive.name)
    found = None if rule is None else rule(exactly, inputs)
    if found is None:
        raise NotImplementedError(
            f"there are no interval bounds for {primitive.name} of arrays of shapes "
            f"{[jnp.shape(_lower(each)) for each in inputs]}, of which these depend on the image: "
            f"{[isinstance(each, Interval) for each in inputs]}"
        )
    return [found]


def _lower(value: Any) -> Any:
    return value.lower if isinstance(value, Interval) else value


def _upper(value: Any) -> Any:
    return value.upper if isinstance(value, Interval) else value


# A rule has the operation and its operands, one of which is an interval at least; None: it has no bounds for these.
_Rule = Callable[[Callable[..., Any], list[Any]], Interval | None]


def _difference(exactly: Callable[..., Any], inputs: list[Any]) -> Interval:
    first, second = inputs
    return Interval(exactly(_lower(first), _upper(second)), exactly(_upper(first), _lower(second)))


def _negative(exactly: Callable[..., Any], inputs: list[Any]) -> Interval:
    return Interval(exactly(inputs[0].upper), exactly(inputs[0].lower))


def _corners(exactly: Callable[..., Any], inputs: list[Any]) -> Interval:
    """Where the result is at its ends when each operand is at one of its own."""
    first, second = inputs
    ends = [exactly(end(first), other(second)) for end in (_lower, _upper) for other in (_lower, _upper)]
    return Interval(jnp.stack(ends).min(0), jnp.stack(ends).max(0))


def _quotient(exactly: Callable[..., Any], inputs: list[Any]) -> Interval | None:
    return None if isinstance(inputs[1], Interval) else _corners(exactly, inputs)


def _sums_of_products(exactly: Callable[..., Any], inputs: list[Any]) -> Interval | None:
    """By center and radius, the other operand being weights."""
    if all(isinstance(each, Interval) for each in inputs):
        return None
    center = exactly(*(each.center if isinstance(each, Interval) else each for each in inputs))
    radius = exactly(*(each.radius if isinstance(each, Interval) else jnp.abs(each) for each in inputs))
    return Interval(center - radius, center + radius)


def _choice(exactly: Callable[..., Any], inputs: list[Any]) -> Interval | None:
    if isinstance(inputs[0], Interval):
        return None
    return Interval(*(exactly(*(end(each) for each in inputs)) for end in (_lower, _upper)))


_RULES: dict[str, _Rule] = {
    "sub": _difference,
    "neg": _negative,
    "mul": _corners,
    "div": _quotient,
    "dot_general": _sums_of_products,
    "conv_general_dilated": _sums_of_products,
    "select_n": _choice,
}
