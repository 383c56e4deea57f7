"""The boundary search against a scan, on crossings that are monotone and ones that are not."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from advjax.attacks import Boundary, Fixed


def search(part, is_fooled, active=True):
    """Runs a search on the line: the candidate is the scale itself."""
    run = jax.jit(lambda active: part(lambda s: s, lambda s: jnp.asarray(is_fooled(s)), active))
    return jax.tree.map(np.asarray, run(jnp.bool_(active)))


@given(st.floats(0.0078125, 300.0, width=32))
def test_a_monotone_crossing_is_found_within_tolerance_from_above(crossing):
    found = search(Boundary(), lambda s: s >= crossing)
    assert found.found
    assert crossing <= found.scale <= crossing + 1.01e-3 * max(1 / 255, crossing)
    assert found.calls <= 45


def test_the_factor_scales_the_boundary():
    plain, hard = (search(Boundary(factor), lambda s: s >= 0.5) for factor in (1.0, 1.1))
    assert hard.image == pytest.approx(plain.scale * 1.1, rel=1e-6)


def test_an_interval_between_the_doubling_steps_is_found_by_the_second_ones():
    # The steps end at 63 and 127, then at 94.5, in units of 1/255.
    found = search(Boundary(), lambda s: (s > 80 / 255) & (s < 110 / 255))
    assert found.found
    assert found.scale == pytest.approx(80 / 255, rel=2e-3)


@given(st.floats(0.0, 100.0, width=32), st.sampled_from([1, 2, 4, 8]))
def test_a_section_long_enough_for_the_passes_is_found(low, passes):
    high = np.float32((1 + 1 / passes) * low + 1 / 255) * np.float32(1 + 1e-6)
    found = search(Boundary(passes=passes), lambda s: (s > low) & (s <= high))
    assert found.found
    assert low < found.scale <= high


def test_a_section_too_short_for_two_passes_is_found_by_the_third():
    # The third steps go from 38.75 to 78.75.
    def fooled(s):
        return (s > 75 / 255) & (s < 82 / 255)

    assert not search(Boundary(), fooled).found
    found = search(Boundary(passes=3), fooled)
    assert found.scale == pytest.approx(75 / 255, rel=2e-3)


@pytest.mark.parametrize(
    ("start", "maximum"), [(1.0, 1.0), (1.0, 1.4), (1.0, 1.5), (1.0, 3.0), (0.25, 2.0), (0.3, 2.0)]
)
def test_nothing_beyond_the_maximum_is_asked_or_returned(start, maximum):
    part = Boundary(2.0, start=start, maximum=maximum, passes=8)
    beyond = search(part, lambda s: s > maximum)
    assert (beyond.found, beyond.scale) == (False, 0)
    within = search(part, lambda s: s > 0.9 * start)
    assert within.found
    assert 0.9 * start * 2 <= within.scale <= 2 * maximum


def test_what_is_returned_was_tested_where_fooling_is_not_monotone():
    def fooled(s):
        return jnp.sin(40 * s) > 0.3

    found = search(Boundary(), fooled)
    assert found.found
    assert fooled(found.scale)


def test_nothing_found_returns_the_start_and_says_so():
    found = search(Boundary(), lambda s: s < -1)
    assert not found.found
    assert found.image == 0
    # 17 doublings to 1e5 gray levels, and 16 more from 1.5.
    assert 30 <= found.calls <= 36


def test_no_direction_costs_no_search():
    assert search(Boundary(), lambda s: s < -1, active=False).calls == 1


def test_already_fooled_stays_where_it_is():
    found = search(Boundary(), lambda s: s >= -1)
    assert (found.found, found.scale, found.calls) == (True, 0, 1)


def test_fixed_goes_epsilon_far_without_asking():
    found = search(Fixed(0.25), lambda s: s < -1)
    assert (found.image, found.scale, found.calls) == (0.25, 0.25, 0)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: Fixed(-0.1), "step_size must be a finite number of 0 or more.* got -0.1"),
        (lambda: Fixed(np.inf), "step_size must be a finite number of 0 or more.* got inf"),
        (lambda: Boundary(-1.0), "factor must be a finite number of 0 or more"),
        (lambda: Boundary(np.inf), "factor must be a finite number of 0 or more"),
        (lambda: Boundary(start=0.0), "start and maximum must be"),
        (lambda: Boundary(start="1"), "start and maximum must be"),
        (lambda: Boundary(maximum=np.inf), "start and maximum must be"),
        (lambda: Boundary(tolerance=0.0), "tolerance must be from 1e-6"),
        (lambda: Boundary(passes=0), "passes must be an integer of 1 or more"),
    ],
)
def test_bad_settings_are_refused(build, message):
    with pytest.raises(ValueError, match=message):
        build()
