"""HopSkipJump, the boundary attack and spatial grids against Foolbox, JSMA against torchattacks, on PyTorch."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from advjax import boundary_attack, hop_skip_jump, jsma, perturb, spatial
from advjax.attacks import targeted
from tests.attacks.test_peers import build
from tests.models_for_tests import grid_images

# Importing Foolbox and torchattacks warns of what they import, and that is theirs.
pytestmark = [pytest.mark.peers, pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning")]


def as_torch(array):
    torch = pytest.importorskip("torch")
    return torch.tensor(np.asarray(array).transpose(0, 3, 1, 2).copy())


@pytest.mark.parametrize("kind", ["l2", "linf", "boundary"])
def test_as_near_as_foolbox_after_as_many_queries(kind):
    torch, foolbox = pytest.importorskip("torch"), pytest.importorskip("foolbox")
    classifier, copy = build(np.float32)
    images = grid_images(1, (12, 28, 28, 1))
    labels = classifier(jnp.asarray(images)).argmax(-1).astype(jnp.int32)
    calls = []

    class Counted(torch.nn.Module):
        def forward(self, x):
            calls.append(len(x))
            return copy(x)

    model = foolbox.PyTorchModel(Counted().eval(), bounds=(0, 1), device="cpu")
    if kind == "boundary":
        attack, ours = foolbox.attacks.BoundaryAttack(steps=600), boundary_attack
    else:
        attack = foolbox.attacks.HopSkipJumpAttack(steps=3, constraint=kind)
        ours = lambda **options: hop_skip_jump(norm=kind, **options)  # noqa: E731
    torch.manual_seed(0)
    # Noise of which each image's fools.
    starts = np.random.default_rng(0).random((50, 28, 28, 1), dtype=np.float32)
    answers = np.asarray(classifier(jnp.asarray(starts)).argmax(-1))
    first = starts[[np.flatnonzero(answers != label)[0] for label in np.asarray(labels)]]
    given, right = as_torch(images), torch.tensor(np.array(labels)).long()
    with torch.no_grad():
        raw, _, fooled = attack(model, given, right, starting_points=as_torch(first), epsilons=None)
    assert fooled.all()
    change = (raw - given).flatten(1).numpy()
    theirs = np.abs(change).max(1) if kind == "linf" else np.linalg.norm(change, axis=1)
    result = perturb(ours(queries=len(calls), levels=None), classifier, jnp.asarray(images), labels, jax.random.key(0))
    assert np.all(result.success)
    distances = np.asarray(result.linf if kind == "linf" else result.l2)
    # Both draw at random, and begin elsewhere.
    assert np.median(distances) < 1.3 * np.median(theirs)


def test_the_spatial_grid_is_that_of_foolbox():
    eagerpy = pytest.importorskip("eagerpy")
    pytest.importorskip("torch")
    pytest.importorskip("foolbox")
    from foolbox.attacks.spatial_attack_transformations import rotate_and_shift

    images = grid_images(4, (2, 9, 9, 2))
    attack = spatial(levels=None)
    for degrees, across, down in ((0, 1.5, 0), (25, 0, 0), (-17, -2, 0.75)):
        # They move by 8 / 9 of a pixel, where the image has 9: it spans 2, which they take for 9 pixels.
        shift = (across * 9 / 8, down * 9 / 8)
        theirs = rotate_and_shift(eagerpy.astensor(as_torch(images)), shift, degrees).raw.numpy().transpose(0, 2, 3, 1)
        motion = jnp.array([np.radians(degrees), across, down], jnp.float32)
        ours = jax.vmap(attack.warped, (0, None))(jnp.asarray(images), motion)
        np.testing.assert_allclose(ours, theirs, atol=1e-4)


def test_jsma_is_that_of_torchattacks():
    torch, torchattacks = pytest.importorskip("torch"), pytest.importorskip("torchattacks")
    # They leave out entries from 0.99 on.
    images = (np.minimum(grid_images(2, (3, 28, 28, 1)), 0.9)).astype(np.float64)
    with jax.enable_x64(True):
        classifier, copy = build(np.float64)
        labels = classifier(jnp.asarray(images)).argmax(-1).astype(jnp.int32)
        # Their goal is the next class.
        attack = targeted(jsma(1.0, 12 / 784, levels=None), (labels + 1) % 10)
        ours = perturb(attack, classifier, jnp.asarray(images), labels)
    theirs = torchattacks.JSMA(copy, theta=1.0, gamma=12 / 784)
    # It takes the images it is given for its own.
    raw = theirs.forward(as_torch(images), torch.tensor(np.array(labels)).long())
    np.testing.assert_allclose(ours.image, raw.detach().numpy().transpose(0, 2, 3, 1), atol=1e-6)
    assert np.asarray(ours.l0).min() >= 2
