"""Two files: their scores in words, and the aligned picture."""

import pathlib

import numpy as np

from advjax.files import write_whole
from advjax.score_command.blocks import Settings, floats, pass_of
from advjax.score_command.loaded import load
from advjax.score_command.pairs import Pair
from advjax.score_command.table import row

__all__ = ["score_files"]


def score_files(original: pathlib.Path, changed: pathlib.Path, save: pathlib.Path | None, settings: Settings) -> None:
    """Prints the scores of two files, and writes the changed picture, aligned, to `save`.

    Raises:
        ValueError: a file cannot be scored.
        OSError: the aligned picture cannot be written.
    """
    loaded = load(Pair(str(original), str(changed), original, changed), settings.levels, settings.border)
    images = np.stack([floats(loaded.changed), floats(loaded.original)])
    masks = None if loaded.masks is None else np.stack(loaded.masks[::-1])
    scored, aligned = pass_of(images, masks, settings)
    found = row(loaded, scored, settings.padding)
    print(f"PASS          {found['pass']:.6f} (SSIM {settings.padding}, after alignment)")
    print(f"SSIM          {found['ssim']:.6f} (without alignment)")
    print(f"L2 per pixel  {found['l2_per_pixel']:.3f} gray levels")
    print(f"linf          {found['linf']:g} gray levels")
    print(
        f"alignment     {'converged' if found['converged'] else 'did not converge'}; warp, original to changed pixels:"
    )
    for r in range(3):
        print("             ", " ".join(f"{found[f'h{r}{c}']:12.6f}" for c in range(3)))
    modes = found["mode"] if found["mode"] == found["changed_mode"] else f"{found['mode']} and {found['changed_mode']}"
    print(f"pictures      {found['width']}x{found['height']}, {modes}")
    if loaded.masks is not None:
        print(f"masked        {100 * found['masked']:.2f} % of the pixels, as a border")
    if found["notes"]:
        print(f"notes         {found['notes']}")
    if save is not None:
        _save(save, np.asarray(aligned))


def _save(path: pathlib.Path, image: np.ndarray) -> None:
    from PIL import Image

    pixels = np.round(np.clip(image, 0, 1) * 255).astype(np.uint8)
    picture = Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels)
    kind = Image.registered_extensions()[path.suffix.lower()]
    write_whole(path, lambda file: picture.save(file, kind))
