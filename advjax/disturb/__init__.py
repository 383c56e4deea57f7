"""Random changes of images by key that are no attacks: crops, flips, colors, erased boxes, and several in a row."""

from advjax.disturb.chain import Chain
from advjax.disturb.crops import RandomCrop, RandomFiveCrop
from advjax.disturb.disturbance import Disturbance
from advjax.disturb.erasing import Box, RandomErasing
from advjax.disturb.flip import RandomFlip
from advjax.disturb.gray import RandomGrayscale
from advjax.disturb.jitter import ColorDraw, ColorJitter

__all__ = [
    "Disturbance",
    "Chain",
    "RandomCrop",
    "RandomFlip",
    "RandomGrayscale",
    "ColorJitter",
    "ColorDraw",
    "RandomFiveCrop",
    "RandomErasing",
    "Box",
]
