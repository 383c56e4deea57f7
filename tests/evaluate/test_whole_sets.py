"""Data sets on the host, batch by batch: the same as all at once, in one program."""

import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from advjax.attacks import fgs, perturb, pgd, stack, steepest
from advjax.classifier import from_function
from advjax.evaluate import (
    NO_ANSWER,
    answers_of,
    epsilon_of_count,
    logits_of,
    pass_all,
    perturb_all,
    perturb_batches,
    ranks_of,
    sign_ray,
    whole_sets,
)

TRACES = []


def linear(weights, images):
    TRACES.append(images.shape)
    return images.reshape(images.shape[0], -1) @ weights


@pytest.fixture
def digits(rng):
    """A linear classifier of 3x3 images in three classes, and seven images with its own answers but for one."""
    images = rng.integers(0, 256, (7, 3, 3, 1)).astype(np.uint8)
    classifier = from_function(linear, jnp.asarray(rng.normal(size=(9, 3)).astype(np.float32)))
    labels = np.asarray(classifier(images / np.float32(255)).argmax(-1)).astype(np.int32)
    labels[2] = (labels[2] + 1) % 3
    return classifier, images, labels


def test_the_batch_size_does_not_show_even_where_the_attack_is_random(digits):
    classifier, images, labels = digits
    attack, key = pgd(0.1, step_size=0.05, steps=2), jax.random.key(3)
    whole = perturb(attack, classifier, jnp.asarray(images / np.float32(255)), jnp.asarray(labels), key)
    parts = perturb_all(attack, classifier, images, labels, batch_size=3, key=key)
    for name in ("image", "success", "prediction", "failure"):
        np.testing.assert_array_equal(getattr(parts, name), getattr(whole, name), err_msg=name)
    assert all(isinstance(leaf, np.ndarray) for leaf in jax.tree.leaves(parts))
    assert parts.success.tolist().count(False) >= 1


def test_a_second_set_is_not_traced_again_and_a_batch_not_asked_for_is_not_computed(digits):
    classifier, images, labels = digits
    perturb_all(fgs(0.2), classifier, images[:5], labels[:5], batch_size=2)
    TRACES.clear()
    perturb_all(fgs(0.3), classifier, images, labels, batch_size=2)
    first = next(perturb_batches(fgs(0.3), classifier, images, labels, batch_size=2))
    assert first.image.shape == (2, 3, 3, 1)
    assert TRACES == []


def test_enough_successes_end_it_with_their_batch(digits):
    classifier, images, labels = digits
    whole = perturb_all(fgs(0.5), classifier, images, labels, batch_size=2)
    assert whole.success.tolist() == [True, True, False, True, True, True, True]
    for enough, asked in ((1, 2), (2, 2), (3, 4), (4, 6), (99, 7)):
        some = perturb_all(fgs(0.5), classifier, images, labels, batch_size=2, enough=enough)
        np.testing.assert_array_equal(some.image, whole.image[:asked])


def test_a_stack_is_refused(digits):
    classifier, images, labels = digits
    with pytest.raises(ValueError, match="must be a single attack, got a stack"):
        perturb_all(stack([fgs(0.1), fgs(0.2)]), classifier, images, labels, batch_size=2)


def test_logits_and_answers_are_those_of_one_call(digits):
    classifier, images, _ = digits
    expected = np.asarray(classifier(jnp.asarray(images / np.float32(255))))
    np.testing.assert_allclose(logits_of(classifier, images, 3), expected, rtol=1e-5)
    np.testing.assert_array_equal(answers_of(classifier, images, 3), expected.argmax(-1))
    beyond = images / np.float32(255) + np.float32(1.5)  # float values may leave [0, 1]
    np.testing.assert_allclose(logits_of(classifier, beyond, 7), classifier(jnp.asarray(beyond)), rtol=1e-5)


def test_no_label_is_the_answer_of_logits_that_are_no_numbers():
    broken = from_function(lambda w, x: w + x.mean((1, 2, 3))[:, None] * jnp.float32(jnp.nan), jnp.zeros((1, 3)))
    assert answers_of(broken, np.zeros((2, 2, 2, 1), np.uint8)).tolist() == [NO_ANSWER] * 2


def test_an_answer_that_is_no_number_is_wrong_in_any_place():
    def broken(weights, images):
        """The logits are the pixels of the image; grey level 255 stands for NaN."""
        pixels = images.reshape(images.shape[0], -1)
        return jnp.where(pixels == 1.0, jnp.nan, pixels) * weights

    rows = np.tile(np.arange(8, dtype=np.uint8), (4, 1))
    rows[1, 7] = 255  # the right class's own logit
    rows[2, 0] = 255  # another one's
    rows[3] = 255
    classifier = from_function(broken, jnp.float32(1.0))
    assert (ranks_of(classifier, rows.reshape(4, 2, 4, 1), np.full(4, 7), 3) >= 5).tolist() == [False, *[True] * 3]
    assert ranks_of(classifier, rows[:1].reshape(1, 2, 4, 1), np.array([2])).tolist() == [5]
    assert ranks_of(classifier, rows[:0].reshape(0, 2, 4, 1), np.zeros(0, int)).shape == (0,)
    assert answers_of(classifier, rows[:0].reshape(0, 2, 4, 1)).shape == (0,)


def test_the_score_is_asked_for_the_perturbed_image_against_the_original(monkeypatch):
    """PASS warps its first image onto its second: the adversarial one onto the original."""
    asked = []

    def spy(blocks, *, padding):
        for image, template in blocks:
            asked.append((len(image), padding))
            yield types.SimpleNamespace(score=image.mean((1, 2, 3)) + 10 * template.mean((1, 2, 3)))

    monkeypatch.setattr(whole_sets, "pass_scores", spy)
    perturbed, original = (np.full((4, 3, 5, 1), grey, np.uint8) for grey in (255, 51))
    np.testing.assert_allclose(pass_all(perturbed, original, batch_size=3), np.full(4, 3.0), rtol=1e-6)
    assert len(pass_all(perturbed[:0], original[:0], padding="same")) == 0
    assert pass_all(perturbed[:1], original[:1], batch_size=3, padding="same").shape == (1,)
    assert asked == [(3, "valid"), (3, "valid"), (3, "same")]  # filled up: one program


def test_a_ray_is_the_fast_gradient_sign_at_every_epsilon(digits):
    classifier, images, labels = digits
    right = sign_ray(classifier, images, labels, batch_size=3)
    for epsilon in (*np.linspace(0, 0.6, 31).tolist(), 2.0):
        moved = perturb_all(steepest("linf", epsilon, levels=None, box=False), classifier, images, labels, batch_size=7)
        expected = np.asarray(classifier(jnp.asarray(moved.image)).argmax(-1)) == labels
        np.testing.assert_array_equal(right(epsilon), expected)


@given(turns=st.lists(st.floats(0.01, 0.99), min_size=1, max_size=9, unique=True), data=st.data())
def test_the_epsilon_of_a_count_is_where_so_many_have_turned(turns, data):
    count = data.draw(st.integers(1, len(turns)))
    found = epsilon_of_count(lambda epsilon: np.array(turns) > epsilon, count, 1.0, 30)
    assert found == pytest.approx(sorted(turns)[count - 1], abs=1e-6)


def test_a_count_that_is_never_reached_is_refused():
    with pytest.raises(ValueError, match="count=2 cannot be reached: at epsilon 1 1 images are wrong"):
        epsilon_of_count(lambda epsilon: np.array([0.5, 9.0]) > epsilon, 2, 1.0)
