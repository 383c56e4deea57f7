"""Random changes of images by key that are no attacks: crops, flips, colors, erased boxes, common corruptions."""

from advjax.disturb.blur import DefocusBlur, MotionBlur
from advjax.disturb.chain import Chain
from advjax.disturb.corruptions import CORRUPTIONS, Scale, corruption
from advjax.disturb.crops import RandomCrop, RandomFiveCrop
from advjax.disturb.disturbance import Disturbance
from advjax.disturb.erasing import ErasingDraw, RandomErasing
from advjax.disturb.flip import RandomFlip
from advjax.disturb.gray import RandomGrayscale
from advjax.disturb.jitter import ColorDraw, ColorJitter
from advjax.disturb.jpeg import Jpeg
from advjax.disturb.noise import GaussianNoise, ImpulseDraw, ImpulseNoise, ShotNoise
from advjax.disturb.pixelate import Pixelate
from advjax.disturb.tone import Brightness, Contrast

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
    "ErasingDraw",
    "corruption",
    "CORRUPTIONS",
    "Scale",
    "GaussianNoise",
    "ShotNoise",
    "ImpulseNoise",
    "ImpulseDraw",
    "DefocusBlur",
    "MotionBlur",
    "Brightness",
    "Contrast",
    "Pixelate",
    "Jpeg",
]
