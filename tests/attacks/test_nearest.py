"""DDN, FMN, C&W and EAD: their algorithms written out, closed forms, targets, and what they leave as it is."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from advjax import carlini_wagner, ddn, ead, fmn, from_function, perturb
from tests.models_for_tests import grid_images, linear_weights

ORDER = {"linf": np.inf, "l2": 2, "l1": 1, "l0": 0}


def curved(weights, images):
    """Far from linear: a step does not arrive."""
    return jnp.tanh((images - 0.5).reshape(images.shape[0], -1) @ weights["w"]) @ weights["out"]


CURVED = {"w": linear_weights(3, 16, 12)["w"], "out": linear_weights(4, 12, 5)["w"]}
CLASSIFIER = from_function(curved, CURVED)
# Some pixels are 0 and some 1, so that clipping matters.
IMAGES = np.clip(np.round(grid_images(5, (6, 4, 4, 1)) * 380 - 62), 0, 255).astype(np.float32) / np.float32(255)
LABELS = np.asarray(CLASSIFIER(jnp.asarray(IMAGES)).argmax(-1))


def falling(k, steps):
    return (1 + np.cos(np.pi * k / steps)) / 2


def rounded(image):
    return np.round(np.clip(image, 0, 1) * 255) / 255


def reader(label):
    """Margin with its gradient, and the gradient of the cross-entropy, at an image [16] of the model in float64."""
    weights = {name: jnp.asarray(array, jnp.float64) for name, array in CURVED.items()}

    def margin(x):
        logits = curved(weights, x[None])[0]
        return jnp.max(jnp.where(jnp.arange(5) == label, -jnp.inf, logits)) - logits[label]

    def entropy(x):
        return -jax.nn.log_softmax(curved(weights, x[None])[0])[label]

    return jax.jit(lambda x: (*jax.value_and_grad(margin)(x), jax.grad(entropy)(x)))


def best_of(images, origin, distance, least=0.0):
    """The nearest of (image, margin) that is fooled, or the clean one."""
    fooled = [image for image, margin in images if margin > 0 and margin >= least]
    return min(fooled, key=lambda image: distance(image - origin), default=origin)


def ddn_written_out(read, x, steps, init_norm, gamma):
    image, norm, seen = x, init_norm, []
    for k in range(steps):
        margin, _, gradient = map(np.asarray, read(image))
        seen.append((image, margin))
        norm = min(norm * (1 - gamma if margin > 0 else 1 + gamma), np.linalg.norm(np.maximum(x, 1 - x)))
        change = image - x + (0.01 + 0.99 * falling(k, steps)) * gradient / np.linalg.norm(gradient)
        image = rounded(x + norm * change / np.linalg.norm(change))
    return best_of(seen, x, np.linalg.norm)


def projected(change, norm, radius):
    if norm == "linf":
        return np.clip(change, -radius, radius)
    if norm == "l2":
        return change * min(1, radius / max(np.linalg.norm(change), 1e-12))
    if norm == "l0":
        kept = np.zeros_like(change)
        top = np.argsort(-np.abs(change), kind="stable")[: int(radius)]
        kept[top] = change[top]
        return kept
    low, high = 0.0, np.abs(change).max()
    if np.abs(change).sum() <= radius:
        return change
    for _ in range(100):
        middle = (low + high) / 2
        low, high = (middle, high) if np.maximum(np.abs(change) - middle, 0).sum() > radius else (low, middle)
    return np.sign(change) * np.maximum(np.abs(change) - high, 0)


def fmn_written_out(read, x, norm, steps, step_size, gamma):
    point, radius, seen, best = x, float(norm == "l0"), [], np.inf
    dual = {"linf": 1, "l2": 2, "l1": np.inf, "l0": 1}[norm]
    for k in range(steps):
        share, image = falling(k, steps), rounded(point)
        factor = 0.001 + (gamma - 0.001) * share
        margin, gradient, _ = map(np.asarray, read(image))
        seen.append((image, margin))
        distance = np.linalg.norm(image - x, ORDER[norm])
        if margin > 0:
            best = min(best, distance)
            smaller = (
                max(min(radius - 1, np.floor(radius * (1 - factor))), 1) if norm == "l0" else radius * (1 - factor)
            )
            radius = min(smaller, best)
        elif norm == "l0":
            radius = max(radius + 1, np.floor(radius * (1 + factor)))
        else:
            ahead = 0 if best < np.inf else distance + abs(margin) / np.linalg.norm(gradient, dual)
            radius = max(radius * (1 + factor), ahead)
        radius = min(radius, np.linalg.norm(np.maximum(x, 1 - x), ORDER[norm]))
        moved = point - x + step_size * (0.01 + 0.99 * share) * gradient / np.linalg.norm(gradient)
        point = np.clip(x + projected(moved, norm, radius), 0, 1)
    return best_of(seen, x, lambda change: np.linalg.norm(change, ORDER[norm]))


def over_c(minimize, searches, c):
    """All images that were read, of each c."""
    low, high, seen = 0.0, np.inf, []
    for _ in range(searches):
        found, reached = minimize(c)
        seen += found
        low, high = (low, c) if reached else (c, high)
        c = 10 * c if high == np.inf else (low + high) / 2
    return seen


def carlini_wagner_written_out(read, x, searches, steps, step_size, c, confidence):
    def minimize(c):
        point, first, second, seen = x, np.zeros_like(x), np.zeros_like(x), []
        for k in range(1, steps + 1):
            image = rounded(point)
            margin, gradient, _ = map(np.asarray, read(image))
            reached = margin > 0 and margin >= confidence
            seen.append((image, margin))
            slope = 2 * (point - x) - (0 if reached else c) * gradient
            first, second = 0.9 * first + 0.1 * slope, 0.999 * second + 0.001 * slope**2
            step = first / (1 - 0.9**k) / (np.sqrt(second / (1 - 0.999**k)) + 1e-8)
            point = np.clip(point - step_size * step, 0, 1)
        return seen, any(margin > 0 and margin >= confidence for _, margin in seen)

    return best_of(over_c(minimize, searches, c), x, np.linalg.norm, confidence)


def ead_written_out(read, x, searches, steps, step_size, c, beta, rule):
    def minimize(c):
        point, ahead, seen = x, x, []
        for k in range(steps):
            margin, gradient, _ = map(np.asarray, read(rounded(ahead)))
            slope = 2 * (ahead - x) - (0 if margin > 0 else c) * gradient
            z = ahead - step_size * np.sqrt(1 - k / steps) * slope
            z = np.where(z - x > beta, np.minimum(z - beta, 1), np.where(z - x < -beta, np.maximum(z + beta, 0), x))
            point, ahead = z, z + k / (k + 3) * (z - point)
            seen.append((rounded(point), read(rounded(point))[0]))
        return seen, any(margin > 0 for _, margin in seen)

    def distance(change):
        l1 = np.abs(change).sum()
        return l1 if rule == "L1" else (change**2).sum() + beta * l1

    return best_of(over_c(minimize, searches, c), x, distance)


def ead_of(rule):
    options = {"searches": 4, "steps": 12, "step_size": 0.05, "beta": 0.02}
    return (
        ead(**options, first_c=0.02, rule=rule),
        lambda read, x: ead_written_out(read, x, **options, c=0.02, rule=rule),
    )


WRITTEN_OUT = {
    "ddn": (ddn(steps=14, init_norm=0.5, gamma=0.1), lambda read, x: ddn_written_out(read, x, 14, 0.5, 0.1)),
    **{
        f"fmn {norm}": (
            fmn(norm, steps=14, step_size=0.5, gamma=0.2),
            lambda read, x, norm=norm: fmn_written_out(read, x, norm, 14, 0.5, 0.2),
        )
        for norm in ORDER
    },
    "carlini_wagner": (
        carlini_wagner(searches=4, steps=12, step_size=0.03, first_c=0.02, confidence=0.3),
        lambda read, x: carlini_wagner_written_out(read, x, 4, 12, 0.03, 0.02, 0.3),
    ),
    "ead EN": ead_of("EN"),
    "ead L1": ead_of("L1"),
}


@pytest.mark.parametrize("name", WRITTEN_OUT)
def test_it_is_the_algorithm_written_out(name):
    attack, written_out = WRITTEN_OUT[name]
    with jax.enable_x64(True):
        images = np.round(IMAGES.astype(np.float64) * 255) / 255
        weights = jax.tree.map(lambda array: jnp.asarray(array, jnp.float64), CURVED)
        # Numbers in float32 are those that the written-out loop has in float64 to 1e-8 alone: levels could flip.
        result = perturb(attack, from_function(curved, weights), jnp.asarray(images), jnp.asarray(LABELS, jnp.int32))
        want = np.stack([written_out(reader(y), x.reshape(-1)) for x, y in zip(images, LABELS, strict=True)])
    assert result.success.mean() > 0.5
    np.testing.assert_allclose(np.asarray(result.image).reshape(6, -1), want, atol=1e-9)
