"""Checks of what disturbances are made with and given."""

import jax
import numpy as np

from advjax.attacks.settings import check_real

__all__ = ["check_channels", "check_probability", "check_size"]


def check_probability(name: str, content: object) -> None:
    """Raises unless `content` is a number in [0, 1], or an array of such, one for each image."""
    check_real(name, content, "a number in [0, 1]", lambda array: (array >= 0) & (array <= 1))


def check_size(name: str, size: object, least: int = 1) -> None:
    """Raises ValueError unless `size` is an integer of `least` or more."""
    if not isinstance(size, int | np.integer) or isinstance(size, bool) or size < least:
        raise ValueError(f"{name} must be an integer of {least} or more, got {size!r}")


def check_channels(image: jax.Array) -> None:
    """Raises ValueError unless an image [H, W, C] is gray (C = 1) or RGB (C = 3)."""
    if image.shape[-1] not in (1, 3):
        raise ValueError(f"images must have 1 channel (gray) or 3 (RGB), got shape {image.shape}")
