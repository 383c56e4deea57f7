"""Classifiers from NNX, Linen and functions: evaluation mode, and new weights without a new trace."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

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
