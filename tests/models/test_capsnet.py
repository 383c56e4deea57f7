"""CapsNet against PyTorch, its routing and losses against NumPy."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from advjax.models import CapsNet, capsule_loss, features, margin_loss
from advjax.models.capsnet import route, squash
from tests.models.networks_for_tests import (
    assert_close,
    assert_works_under_transformations,
    copy_to_torch,
    filled,
    loss_falls,
    our_logits,
    torch_logits,
)


def _torch_capsnet(types, filters):
    torch = pytest.importorskip("torch")
    nn = torch.nn

    def squashed(s):
        length = s.norm(dim=-1, keepdim=True)
        return length**2 / (1 + length**2) * s / length

    class Caps(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv1, self.primary = nn.Conv2d(1, filters, 9), nn.Conv2d(filters, 8 * types, 9, 2)
            self.transform = nn.Parameter(torch.zeros(36 * types, 8, 10, 16))
            sizes = (160, 512, 1024, 784)
            self.decoder = nn.ModuleList([nn.Linear(sizes[i], sizes[i + 1]) for i in range(3)])

        def capsules(self, x):
            x = self.primary(torch.relu(self.conv1(x)))
            u = squashed(x.permute(0, 2, 3, 1).reshape(len(x), -1, 8))
            votes = (u[:, :, :, None, None] * self.transform[None]).sum(2)
            b = torch.zeros(votes.shape[:3])
            for _ in range(3):
                v = squashed((b.softmax(2)[..., None] * votes).sum(1))
                b = b + (votes * v[:, None]).sum(-1)
            return v

        def forward(self, x):
            return self.capsules(x).norm(dim=-1)

        def reconstruct(self, v, labels):
            mask = torch.nn.functional.one_hot(labels, 10)[:, :, None]
            x = (v * mask).flatten(1)
            x = torch.relu(self.decoder[1](torch.relu(self.decoder[0](x))))
            return torch.sigmoid(self.decoder[2](x))

    return Caps()


@pytest.mark.peers
@pytest.mark.parametrize(("types", "filters"), [(4, 16), pytest.param(32, 256, marks=pytest.mark.slow)])
def test_logits_and_reconstruction_equal_torch(types, filters):
    twin = _torch_capsnet(types, filters)
    model = filled(partial(CapsNet, types=types, filters=filters))
    images = np.random.default_rng(5).uniform(0, 1, (3, 28, 28, 1)).astype(np.float32)
    twin = copy_to_torch(model, twin)
    assert_close(our_logits(model, images), torch_logits(twin, images))
    torch = pytest.importorskip("torch")
    labels = np.array([3, 0, 9])
    with torch.no_grad():
        theirs = twin.reconstruct(twin.capsules(torch.tensor(images).permute(0, 3, 1, 2)), torch.tensor(labels))
    ours = model.reconstruct(model.capsules(images), jnp.asarray(labels, jnp.int32))
    np.testing.assert_allclose(np.asarray(ours).reshape(3, 784), theirs.numpy(), rtol=1e-4, atol=1e-5)


def test_squash_and_its_gradient_at_zero(rng):
    s = rng.normal(size=(5, 8)).astype(np.float32)
    length = np.linalg.norm(s, axis=-1, keepdims=True)
    np.testing.assert_allclose(squash(s), length**2 / (1 + length**2) * s / length, rtol=1e-5)
    assert np.all(np.isfinite(jax.grad(lambda s: jnp.sum(squash(s)))(jnp.zeros(8))))


@pytest.mark.parametrize("iterations", [1, 3])
def test_routing_against_numpy(rng, iterations):
    votes = rng.normal(size=(2, 7, 3, 4))
    agreement = np.zeros((2, 7, 3))
    for _ in range(iterations):
        weights = np.exp(agreement) / np.exp(agreement).sum(2, keepdims=True)
        s = np.einsum("bik,bikd->bkd", weights, votes)
        square = (s**2).sum(-1, keepdims=True)
        v = s * np.sqrt(square) / (1 + square)
        agreement += np.einsum("bikd,bkd->bik", votes, v)
    np.testing.assert_allclose(route(jnp.asarray(votes, jnp.float32), iterations), v, rtol=1e-4, atol=1e-5)


def test_margin_loss_against_its_definition(rng):
    lengths, labels = rng.uniform(0, 1, (6, 10)).astype(np.float32), rng.integers(0, 10, 6)
    expected = []
    for row, label in zip(lengths, labels, strict=True):
        wrong = sum(max(0, v - 0.1) ** 2 for k, v in enumerate(row) if k != label)
        expected.append(max(0, 0.9 - row[label]) ** 2 + 0.5 * wrong)
    np.testing.assert_allclose(margin_loss(jnp.asarray(lengths), jnp.asarray(labels)), expected, rtol=1e-5)


@pytest.mark.parametrize("decoder", [True, False])
def test_loss_is_margin_plus_reconstruction(decoder):
    model = filled(partial(CapsNet, types=2, filters=8, decoder=decoder))
    images = jnp.asarray(np.random.default_rng(1).uniform(0, 1, (3, 28, 28, 1)), jnp.float32)
    labels = jnp.array([1, 2, 3])
    losses, logits = capsule_loss(model, images, labels)
    np.testing.assert_allclose(logits, model(images), rtol=1e-6)
    expected = np.asarray(margin_loss(logits, labels))
    if decoder:
        remade = model.reconstruct(features(model, images)["capsules"], labels)
        expected = expected + 0.0005 * np.sum((np.asarray(remade) - np.asarray(images)) ** 2, (1, 2, 3))
    np.testing.assert_allclose(losses, expected, rtol=1e-5)


def test_no_reconstruction_without_decoder():
    model = filled(partial(CapsNet, types=2, filters=8, decoder=False))
    with pytest.raises(ValueError, match="decoder=True"):
        model.reconstruct(jnp.zeros((1, 10, 16)), jnp.zeros(1, jnp.int32))


def test_transformations():
    assert_works_under_transformations(partial(CapsNet, types=2, filters=8), (28, 28, 1))


@pytest.mark.slow
def test_loss_falls_by_nine_tenths():
    model = filled(partial(CapsNet, types=2, filters=8, decoder=False))
    assert loss_falls(model, (28, 28, 1), steps=200, optimizer=optax.sgd(0.3, momentum=0.9), loss=capsule_loss)


def test_other_shapes_are_refused():
    with pytest.raises(ValueError, match=r"images must have shape \[B, 28, 28, 1\], got"):
        nnx.eval_shape(lambda: CapsNet(rngs=nnx.Rngs(0))(jnp.zeros((1, 32, 32, 1))))
