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
    # 17 doublings to 1e5 grey levels, and 16 more from 1.5.
    assert 30 <= found.calls <= 36


def test_no_direction_costs_no_search():
    assert search(Boundary(), lambda s: s < -1, active=False).calls == 1


def test_already_fooled_stays_where_it_is():
    found = search(Boundary(), lambda s: s >= -1)
    assert (found.found, found.scale, found.calls) == (True, 0, 1)


def test_fixed_goes_epsilon_far_without_asking():
    found = search(Fixed(0.25), lambda s: s < -1)
    assert (found.image, found.scale, found.calls) == (0.25, 0.25, 0)


def test_bad_settings_are_refused():
    with pytest.raises(ValueError, match="epsilon must not be negative"):
        Fixed(-0.1)
    with pytest.raises(ValueError, match="factor must not be negative"):
        Boundary(-1.0)
    with pytest.raises(ValueError, match="start and maximum must be"):
        Boundary(start=0.0)
    with pytest.raises(ValueError, match="tolerance must be from 1e-6"):
        Boundary(tolerance=0.0)
