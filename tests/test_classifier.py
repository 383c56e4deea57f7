"""Classifiers from NNX, Linen and functions: evaluation mode, and new weights without a new trace."""

import dataclasses
import os
import pickle
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen, nnx

from advjax import from_function, from_linen, from_nnx
from tests.models_for_tests import LinenNet, NnxNet, NnxNetWithSwitch, grid_images, linear, linear_weights

IMAGES = jnp.asarray(grid_images(0, (3, 8, 8, 1)))


def test_nnx_is_evaluated_with_stored_statistics_and_without_dropout():
    model = NnxNet(nnx.Rngs(0))
    model.norm.mean[...] = jnp.full(4, 0.3)
    classifier = from_nnx(model)
    np.testing.assert_array_equal(classifier(IMAGES), classifier(IMAGES))
    # With stored statistics an image's logits do not depend on its batch.
    np.testing.assert_allclose(classifier(IMAGES)[:1], classifier(IMAGES[:1]), rtol=1e-5, atol=1e-6)
    model.eval()
    np.testing.assert_allclose(classifier(IMAGES), model(IMAGES), rtol=1e-6)


def test_nnx_switches_of_the_call_are_set_to_evaluation():
    model = NnxNetWithSwitch(nnx.Rngs(0))
    np.testing.assert_allclose(from_nnx(model)(IMAGES), model(IMAGES, train=False), rtol=1e-6)


def test_nnx_model_itself_is_left_in_training_mode():
    model = NnxNet(nnx.Rngs(0))
    from_nnx(model)
    assert not model.norm.use_running_average
    assert not model.dropout.deterministic


def test_linen_is_evaluated_like_apply_with_train_false():
    net = LinenNet()
    variables = net.init(jax.random.key(0), IMAGES, train=False)
    np.testing.assert_array_equal(from_linen(net, variables)(IMAGES), net.apply(variables, IMAGES, train=False))


def test_linen_call_options_go_first():
    net = LinenNet()
    variables = net.init(jax.random.key(0), IMAGES, train=False)
    with pytest.raises(Exception, match="immutable"):
        from_linen(net, variables, train=True)(IMAGES)


@pytest.mark.parametrize("kind", ["nnx", "linen", "function"])
def test_new_weights_cause_no_new_trace(kind):
    traces = []

    @jax.jit
    def logits(classifier, images):
        traces.append(1)
        return classifier(images)

    def build(seed):
        if kind == "nnx":
            return from_nnx(NnxNet(nnx.Rngs(seed)))
        if kind == "linen":
            return from_linen(LinenNet(), LinenNet().init(jax.random.key(seed), IMAGES, train=False))
        return from_function(linear, linear_weights(seed, pixels=64))

    first, second = logits(build(0), IMAGES), logits(build(1), IMAGES)
    assert len(traces) == 1
    assert not np.array_equal(first, second)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: from_nnx(lambda x: x), "model must be a flax.nnx.Module"),
        (lambda: from_linen(lambda x: x, {}), "module must be a flax.linen.Module"),
        (lambda: from_linen(LinenNet(), {"kernel": 1}), 'with a "params" entry'),
        (lambda: from_function(3, {}), "function must be callable"),
    ],
)
def test_what_is_no_model_is_refused(build, message):
    with pytest.raises((TypeError, ValueError), match=message):
        build()


class Dial(nnx.Module):
    """A linear layer that answers zero outside evaluation, whatever its switch is called."""

    def __init__(self, name, *, default=None, held=False):
        self.weights = nnx.Param(jnp.ones((64, 3)))
        self.name, self.held = name, held
        if held:
            setattr(self, name, default)

    def answer(self, images, setting):
        return jnp.where(setting == EVALUATION[self.name], images.reshape(images.shape[0], -1) @ self.weights[...], 0.0)


def dial(name, signature):
    """A `Dial` whose `__call__` takes the switch `name` as `signature` says: "" for none, "=True", "=None"."""
    program = f"def __call__(self, images, {name}{signature}): return self.answer(images, {name})"
    scope = {}
    exec(program, scope)
    return type("Called", (Dial,), {"__call__": scope["__call__"]})(name)


class Held(Dial):
    def __call__(self, images):
        return self.answer(images, getattr(self, self.name))


EVALUATION = {
    "train": False, "training": False, "is_train": False, "is_training": False, "enable_dropout": False,
    "deterministic": True, "use_running_average": True, "eval": True, "is_eval": True, "test": True, "inference": True,
}  # fmt: skip


@pytest.mark.parametrize("name", EVALUATION)
def test_a_switch_is_known_by_its_name(name):
    """As an argument with and without a default, and as an attribute; nested modules too."""
    wanted = IMAGES.reshape(3, -1) @ jnp.ones((64, 3))
    for signature in ("", f"={not EVALUATION[name]}", "=None"):
        np.testing.assert_allclose(from_nnx(dial(name, signature))(IMAGES), wanted, rtol=1e-5)
    held = Held(name, default=not EVALUATION[name], held=True)
    for model in (held, nnx.Sequential(held)):
        np.testing.assert_allclose(from_nnx(model)(IMAGES), wanted, rtol=1e-5)
    assert getattr(held, name) is not EVALUATION[name]


def test_an_argument_of_such_a_name_that_is_no_switch_stays():
    class Net(nnx.Module):
        def __call__(self, images, test="name", eval=3):
            assert test == "name"
            assert eval == 3
            return images.mean((1, 2))

    from_nnx(Net())(IMAGES)


def test_linen_fields_are_switches_too():
    class Net(linen.Module):
        is_training: bool = True
        train: bool = True

        @linen.compact
        def __call__(self, images, train=None):
            assert not linen.merge_param("train", self.train, train)
            x = linen.Dropout(0.5, deterministic=not self.is_training)(images)
            return linen.Dense(3)(x.reshape(x.shape[0], -1))

    variables = Net(is_training=False, train=False).init(jax.random.key(0), IMAGES)
    net = Net()
    assert from_linen(net, variables)(IMAGES).shape == (3, 3)
    assert net.is_training


class Centered(linen.Module):
    """With attributes that have no hash."""

    mean: object
    names: object = ()

    @linen.compact
    def __call__(self, x, shift=0.0):
        return linen.Dense(3)((x - jnp.asarray(self.mean) + shift).reshape(x.shape[0], -1))


class WithList(nnx.Module):
    def __init__(self, names):
        self.names = names
        self.dense = nnx.Linear(64, 3, rngs=nnx.Rngs(0))

    def __call__(self, x):
        return self.dense(x.reshape(x.shape[0], -1)) + len(self.names)


@dataclasses.dataclass
class Callable:
    """Compared by value, and so without a hash."""

    mean: np.ndarray

    def __call__(self, weights, images):
        return linear(weights, images - self.mean)


MEAN = np.float32([[[[0.5]]]])
VARIABLES = Centered(MEAN).init(jax.random.key(0), IMAGES)


@pytest.mark.parametrize(
    ("same", "other"),
    [
        (lambda: from_linen(Centered(MEAN.copy()), VARIABLES), lambda: from_linen(Centered(MEAN + 1), VARIABLES)),
        (
            lambda: from_linen(Centered(jnp.array(MEAN)), VARIABLES),
            lambda: from_linen(Centered(np.float64(MEAN)), VARIABLES),
        ),
        (lambda: from_linen(Centered([[[[0.5]]]]), VARIABLES), lambda: from_linen(Centered([[[[0.25]]]]), VARIABLES)),
        (
            lambda: from_linen(Centered(0.5, {"a": MEAN.copy()}), VARIABLES),
            lambda: from_linen(Centered(0.5, {"a": MEAN + 1}), VARIABLES),
        ),
        (
            lambda: from_linen(Centered(0.5), VARIABLES, shift=MEAN.copy()),
            lambda: from_linen(Centered(0.5), VARIABLES, shift=MEAN + 1),
        ),
        (lambda: from_nnx(WithList([1, 2])), lambda: from_nnx(WithList([1, 2, 3]))),
        (
            lambda: from_function(Callable(MEAN.copy()), linear_weights(0, 64)),
            lambda: from_function(Callable(MEAN + 1), linear_weights(0, 64)),
        ),
    ],
    ids=["array", "jax array", "list", "dict", "option", "nnx list", "callable"],
)
def test_parts_without_a_hash_are_compared_by_value(same, other):
    traces = []

    @jax.jit
    def logits(classifier, images):
        traces.append(1)
        return classifier(images)

    first, second = logits(same(), IMAGES), logits(same(), IMAGES)
    assert len(traces) == 1
    np.testing.assert_array_equal(first, second)
    logits(other(), IMAGES)
    assert len(traces) == 2


def test_a_classifier_is_pickled_to_another_process():
    """There types and strings have other hashes; what is made there is equal to what came."""
    program = (
        "import pickle, sys, jax\n"
        "from flax import nnx\n"
        "from advjax import from_nnx\n"
        "from tests.models_for_tests import NnxNet\n"
        "came, made = pickle.load(sys.stdin.buffer), from_nnx(NnxNet(nnx.Rngs(0)))\n"
        "assert jax.tree.structure(made) == jax.tree.structure(came)\n"
        "assert {made.apply.graphdef: 1}[came.apply.graphdef]\n"
    )
    pickled = pickle.dumps(from_nnx(NnxNet(nnx.Rngs(0))))
    environment = os.environ | {"PYTHONHASHSEED": "1"}
    subprocess.run([sys.executable, "-c", program], input=pickled, env=environment, check=True)


class Noisy(nnx.Module):
    """A linear layer with noise on its input, drawn from a stream of its own."""

    def __init__(self, scale, rngs):
        self.scale = scale
        self.dense = nnx.Linear(64, 3, rngs=rngs)
        self.dropout = nnx.Dropout(0.5, rngs=rngs)
        self.rngs = rngs.fork()

    def __call__(self, x):
        noise = jax.random.normal(self.rngs.noise(), x.shape) if self.scale else 0.0
        return self.dense(self.dropout((x + self.scale * noise).reshape(x.shape[0], -1)))


def noisy_function(variables, images):
    noise = jax.random.normal(variables["key"], images.shape)
    return linear(variables["weights"], images + noise)


class NoisyLinen(linen.Module):
    @linen.compact
    def __call__(self, x):
        noise = jax.random.normal(self.make_rng("noise"), x.shape)
        return linen.Dense(3)((x + noise).reshape(x.shape[0], -1))


def noisy_linen(key):
    variables = NoisyLinen().init({"params": jax.random.key(0), "noise": key}, IMAGES)
    return from_linen(NoisyLinen(), variables, rngs={"noise": key})


@pytest.mark.parametrize(
    "classifier",
    [
        from_nnx(Noisy(0.3, nnx.Rngs(0))),
        from_function(noisy_function, {"key": jax.random.key(0), "weights": linear_weights(0, 64, 3)}),
        noisy_linen(jax.random.key(1)),
        noisy_linen(jax.random.PRNGKey(1)),
        from_function(noisy_function, {"key": jax.random.key(0, impl="rbg"), "weights": linear_weights(0, 64, 3)}),
    ],
    ids=["nnx", "function", "linen", "old key", "rbg"],
)
def test_a_random_model_is_frozen_and_can_be_reseeded(classifier):
    assert classifier.draws(IMAGES)
    np.testing.assert_array_equal(classifier(IMAGES), classifier(IMAGES))
    drawn = [np.asarray(classifier.reseeded(jax.random.key(seed))(IMAGES)) for seed in (1, 1, 2)]
    np.testing.assert_array_equal(drawn[0], drawn[1])
    assert (np.abs(drawn[0] - drawn[2]) > 1e-4).all()
    assert (np.abs(drawn[0] - classifier(IMAGES)) > 1e-4).all()
    other = classifier.reseeded(jax.random.key(3))
    assert jax.tree.structure(other) == jax.tree.structure(classifier)
    assert [leaf.dtype for leaf in jax.tree.leaves(other)] == [leaf.dtype for leaf in jax.tree.leaves(classifier)]


@pytest.mark.parametrize(
    "classifier",
    [from_nnx(Noisy(0.0, nnx.Rngs(0))), from_nnx(NnxNet(nnx.Rngs(0))), from_function(linear, linear_weights(0, 64))],
    ids=["streams unused", "dropout", "no keys"],
)
def test_a_model_that_holds_keys_but_uses_none_is_no_random_one(classifier):
    assert not classifier.draws(IMAGES)
