"""Objectives against NumPy, and hot/cold against the Jacobian written out."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import log_softmax

from advjax.attacks import DLR, CrossEntropy, HotCold, Margin, Targeted, TargetedDLR
from advjax.attacks.checks import check_asked
from tests.models_for_tests import convolutional, convolutional_weights, grid_images

LOGITS = np.array([1.5, -0.5, 3.0, -2.0, 0.25], np.float32)


def objective(part, logits=LOGITS, label=2):
    return float(part(jnp.asarray(logits), jnp.int32(label), jnp.asarray(LOGITS)))


def test_values():
    assert objective(CrossEntropy()) == pytest.approx(-log_softmax(LOGITS)[2], rel=1e-6)
    assert objective(Margin()) == pytest.approx(1.5 - 3.0)
    assert objective(Margin(4)) == pytest.approx(0.25 - 3.0)
    assert objective(Margin(2)) == pytest.approx(3.0 - 1.5)
    assert objective(Targeted(4)) == pytest.approx(log_softmax(LOGITS)[4], rel=1e-6)
    # eq. 7: rank 3 among the classes other than 2 is class 1, whose logit is negative.
    assert objective(HotCold(3)) == pytest.approx(abs(-0.5) * -0.5 - 3.0 * 3.0)
    assert objective(HotCold(None, 3)) == pytest.approx(2.0 * -2.0 - 3.0 * 3.0)


def test_cold_paper_heats_a_label_of_negative_logit_and_abs_cools_it():
    logits = jnp.asarray(LOGITS)
    gradient = {
        cold: jax.grad(lambda h, cold=cold: HotCold(1, None, cold)(h, jnp.int32(3), logits))(logits)[3]
        for cold in ("paper", "abs")
    }
    assert gradient == {"paper": 2.0, "abs": -2.0}


@pytest.mark.parametrize("rank", [1, 2, 4])
def test_hot_cold_gradient_is_the_jacobian_transposed_times_omega(rank):
    weights, image = convolutional_weights(), jnp.asarray(grid_images(0, (8, 8, 1)))

    def logits_of(image):
        return convolutional(weights, image[None])[0]

    logits = logits_of(image)
    label = int(jnp.argmax(logits))
    jacobian = np.asarray(jax.jacrev(logits_of)(image))
    order = [c for c in np.argsort(-np.asarray(logits), kind="stable") if c != label]
    omega = np.zeros(5)
    omega[order[rank - 1]], omega[label] = abs(logits[order[rank - 1]]), -logits[label]
    expected = np.tensordot(omega, jacobian, axes=1)
    gradient = jax.grad(lambda x: HotCold(rank)(logits_of(x), jnp.int32(label), logits))(image)
    np.testing.assert_allclose(gradient, expected, rtol=2e-5, atol=1e-5)


RATIOS = [TargetedDLR(1), TargetedDLR(5), DLR()]
HOT_COLD = [HotCold(1), HotCold(5), HotCold(None, 5)]


@pytest.mark.parametrize("label", [2, 5])
@pytest.mark.parametrize("part", [CrossEntropy(), Margin(), Margin(5), Targeted(1), Targeted(5), *RATIOS, *HOT_COLD])
def test_a_masked_class_leaves_every_gradient_finite(part, label):
    for mask in (-1e9, -np.inf):
        logits = jnp.asarray(np.append(LOGITS, np.float32(mask)))
        height, gradient = jax.value_and_grad(lambda h, y=logits: part(h, jnp.int32(label), y))(logits)
        assert np.isfinite(gradient).all()
        assert not np.isnan(height)


def test_the_ratio_takes_classes_masked_by_infinity_below_those_that_are_not():
    logits = jnp.array([1.5, -jnp.inf, 3.0, -jnp.inf, -jnp.inf])

    def ratio(h):
        return TargetedDLR(1)(h, jnp.int32(2), logits)

    assert float(ratio(logits)) == pytest.approx((1.5 - 3.0) / (3.0 - 0.0))
    gradient = np.asarray(jax.grad(ratio)(logits))
    assert gradient[0] > 0 > gradient[2]


def test_a_target_equal_to_the_label_gives_no_direction():
    gradient = jax.grad(lambda h: HotCold(None, 2)(h, jnp.int32(2), jnp.asarray(LOGITS)))(jnp.asarray(LOGITS))
    np.testing.assert_array_equal(gradient, np.zeros(5))


def test_bad_settings_are_refused():
    with pytest.raises(ValueError, match="targets must be classes from 0 to 4"):
        check_asked(Margin(5), 5)
    with pytest.raises(ValueError, match="rank must be at most 4, the number of other classes, got 5"):
        check_asked(TargetedDLR(5), 5)
    with pytest.raises(ValueError, match="rank must be 1"):
        HotCold(0)
    with pytest.raises(ValueError, match="give either rank or target"):
        HotCold(1, 2)
    with pytest.raises(ValueError, match="rank must hold integers"):
        HotCold(1.5)
    with pytest.raises(ValueError, match='cold must be "paper" or "abs"'):
        HotCold(1, None, "warm")
