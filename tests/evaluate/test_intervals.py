"""Intervals and sign test against SciPy."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from advjax.evaluate import sign_test, wilson
from advjax.evaluate.intervals import accuracy_of


@given(trials=st.integers(1, 20000), share=st.floats(0, 1), confidence=st.sampled_from([0.9, 0.95, 0.99]))
def test_wilson_is_scipys(trials, share, confidence):
    successes = round(share * trials)
    expected = stats.binomtest(successes, trials).proportion_ci(confidence, method="wilson")
    np.testing.assert_allclose(wilson(successes, trials, confidence), expected, atol=1e-12)


@given(more=st.integers(0, 400), fewer=st.integers(0, 400))
def test_sign_test_is_scipys(more, fewer):
    expected = stats.binomtest(more, more + fewer, alternative="greater").pvalue if more + fewer else 1.0
    np.testing.assert_allclose(sign_test(more, fewer), expected, rtol=1e-9, atol=1e-300)


def test_accuracy_of_a_sample():
    value, low, high = accuracy_of(np.arange(100) < 90)
    assert value == 0.9
    np.testing.assert_allclose((low, high), (0.8256, 0.9448), atol=1e-4)


@pytest.mark.parametrize("arguments", [(1, 0), (-1, 3), (4, 3), (1, 3, 1.0), (1, 3, 0.0)])
def test_what_is_no_share_raises(arguments):
    with pytest.raises(ValueError, match="must be"):
        wilson(*arguments)
