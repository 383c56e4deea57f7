"""Perturbation: the one record that every attack returns, and the PNG files that cannot undo it."""

import functools
from pathlib import Path

import jax
import numpy as np

from advjax.attacks.attack import Asks, Failure
from advjax.attacks.faults import count_faults, raise_faults, warn_faults
from advjax.files import write_whole
from advjax.value import static, value

__all__ = ["Perturbation"]


@value
class Perturbation:
    """What became of each image.  Arrays have shape [B], images [B, H, W, C]; a stack of attacks leads with [R].

    Attributes:
      image: the perturbed images, on the grid unless the attack was made with `levels=None`.
      label: the labels given.
      clean_prediction: the model's class for the clean image.
      prediction: the model's class for exactly the image returned.
      success: the clean image was answered rightly, and the returned one meets the attack's criterion: it is answered
        wrongly, or with the class of `targeted` and `lbfgs(targets)`, by more than rounding error (see
        `advjax.attacks.criteria`).
      scale: distance along the last ray, in units of the ray (linf units in [0, 1] for `fgs`, `fgv`, `hot_cold`),
        before any last constraint (`Finish`). For `apgd` the step size that a
        next step of its last run would have had; 0 for attacks that do not go along one ray.
      l0: number of pixel positions changed.
      l1, l2, linf: norms of the difference, in units of [0, 1].
      calls: evaluations of the model: forward passes; a gradient counts as one, an estimated one as what it reads.
      failure: a `Failure`, which says why `success` is False.
      non_finite: some gradient of the image held NaN, which counted as 0, or infinity, which counted as the largest
        finite entry.
      faults: int32, bits of `Fault`: what is wrong with the image, its label or the model.  Never an image's own
        fault where `perturb` was called outside a `jit`, since it raises then.
      asks: the most that the attack learned from the model: "nothing", "decisions" (classes), "scores" (logits) or
        "gradients".
    """

    image: jax.Array
    label: jax.Array
    clean_prediction: jax.Array
    prediction: jax.Array
    success: jax.Array
    scale: jax.Array
    l0: jax.Array
    l1: jax.Array
    l2: jax.Array
    linf: jax.Array
    calls: jax.Array
    failure: jax.Array
    non_finite: jax.Array
    faults: jax.Array
    asks: Asks = static(default="gradients")

    def check(self) -> None:
        """Raises for what was wrong with images and labels, and warns of what is with the model.

        For results of a `jit` of your own, inside which `perturb` cannot read the values; call it outside.

        Raises:
          ValueError: some images were not finite, not in [0, 1] or not on the attack's grid, or some labels are no
            classes of the model.

        Example:
          >>> import jax, jax.numpy as jnp
          >>> from advjax import fgs, from_function, perturb
          >>> def model(weights, images):
          ...     return images.reshape(images.shape[0], -1) @ weights
          >>> classifier = from_function(model, jnp.ones((4, 3)))
          >>> result = jax.jit(lambda x: perturb(fgs(0.1), classifier, x, jnp.array([0])))(jnp.full((1, 2, 2, 1), 1.7))
          >>> result.check()
          Traceback (most recent call last):
          ValueError: images must be finite numbers in [0, 1], got others, which were clipped ...
        """
        if isinstance(self.faults, jax.core.Tracer):
            raise ValueError("check() reads values: return the result from your jit and call it outside")
        faults = np.asarray(self.faults)
        raise_faults(faults)
        warn_faults(faults, stacklevel=2)

    def to_uint8(self) -> np.ndarray:
        """The images as uint8, the same gray levels exactly.

        Raises:
          ValueError: the images are not on the grid of 256 levels, so that rounding could undo the attack.
        """
        levels = np.asarray(self.image) * np.float32(255)
        rounded = np.round(levels)
        if not np.all(np.abs(levels - rounded) <= 1e-3):
            raise ValueError(
                "the images are not on the grid k/255, and rounding them could undo the attack; "
                "make the attack with levels=256 (the default)"
            )
        return rounded.astype(np.uint8)

    def save_png(self, folder: str | Path) -> list[Path]:
        """Writes each image as `folder/00000.png` (`folder/0_00000.png` for a stack) and returns the paths.

        Images must have 1 (gray) or 3 (color) channels.
        """
        from PIL import Image

        pixels = self.to_uint8()
        channels = pixels.shape[-1]
        if channels not in (1, 3):
            raise ValueError(f"a PNG needs images of 1 or 3 channels, got {channels}")
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        paths = []
        for index in np.ndindex(pixels.shape[:-3]):
            *stacked, number = index
            path = folder / ("".join(f"{i}_" for i in stacked) + f"{number:05d}.png")
            picture = Image.fromarray(pixels[index][..., 0] if channels == 1 else pixels[index])
            write_whole(path, functools.partial(picture.save, format="PNG"))
            paths.append(path)
        return paths

    def summary(self) -> str:
        """One line: how many succeeded, why the others did not, and what was wrong.

        Example: `3 of 4 succeeded; 1 ALREADY_MISCLASSIFIED; 2 with gradients not finite; faults: 1 OUT_OF_RANGE`.
        """
        success, failure = np.asarray(self.success), np.asarray(self.failure)
        reasons = [f"{np.sum(failure == f)} {f.name}" for f in Failure if f and np.any(failure == f)]
        broken, faults = int(np.sum(np.asarray(self.non_finite))), count_faults(np.asarray(self.faults))
        wrong = [f"{broken} with gradients not finite"] if broken else []
        wrong += [f"faults: {', '.join(faults)}"] if faults else []
        return "; ".join([f"{success.sum()} of {success.size} succeeded", *reasons, *wrong])
