"""Randomized smoothing: the class that a network gives most often under noise, and how far no attack can change it."""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from scipy import special

from advjax.attacks.part import Number
from advjax.attacks.settings import check_count, check_real
from advjax.classifier import Classifier
from advjax.fastcpu import accelerate, compiled
from advjax.keys import image_keys
from advjax.value import number, value

__all__ = ["ABSTAIN", "Certificates", "Smoothed", "lower_bound", "smoothed"]

ABSTAIN = -1
"""The class of an image of which a smoothed classifier says nothing: it is an error, whatever the label."""

# Which of an image's draws guess its class, and which bound that class's share: they must be independent.
_SELECTION, _ESTIMATION = np.uint32(0), np.uint32(1)


class Certificates(NamedTuple):
    """What is certain of each image, but for a probability alpha each: its class within a ball around it.

    Attributes:
        prediction: int32 [B], the smoothed classifier's class, or ABSTAIN.
        radius: float64 [B], of the l2 ball in [0, 1] units, within which it stays; 0 where it abstains.
        share: float64 [B], the lower bound of the class's probability under the noise.
    """

    prediction: np.ndarray
    radius: np.ndarray
    share: np.ndarray


@value
class Smoothed:
    """The classifier `g(x) = argmax_c P(f(x + N(0, sigma^2 I)) = c)`; made by `smoothed`, which explains it."""

    classifier: Classifier
    sigma: Number = number()

    def predict(
        self, images: jax.Array, key: jax.Array, *, draws: int = 100_000, alpha: float = 0.001, chunk: int = 100
    ) -> np.ndarray:
        """The classes g(x), or ABSTAIN where the draws leave it open; each is wrong with probability alpha at most.

        The class of most draws, n_1, if a fair coin falls that often among n_1 + n_2 tosses with probability alpha or
        less (two-sided, exact), n_2 the draws of the next class.

        Args:
            images: [B, H, W, C] float32 in [0, 1].
            key: `jax.random.key(seed)`. Draw j of image i is made from its key's own key of i and j, whatever `chunk`.
            draws: of the noise, n.
            alpha: in (0, 1).
            chunk: draws at a time of each image: the network sees B * chunk images at once.

        Returns:
            int32 [B].

        Raises:
            ValueError: an argument is not as above.

        Source: Cohen et al. 2019, PREDICT.
        """
        _check_alpha(alpha)
        counts = self.counts(images, _own(key, _ESTIMATION), draws, chunk=chunk)
        second, first = np.sort(counts, -1)[:, -2:].T
        # P(at least n_1 of n_1 + n_2 heads) is an incomplete beta function; both sides of a fair coin are alike.
        sides = np.minimum(1.0, 2 * special.betainc(np.maximum(first, 1), second + 1, 0.5))
        return np.where((first > 0) & (sides <= alpha), counts.argmax(-1), ABSTAIN).astype(np.int32)

    def certify(
        self,
        images: jax.Array,
        key: jax.Array,
        *,
        selection: int = 100,
        draws: int = 100_000,
        alpha: float = 0.001,
        chunk: int = 100,
    ) -> Certificates:
        """The classes g(x), and the l2 radii within which they stay; each is wrong with probability alpha at most.

        The class c of most of the first n_0 draws is asked for among n others, of which it has n_c:

            p = the lower Clopper-Pearson bound of n_c / n at level 1 - alpha,    radius = sigma Phi^-1(p),

        or ABSTAIN where p < 1/2.

        Args:
            images, key, alpha, chunk: as for `predict`.
            selection: n_0, draws that choose the class.
            draws: n, others that bound its probability. They limit the radius: with 100,000 it is 3.8 sigma at most.

        Raises:
            ValueError: an argument is not as above.

        Source: Cohen et al. 2019, CERTIFY.
        """
        _check_alpha(alpha)
        chosen = self.counts(images, _own(key, _SELECTION), selection, chunk=chunk).argmax(-1)
        counts = self.counts(images, _own(key, _ESTIMATION), draws, chunk=chunk)
        hits = np.take_along_axis(counts, chosen[:, None], -1)[:, 0]
        share = lower_bound(hits, draws, alpha)
        kept = share >= 0.5
        radius = np.where(kept, float(np.asarray(self.sigma)) * special.ndtri(np.maximum(share, 0.5)), 0.0)
        return Certificates(np.where(kept, chosen, ABSTAIN).astype(np.int32), radius, share)

    def counts(self, images: jax.Array, key: jax.Array, draws: int, *, chunk: int = 100) -> np.ndarray:
        """How many of so many draws of the noise fall to each class, int64 [B, K]; arguments as for `predict`.

        Logits that hold a NaN fall to none.
        """
        check_count("draws", draws)
        check_count("chunk", chunk)
        if jnp.ndim(images) != 4 or not jnp.issubdtype(jnp.asarray(images).dtype, jnp.floating):
            raise ValueError(f"images must be floats in [0, 1], [B, H, W, C], got shape {jnp.shape(images)}")
        # The number of draws is no part of the program.
        counted = _counts(self.classifier, self.sigma, jnp.asarray(images), key, jnp.int32(draws), min(chunk, draws))
        return np.asarray(counted, np.int64)


def smoothed(classifier: Classifier, sigma: float) -> Smoothed:
    """The smoothed classifier g of a network f, whose answers come with certificates in l2:

        g(x) = argmax_c P(f(x + e) = c),    e ~ N(0, sigma^2 I),

    The noise is not cut to [0, 1]. A network that was not trained under such noise mostly answers it wrongly: train it
    with `train_step(augment=...)` that adds the same.

    Args:
        classifier: any network.
        sigma: of the noise, in [0, 1] units, positive; the larger, the larger the radii and the more it errs.

    Raises:
        ValueError: sigma is not positive.

    Source: Cohen, Rosenfeld & Kolter 2019, "Certified adversarial robustness via randomized smoothing".

    Example:
        >>> from advjax import from_function
        >>> def bright(threshold, x):
        ...     return jnp.stack([threshold - x.mean((1, 2, 3)), x.mean((1, 2, 3)) - threshold], -1)
        >>> g = smoothed(from_function(bright, jnp.float32(0.5)), sigma=0.25)
        >>> found = g.certify(jnp.array([0.2, 0.5]).reshape(2, 1, 1, 1), jax.random.key(0), draws=1000)
        >>> found.prediction.tolist(), found.radius.round(2).tolist()
        ([0, -1], [0.26, 0.0])
    """
    check_real("sigma", sigma, "a positive finite number", lambda array: np.isfinite(array) & (array > 0))
    if np.ndim(sigma):
        raise ValueError(f"sigma must be one number for all images, got shape {np.shape(sigma)}")
    return Smoothed(classifier, sigma)


def lower_bound(hits: np.ndarray, draws: int, alpha: float) -> np.ndarray:
    """The lower Clopper-Pearson bounds of a probability: what it is above with probability 1 - alpha or more.

    The p at which so many hits or more in so many draws have the probability alpha: the alpha quantile of
    Beta(k, n - k + 1), and 0 for k = 0.

    Args:
        hits: integers from 0 to `draws`, k.
        draws: n.
        alpha: in (0, 1).

    Source: Clopper & Pearson 1934, "The use of confidence or fiducial limits".

    >>> lower_bound(np.array([0, 100]), 100, 0.001).round(3).tolist()
    [0.0, 0.933]
    """
    hits = np.asarray(hits)
    bounds: np.ndarray = np.where(hits > 0, special.betaincinv(np.maximum(hits, 1), draws - hits + 1, alpha), 0.0)
    return bounds


def _check_alpha(alpha: float) -> None:
    if not 0 < alpha < 1:
        raise ValueError(f"alpha must be between 0 and 1, got {alpha}")


def _own(key: jax.Array, purpose: np.uint32) -> jax.Array:
    return jax.random.fold_in(key, purpose)


def _class_of(logits: jax.Array) -> jax.Array:
    """One-hot bool [..., K]; all False where a logit is NaN, which must not count for a class."""
    known = ~jnp.any(jnp.isnan(logits), -1, keepdims=True)
    classes = jnp.arange(logits.shape[-1], dtype=jnp.int32)
    hot = jnp.argmax(logits, -1, keepdims=True) == jnp.expand_dims(classes, range(logits.ndim - 1))
    return hot & known


def _count_all(
    classifier: Classifier, sigma: jax.Array, images: jax.Array, key: jax.Array, draws: jax.Array, *, chunk: int
) -> jax.Array:
    batch, keys = images.shape[0], image_keys(key, images.shape[0])
    sigma = jnp.asarray(sigma, images.dtype)

    def noisy(image: jax.Array, key: jax.Array, first: jax.Array) -> jax.Array:
        noise = jax.vmap(lambda each: jax.random.normal(each, image.shape, image.dtype))(image_keys(key, chunk, first))
        return image[None] + sigma * noise

    def add(turn: jax.Array, counts: jax.Array) -> jax.Array:
        first = turn * chunk
        inputs = jax.vmap(noisy, (0, 0, None))(images, keys, first)
        logits = classifier(inputs.reshape(batch * chunk, *images.shape[1:]))
        found = _class_of(logits).reshape(batch, chunk, -1)
        # The last turn draws more than is asked for.
        wanted = first + jnp.arange(chunk, dtype=jnp.int32) < draws
        return counts + jnp.sum(found & wanted[None, :, None], 1, dtype=jnp.int32)

    classes = jax.eval_shape(classifier, images).shape[-1]
    counts: jax.Array = jax.lax.fori_loop(0, -(-draws // chunk), add, jnp.zeros((batch, classes), jnp.int32))
    return counts


_counts = compiled(
    lambda *arguments: accelerate(functools.partial(_count_all, chunk=arguments[-1]))(*arguments[:-1]),
    static_argnums=5,
)
