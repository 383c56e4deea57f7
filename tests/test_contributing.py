"""The attack, the direction and the constraint of CONTRIBUTING, as written there, keep what every attack promises."""

import re
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest

from advjax import Failure, from_function, perturb, stack
from advjax.attacks import All, Box, CrossEntropy, Fixed, LinfBall, Move, Repeat, Sign
from tests.attacks.test_attacks import ATTACKS
from tests.models_for_tests import grid_images, linear, linear_weights

(SKELETONS,) = re.findall(
    r"```python\n(.*?)```", (Path(__file__).parents[1] / "CONTRIBUTING.md").read_text(), re.DOTALL
)
IMAGES = jnp.asarray(grid_images(0, (6, 6, 6, 1)))
TRACES = []


def traced(weights, images):
    TRACES.append(images.shape)
    return linear(weights, images)


CLASSIFIER = from_function(traced, linear_weights())
LABELS = CLASSIFIER(IMAGES).argmax(-1)


def skeletons(text=SKELETONS):
    scope = {}
    exec(text, scope)
    return scope


def test_the_attack_keeps_what_every_attack_promises():
    one_step = skeletons()["OneStep"]
    result = perturb(one_step(0.3), CLASSIFIER, IMAGES, LABELS)
    change = np.abs(np.asarray(result.image) - np.asarray(IMAGES))
    assert change.max() <= 0.3 + 1e-6
    assert result.image.min() >= 0
    assert result.image.max() <= 1
    np.testing.assert_array_equal(result.calls, np.full(6, 3))
    np.testing.assert_array_equal(result.prediction, CLASSIFIER(result.image).argmax(-1))
    assert np.all(result.success)
    assert np.all(np.asarray(result.prediction) != np.asarray(LABELS))
    assert not np.any(result.failure)
    assert not np.any(result.non_finite)
    # Other numbers are the same program, the same ones the same bits.
    traces = len(TRACES)
    none = perturb(one_step(0.0), CLASSIFIER, IMAGES, LABELS)
    again = perturb(one_step(0.3), CLASSIFIER, IMAGES, LABELS)
    assert len(TRACES) == traces
    assert set(np.asarray(none.failure)) == {Failure.NOT_FOOLED}
    np.testing.assert_array_equal(again.image, result.image)
    # A radius for each image, and a stack.
    mixed = perturb(one_step(np.array([0.3, 0, 0.3, 0, 0, 0])), CLASSIFIER, IMAGES, LABELS)
    np.testing.assert_array_equal(mixed.success, [1, 0, 1, 0, 0, 0])
    both = perturb(stack([one_step(0.0), one_step(0.3)]), CLASSIFIER, IMAGES, LABELS)
    np.testing.assert_array_equal(both.image[1], result.image)


def test_direction_and_constraint_are_parts_of_a_move():
    scope = skeletons()
    allowed = All((LinfBall(0.3), Box(), scope["Brighter"]()))
    attack = Repeat(Move(CrossEntropy(), scope["MeanScaled"](), Fixed(0.1), allowed), 3)
    result = perturb(attack, CLASSIFIER, IMAGES, LABELS)
    change = np.asarray(result.image) - np.asarray(IMAGES)
    assert change.min() == 0
    assert 0.1 < change.max() <= 0.3 + 1e-6
    assert np.any(result.success)
    still = perturb(attack, CLASSIFIER, jnp.ones_like(IMAGES), LABELS)
    np.testing.assert_array_equal(still.image, np.ones_like(IMAGES))


def test_a_class_that_derives_from_no_kind_is_told_so():
    one_step = skeletons(SKELETONS.replace("(Attack)", ""))["OneStep"]
    with pytest.raises(TypeError, match=r"a class of your own derives from advjax.attacks.Attack: see CONTRIBUTING"):
        perturb(one_step(0.3), CLASSIFIER, IMAGES, LABELS)
    brighter = skeletons(SKELETONS.replace("(Constraint)", ""))["Brighter"]
    with pytest.raises(TypeError, match=r"derives from its kind in advjax.attacks, Objective.*got Brighter"):
        perturb(Move(CrossEntropy(), Sign(), Fixed(0.1), brighter()), CLASSIFIER, IMAGES, LABELS)


def test_the_table_of_attacks_has_every_attack_and_what_it_asks():
    text = (Path(__file__).parents[1] / "CONTRIBUTING.md").read_text().split("## The attacks")[1].split("## Add a")[0]
    rows = [line.split(" | ") for line in text.splitlines() if line.startswith("| `")]
    asks = {name: row[3] for row in rows for name in re.findall(r"`(\w+)`", row[0])}
    assert all(len(row) == 5 for row in rows)
    for name, attack in {name.split()[0]: make() for name, make in ATTACKS.items()}.items():
        assert attack.asks in asks[name] or asks[name] == "its attack's", name
    beside = {"generated", "universal_perturbation", "universal_patch", "pass_bounded"}
    assert set(asks) - beside == {name.split()[0] for name in ATTACKS}
