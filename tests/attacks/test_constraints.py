"""Constraints: the nearest allowed image, exactly on the grid, inside the ball on every pixel."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from scipy.optimize import minimize

from advjax.attacks import All, Box, L1Ball, L2Ball, LinfBall, Pixels, Quantize, Within, ball
from tests.models_for_tests import grid_images

NORMS = {
    "linf": lambda d: np.abs(d).max(),
    "l2": lambda d: np.sqrt((d.astype(np.float64) ** 2).sum()),
    "l1": lambda d: np.abs(d).astype(np.float64).sum(),
}


def candidate_and_origin(seed, spread=1.0):
    rng = np.random.default_rng(seed)
    origin = grid_images(seed, (4, 5, 3))
    return (origin + rng.normal(size=origin.shape) * spread).astype(np.float32), origin


@given(st.integers(0, 10_000), st.sampled_from(["linf", "l2", "l1"]), st.floats(0.0, 3.0, width=32))
def test_balls_hold_and_leave_alone_what_is_inside(seed, norm, epsilon):
    candidate, origin = candidate_and_origin(seed, 0.1)
    result = np.asarray(jax.jit(ball(norm, epsilon))(candidate, origin))
    assert NORMS[norm](result - origin) <= epsilon * (1 + 1e-5) + 1e-5
    if NORMS[norm](candidate - origin) < epsilon * 0.999:
        np.testing.assert_allclose(result, candidate, atol=2e-7)


@pytest.mark.parametrize("norm", ["linf", "l2", "l1"])
def test_a_radius_of_zero_is_the_origin(norm):
    candidate, origin = candidate_and_origin(0)
    for point in (candidate, origin):
        np.testing.assert_array_equal(jax.jit(ball(norm, 0.0))(point, origin), origin)


@pytest.mark.parametrize("norm", ["l2", "l1"])
def test_projections_are_the_nearest_points(norm):
    rng = np.random.default_rng(1)
    origin, candidate, radius = np.zeros((2, 2, 1), np.float32), rng.normal(size=(2, 2, 1)).astype(np.float32), 0.7
    # The l1 ball is smooth in x = a - b with a, b >= 0; the l2 ball as it is.
    target = candidate.ravel().astype(np.float64)
    if norm == "l2":
        solution = minimize(
            lambda x: ((x - target) ** 2).sum(),
            np.zeros(4),
            constraints={"type": "ineq", "fun": lambda x: radius**2 - x @ x},
        ).x
    else:
        split = minimize(
            lambda ab: ((ab[:4] - ab[4:] - target) ** 2).sum(),
            np.full(8, 0.01),
            bounds=[(0, None)] * 8,
            constraints={"type": "ineq", "fun": lambda ab: radius - ab.sum()},
            options={"ftol": 1e-12},
        ).x
        solution = split[:4] - split[4:]
    result = np.asarray(ball(norm, radius)(jnp.asarray(candidate), jnp.asarray(origin)))
    np.testing.assert_allclose(result.ravel(), solution, atol=2e-4)


@pytest.mark.parametrize("levels", [2, 3, 16, 100, 256, 1024])
def test_grid_values_are_those_that_a_file_gives_bit_for_bit(levels):
    exact = np.arange(levels, dtype=np.float32) / np.float32(levels - 1)
    nudged = jnp.asarray(exact + np.float32(0.2 / levels))
    for compiled in (jax.jit(Quantize(levels)), Quantize(levels)):
        np.testing.assert_array_equal(np.asarray(compiled(nudged, nudged)), exact)


@given(st.integers(0, 10_000), st.sampled_from(["linf", "l2", "l1"]), st.floats(0.0, 1.0, width=32))
@example(0, "l1", 1e-45)
@example(0, "l1", 1e-36)
def test_rounding_inward_stays_in_ball_and_box(seed, norm, epsilon):
    candidate, origin = candidate_and_origin(seed, 0.2)
    allowed = All((ball(norm, epsilon), Box(), Quantize(256, "inward")))
    result = np.asarray(jax.jit(allowed)(candidate, origin))
    # A level is kept if the candidate is within 1e-4 of it: 1e-4/255 on each of 60 pixels.
    assert NORMS[norm](result - origin) <= epsilon * (1 + 1e-5) + 60 * 1e-4 / 255
    assert result.min() >= 0
    assert result.max() <= 1
    np.testing.assert_array_equal(result, (np.round(result * 255) / np.float32(255)).astype(np.float32))


def test_inward_rounding_keeps_a_radius_of_whole_levels():
    origin = np.arange(0, 240, dtype=np.float32).reshape(12, 20, 1) / np.float32(255)
    moved = jax.jit(All((LinfBall(8 / 255), Quantize(256, "inward"))))(jnp.asarray(origin + 1), jnp.asarray(origin))
    np.testing.assert_array_equal(np.round(np.asarray(moved) * 255), np.round(origin * 255) + 8)


def test_region_keeps_the_origins_bits_outside():
    candidate, origin = candidate_and_origin(0)
    mask = np.random.default_rng(2).integers(0, 2, (4, 5, 1))
    result = np.asarray(Within(Pixels(mask))(candidate, origin))
    inside = np.broadcast_to(mask == 1, result.shape)
    np.testing.assert_array_equal(result, np.where(inside, candidate, origin))


@pytest.mark.parametrize("kind", [LinfBall, L2Ball, L1Ball])
def test_samples_fill_the_ball(kind):
    image = jnp.zeros((3, 3, 1), jnp.float32)
    draws = np.asarray(jax.vmap(lambda key: kind(2.0).sample(key, image))(jax.random.split(jax.random.key(0), 4000)))
    norm = NORMS[{LinfBall: "linf", L2Ball: "l2", L1Ball: "l1"}[kind]]
    sizes = np.array([norm(draw) for draw in draws])
    assert sizes.max() <= 2 * (1 + 1e-5)
    # In 9 dimensions the share of a uniform draw within radius r of R is (r/R)^9.
    for r in (1.6, 1.9):
        assert np.mean(sizes < r) == pytest.approx((r / 2) ** 9, abs=0.03)
    np.testing.assert_allclose(draws.mean(0), 0, atol=0.06)


def test_bad_settings_are_refused():
    with pytest.raises(ValueError, match="epsilon must be a finite number of 0 or more"):
        ball("linf", -0.1)
    with pytest.raises(ValueError, match='norm must be "linf", "l2" or "l1"'):
        ball("l3", 0.1)
    with pytest.raises(ValueError, match="levels must be an integer from 2 to 1024"):
        Quantize(1)
    with pytest.raises(ValueError, match="rounding must be"):
        Quantize(256, "up")
