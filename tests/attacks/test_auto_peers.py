"""FAB and l1-APGD against adv-lib on PyTorch, image by image in float64.  One network, copied."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from advjax import fab, from_function, perturb
from advjax.attacks import apgd
from tests.models_for_tests import convolutional, convolutional_weights

# Importing adv-lib warns of what it imports, and that is its own.
pytestmark = [pytest.mark.peers, pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning")]

IMAGES = np.random.default_rng(0).random((8, 8, 8, 1))
ORDER = {"linf": np.inf, "l2": 2, "l1": 1}


@pytest.fixture
def both(monkeypatch):
    """adv-lib, which casts to float32 here and there, in float64; the network in JAX and in PyTorch; labels."""
    torch, target = pytest.importorskip("torch"), pytest.importorskip("benchmarks.target")
    pytest.importorskip("adv_lib")
    adv_lib = target._adv_lib_attacks()
    monkeypatch.setattr(torch.Tensor, "float", lambda tensor: tensor.double())
    monkeypatch.setattr(torch, "float", torch.float64)
    was = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    weights = {name: np.asarray(array, np.float64) for name, array in convolutional_weights().items()}
    conv, dense = torch.tensor(weights["conv"].transpose(3, 2, 0, 1).copy()), torch.tensor(weights["dense"])

    class Copy(torch.nn.Module):
        def forward(self, x):
            x = torch.nn.functional.conv2d(x - 0.5, conv, padding=1)
            x = torch.nn.functional.max_pool2d(torch.relu(x), 2)
            return x.permute(0, 2, 3, 1).flatten(1) @ dense

    with jax.enable_x64(True):
        classifier = from_function(convolutional, jax.tree.map(jnp.asarray, weights))
        labels = np.asarray(classifier(jnp.asarray(IMAGES)).argmax(-1)).astype(np.int32)
        yield adv_lib, Copy(), classifier, labels, torch
    torch.set_default_dtype(was)


def given(torch, labels):
    return torch.tensor(IMAGES.transpose(0, 3, 1, 2).copy()), torch.tensor(labels).long()


@pytest.mark.parametrize(("norm", "targets"), [("linf", None), ("l2", 3), ("l2", None), ("linf", 3), ("l1", 3)])
def test_fab_is_that_of_adv_lib(norm, targets, both):
    adv_lib, copy, classifier, labels, torch = both
    attack = fab(norm=norm, steps=20, targets=targets, levels=None)
    ours = perturb(attack, classifier, jnp.asarray(IMAGES), jnp.asarray(labels), jax.random.key(0))
    theirs = adv_lib.fab(
        copy, *given(torch, labels), norm=ORDER[norm], n_iter=20, targeted_restarts=targets is not None,
        restarts=targets,
    )  # fmt: skip
    theirs = theirs.numpy().transpose(0, 2, 3, 1)
    assert ours.success.all()
    same = np.abs(np.asarray(ours.image) - theirs).max((1, 2, 3)) < 1e-6
    # In l1 one tie between two entries is broken the other way.
    assert same.sum() >= (7 if norm == "l1" else 8)
    distances = np.linalg.norm((theirs - IMAGES).reshape(8, -1), ORDER[norm], axis=1)
    np.testing.assert_allclose(np.asarray(getattr(ours, norm))[same], distances[same], rtol=1e-5)


def test_l1_apgd_is_that_of_adv_lib(both, monkeypatch):
    adv_lib, copy, classifier, labels, torch = both
    epsilon, key = np.float32(0.3), jax.random.key(0)
    attack = apgd(epsilon, norm="l1", steps=60, levels=None)
    ours = perturb(attack, classifier, jnp.asarray(IMAGES), jnp.asarray(labels), key)
    # Their noise is ours, and an entry that comes back to the clean image's but for 1e-17 counts as unchanged.
    keys = jax.vmap(lambda image: jax.random.fold_in(jax.random.fold_in(key, image), 0))(jnp.arange(8))
    noise = np.asarray(jax.vmap(lambda own: jax.random.normal(own, (8, 8, 1), jnp.float64))(keys))
    monkeypatch.setattr(torch, "randn_like", lambda like: torch.tensor(noise.transpose(0, 3, 1, 2).copy()))
    norm = torch.Tensor.norm

    def counted(tensor, p=2, dim=None, **options):
        return (tensor.abs() > 1e-9).double().sum(dim) if p == 0 else norm(tensor, p=p, dim=dim, **options)

    monkeypatch.setattr(torch.Tensor, "norm", counted)
    reads = []

    class Watched(torch.nn.Module):
        def forward(self, x):
            reads.append(x.detach().numpy().transpose(0, 2, 3, 1).copy())
            return copy(x)

    adv_lib.apgd(
        Watched(), *given(torch, labels), eps=float(epsilon), norm=1, n_iter=60, loss_function="ce",
        use_large_reps=True,
    )  # fmt: skip
    assert len(reads) == 60 + 3
    # They return the last image that fools, we the one of largest margin: it is one that they read too, in the end.
    apart = np.abs(np.stack(reads[38:]) - np.asarray(ours.image)[None]).max((2, 3, 4)).min(0)
    assert apart.max() < 1e-9
