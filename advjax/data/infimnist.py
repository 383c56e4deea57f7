"""An InfiMNIST-like generator: endless deformed digits, each a pure function of its index."""

import dataclasses
import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from advjax.data.rows import batches
from advjax.data.transforms import to_float

__all__ = ["InfimnistLike", "infimnist_like", "misclassified_share", "calibrate"]

_TEST_IMAGES = 10_000  # InfiMNIST's first indices are MNIST's test set; they never occur here
_NUM_FIELDS = 1522
_FIELD_SIGMA = 4.0  # pixels: how far a displacement is felt
_TANGENT_SIGMA = 1.0  # pixels: the scale at which an image is differentiated
_AFFINE_SHARE = 0.5  # size of the affine part of a field against its smooth part
_BATCH = 500  # images made and classified at a time
_CHUNK = 1_000  # images made for the host at a time
_MAX_AMPLITUDE = 64.0  # pixels: far beyond where a digit can be read


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class InfimnistLike:
    """A generator of deformed training images: `generator(indices) -> (images, labels)`.

    Attributes:
        images: uint8 [N, H, W, 1], the training images.
        labels: int32 [N].
        fields: float32 [1522, H, W], displacement fields of unit root mean square.
        amplitude: float32 [], root mean square displacement in pixels (by each of the two fields).
    """

    images: jax.Array
    labels: jax.Array
    fields: jax.Array
    amplitude: jax.Array

    def __call__(self, indices: ArrayLike) -> tuple[jax.Array, jax.Array]:
        """Images uint8 [B, H, W, 1] and labels int32 [B] of `indices` (integers [B], 10,000 to 2^32-1).

        Indices 10,000..10,000+N-1 are the training images themselves, all that follow are deformed ones, as
        in InfiMNIST, where the indices below 10,000 are the test set. May be called inside compiled code.

        Raises:
            TypeError: if `indices` are not integers.
            ValueError: if `indices` is not one-dimensional or (seen outside compiled code only) out of range.
        """
        if not jnp.issubdtype(jnp.result_type(indices), jnp.integer):
            raise TypeError(f"indices must be integers, got {jnp.result_type(indices)}")
        if jnp.ndim(indices) != 1:
            raise ValueError(f"indices must have shape [B], got {jnp.shape(indices)}")
        if not isinstance(indices, jax.core.Tracer):
            values = np.asarray(indices)
            wrong = values[(values < _TEST_IMAGES) | (values >= 2**32)]
            if wrong.size:
                raise ValueError(f"indices must be at least {_TEST_IMAGES} and below 2^32, got {wrong[0]}")
        return _generate(self, jnp.asarray(indices, jnp.uint32))

    def in_memory(self, indices: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The same on the host, for any number of indices: the device holds the fields of 1,000 images at a time.

        >>> generator = infimnist_like(np.zeros((3, 28, 28, 1), np.uint8), np.arange(3), jax.random.key(0))
        >>> images, labels = generator.in_memory(np.arange(10_000, 11_200))
        >>> images.shape, labels.shape
        ((1200, 28, 28, 1), (1200,))
        """
        parts = [
            jax.tree.map(lambda array, real=real: np.asarray(array)[:real], self(indices[rows]))
            for rows, real in batches(len(indices), _CHUNK)
        ]
        images, labels = (np.concatenate(part) for part in zip(*parts, strict=True))
        return images, labels


def infimnist_like(
    images: ArrayLike, labels: ArrayLike, key: jax.Array, *, amplitude: ArrayLike = 1.0
) -> InfimnistLike:
    """Endless deformations of a training set by InfiMNIST's formula, with displacement fields of our own.

    Index i >= 10,000 + N makes the image, in gray levels,

        x_i = shift(trunc(clip(x_a + s A (F_k1 T_0 x_a - F_k2 T_1 x_a), 0, 255)))

    with a = (i - 10000) mod N, k1 = (131071 i mod 2^32) mod 1521, k2 = (k1 + 1 + 2i) mod 1522, s = -1 where
    k1 + k2 is odd and 1 elsewhere, and a shift to one of the 8 neighbors or none, by k1 mod 9. The products
    are by pixel. T_0 and T_1 are the derivatives along x and y of the Gaussian-smoothed image (sigma 1
    pixel), so to first order the sum reads each pixel at a displacement of (F_k1, -F_k2) s A.

    This is not InfiMNIST: its 1,522 fields and its tangents were published as binary files that no public
    repository was found to hold. Here a field is uniform noise smoothed by a Gaussian (sigma 4 pixels) plus a
    small random affine map, scaled to a root mean square of 1; `calibrate` chooses the amplitude A.

    Args:
        images: uint8 [N, H, W, 1], training images. Never the test set.
        labels: integers [N].
        key: draws the fields.
        amplitude: A, in pixels.

    Raises:
        TypeError: if `images` are not uint8, or `labels` not integers.
        ValueError: if the shapes do not fit.

    Source: Loosli, Canu, Bottou 2007, "Training invariant support vector machines using selective sampling";
    the claim of Rozsa et al. 2016, sec. 2, is about this data.

    >>> images = np.zeros((3, 28, 28, 1), np.uint8)
    >>> generator = infimnist_like(images, np.arange(3), jax.random.key(0))
    >>> generator(np.arange(70_000, 70_004))[1].tolist()
    [0, 1, 2, 0]
    """
    images, labels = jnp.asarray(images), jnp.asarray(labels)
    if images.dtype != jnp.uint8:
        raise TypeError(f"images must be uint8 pixels (0..255), got {images.dtype}")
    if images.ndim != 4 or images.shape[-1] != 1 or not images.size:
        raise ValueError(f"images must have shape [N, H, W, 1], got {images.shape}")
    if not jnp.issubdtype(labels.dtype, jnp.integer):
        raise TypeError(f"labels must be integers, got {labels.dtype}")
    if labels.shape != images.shape[:1]:
        raise ValueError(f"labels must have shape {images.shape[:1]}, got {labels.shape}")
    fields = _displacement_fields(key, *images.shape[1:3])
    return InfimnistLike(images, labels.astype(jnp.int32), fields, jnp.asarray(amplitude, jnp.float32))


def misclassified_share(
    generator: InfimnistLike,
    classifier: Callable[[jax.Array], jax.Array],
    indices: ArrayLike,
) -> jax.Array:
    """The share (float32 [], in [0, 1]) of the generated images that `classifier` gets wrong.

    Args:
        generator: from `infimnist_like`.
        classifier: a callable pytree such as `Classifier`: images [B, H, W, 1] in [0, 1] -> logits [B, K].
        indices: integers [n], n > 0, as for the generator. Any number: 500 images are in memory at a time.

    Raises:
        ValueError: if `indices` does not have the shape [n] with n > 0.
    """
    indices = jnp.asarray(indices, jnp.uint32)
    if indices.ndim != 1 or not indices.size:
        raise ValueError(f"indices must have shape [n] with n > 0, got {indices.shape}")
    return _misclassified_share(generator, classifier, indices)


def calibrate(
    generator: InfimnistLike,
    classifier: Callable[[jax.Array], jax.Array],
    key: jax.Array,
    *,
    target: float = 0.022,
    count: int = 10_000,
    steps: int = 12,
) -> InfimnistLike:
    """The generator with the amplitude at which `classifier` gets the share `target` of the images wrong.

    The amplitude is bracketed by doubling, then bisected `steps` times, always on the same `count` images,
    all made of training images: indices drawn by `key` from the first million deformed ones. The default
    target is the share that Rozsa et al. 2016, sec. 2, report for InfiMNIST (2.199 +- .132 %).

    Args:
        generator: from `infimnist_like`; its amplitude is ignored.
        classifier: as in `misclassified_share`.
        key: draws the indices.
        target: the wanted share, in (0, 1).
        count: how many images to measure it on.
        steps: bisections.

    Raises:
        ValueError: if no amplitude has that share: the shifts alone exceed it, or 64 pixels do not reach it.
    """
    first = _TEST_IMAGES + generator.images.shape[0]
    indices = jax.random.randint(key, (count,), first, first + 1_000_000)

    def share(amplitude: float) -> float:
        return float(misclassified_share(_with_amplitude(generator, amplitude), classifier, indices))

    if share(0.0) > target:
        raise ValueError(f"target must exceed the share without deformation, {share(0.0):.4f}, got {target}")
    low, high = 0.0, 0.25
    while share(high) < target:
        low, high = high, 2 * high
        if high > _MAX_AMPLITUDE:
            raise ValueError(f"target {target} is not reached at an amplitude of {_MAX_AMPLITUDE} pixels")
    for _ in range(steps):
        middle = (low + high) / 2
        low, high = (middle, high) if share(middle) < target else (low, middle)
    return _with_amplitude(generator, (low + high) / 2)


def _with_amplitude(generator: InfimnistLike, amplitude: float) -> InfimnistLike:
    return dataclasses.replace(generator, amplitude=jnp.float32(amplitude))


@jax.jit
def _generate(generator: InfimnistLike, indices: jax.Array) -> tuple[jax.Array, jax.Array]:
    num_images = generator.images.shape[0]
    rows = ((indices - _TEST_IMAGES) % num_images).astype(jnp.int32)
    k1 = ((indices * 131071) % (_NUM_FIELDS - 1)).astype(jnp.int32)  # uint32: wraps as in the original
    # 2i mod 1522 by way of i mod 761, which cannot wrap.
    k2 = (k1 + 1 + 2 * (indices % (_NUM_FIELDS // 2)).astype(jnp.int32)) % _NUM_FIELDS
    sign = jnp.where((k1 + k2) % 2 == 1, -1.0, 1.0)
    originals = generator.images[rows]
    deformed = _deform(
        originals[..., 0].astype(jnp.float32),
        generator.fields[k1],
        generator.fields[k2],
        (sign * generator.amplitude)[:, None, None],
    )
    shifted = jax.vmap(_shift)(deformed, k1 % 9)[..., None]
    is_original = indices < _TEST_IMAGES + num_images
    return jnp.where(is_original[:, None, None, None], originals, shifted), generator.labels[rows]


def _deform(images: jax.Array, field_x: jax.Array, field_y: jax.Array, amplitude: jax.Array) -> jax.Array:
    """trunc(clip(x + amplitude (field_x dx/dcolumn - field_y dx/drow))), float32 [B, H, W] -> uint8."""
    smooth = functools.partial(_gaussian_matrix, sigma=_TANGENT_SIGMA)
    height, width = images.shape[1:]
    highest = jax.lax.Precision.HIGHEST
    product = functools.partial(jnp.einsum, "ij,bjk,lk->bil", precision=highest)
    along_x = product(smooth(height), images, smooth(width, derivative=True))
    along_y = product(smooth(height, derivative=True), images, smooth(width))
    moved = images + amplitude * (field_x * along_x - field_y * along_y)
    # Truncation would turn a flat 255 into 254 by a rounding error of the sums; 1e-3 levels forgive it.
    return (jnp.clip(moved, 0, 255) + 1e-3).astype(jnp.uint8)


def _shift(image: jax.Array, which: jax.Array) -> jax.Array:
    """Moves [H, W] to neighbor `which` (0..8, row by row; 4 is none), filling with 0."""
    return jax.lax.dynamic_slice(jnp.pad(image, 1), (2 - which // 3, 2 - which % 3), image.shape)


@functools.partial(jax.jit, static_argnums=(1, 2))
def _displacement_fields(key: jax.Array, height: int, width: int) -> jax.Array:
    """Smooth random fields with a random affine part, each of root mean square 1: float32 [1522, H, W]."""
    noise_key, affine_key = jax.random.split(key)
    # Noise beyond the frame, so that smoothing leaves the fields as rough at the border as inside.
    margin = int(4 * _FIELD_SIGMA)
    shape = (_NUM_FIELDS, height + 2 * margin, width + 2 * margin)
    noise = jax.random.uniform(noise_key, shape, minval=-1.0, maxval=1.0)
    rows, columns = (_gaussian_matrix(size, _FIELD_SIGMA, margin) for size in (height, width))
    smooth = _unit(jnp.einsum("ij,bjk,lk->bil", rows, noise, columns, precision=jax.lax.Precision.HIGHEST))
    weights = jax.random.uniform(affine_key, (_NUM_FIELDS, 3), minval=-1.0, maxval=1.0)
    y, x = jnp.meshgrid(jnp.linspace(-1, 1, height), jnp.linspace(-1, 1, width), indexing="ij")
    affine = jnp.einsum("bc,cij->bij", weights, jnp.stack([jnp.ones_like(x), x, y]))
    return _unit(smooth + _AFFINE_SHARE * affine)


def _unit(fields: jax.Array) -> jax.Array:
    return fields / jnp.sqrt(jnp.mean(fields**2, axis=(1, 2), keepdims=True))


def _gaussian_matrix(size: int, sigma: float, margin: int = 0, *, derivative: bool = False) -> jax.Array:
    """Convolution with a Gaussian or its derivative as a matrix [size, size + 2 margin]; zeros outside."""
    distance = jnp.arange(size + 2 * margin)[None, :] - (jnp.arange(size)[:, None] + margin)
    distance = distance.astype(jnp.float32)
    radius = np.arange(-int(4 * sigma), int(4 * sigma) + 1)
    weights = jnp.where(jnp.abs(distance) <= 4 * sigma, jnp.exp(-(distance**2) / (2 * sigma**2)), 0.0)
    weights = weights / float(np.exp(-(radius**2) / (2 * sigma**2)).sum())
    # A positive weight ahead and a negative one behind: x(p + 1) - x(p - 1) has the sign of the slope.
    return weights * distance / sigma**2 if derivative else weights


@jax.jit
def _misclassified_share(
    generator: InfimnistLike, classifier: Callable[[jax.Array], jax.Array], indices: jax.Array
) -> jax.Array:
    def is_wrong(index: jax.Array) -> jax.Array:
        image, label = _generate(generator, index[None])
        return classifier(to_float(image)).argmax(-1)[0] != label[0]

    return jnp.mean(jax.lax.map(is_wrong, indices, batch_size=_BATCH).astype(jnp.float32))
