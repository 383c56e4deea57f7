"""AutoAttack: which member attacks which image, and that `robust_accuracy` on the host finds the same."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from advjax import Failure, auto_attack, fgs, from_function, perturb, stack
from advjax.attacks import Attack, AutoAttack, Number, Problem, State
from advjax.evaluate import robust_accuracy
from advjax.value import number, static, value
from tests.models_for_tests import linear, linear_weights

ATTACKED: list[tuple[str, int]] = []


def brightness(weights, images):
    """Answers 0 above the threshold, 1 below."""
    mean = images.mean((1, 2, 3))
    return jnp.stack([mean, weights - mean], -1)


@value
class Darker(Attack):
    """Darkens by `amount`, and leaves word of each image that it is given: its first pixel."""

    amount: Number = number()
    name: str = static()
    random = True

    def step(self, problem: Problem, state: State) -> State:
        def told(pixel: Any, key: Any) -> None:
            ATTACKED.append((self.name, round(float(pixel) * 255), int(np.asarray(key).sum() % 1000)))

        jax.debug.callback(told, problem.image[0, 0, 0], jax.random.key_data(state.key))
        darker = jnp.clip(jnp.round((state.image - self.amount) * 255) / 255, 0.0, 1.0)
        return state._replace(image=darker, calls=state.calls + 7)


LEVELS = np.array([110, 150, 190, 230, 90], np.float32)
IMAGES = np.broadcast_to(LEVELS[:, None, None, None] / np.float32(255), (5, 2, 2, 1)).copy()
LABELS = np.zeros(5, np.int32)  # the last one is a clean mistake
THREE = AutoAttack(tuple(Darker(n / 255, name) for name, n in zip("abc", (20, 60, 95), strict=True)), ("a", "b", "c"))
THRESHOLD = from_function(brightness, jnp.float32(2 * 100 / 255))
KEY = jax.random.key(3)


def test_on_the_host_each_member_is_given_what_those_before_it_left():
    ATTACKED.clear()
    found = robust_accuracy(THRESHOLD, IMAGES, LABELS, THREE, key=KEY, batch_size=5)
    jax.effects_barrier()
    given = {name: sorted({pixel for who, pixel, _ in ATTACKED if who == name}) for name in "abc"}
    assert given == {"a": [110, 150, 190, 230], "b": [150, 190, 230], "c": [190, 230]}
    assert found.fell == {"a": 1, "b": 1, "c": 1}
    np.testing.assert_array_equal(found.by, [0, 1, 2, -1, -1])
    # Clean mistakes are errors.
    np.testing.assert_array_equal(found.correct, [False, False, False, True, False])
    assert (found.clean.value, found.accuracy.value) == (0.8, 0.2)
    np.testing.assert_array_equal(np.round(found.images[:, 0, 0, 0] * 255), [90, 90, 95, 230, 90])


def test_as_one_attack_it_finds_the_same_from_the_same_draws():
    result = perturb(THREE, THRESHOLD, jnp.asarray(IMAGES), jnp.asarray(LABELS), KEY)
    found = robust_accuracy(THRESHOLD, IMAGES, LABELS, THREE, key=KEY, batch_size=2)
    np.testing.assert_array_equal(result.image, found.images)
    np.testing.assert_array_equal(result.success, found.by >= 0)
    # Seven of each member that it was given to, a look at what it did, the clean image and the verdict.
    members = np.where(found.by >= 0, found.by + 1, 3) * (LEVELS > 100)
    np.testing.assert_array_equal(result.calls, 2 + 8 * members)
    assert set(np.asarray(result.failure)[[3]]) == {Failure.NOT_FOOLED}


def test_the_members_draw_apart_and_alike_in_both():
    ATTACKED.clear()
    perturb(THREE, THRESHOLD, jnp.asarray(IMAGES[3:4]), jnp.asarray(LABELS[3:4]), KEY)
    jax.effects_barrier()
    once = set(ATTACKED)
    assert len({draw for *_, draw in once}) == 3
    ATTACKED.clear()
    robust_accuracy(THRESHOLD, IMAGES[3:4], LABELS[3:4], THREE, key=KEY, batch_size=1, devices=jax.devices()[:1])
    jax.effects_barrier()
    assert set(ATTACKED) == once


def test_in_a_batch_no_member_runs_once_all_images_are_done():
    ATTACKED.clear()
    perturb(THREE, THRESHOLD, jnp.asarray(IMAGES[:2]), jnp.asarray(LABELS[:2]), KEY)
    jax.effects_barrier()
    assert {name for name, *_ in ATTACKED} == {"a", "b"}


def test_a_run_that_was_killed_goes_on_and_another_one_is_refused(tmp_path):
    options = {"key": KEY, "batch_size": 2, "folder": tmp_path}
    found = robust_accuracy(THRESHOLD, IMAGES, LABELS, THREE, **options)
    stored = sorted((tmp_path / "chunks").iterdir())
    # All five clean; of those left four, three and two.
    assert len(stored) == 3 + 2 + 2 + 1
    stored[-1].unlink()
    times = [path.stat().st_mtime_ns for path in stored[:-1]]
    ATTACKED.clear()
    again = robust_accuracy(THRESHOLD, IMAGES, LABELS, THREE, **options)
    jax.effects_barrier()
    assert {name for name, *_ in ATTACKED} == {"c"}
    np.testing.assert_array_equal(again.images, found.images)
    assert again.fell == found.fell
    assert [path.stat().st_mtime_ns for path in stored[:-1]] == times
    with pytest.raises(ValueError, match="differs in key"):
        robust_accuracy(THRESHOLD, IMAGES, LABELS, THREE, **{**options, "key": jax.random.key(4)})


@pytest.mark.slow
def test_the_four_of_the_paper_find_the_same_in_any_batches():
    """On a linear model, whose distances to the boundary are a certificate that no attack may break."""
    # Far from 0 and 1, so that the box does not matter.
    images = 0.5 + 0.02 * np.random.default_rng(0).normal(size=(9, 6, 6, 1))
    images = (np.round(images * 255) / np.float32(255)).astype(np.float32)
    weights = {"w": linear_weights(7, classes=5)["w"] * 0.1, "b": jnp.zeros(5)}
    classifier = from_function(linear, weights)
    w = np.asarray(weights["w"], np.float64)
    logits = images.reshape(9, -1) @ w
    labels = logits.argmax(-1).astype(np.int32)
    gaps = logits[np.arange(9), labels][:, None] - logits
    sizes = np.abs(w[:, None, :] - w[:, labels, None]).sum(0)
    distances = np.where(gaps > 0, gaps / np.where(sizes > 0, sizes, 1), np.inf).min(1)
    labels[0] = (labels[0] + 1) % 5
    # One gray level more than the distance is enough, whatever rounding costs; a tenth less never is.
    inside = np.arange(9) % 2 == 1
    radii = np.where(inside, distances + 1 / 255, 0.9 * distances).astype(np.float32)
    attack = auto_attack("linf", radii, steps=5, targets=2, queries=15)
    whole = perturb(attack, classifier, jnp.asarray(images), jnp.asarray(labels), KEY)
    found = robust_accuracy(classifier, images, labels, attack, key=KEY, batch_size=4)
    np.testing.assert_array_equal(whole.success, inside)
    np.testing.assert_array_equal(found.by >= 0, inside)
    np.testing.assert_array_equal(found.images, whole.image)
    np.testing.assert_array_equal(found.correct, ~inside & (np.arange(9) > 0))
    assert sum(found.fell.values()) == inside.sum()
    linf = np.abs(found.images - images).max((1, 2, 3))
    assert np.all(linf <= radii + 1e-6)


def test_the_versions_are_those_of_the_papers():
    assert auto_attack("linf", 0.1).names == ("apgd-ce", "apgd-t", "fab-t", "square")
    assert auto_attack("l2", 0.1, "plus").names == ("apgd-ce", "apgd-dlr", "fab", "square", "apgd-t", "fab-t")
    linf, l1 = auto_attack("linf", 0.1).members, auto_attack("l1", 3.0).members
    assert [member.steps for member in linf[:3]] == [100, 100, 100]
    assert (linf[1].targets, linf[2].targets, linf[3].queries) == (9, 9, 5000)
    assert [member.restarts for member in linf[:3]] == [1, 1, 1]
    assert (len(l1), l1[0].restarts, l1[1].targets, l1[2].targets) == (3, 5, 5, 9)
    plus = auto_attack("linf", 0.1, "plus").members
    assert [member.restarts for member in (*plus[:3], plus[4], plus[5])] == [5, 5, 5, 1, 1]


@pytest.mark.filterwarnings("ignore:the classifier draws random numbers")
@pytest.mark.filterwarnings("ignore:classifier. the model draws random numbers")
def test_the_version_for_random_models_climbs_the_mean_over_draws():
    weights = jnp.asarray(np.random.default_rng(5).choice(np.float32([-1, 1]), 64))
    images = (np.random.default_rng(1).integers(100, 156, (12, 8, 8, 1)) / np.float32(255)).astype(np.float32)
    labels = np.asarray((images.reshape(12, -1) - 0.5) @ np.asarray(weights) < 0, np.int32)

    def dropping(variables, images):
        """Sees an eighth of the pixels, at random; never answers 2."""
        key, weights = variables
        kept = jax.random.bernoulli(key, 1 / 8, (1, *images.shape[1:])).astype(images.dtype)
        score = ((images - 0.5) * kept).reshape(images.shape[0], -1) @ weights
        return 20 * jnp.stack([score, -score, jnp.full_like(score, -9.0)], -1)

    classifier = from_function(dropping, (jax.random.key(3), weights))
    rand = auto_attack("linf", 0.05, "rand", steps=8, draws=16)
    assert rand.names == ("apgd-ce", "apgd-dlr")
    one = AutoAttack(tuple(member.attack for member in rand.members), rand.names)
    left = [
        robust_accuracy(classifier, images, labels, attack, key=KEY, draws=31).accuracy.value for attack in (one, rand)
    ]
    assert left[0] > 0.3
    assert left[1] == 0
    assert [member.view.draws for member in auto_attack("l2", 0.1, "rand").members] == [20, 20]


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: auto_attack("l3", 0.1), 'norm must be "linf"'),
        (lambda: auto_attack("linf", 0.1, "best"), 'version must be "standard", "plus"'),
        (lambda: auto_attack("linf", -0.1), "epsilon must be a finite number of 0 or more"),
        (lambda: AutoAttack((), ()), "members must be one attack or more"),
        (lambda: AutoAttack((fgs(0.1),), ("a", "b")), "members must be one attack or more, each with a name"),
        (lambda: AutoAttack((stack([fgs(0.1)]),), ("a",)), "attack must be a single attack"),
    ],
)
def test_bad_settings_are_named(build, message):
    with pytest.raises(ValueError, match=message):
        build()


def test_another_kind_of_attack_is_refused_on_the_host():
    with pytest.raises(TypeError, match="attack must be an AutoAttack"):
        robust_accuracy(THRESHOLD, IMAGES, LABELS, fgs(0.1), key=KEY)
