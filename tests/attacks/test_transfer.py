"""Attacks made to transfer: against the loops written out, against torchattacks, and as directions by themselves."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from scipy.ndimage import correlate

from advjax import di_fgsm, from_function, mi_fgsm, ni_fgsm, perturb, pgd, si_fgsm, ti_fgsm, vmi_fgsm
from advjax.attacks import Momentum, Smoothed, VarianceTuned, expectation_over
from tests.models_for_tests import convolutional, convolutional_weights, grid_images, linear, linear_weights

CLASSIFIER = from_function(linear, linear_weights(1, 36))
IMAGES = jnp.asarray(grid_images(3, (10, 6, 6, 1)))
LABELS = CLASSIFIER(IMAGES).argmax(-1).astype(jnp.int32)
KEY = jax.random.key(0)
EPSILON, STEPS = 0.125, 6


@jax.jit
def slope(x):
    return jax.grad(lambda x: optax.softmax_cross_entropy_with_integer_labels(CLASSIFIER(x), LABELS).sum())(x)


def gradient(x):
    return np.asarray(slope(jnp.asarray(x, jnp.float32)))


def bell(size):
    line = np.exp(-0.5 * np.linspace(-3, 3, size) ** 2)
    return np.outer(line, line) / line.sum() ** 2


def written_out(kind, decay, step):
    clean = np.asarray(IMAGES)
    x, memory = clean, np.zeros_like(clean)
    for _ in range(STEPS):
        at = x + step * decay * memory if kind in ("ni", "si") else x
        g = np.mean([gradient(at / 2**i) / 2**i for i in range(3)], axis=0) if kind == "si" else gradient(at)
        if kind == "ti":
            g = np.stack([correlate(each[..., 0], bell(5), mode="constant")[..., None] for each in g])
        memory = decay * memory + g / np.abs(g).mean((1, 2, 3), keepdims=True)
        x = np.clip(np.clip(x + step * np.sign(memory), clean - EPSILON, clean + EPSILON), 0, 1)
    return x


# A step of a third of epsilon, so that a sign which turned late is seen.
@pytest.mark.parametrize(
    ("kind", "step_size"), [("mi", None), ("ni", 0.04), pytest.param("si", 0.04, marks=pytest.mark.slow), ("ti", 0.04)]
)
def test_it_is_the_loop_written_out(kind, step_size):
    attack = {
        "mi": lambda **o: mi_fgsm(EPSILON, decay=0.7, **o),
        "ni": lambda **o: ni_fgsm(EPSILON, decay=0.7, **o),
        "si": lambda **o: si_fgsm(EPSILON, decay=0.7, copies=3, **o),
        "ti": lambda **o: ti_fgsm(EPSILON, decay=0.7, kernel=5, **o),
    }[kind](steps=STEPS, step_size=step_size, levels=None)
    expected = written_out(kind, 0.7, EPSILON / STEPS if step_size is None else step_size)
    got = np.asarray(perturb(attack, CLASSIFIER, IMAGES, LABELS).image)
    assert np.mean(np.abs(got - expected) < 1e-5) > 0.99


def test_momentum_keeps_tiny_gradients_and_none():
    direction, image = Momentum(0.5), jnp.zeros((2, 2, 1))
    # The smallest number of float32 is 1.2e-38, and the mean of this is below.
    ray, state = direction.update(image.at[0, 0, 0].set(-2e-38), direction.init(image))
    np.testing.assert_allclose(ray.ravel(), [-4, 0, 0, 0])
    ray, _ = direction.update(jnp.zeros((2, 2, 1)), state)
    np.testing.assert_allclose(ray, 0.5 * state)


def test_smoothing_is_a_convolution_of_each_channel_with_zeros_outside():
    gradient = np.random.default_rng(0).normal(size=(9, 7, 3)).astype(np.float32)
    expected = np.stack([correlate(gradient[..., c], bell(7), mode="constant") for c in range(3)], -1)
    np.testing.assert_allclose(Smoothed(7).ray(jnp.asarray(gradient)), expected, atol=1e-5)


def test_the_variance_is_the_mean_gradient_around_the_image_less_its_own():
    """Of grad(x) = x^2 it is radius^2 / 3, whatever x; it is added at the next step, and not before."""
    direction, image = VarianceTuned(0.6, 4000), jnp.asarray(grid_images(0, (3, 3, 1)))
    given = {"image": image, "key": KEY, "gradient_at": jnp.square}
    ray, state = direction.update(image**2, direction.init(image), **given)
    np.testing.assert_array_equal(ray, image**2)
    np.testing.assert_allclose(state, 0.6**2 / 3, atol=0.05)
    ray, _ = direction.update(image**2, state, **given)
    np.testing.assert_allclose(ray, image**2 + state, rtol=1e-6)
    with pytest.raises(ValueError, match="VarianceTuned needs image, key and gradient_at"):
        direction.update(image, state, image)


def test_gradients_elsewhere_are_counted():
    attack = vmi_fgsm(0.1, steps=3, neighbors=4)
    assert set(np.asarray(perturb(attack, CLASSIFIER, IMAGES, LABELS, KEY).calls)) == {2 + 3 * 5}


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: mi_fgsm(-0.1), "epsilon must be a finite number of 0 or more"),
        (lambda: mi_fgsm(0.1, steps=0), "steps must be an integer of 1 or more"),
        (lambda: ni_fgsm(0.1, decay=-1.0), "decay must be a finite number of 0 or more"),
        (lambda: ti_fgsm(0.1, kernel=4), "size must be an odd integer of 3 or more"),
        (lambda: vmi_fgsm(0.1, beta=-1.0), "beta must be a finite number of 0 or more"),
        (lambda: vmi_fgsm(0.1, neighbors=0), "neighbors must be an integer of 1 or more"),
        (lambda: di_fgsm(0.1, rate=0.0), r"rate must be in \(0, 1\)"),
    ],
)
def test_bad_settings_are_refused(build, message):
    with pytest.raises(ValueError, match=message):
        build()


def copied(weights):
    """The convolutional model of the tests in PyTorch."""
    import torch

    kernel = torch.tensor(np.asarray(weights["conv"]).transpose(3, 2, 0, 1).copy())
    dense = torch.tensor(np.array(weights["dense"]))

    class Copy(torch.nn.Module):
        def forward(self, x):
            x = torch.nn.functional.conv2d(x - 0.5, kernel, padding=1)
            x = torch.nn.functional.max_pool2d(torch.nn.functional.relu(x), 2)
            return x.permute(0, 2, 3, 1).flatten(1) @ dense

    return Copy().eval()


def widened(attack):
    """Its kernel is of float32; the gradients are not."""
    attack.stacked_kernel = attack.stacked_kernel.double()
    return attack


PEERS = {
    "mi": (lambda **o: mi_fgsm(EPSILON, **o), lambda t, m, **o: t.MIFGSM(m, decay=1.0, **o)),
    "ni": (lambda **o: ni_fgsm(EPSILON, **o), lambda t, m, **o: t.NIFGSM(m, decay=1.0, **o)),
    "si": (lambda **o: si_fgsm(EPSILON, copies=3, **o), lambda t, m, **o: t.SINIFGSM(m, decay=1.0, m=3, **o)),
    "ti": (
        lambda **o: ti_fgsm(EPSILON, kernel=5, **o),
        lambda t, m, **o: widened(t.TIFGSM(m, decay=1.0, len_kernel=5, diversity_prob=0.0, **o)),
    ),
    "di": (lambda **o: di_fgsm(EPSILON, rate=0.7, **o), lambda t, m, **o: t.DIFGSM(m, decay=1.0, resize_rate=0.7, **o)),
    "vmi": (lambda **o: vmi_fgsm(EPSILON, neighbors=5, **o), lambda t, m, **o: t.VMIFGSM(m, decay=1.0, N=5, **o)),
    "eot": (
        lambda step_size, steps, **o: expectation_over(
            pgd(EPSILON, step_size=step_size, steps=steps, random_start=False, **o), jittered, draws=4
        ),
        lambda t, m, **o: t.EOTPGD(m, eot_iter=4, random_start=False, **o),
    ),
}


def jittered(image, key):
    return image + 0.3 * jax.random.normal(key, image.shape, image.dtype)


@pytest.mark.peers
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning")
@pytest.mark.parametrize("kind", PEERS)
def test_images_are_those_of_torchattacks(kind):
    """To 1e-4 where nothing is drawn; else as near the decision: as many fooled, and the same mean loss."""
    import torch
    import torchattacks

    ours, theirs = PEERS[kind]
    images = grid_images(5, (60, 8, 8, 3)).astype(np.float64)
    with jax.enable_x64(True):
        weights = {name: np.asarray(w, np.float64) for name, w in convolutional_weights(2, channels=3).items()}
        classifier, model = from_function(convolutional, jax.tree.map(jnp.asarray, weights)), copied(weights)
        labels = np.asarray(classifier(jnp.asarray(images)).argmax(-1), np.int32)
        attack = ours(steps=STEPS, step_size=0.03, levels=None)
        attack = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float64), attack)
        result = perturb(attack, classifier, jnp.asarray(images), jnp.asarray(labels), KEY)
    given, right = torch.tensor(images.transpose(0, 3, 1, 2).copy()), torch.tensor(labels).long()
    torch.manual_seed(0)
    if kind == "eot":
        source = model

        class Jittered(torch.nn.Module):
            def forward(self, x):
                return source(x + 0.3 * torch.randn_like(x))

        crafted = theirs(torchattacks, Jittered(), eps=EPSILON, alpha=0.03, steps=STEPS)(given, right)
    else:
        crafted = theirs(torchattacks, model, eps=EPSILON, alpha=0.03, steps=STEPS)(given, right)
    crafted = crafted.detach().numpy().transpose(0, 2, 3, 1)
    if kind in ("mi", "ni", "si", "ti"):
        assert np.abs(crafted - images).max() > 0.12
        np.testing.assert_allclose(result.image, crafted, atol=1e-4)
        return

    def loss(x):
        logits = np.asarray(model(torch.tensor(np.asarray(x).transpose(0, 3, 1, 2).copy())))
        return np.mean(np.log(np.exp(logits).sum(-1)) - logits[np.arange(60), labels])

    assert loss(crafted) > loss(images) + 1
    assert loss(result.image) == pytest.approx(loss(crafted), rel=0.05)
