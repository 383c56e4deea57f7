"""Replace single equations of a jaxpr, nested ones included, by the equations of an equal function."""

import operator
from collections.abc import Callable
from typing import Any

import jax
from jax.extend.core import ClosedJaxpr, DropVar, Jaxpr, JaxprEqn, Literal, Var

from advjax.fastcpu.convolution import convolution
from advjax.fastcpu.pooling import max_pool, pool_gradient
from advjax.fastcpu.product import product

__all__ = ["rewrite"]

# A rule reads an equation and returns a function of its inputs that is equal to it, or None to leave it alone.
Rule = Callable[[JaxprEqn], Callable[..., jax.Array] | None]
_RULES: dict[str, Rule] = {
    "conv_general_dilated": convolution,
    "dot_general": product,
    "reduce_window_max": max_pool,
    "select_and_scatter_add": pool_gradient,
}

# The primitives whose inner programs may be replaced by equal ones without any other change.
_CALLS = frozenset(
    [
        "jit",
        "pjit",
        "closed_call",
        "remat2",
        "checkpoint",
        "custom_jvp_call",
        "custom_vjp_call",
        "scan",
        "while",
        "cond",
    ]
)


def rewrite(program: ClosedJaxpr) -> ClosedJaxpr:
    """The program with every recognized equation replaced; inputs, outputs, constants and effects are unchanged.

    Only equations are touched, never an inner program's signature, so shardings, donation, effects and the
    calling convention of each enclosing primitive stay valid.
    """
    return _Rewriter().program(program)


class _Rewriter:
    """One pass; an inner program that occurs twice is rewritten once, so that it is also compiled once."""

    def __init__(self) -> None:
        self._done: dict[int, tuple[Any, Any]] = {}

    def program(self, program: Any) -> Any:
        # The key is the object's identity; holding the object keeps that identity from being used again.
        if id(program) not in self._done:
            self._done[id(program)] = (program, self._program(program))
        return self._done[id(program)][1]

    def _program(self, program: Any) -> Any:
        if not isinstance(program, Jaxpr):  # a ClosedJaxpr, where that is a class of its own (JAX < 0.12)
            inner = self.program(program.jaxpr)
            return program if inner is program.jaxpr else program.replace(jaxpr=inner)
        equations = [new for old in program.eqns for new in self._equation(old)]
        same = len(equations) == len(program.eqns) and all(map(operator.is_, equations, program.eqns))
        return program if same else program.replace(eqns=equations)

    def _equation(self, equation: JaxprEqn) -> list[JaxprEqn]:
        name = equation.primitive.name
        if name in _RULES:
            return _replace(equation, _RULES[name](equation))
        if name not in _CALLS:
            return [equation]
        new = {key: self._parameter(value) for key, value in equation.params.items()}
        if all(new[key] is value for key, value in equation.params.items()):
            return [equation]
        return [equation.replace(params=new)]

    def _parameter(self, value: Any) -> Any:
        if isinstance(value, (Jaxpr, ClosedJaxpr)):
            return self.program(value)
        if isinstance(value, tuple) and any(isinstance(item, (Jaxpr, ClosedJaxpr)) for item in value):
            new = tuple(self._parameter(item) for item in value)
            return value if all(map(operator.is_, new, value)) else new
        return value


def _replace(equation: JaxprEqn, function: Callable[..., jax.Array] | None) -> list[JaxprEqn]:
    """The equations of `function` in the place of `equation`, or the equation itself if their types differ."""
    (out,) = equation.outvars
    if function is None or isinstance(out, DropVar):
        return [equation]
    inputs: list[Any] = [atom.aval for atom in equation.invars]
    program = jax.make_jaxpr(function)(*(jax.ShapeDtypeStruct(a.shape, a.dtype) for a in inputs))
    # Types also tell of explicit sharding and of axes of an enclosing `shard_map`, which the forms here ignore.
    if program.in_avals != inputs or program.out_avals != [out.aval] or program.consts:
        return [equation]
    names: dict[Var, Any] = dict(zip(program.jaxpr.invars, equation.invars, strict=True))
    names[program.jaxpr.outvars[0]] = out

    def rename(atom: Any) -> Any:
        return atom if isinstance(atom, Literal) else names.get(atom, atom)

    return [
        new.replace(
            invars=[rename(atom) for atom in new.invars],
            outvars=[rename(atom) for atom in new.outvars],
            source_info=equation.source_info,
            ctx=equation.ctx,
        )
        for new in program.eqns
    ]
