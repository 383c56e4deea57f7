"""When a difference counts: the exact sign test of images answered differently, else two standard errors."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binomtest

from advjax.evaluate import Share, better_or_worse, clearly_apart
from experiments.verdicts import SAMPLING, line


@given(st.integers(0, 40), st.integers(0, 40), st.integers(0, 40))
def test_paired_shares_are_apart_where_the_exact_two_sided_test_says_so(more, fewer, alike):
    first = np.repeat([True, False, True], (more, fewer, alike))
    second = np.repeat([False, True, True], (more, fewer, alike))
    expected = more + fewer > 0 and binomtest(more, more + fewer).pvalue < 0.05
    assert clearly_apart(Share.of(first), Share.of(second)) == expected
    assert clearly_apart(Share.of(second), Share.of(first)) == expected


@pytest.mark.parametrize(("heads", "apart"), [(5, False), (6, True)])
def test_six_of_six_images_are_the_first_that_count(heads, apart):
    """2 / 2^6 is 3 %, 2 / 2^5 is 6 %: one-sided, five were enough."""
    wrong = np.arange(50) < heads
    assert clearly_apart(Share.of(wrong), Share.of(np.zeros(50, bool))) == apart


def test_images_and_not_shares_decide_where_they_are_known():
    """94 and 90 of 100: the same two shares count if the one network is right wherever the other is."""
    right, other = np.arange(100) < 96, np.arange(100) < 90
    assert clearly_apart(Share.of(right), Share.of(other))
    assert not clearly_apart(Share.of(right), Share.of(other[::-1]))
    assert not clearly_apart(Share(0.96, 100), Share(0.90, 100))


@pytest.mark.parametrize("size", [900, 10_000])
def test_shares_of_other_images_are_apart_from_two_standard_errors_on(size):
    error = math.sqrt(2 * 0.1 * 0.9 / size)
    for errors, apart in ((1.9, False), (2.1, True)):
        # The second share's own variance is a little larger than the first's.
        assert clearly_apart(Share(0.1, size), Share(0.1 + errors * error * (1 + 4 * error), size)) == apart
    # Known by image, but of other images: no pairs.
    images = np.arange(size) < size // 10
    few = Share(0.5, 10, np.arange(10) < 5)
    assert clearly_apart(Share.of(images), few) == clearly_apart(Share(0.1, size), Share(0.5, 10))


def test_several_networks_are_compared_by_how_many_of_them_are_right():
    both = Share.of(np.array([[True, False, True], [True, False, False]]))
    np.testing.assert_array_equal(both.images, [1.0, 0.0, 0.5])
    assert (both.value, both.asked) == (0.5, 3)
    assert Share.of(np.zeros(0, bool)).value == 0


@pytest.mark.parametrize(("before", "after", "error", "word"), [
    (0.5, 0.4, True, "better"), (0.5, 0.4, False, "worse"), (0.4, 0.5, True, "worse"), (0.4, 0.5, False, "better"),
    (0.4, 0.401, True, "no clear difference"),
])  # fmt: skip
def test_better_is_less_error_or_more_accuracy(before, after, error, word):
    assert better_or_worse(Share(before, 1000), Share(after, 1000), error=error) == word


def test_a_line_has_its_status_and_figures_and_the_page_says_what_no_verdict_counts():
    assert line(False, "A is below B", "2 against 1") == "Does not hold: A is below B (2 against 1)."
    assert line("No verdict", "A is below B", "2") == "No verdict: A is below B (2)."
    assert "another seed" in SAMPLING
