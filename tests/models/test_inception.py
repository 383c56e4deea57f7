"""Inception-v3: torchvision's logits and head, the stem for small images, training."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from advjax.models.counting import abstract
from advjax.models.inception import InceptionV3
from advjax.models.taps import features
from advjax.models.weights import load_weights
from tests.models.networks_for_tests import assert_close, filled, loss_falls, our_logits
from tests.models.torchvision_models import randomized, torchvision_logits, torchvision_models, two_images


def _small(rngs):
    return InceptionV3(10, aux=False, small_images=True, width=0.0625, rngs=rngs)


@pytest.mark.peers
def test_logits_equal_those_of_torchvision(tmp_path):
    models, images = torchvision_models(), two_images(139)
    import torch

    theirs = randomized(lambda: models.Inception3(transform_input=True, init_weights=False), images)
    torch.save(theirs.state_dict(), tmp_path / "weights.pth")
    model = load_weights(abstract(InceptionV3), tmp_path / "weights.pth")
    model.eval()
    assert_close(our_logits(model, images), torchvision_logits(theirs, images))
    x = np.random.default_rng(0).normal(size=(2, 17, 17, 768)).astype(np.float32)
    with torch.no_grad():
        expected = theirs.AuxLogits(torch.tensor(x.transpose(0, 3, 1, 2))).numpy()
    assert_close(np.asarray(nnx.jit(lambda head, x: head(x))(model.aux_logits, jnp.asarray(x))), expected)


def test_taps_and_the_auxiliary_logits_of_training_mode():
    def read(rngs, train):
        model = InceptionV3(10, width=0.125, rngs=rngs)
        model.train() if train else model.eval()
        return features(model, jnp.zeros((2, 299, 299, 3)))

    training, evaluation = (abstract(lambda rngs, t=t: read(rngs, t)) for t in (True, False))
    assert set(training) - set(evaluation) == {"aux1"}
    assert training["aux1"].shape == (2, 10)
    blocks = {f"mixed_{b}" for b in ("5b", "5c", "5d", "6a", "6b", "6c", "6d", "6e", "7a", "7b", "7c")}
    assert set(evaluation) == {"input", "stem", *blocks, "pool", "penultimate"}
    sides = [evaluation[name].shape[1] for name in ("stem", "mixed_5d", "mixed_6e", "mixed_7c")]
    assert sides == [35, 35, 17, 8]


def test_small_images_keep_their_size_in_the_stem():
    read = abstract(lambda rngs: features(_small(rngs), jnp.zeros((2, 32, 32, 3))))
    assert [read[name].shape[1] for name in ("stem", "mixed_6a", "mixed_7a")] == [30, 14, 6]


def test_equal_networks_have_equal_definitions():
    assert nnx.graphdef(abstract(_small)) == nnx.graphdef(abstract(_small))


@pytest.mark.slow
def test_it_trains():
    model = filled(lambda rngs: InceptionV3(10, aux=False, small_images=True, width=0.125, rngs=rngs))
    model.dropout.rate = 0.0
    assert loss_falls(model, (24, 24, 3), steps=60, optimizer=optax.sgd(0.05, momentum=0.9))


def test_other_arguments_are_refused():
    with pytest.raises(ValueError, match="aux must be False with small_images"):
        abstract(lambda rngs: InceptionV3(small_images=True, rngs=rngs))
    model = filled(lambda rngs: InceptionV3(10, width=0.0625, rngs=rngs))
    with pytest.raises(ValueError, match=r"images must be at least 75x75, got \(1, 64, 64, 3\)"):
        model(jnp.zeros((1, 64, 64, 3)))
    model.train()
    with pytest.raises(ValueError, match="images must be 299x299 or larger for the auxiliary head"):
        jax.eval_shape(lambda x: nnx.clone(model)(x), jnp.zeros((1, 139, 139, 3)))
