"""Gray photographs in [0, 1]: a folder named by ADVJAX_IMAGENET_SAMPLES, or the ones inside scikit-image."""

import os
from pathlib import Path

import numpy as np
import skimage.data
import skimage.transform
from PIL import Image


def from_folder(count, side):
    """[count, side, side] central crops of the folder's JPEG files; None if no folder is named."""
    folder = os.environ.get("ADVJAX_IMAGENET_SAMPLES")
    if not folder:
        return None
    files = sorted(Path(folder).glob("*.jpg"))[:count]
    return np.stack([_crop(Image.open(file).convert("L"), side) for file in files])


def bundled(side):
    """[6, side, side] photographs that need no download."""
    names = ("astronaut", "camera", "coffee", "chelsea", "rocket", "grass")
    pictures = (Image.fromarray(getattr(skimage.data, name)()).convert("L") for name in names)
    return np.stack([_crop(picture, side) for picture in pictures])


def _crop(picture, side):
    width, height = picture.size
    short = min(width, height)
    left, top = (width - short) // 2, (height - short) // 2
    square = picture.crop((left, top, left + short, top + short)).resize((side, side), Image.Resampling.LANCZOS)
    return np.asarray(square, np.float32) / 255
