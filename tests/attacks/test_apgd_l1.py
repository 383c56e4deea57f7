"""Auto-PGD in the l1 norm against the paper's algorithm written out; against adv-lib in `test_auto_peers.py`."""

import jax
import jax.numpy as jnp
import numpy as np

from advjax import from_function, perturb
from advjax.attacks import apgd
from tests.models_for_tests import convolutional, convolutional_weights


def projected(candidate, origin, epsilon):
    """Onto l1 ball and box, by bisection."""
    change = candidate - origin
    room = np.where(change > 0, 1 - origin, origin)

    def at(shift):
        return np.clip(np.abs(change) - shift, 0, room)

    low, high = 0.0, np.abs(change).max()
    if at(0.0).sum() > epsilon:
        for _ in range(200):
            middle = (low + high) / 2
            low, high = (middle, high) if at(middle).sum() > epsilon else (low, middle)
    return origin + np.sign(change) * at(high if at(0.0).sum() > epsilon else 0.0)


def written_out(read, origin, epsilon, steps):
    """Algorithm 1 of Croce & Hein 2021 in three balls, from the clean image; all points of the last phase."""
    n = origin.size
    counts = [int(np.ceil(0.3 * steps))] * 2
    best = origin
    for radius, count in zip((3 * epsilon, 2 * epsilon, epsilon), (*counts, steps - sum(counts)), strict=True):
        x = best = projected(best, origin, radius)
        f, g = read(x)
        best_f, best_g, eta, seen = f, g, radius, [x]
        changed = np.sum(x != origin)
        share, then = (changed / n / 1.5, changed) if changed else (0.2, n)
        for step in range(count):
            least = np.sort(np.abs(g).ravel())[int(np.clip((1 - share) * n, 0, n - 1))]
            signs = np.where(np.abs(g) >= least, np.sign(g), 0)
            x = projected(x + eta * signs / max(np.abs(signs).sum(), 1e-10), origin, radius)
            f, g = read(x)
            seen.append(x)
            if f > best_f:
                best, best_f, best_g = x, f, g
            if (step + 1) % max(int(0.04 * count), 1) == 0:
                changed = np.sum(best != origin)
                share = changed / n / 1.5
                if changed / then < 0.95:
                    eta, x, g = radius, best, best_g
                else:
                    eta = max(eta / 1.5, radius / 10)
                then = changed
    return seen


def test_it_is_the_papers_algorithm_in_float64():
    steps, epsilon = 20, np.float32(0.4)
    with jax.enable_x64(True):
        weights = jax.tree.map(lambda w: jnp.asarray(w, jnp.float64), convolutional_weights())
        classifier = from_function(convolutional, weights)
        images = np.random.default_rng(0).random((4, 8, 8, 1))
        # Near the box, so that it cuts steps off.
        images[:, ::2] = np.round(images[:, ::2], 1)
        labels = np.asarray(classifier(jnp.asarray(images)).argmax(-1))
        attack = apgd(epsilon, norm="l1", steps=steps, random_start=False, levels=None)
        result = perturb(attack, classifier, jnp.asarray(images), jnp.asarray(labels))

        @jax.jit
        def graded(x, label):
            def entropy(x):
                return -jax.nn.log_softmax(convolutional(weights, x[None])[0])[label]

            return jax.value_and_grad(entropy)(x)

        for index, (image, label) in enumerate(zip(images, labels, strict=True)):

            def read(x, label=label):
                f, g = graded(jnp.asarray(x), label)
                return float(f), np.asarray(g)

            seen = np.stack(written_out(read, image, float(epsilon), steps))
            logits = np.array(classifier(jnp.asarray(seen)))
            own = logits[:, label].copy()
            logits[:, label] = -np.inf
            # Of the points in the ball itself it returns the one of largest margin.
            worst = seen[np.argmax(logits.max(1) - own)]
            np.testing.assert_allclose(result.image[index], worst, atol=1e-7)
    np.testing.assert_array_equal(result.calls, 2 + steps + 3)
    assert np.all(np.asarray(result.l1) <= epsilon * (1 + 1e-6))
