"""Auto-PGD against the paper's algorithm written out, and where plain PGD is blind."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from advjax import from_function, perturb, pgd
from advjax.attacks import DLR, TargetedDLR, apgd, targeted
from advjax.attacks.apgd import checkpoints
from tests.models_for_tests import convolutional, convolutional_weights, grid_images


def reference(read, project, direction, clean, epsilon, steps):
    """Algorithm 1 of Croce & Hein 2020 for one image; `read(x) -> (f, grad f)`.  Returns every x."""
    p = [0.0, 0.22]
    while p[-1] <= 1:
        p.append(p[-1] + max(p[-1] - p[-2] - 0.03, 0.06))
    marks = [math.ceil(round(share * steps, 9)) for share in p if share <= 1]
    eta = 2 * epsilon
    f, gradient = read(clean)
    xs = [clean]
    best, best_f, best_gradient = clean, f, gradient
    etas, bests, counted = {0: eta}, {0: f}, {}
    x, previous = clean, clean
    for k in range(steps):
        z = project(x + eta * direction(gradient))
        new = z if k == 0 else project(x + 0.75 * (z - x) + 0.25 * (x - previous))
        new_f, new_gradient = read(new)
        xs.append(new)
        counted[k] = new_f > f
        if new_f > best_f:
            best, best_f, best_gradient = new, new_f, new_gradient
        previous, x, f, gradient = x, new, new_f, new_gradient
        if k + 1 in marks:
            last = marks[marks.index(k + 1) - 1]
            bests[k + 1] = best_f
            few = sum(counted[i] for i in range(last, k + 1)) < 0.75 * (k + 1 - last)
            # eta at the last checkpoint, before it was looked at: the same as now if it was not halved there.
            flat = etas[last] == eta and bests[last] == best_f
            etas[k + 1] = eta
            if few or flat:
                eta, x, f, gradient = eta / 2, best, best_f, best_gradient
    return xs


def dlr(logits, label, target):
    order = np.sort(logits)[::-1]
    return (logits[target] - logits[label]) / (order[0] - 0.5 * (order[2] + order[3]))


@pytest.mark.parametrize(
    ("norm", "objective"),
    [
        ("linf", "dlr-targeted"),
        ("l2", "ce"),
        pytest.param("linf", "ce", marks=pytest.mark.slow),
        pytest.param("l2", "dlr-targeted", marks=pytest.mark.slow),
    ],
)
def test_it_is_the_papers_algorithm_in_float64(norm, objective):
    steps, size = 40, np.float32({"linf": 0.06, "l2": 0.6}[norm])
    epsilon = float(size)
    with jax.enable_x64(True):
        weights = jax.tree.map(lambda w: jnp.asarray(w, jnp.float64), convolutional_weights())
        classifier = from_function(convolutional, weights)
        images = jnp.asarray(np.random.default_rng(0).random((3, 8, 8, 1)))
        clean_logits = np.asarray(classifier(images))
        labels, targets = np.argsort(clean_logits, axis=1)[:, :-3:-1].T
        attack = apgd(size, norm=norm, steps=steps, objective=objective, targets=1, random_start=False, levels=None)
        result = perturb(attack, classifier, images, jnp.asarray(labels))

        @jax.jit
        @jax.value_and_grad
        def graded(x, label, target):
            logits = convolutional(weights, x[None])[0]
            order = jnp.sort(logits)
            ratio = (logits[target] - logits[label]) / (order[-1] - 0.5 * (order[-3] + order[-4]))
            return ratio if objective == "dlr-targeted" else -jax.nn.log_softmax(logits)[label]

        for clean, label, target, got in zip(np.asarray(images), labels, targets, result.image, strict=True):

            def project(x, clean=clean):
                change = x - clean
                shrunk = change * min(1, epsilon / max(np.linalg.norm(change), 1e-30))
                return np.clip(clean + (np.clip(change, -epsilon, epsilon) if norm == "linf" else shrunk), 0, 1)

            def direction(g):
                return np.sign(g) if norm == "linf" else g / np.linalg.norm(g)

            def read(x, label=label, target=target):
                return tuple(map(np.asarray, graded(x, label, target)))

            points = np.stack(reference(read, project, direction, clean, epsilon, steps))
            logits = np.asarray(classifier(jnp.asarray(points)))
            margins = np.delete(logits, label, axis=1).max(1) - logits[:, label]
            np.testing.assert_allclose(got, points[margins.argmax()], atol=1e-9)


def test_checkpoints_are_those_of_the_paper():
    assert checkpoints(100) == [0, 22, 41, 57, 70, 80, 87, 93, 99]
    assert checkpoints(1) == [0, 1]


def test_the_ratio_is_numpys_and_forgets_shift_and_scale():
    logits = np.array([1.5, -0.5, 3.0, -2.0, 0.25], np.float32)
    clean = jnp.asarray(logits)
    got = TargetedDLR(2)(clean, jnp.int32(2), clean)
    assert got == pytest.approx(dlr(logits, 2, 4), rel=1e-6)
    assert TargetedDLR(2)(clean * 50 + 7, jnp.int32(2), clean) == pytest.approx(float(got), rel=1e-5)
    with pytest.raises(ValueError, match="needs 4 classes or more, got 3"):
        TargetedDLR()(clean[:3], jnp.int32(0), clean[:3])
    for label, other in ((2, 0), (0, 2)):
        untargeted = DLR()(clean * 50 + 7, jnp.int32(label), clean)
        assert untargeted == pytest.approx((logits[other] - logits[label]) / (3.0 - 0.25), rel=1e-5)
    with pytest.raises(ValueError, match="needs 3 classes or more, got 2"):
        DLR()(clean[:2], jnp.int32(0), clean[:2])


@pytest.fixture(scope="module")
def trained():
    """A small network trained to tell five noisy patterns, and images of them."""
    rng = np.random.default_rng(0)
    patterns = rng.random((5, 8, 8, 1))
    labels = rng.integers(0, 5, 512)
    images = np.clip(0.5 + 0.5 * (patterns[labels] - 0.5) + 0.12 * rng.normal(size=(512, 8, 8, 1)), 0, 1)
    images, labels = jnp.asarray(np.round(images * 255) / 255, jnp.float32), jnp.asarray(labels, jnp.int32)

    def loss(weights):
        return optax.softmax_cross_entropy_with_integer_labels(convolutional(weights, images), labels).mean()

    weights, tx = convolutional_weights(), optax.adam(3e-3)

    @jax.jit
    def step(weights, state):
        updates, state = tx.update(jax.grad(loss)(weights), state)
        return optax.apply_updates(weights, updates), state

    with jax.numpy_dtype_promotion("standard"):  # optax mixes integers and floats
        state = tx.init(weights)
        for _ in range(300):
            weights, state = step(weights, state)
    right = np.asarray(convolutional(weights, images).argmax(-1) == labels)
    assert right.mean() > 0.95
    return weights, images[right][:96], labels[right][:96]


def scaled(weights, images):
    return 300.0 * convolutional(weights, images)


@pytest.mark.slow
def test_it_beats_plain_pgd_of_the_same_steps(trained):
    weights, images, labels = trained
    classifier = from_function(convolutional, weights)
    key = jax.random.key(0)
    # The usual step, 2.5 epsilon / steps, and the radius at which PGD fools half of them.
    plain = perturb(pgd(0.04, step_size=0.04 * 2.5 / 30, steps=30), classifier, images, labels, key)
    ce = perturb(apgd(0.04, steps=30), classifier, images, labels, key)
    ratio = perturb(apgd(0.04, steps=30, objective="dlr-targeted", targets=4), classifier, images, labels, key)
    assert 0.1 < np.mean(plain.success) < 0.9
    assert np.mean(ce.success) >= np.mean(plain.success)
    assert np.mean(ratio.success) >= np.mean(plain.success)


@pytest.mark.slow
def test_the_ratio_sees_where_the_softmax_is_saturated(trained):
    weights, images, labels = trained
    key = jax.random.key(0)
    sharp = from_function(scaled, weights)
    plain = perturb(pgd(0.08, step_size=0.01, steps=20), sharp, images, labels, key)
    ratio = perturb(apgd(0.08, steps=20, objective="dlr-targeted", targets=4), sharp, images, labels, key)
    unscaled = perturb(
        apgd(0.08, steps=20, objective="dlr-targeted", targets=4),
        from_function(convolutional, weights),
        images,
        labels,
        key,
    )
    assert np.mean(plain.success) < 0.5
    assert np.mean(ratio.success) > np.mean(plain.success) + 0.3
    assert np.mean(ratio.success) == pytest.approx(float(np.mean(unscaled.success)), abs=0.05)


def test_rounding_loses_no_success(trained):
    weights, images, labels = trained
    classifier = from_function(convolutional, weights)
    for attack in (apgd(0.05, steps=20), apgd(0.5, norm="l2", steps=20)):
        result = perturb(attack, classifier, images, labels, jax.random.key(1))
        again = np.asarray(classifier(jnp.asarray(result.to_uint8() / np.float32(255))).argmax(-1))
        success = np.asarray(result.success)
        assert success.any()
        np.testing.assert_array_equal(again[success] != np.asarray(labels)[success], True)


def test_a_success_is_not_given_up_for_a_larger_lead_within_rounding_error():
    def growing(weights, images):
        """The first pixel fools; then the second raises the margin, to what its large logits make rounding error."""
        first, second = images[:, 0, 0, 0], images[:, 0, 1, 0]
        margin = first - 0.5 + jnp.where(first > 0.6, 0.3 * second, 0.0)
        shift = jnp.where(second > 0.7, weights, 0.0)
        return jnp.stack([shift, shift + margin], axis=-1)

    images, label = jnp.full((1, 1, 2, 1), 102 / 255, jnp.float32), jnp.zeros(1, jnp.int32)
    result = perturb(apgd(0.5, steps=5, random_start=False), from_function(growing, jnp.float32(4e6)), images, label)
    assert result.success[0]
    assert result.image[0, 0, 1, 0] < 0.7


def test_targets_and_restarts_only_help_and_stop_when_fooled(trained):
    weights, images, labels = trained
    classifier = from_function(convolutional, weights)
    key = jax.random.key(2)
    one = perturb(apgd(0.08, steps=2, objective="dlr-targeted", targets=1), classifier, images, labels, key)
    many = perturb(apgd(0.08, steps=2, objective="dlr-targeted", restarts=2), classifier, images, labels, key)
    assert np.all(np.asarray(many.success) | ~np.asarray(one.success))
    assert np.sum(many.success) > np.sum(one.success)
    # Runs of 3 calls each, of which there are 4 classes x 2; and 2 for clean image and verdict.
    np.testing.assert_array_equal((np.asarray(many.calls) - 2) % 3, 0)
    assert np.all(np.asarray(many.calls)[~np.asarray(many.success)] == 2 + 3 * 8)
    assert np.all(np.asarray(many.calls)[np.asarray(one.success)] == 2 + 3)


def test_targeted_reaches_its_class(trained):
    weights, images, labels = trained
    target = (labels + 1) % 5
    attack = targeted(apgd(0.4, steps=30), target)
    result = perturb(attack, from_function(convolutional, weights), images, labels, jax.random.key(0))
    assert np.mean(np.asarray(result.prediction) == np.asarray(target)) > 0.95


def test_no_gradient_is_no_direction():
    classifier = from_function(lambda w, x: jnp.round(convolutional(w, x)), convolutional_weights())
    images = jnp.asarray(grid_images(0, (3, 8, 8, 1)))
    result = perturb(apgd(0.01, steps=3), classifier, images, classifier(images).argmax(-1), jax.random.key(0))
    assert result.summary() == "0 of 3 succeeded; 3 NO_DIRECTION"


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: apgd(0.1, norm="l0"), 'norm must be "linf", "l2" or "l1"'),
        (lambda: apgd(0.1, objective="margin"), 'objective must be "ce", "dlr" or "dlr-targeted"'),
        (lambda: apgd(0.1, steps=0), "steps must be an integer of 1 or more"),
        (lambda: apgd(-0.1), "epsilon must be a finite number of 0 or more"),
        (lambda: apgd(0.1, restarts=2, random_start=False), "restarts must be 1 without random_start"),
        (lambda: targeted(apgd(0.1, objective="dlr-targeted"), 1), "attack must climb the cross-entropy or the margin"),
    ],
)
def test_bad_settings_are_refused(build, message):
    with pytest.raises(ValueError, match=message):
        build()
