"""DDN, EAD and FMN against Foolbox on PyTorch: one network of random weights, in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from advjax import ddn, ead, fmn, from_function, perturb
from tests.models_for_tests import grid_images, linear_weights

# Importing Foolbox warns of what it imports, and that is theirs.
pytestmark = [pytest.mark.peers, pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning")]

W, OUT = (np.asarray(linear_weights(*shape)["w"], np.float64) for shape in ((3, 36, 12), (4, 12, 5)))


def curved(weights, images):
    return jnp.tanh((images - 0.5).reshape(images.shape[0], -1) @ weights[0]) @ weights[1]


def both(attack, theirs, least, most):
    """Our images and theirs, of 12 images with pixels from `least` to `most`, and those."""
    foolbox, torch = pytest.importorskip("foolbox"), pytest.importorskip("torch")

    class Copy(torch.nn.Module):
        def forward(self, x):
            return torch.tanh((x - 0.5).flatten(1) @ torch.tensor(W)) @ torch.tensor(OUT)

    images = least + (most - least) * np.asarray(grid_images(1, (12, 6, 6, 1)), np.float64)
    with jax.enable_x64(True):
        classifier = from_function(curved, (jnp.asarray(W), jnp.asarray(OUT)))
        labels = classifier(jnp.asarray(images)).argmax(-1).astype(jnp.int32)
        ours = np.asarray(perturb(attack, classifier, jnp.asarray(images), labels).image)
    model = foolbox.PyTorchModel(Copy().eval(), bounds=(0, 1), device="cpu")
    tensors = torch.tensor(images.transpose(0, 3, 1, 2).copy()), torch.tensor(np.asarray(labels)).long()
    raw, _, success = getattr(foolbox.attacks, theirs[0])(**theirs[1])(model, *tensors, epsilons=None)
    found = success.numpy()
    assert found.mean() > 0.9
    return tuple(array[found] for array in (ours, raw.numpy().transpose(0, 2, 3, 1), images))


def test_ddn_is_that_of_foolbox():
    options = {"steps": 40, "gamma": 0.125}
    ours, theirs, images = both(
        ddn(init_norm=0.5, levels=None, **options), ("DDNAttack", {"init_epsilon": 0.5, **options}), 0, 1
    )
    assert np.abs(ours - images).max() > 0.05
    np.testing.assert_allclose(ours, theirs, atol=1e-9)


@pytest.mark.parametrize("rule", ["EN", "L1"])
def test_ead_is_that_of_foolbox(rule):
    options = {"steps": 30}
    attack = ead(searches=5, step_size=0.03125, first_c=0.0625, beta=0.0078125, rule=rule, levels=None, **options)
    theirs = {
        "binary_search_steps": 5,
        "initial_stepsize": 0.03125,
        "initial_const": 0.0625,
        "regularization": 0.0078125,
        "decision_rule": rule,
        "abort_early": False,
        **options,
    }
    # Foolbox reads gradients outside of [0, 1] too.
    ours, theirs, images = both(attack, ("EADAttack", theirs), 0.375, 0.625)
    assert np.abs(ours - images).max() > 0.05
    np.testing.assert_allclose(ours, theirs, atol=1e-9)


@pytest.mark.parametrize("norm", ["linf", "l1"])
def test_fmn_is_that_of_foolbox_where_its_radius_would_not_have_grown(norm):
    options = {"steps": 40, "gamma": 0.125}
    name = {"linf": "LInfFMNAttack", "l1": "L1FMNAttack"}[norm]
    ours, theirs, images = both(
        fmn(norm, step_size=0.5, levels=None, **options), (name, {"max_stepsize": 0.5, **options}), 0, 1
    )
    same = np.abs(ours - theirs).max((1, 2, 3)) < 1e-8
    sizes = [
        np.linalg.norm((x - images).reshape(len(x), -1), {"linf": np.inf, "l1": 1}[norm], axis=1)
        for x in (ours, theirs)
    ]
    assert same.mean() > 0.3
    assert np.mean(sizes[0]) < 1.02 * np.mean(sizes[1])
