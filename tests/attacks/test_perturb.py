"""perturb: one trace for many calls, per-image randomness, one result on any number of devices."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from advjax import fgs, fgv, from_function, from_linen, from_nnx, hard_positive, hot_cold, perturb, pgd
from advjax.attacks import Attack, BestOf, Problem, apgd, lbfgs, localized_pgd, square, steepest, targeted
from advjax.value import value
from tests.models_for_tests import (
    LinenNet,
    NnxNet,
    convolutional,
    convolutional_weights,
    grid_images,
    linear,
    linear_weights,
)

IMAGES = jnp.asarray(grid_images(3, (8, 8, 8, 1)))
LABELS = jnp.arange(8, dtype=jnp.int32) % 5
PGD = {"step_size": 0.03, "steps": 3}


@pytest.fixture
def traced():
    """A model that counts how often it is traced."""
    count = []

    def model(weights, images):
        count.append(1)
        return linear(weights, images)

    return model, count


@pytest.mark.parametrize(
    "calls",
    [
        # The attack built anew, with other numbers.
        [lambda: fgs(), lambda: fgs()],
        [lambda: fgs(0.1), lambda: fgs(0.2)],
        [lambda: fgv(mask=np.ones((8, 8, 1))), lambda: fgv(mask=np.eye(8)[..., None])],
        [lambda: hard_positive(fgv(), 1.05), lambda: hard_positive(fgv(), 1.1)],
        [lambda: hot_cold(1), lambda: hot_cold(3)],
        [lambda: hot_cold(targets=1), lambda: hot_cold(targets=2)],
        [lambda: hot_cold(ranks=(1, 2)), lambda: hot_cold(ranks=(3, 4))],
        # The table of test_attacks builds each attack anew; here with other numbers.
        *(
            pytest.param(calls, marks=pytest.mark.slow)
            for calls in (
                [lambda: pgd(0.1, **PGD), lambda: pgd(0.2, **PGD)],
                [lambda: steepest("l2", 0.1), lambda: steepest("l2", 0.2)],
                [lambda: localized_pgd("broad", 0.1, **PGD), lambda: localized_pgd("broad", 0.2, **PGD)],
                [lambda: targeted(pgd(0.1, **PGD), 1), lambda: targeted(pgd(0.2, **PGD), 2)],
                [lambda: apgd(0.1, steps=3), lambda: apgd(0.2, steps=3)],
                [lambda: square(0.1, queries=5), lambda: square(0.2, queries=5, p_init=0.5)],
                [lambda: lbfgs(1, steps=2, searches=2), lambda: lbfgs(2, steps=2, searches=2)],
            )
        ),
        # Numbers of JAX instead of Python's.
        [lambda: fgs(0.1), lambda: fgs(jnp.asarray(0.2))],
        [lambda: hot_cold(1), lambda: hot_cold(jnp.asarray(2))],
    ],
)
def test_nothing_that_keeps_its_shape_is_traced_again(calls, traced):
    model, count = traced
    perturb(calls[0](), from_function(model, linear_weights(0, 64, 5)), IMAGES, LABELS, jax.random.key(0))
    first = len(count)
    # The second call with new weights, images, labels, key and numbers.
    perturb(calls[1](), from_function(model, linear_weights(1, 64, 5)), IMAGES[::-1], LABELS[::-1], jax.random.key(1))
    assert len(count) == first


def test_draws_depend_on_key_and_index_alone():
    classifier = from_function(convolutional, convolutional_weights())
    attack = pgd(0.1, **PGD)
    whole = perturb(attack, classifier, IMAGES, LABELS, jax.random.key(7))
    keys = jax.vmap(jax.random.fold_in, (None, 0))(jax.random.key(7), jnp.arange(8))
    part = perturb(attack, classifier, IMAGES[4:7], LABELS[4:7], keys[4:7])
    np.testing.assert_array_equal(whole.image[4:7], part.image)
    other = perturb(attack, classifier, IMAGES, LABELS, jax.random.key(8))
    assert not np.array_equal(whole.image, other.image)


@pytest.mark.parametrize(
    "attack",
    [
        # A stack with a search, one that draws, one that stops early; three programs each.
        hot_cold(ranks=(1, 2), levels=None),
        pgd(0.1, levels=None, **PGD),
        apgd(0.1, steps=5, levels=None),
        *(
            pytest.param(attack, marks=pytest.mark.slow)
            for attack in (
                fgs(0.1, levels=None),
                fgv(levels=None),
                steepest("l2", 0.5, levels=None),
                localized_pgd("background", 0.1, levels=None, **PGD),
                square(0.5, norm="l2", queries=10, levels=None),
                lbfgs(steps=3, searches=3, levels=None),
            )
        ),
    ],
)
def test_alone_in_a_batch_and_on_eight_devices(attack):
    classifier = from_function(convolutional, convolutional_weights())
    labels = classifier(IMAGES).argmax(-1)
    key = jax.random.key(0)
    batch = perturb(attack, classifier, IMAGES, labels, key)
    assert len(jax.devices()) == 8
    mesh = jax.make_mesh((8,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    shards = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("data"))
    sharded = perturb(attack, classifier, *jax.device_put((IMAGES, labels), shards), key)
    np.testing.assert_allclose(sharded.image, batch.image, atol=1e-5)
    keys = jax.vmap(jax.random.fold_in, (None, 0))(key, jnp.arange(8))
    for index in range(8):
        one = slice(index, index + 1)
        alone = perturb(attack, classifier, IMAGES[one], labels[one], keys[one])
        np.testing.assert_allclose(alone.image, batch.image[..., one, :, :, :], atol=1e-5)


@pytest.mark.parametrize("axes", [jax.sharding.AxisType.Auto, jax.sharding.AxisType.Explicit])
@pytest.mark.parametrize("attack", [pgd(0.1, **PGD), hot_cold(ranks=(1, 2))], ids=["pgd", "stack"])
def test_sharded_images_stay_sharded(attack, axes):
    classifier = from_function(convolutional, convolutional_weights())
    mesh = jax.make_mesh((8,), ("data",), axis_types=(axes,))
    shards = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("data"))
    images, labels = jax.device_put((IMAGES, LABELS), shards)
    result = perturb(attack, classifier, images, labels, jax.random.key(0))
    assert {shard.data.shape[-4:] for shard in result.image.addressable_shards} == {(1, 8, 8, 1)}


@pytest.mark.parametrize("kind", ["nnx", "linen"])
def test_flax_models_with_batch_norm_and_dropout(kind):
    if kind == "nnx":
        classifier = from_nnx(NnxNet(nnx.Rngs(0)))
    else:
        net = LinenNet()
        classifier = from_linen(net, net.init(jax.random.key(0), IMAGES, train=False))
    labels = classifier(IMAGES).argmax(-1)
    result = perturb(hot_cold(ranks=range(1, 5)), classifier, IMAGES, labels)
    assert np.asarray(result.success).mean() > 0.9
    again = classifier(result.image.reshape(-1, 8, 8, 1)).argmax(-1).reshape(4, 8)
    np.testing.assert_array_equal(again, result.prediction)


def test_inside_a_users_jit_and_grad():
    classifier = from_function(convolutional, convolutional_weights())

    @jax.jit
    def adversarial_loss(weights):
        perturbed = perturb(fgs(0.1), from_function(convolutional, weights), IMAGES, LABELS)
        image = jax.lax.stop_gradient(perturbed.image)
        return -jax.nn.log_softmax(convolutional(weights, image))[jnp.arange(8), LABELS].mean()

    assert jnp.isfinite(jax.grad(adversarial_loss)(classifier.variables)["dense"]).all()


def test_an_attack_is_mapped_over():
    classifier = from_function(convolutional, convolutional_weights())
    sweep = jax.vmap(lambda attack: perturb(attack, classifier, IMAGES, LABELS).linf)(
        jax.vmap(fgs)(jnp.array([0.1, 0.2]))
    )
    np.testing.assert_allclose(sweep.max(-1), [25 / 255, 51 / 255], atol=1e-6)


def test_ranks_and_targets_are_mapped_over():
    classifier = from_function(convolutional, convolutional_weights())
    for build in (hot_cold, lambda target: hot_cold(targets=target)):
        mapped = jax.vmap(lambda n, build=build: perturb(build(n), classifier, IMAGES, LABELS).linf)(jnp.array([1, 2]))
        np.testing.assert_allclose(mapped[1], perturb(build(2), classifier, IMAGES, LABELS).linf, atol=1e-6)


@pytest.mark.parametrize(
    "attack",
    [
        fgs(),
        pgd(0.1, random_start=False, **PGD),
        pytest.param(apgd(0.1, steps=3, random_start=False), marks=pytest.mark.slow),
        pytest.param(lbfgs(steps=2, searches=2), marks=pytest.mark.slow),
    ],
)
def test_inside_a_users_shard_map(attack):
    classifier = from_function(convolutional, convolutional_weights())
    mesh = jax.make_mesh((8,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    split = jax.sharding.PartitionSpec("data")
    run = jax.shard_map(
        lambda images, labels: perturb(attack, classifier, images, labels).image,
        mesh=mesh, in_specs=(split, split), out_specs=split,
    )  # fmt: skip
    expected = perturb(attack, classifier, IMAGES, LABELS).image
    np.testing.assert_allclose(jax.jit(run)(IMAGES, LABELS), expected, atol=1.01 / 255)


def test_numpy_images_and_labels_are_taken():
    classifier = from_function(convolutional, convolutional_weights())
    np.testing.assert_array_equal(
        perturb(fgs(), classifier, np.asarray(IMAGES), np.asarray(LABELS, np.int64)).image,
        perturb(fgs(), classifier, IMAGES, LABELS).image,
    )


def test_float64_where_it_is_enabled():
    with jax.enable_x64(True):
        weights = jax.tree.map(lambda w: jnp.asarray(w, jnp.float64), convolutional_weights())
        images = jnp.asarray(np.round(np.asarray(IMAGES, np.float64) * 255) / 255)
        result = perturb(pgd(0.1, **PGD), from_function(convolutional, weights), images, LABELS, jax.random.key(0))
        assert result.image.dtype == jnp.float64
        single = perturb(pgd(1.0, norm="l1", **PGD), from_function(convolutional, convolutional_weights()),
                         IMAGES, LABELS, jax.random.key(0))  # fmt: skip
        assert single.image.dtype == jnp.float32
        np.testing.assert_array_equal(result.image, np.round(np.asarray(result.image) * 255) / 255)


def test_restarts_draw_from_keys_that_nothing_else_draws_from():
    seen = []

    @value
    class Listening(Attack):
        def step(self, problem, state):
            seen.append(state.key)
            return state

    image, label = jnp.zeros((2, 2, 1)), jnp.int32(0)
    problem = Problem(lambda image: jnp.zeros(3), image, label, jnp.zeros(3))
    attack, key = BestOf(Listening(), 3), jax.random.key(0)
    with jax.disable_jit():
        attack.step(problem, attack.init(problem, key))
    # The runs' own keys, what they may split them into, and the key that all of them come from.
    used = [key, *seen, *(child for own in seen for child in jax.random.split(own))]
    assert len(seen) == 3
    assert len({tuple(jax.random.key_data(each).tolist()) for each in used}) == len(used)
