"""Projections onto hyperplane and box, and onto l1 ball and box, against linear and quadratic programs of SciPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import linprog, minimize

from advjax.attacks.projections import BoxedL1Ball, to_hyperplane

N = 6
way_to = {norm: jax.jit(lambda *args, norm=norm: to_hyperplane(*args, norm)) for norm in ("linf", "l2", "l1")}
in_ball = jax.jit(lambda epsilon, *args: BoxedL1Ball(epsilon)(*args))


def shortest(norm, point, slope, gain):
    """The length of the shortest way from `point` onto the hyperplane inside [0, 1]."""
    if norm == "l2":
        found = minimize(
            lambda d: d @ d, np.zeros(N), jac=lambda d: 2 * d, method="SLSQP",
            bounds=list(zip(-point, 1 - point, strict=True)),
            constraints=[{"type": "eq", "fun": lambda d: slope @ d - gain, "jac": lambda d: slope}],
            options={"ftol": 1e-14, "maxiter": 500},
        )  # fmt: skip
        return np.sqrt(found.fun)
    if norm == "l1":  # up and down apart
        bounds = [(0, room) for room in (*(1 - point), *point)]
        return linprog(np.ones(2 * N), A_eq=np.r_[slope, -slope][None], b_eq=[gain], bounds=bounds).fun
    above = np.r_[np.c_[np.eye(N), -np.ones(N)], np.c_[-np.eye(N), -np.ones(N)]]
    bounds = [*zip(-point, 1 - point, strict=True), (0, None)]
    goal = np.r_[np.zeros(N), 1]
    return linprog(goal, above, np.zeros(2 * N), A_eq=np.r_[slope, 0][None], b_eq=[gain], bounds=bounds).fun


def drawn(seed):
    """A point with entries at the box's bounds, and a slope with zeros and equal entries among the others."""
    rng = np.random.default_rng(seed)
    point, slope = rng.random(N), rng.normal(size=N)
    point[rng.random(N) < 0.3] = rng.integers(0, 2)
    slope[rng.random(N) < 0.2] = 0.0
    slope[:2] = slope[1]
    return rng, point, slope


@pytest.mark.parametrize("norm", ["linf", "l2", "l1"])
@given(seed=st.integers(0, 10_000))
def test_the_way_to_a_hyperplane_is_the_shortest(norm, seed):
    rng, point, slope = drawn(seed)
    gain = float(rng.normal())
    with jax.enable_x64(True):
        way, size = map(np.asarray, way_to[norm](*map(jnp.asarray, (point, slope, gain))))
    assert np.all((point + way >= -1e-12) & (point + way <= 1 + 1e-12))
    np.testing.assert_array_equal(way[slope == 0], 0)
    order = {"linf": np.inf, "l2": 2, "l1": 1}[norm]
    np.testing.assert_allclose(size, np.linalg.norm(way, order), atol=1e-12)
    most = np.where(slope * gain > 0, np.abs(slope) * (1 - point), np.abs(slope) * point).sum()
    # Out of reach it goes to the corner that gains most.
    np.testing.assert_allclose(slope @ way, np.sign(gain) * min(abs(gain), most), atol=1e-9)
    if abs(gain) < most:
        np.testing.assert_allclose(size, shortest(norm, point, slope, gain), atol=1e-6)


@given(seed=st.integers(0, 10_000), epsilon=st.sampled_from([0.0, 0.05, 0.5, 1.0, 2.0]))
def test_the_nearest_point_of_an_l1_ball_inside_the_box(seed, epsilon):
    rng, origin, _ = drawn(seed)
    candidate = origin + rng.normal(size=N) * rng.choice([0.1, 1.0, 3.0])
    candidate[:2] = origin[:2]
    with jax.enable_x64(True):
        nearest = np.asarray(in_ball(np.float64(epsilon), jnp.asarray(candidate), jnp.asarray(origin)))
    np.testing.assert_array_equal(nearest[:2], origin[:2])
    assert np.abs(nearest - origin).sum() <= epsilon + 1e-9
    assert np.all((nearest >= 0) & (nearest <= 1))
    signs = np.r_[np.eye(N), -np.eye(N)]
    bounds = [(0, room) for room in (*(1 - origin), *origin)]
    found = minimize(
        lambda p: np.sum((origin + p @ signs - candidate) ** 2),
        np.zeros(2 * N),
        jac=lambda p: 2 * signs @ (origin + p @ signs - candidate),
        constraints=[{"type": "ineq", "fun": lambda p: epsilon - p.sum(), "jac": lambda p: -np.ones(2 * N)}],
        bounds=bounds,
        method="SLSQP",
        options={"ftol": 1e-14, "maxiter": 500},
    )
    assert np.sum((nearest - candidate) ** 2) <= found.fun + 1e-6


def test_in_float32_no_rounding_leaves_the_ball_or_stops_short_of_the_plane():
    rng = np.random.default_rng(0)
    origin, slope = (rng.random((8, 3072)).astype(np.float32) for _ in range(2))
    candidate = origin + rng.normal(size=origin.shape).astype(np.float32)
    near = np.asarray(jax.vmap(BoxedL1Ball(12.0))(jnp.asarray(candidate), jnp.asarray(origin)), np.float64)
    np.testing.assert_allclose(np.abs(near - origin).sum(1), 12.0, rtol=2e-5)
    for norm in ("linf", "l2", "l1"):
        gains = np.linspace(-300, 300, 8, dtype=np.float32)
        ways, _ = jax.vmap(way_to[norm])(jnp.asarray(origin), jnp.asarray(slope), jnp.asarray(gains))
        reached = (np.asarray(ways, np.float64) * slope).sum(1)
        np.testing.assert_allclose(reached, gains, rtol=1e-4)
