"""PASS: how similar a perturbed image looks to its original once it is aligned with it."""

import collections
import dataclasses
import os
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial, reduce
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec
from jax.typing import ArrayLike

from advjax.data.rows import filled
from advjax.scores.ecc import SMALLEST_SIDE, Alignment, align, check_overlap, check_settings
from advjax.scores.ecc_iteration import Settings
from advjax.scores.masks import Masks, batched
from advjax.scores.norms import check_pair
from advjax.scores.ssim import WINDOW, check_window, check_window_masks, ssim, ssim_of_sizes
from advjax.scores.warp import Interpolation, Motion

__all__ = ["PassScore", "pass_score", "pass_scores"]

Padding = Literal["valid", "same"]
Block = tuple[np.ndarray, np.ndarray] | tuple[np.ndarray, np.ndarray, np.ndarray | None, np.ndarray | None]


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class PassScore:
    """PASS of each pair, for leading axes [...].

    Attributes:
      score: [...], SSIM of the aligned perturbed image and the original, at most 1. Papers print 1000 times it.
      ssim: [...], the same without alignment. The alignment raises the correlation, not SSIM itself: on
        pixel noise the score is as often a little below this as above.
      alignment: the `Alignment` of the perturbed image onto the original.
      padding: "valid" or "same", the windows SSIM was averaged over. Scores of the two do not compare.
    """

    score: jax.Array
    ssim: jax.Array
    alignment: Alignment
    padding: Padding = dataclasses.field(metadata={"static": True})


def pass_score(
    perturbed: jax.Array,
    original: jax.Array,
    *,
    padding: Padding = "valid",
    motion: Motion = "homography",
    iterations: int = 100,
    tolerance: float = 1e-6,
    levels: int = 1,
    interpolation: Interpolation = "gather",
    image_mask: jax.Array | None = None,
    template_mask: jax.Array | None = None,
    sizes: jax.Array | None = None,
) -> PassScore:
    """PASS(x~, x) = SSIM(psi(x~, x), x), psi the warp of x~ onto x of greatest ECC (eqs. 1-4).

    Two images that differ by a small motion look alike though their pixels do not, so x~ is first aligned
    (`ecc_align`, on blurred luma) and then compared (`ssim`, unblurred, mean over channels).

    Compiled once per shape and option. Batches sharded by a `NamedSharding` over leading axes are scored
    where they lie, without communication; inside a compiled function of your own use `jax.shard_map` for
    that. For sets beyond memory see `pass_scores`.

    `jax.grad` of `score` in either image is exact where the alignment has converged: the warp's own
    dependence on the images enters by the implicit function theorem (see `ecc_align`), the warped image's
    and SSIM's by plain differentiation. Where it has not, the warp counts as a constant.

    Args:
      perturbed: x~, floats [..., H, W, C] in [0, 1], sides of 11 pixels or more, C = 1 or 3.
      original: x, of the same shape.
      padding: windows of SSIM, "valid" (fully inside; the default) or "same" (one for every pixel).
      motion, iterations, tolerance, levels, interpolation: as for `ecc_align`.
      sizes: int32 [..., 2], rows and columns of the picture in the upper left corner of each array, where pictures of
        many sizes share one shape and so one program; every score is as if the array ended there, whatever lies
        beyond. None: the whole array.

    Returns:
      A `PassScore`, finite for finite images.

    Raises:
      ValueError: bad or unequal shapes, sides too short, or an unknown option.
      TypeError: images that are not floats.

    Source: Rozsa, Rudd, Boult, "Adversarial Diversity and Hard Positive Generation", 2016, sec. 3.

    >>> import jax, jax.numpy as jnp
    >>> x = jnp.zeros((28, 28, 1)).at[8:20, 12:16].set(1.0)
    >>> moved = jnp.roll(x, 1, axis=1)
    >>> result = pass_score(moved, x)
    >>> float(result.score) > 0.9 > float(result.ssim)
    True
    """
    check_pair(perturbed, original, "perturbed", "original")
    settings = Settings(motion, levels, True, interpolation)
    check_settings(settings, np.shape(perturbed))
    check_window(np.shape(perturbed), padding)
    masks = (image_mask, template_mask)
    check_overlap(masks, np.shape(perturbed))
    check_window_masks("image_mask, template_mask", padding, *masks)
    if sizes is not None:
        _check_sizes(sizes, np.shape(perturbed), max(WINDOW, SMALLEST_SIDE << (levels - 1)))
    sharding = _batch_sharding(perturbed)
    return _jitted_score(perturbed, original, masks, iterations, tolerance, settings, padding, sharding, sizes)


def _check_sizes(sizes: jax.Array, shape: tuple[int, ...], shortest: int) -> None:
    """Raises unless the sizes fit images of `shape` [..., H, W, C] and, where known, none is below `shortest`."""
    if not jnp.issubdtype(jnp.result_type(sizes), jnp.integer):
        raise TypeError(f"sizes: expected integers, got {jnp.result_type(sizes)}")
    if jnp.shape(sizes) != (*shape[:-3], 2):
        raise ValueError(f"sizes: expected shape {(*shape[:-3], 2)}, got {jnp.shape(sizes)}")
    if isinstance(sizes, jax.core.Tracer) or not getattr(sizes, "is_fully_addressable", True):
        return
    known = np.asarray(sizes).reshape(-1, 2)
    bad = ((known < shortest) | (known > shape[-3:-1])).any(-1)
    if bad.any():
        raise ValueError(
            f"sizes: expected {shortest} rows and columns or more and at most {shape[-3:-1]}, got "
            f"{tuple(known[bad.argmax()].tolist())} in pair {bad.argmax()}"
        )


def _score(
    settings: Settings,
    padding: Padding,
    perturbed: jax.Array,
    original: jax.Array,
    masks: Masks,
    sizes: jax.Array | None,
    iterations: ArrayLike,
    tolerance: ArrayLike,
) -> PassScore:
    alignment = align(perturbed, original, masks, iterations, tolerance, settings, sizes)
    given = [mask for mask in masks if mask is not None]
    unaligned = reduce(jnp.logical_and, given) if given else None

    def similarity(image: jax.Array, mask: jax.Array | None) -> jax.Array:
        if sizes is None:
            return ssim(image, original, padding=padding, mask=mask)
        return ssim_of_sizes(image, original, padding, mask, sizes)

    return PassScore(similarity(alignment.image, alignment.mask), similarity(perturbed, unaligned), alignment, padding)


@partial(jax.jit, static_argnames=("settings", "padding", "sharding"))
def _jitted_score(
    perturbed: jax.Array,
    original: jax.Array,
    masks: Masks,
    iterations: ArrayLike,
    tolerance: ArrayLike,
    settings: Settings,
    padding: Padding,
    sharding: NamedSharding | None,
    sizes: jax.Array | None = None,
) -> PassScore:
    score = partial(_score, settings, padding)
    masks = (batched(masks[0], perturbed.shape), batched(masks[1], perturbed.shape))
    if sharding is not None:
        # Each device runs its own queue. Left to the partitioner, every one would gather the whole batch.
        batch, limit = sharding.spec, PartitionSpec()
        leading = PartitionSpec(*batch[: perturbed.ndim - 3])
        score = jax.shard_map(
            score,
            mesh=sharding.mesh,
            in_specs=(batch, batch, leading, leading, limit, limit),
            out_specs=leading,
            check_vma=False,
        )
    return score(perturbed, original, masks, sizes, iterations, tolerance)


def _batch_sharding(images: jax.Array) -> NamedSharding | None:
    """The sharding of a concrete array split over leading axes alone, else None."""
    if not isinstance(images, jax.Array) or isinstance(images, jax.core.Tracer):
        return None
    sharding = images.sharding
    if not isinstance(sharding, NamedSharding) or sharding.is_fully_replicated:
        return None
    split = [axis for axis, names in enumerate(sharding.spec) if names]
    return sharding if max(split) < images.ndim - 3 else None


def pass_scores(blocks: Iterable[Block], *, workers: int | None = None, **options: Any) -> Iterator[PassScore]:
    """PASS of a stream of blocks of pairs, in constant memory, as NumPy arrays in the order of the blocks.

    At most `workers` + 1 blocks are alive at a time, whatever the length of the stream. On CPU each worker
    thread scores a block on a core of its own, which beats several cores sharing one block. Blocks smaller
    than the first (the last one) are filled up, scored and cut again: nothing is compiled twice.

    Args:
      blocks: (perturbed, original) of [B, H, W, C] each; around 1,000 pairs of 28 x 28 serve well. Or (perturbed,
        original, image_mask, template_mask) where pairs have masks of their own, bool [B, H, W] or None.
      workers: threads; by default one for each core on CPU, 2 elsewhere (one copies while one computes).
      **options: of `pass_score`; masks among them are of [H, W], for all pairs.

    Yields:
      A `PassScore` with leading axis [B] for each block.

    Raises:
      ValueError: a block larger than the first, or whatever `pass_score` refuses.

    >>> import numpy as np
    >>> images = np.random.default_rng(0).random((5, 16, 16, 1), np.float32)
    >>> blocks = ((images[i : i + 2], images[i : i + 2]) for i in range(0, 5, 2))
    >>> [result.score.shape for result in pass_scores(blocks)]
    [(2,), (2,), (1,)]
    """
    if workers is None:
        workers = len(os.sched_getaffinity(0)) if jax.default_backend() == "cpu" else 2
    size: int | None = None
    pending: collections.deque[Future[PassScore]] = collections.deque()
    with ThreadPoolExecutor(workers) as pool:
        for block in blocks:
            count = len(block[0])
            size = count if size is None else size
            if count > size:
                raise ValueError(f"blocks: expected at most {size} pairs as in the first, got {count}")
            pending.append(pool.submit(_score_block, size, options, *block))
            if len(pending) > workers:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()


def _score_block(
    size: int,
    options: dict[str, Any],
    perturbed: np.ndarray,
    original: np.ndarray,
    image_mask: np.ndarray | None = None,
    template_mask: np.ndarray | None = None,
) -> PassScore:
    given = {"image_mask": image_mask, "template_mask": template_mask}
    masks = {name: mask for name, mask in given.items() if mask is not None}
    count = len(perturbed)
    lengths = {len(array) for array in (original, *masks.values())}
    if count < size and lengths == {count}:
        perturbed, original = filled(perturbed, size), filled(original, size)
        masks = {name: filled(mask, size) for name, mask in masks.items()}
    result = jax.device_get(pass_score(jnp.asarray(perturbed), jnp.asarray(original), **{**options, **masks}))
    return jax.tree.map(lambda leaf: leaf[:count], result)
