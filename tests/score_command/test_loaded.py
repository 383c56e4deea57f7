"""Distances of pixels in memory: integers stay integers, depths meet, and masked pixels do not count."""

import numpy as np
import pytest

from advjax.data.pictures import Picture
from advjax.score_command.loaded import Loaded, distances

LEVELS = np.arange(256, dtype=np.uint8).reshape(16, 16, 1)


def pair_of(original, changed, masks=None):
    white = {np.dtype(np.uint8): 255, np.dtype(np.uint16): 65535, np.dtype(np.float32): 1}
    pictures = (Picture(pixels, white[pixels.dtype], "") for pixels in (original, changed))
    return Loaded(None, *pictures, masks)


@pytest.mark.parametrize("step", range(1, 256, 7))
def test_linf_of_8_bits_is_the_whole_number(step):
    # In float32, as the scores are computed, 61 % of such pairs are off: 3.0000074 for 3, and so above an epsilon of 3.
    changed = np.where(256 - step > LEVELS, LEVELS + np.uint8(step), LEVELS).astype(np.uint8)
    assert distances(pair_of(LEVELS, changed))[1] == step
    assert distances(pair_of(changed, LEVELS))[1] == step


def test_l2_per_pixel_is_the_root_mean_square():
    changed = LEVELS.copy()
    changed[0, 0], changed[0, 1] = 3, 5
    assert distances(pair_of(LEVELS, changed)) == (pytest.approx(5 / 16), 4)


def test_16_bits_are_in_gray_levels_of_255_too():
    deep = LEVELS.astype(np.uint16) * 257
    changed = deep.copy()
    changed[5, 5] += 200
    assert distances(pair_of(deep, changed)) == (pytest.approx(200 / 257 / 16), pytest.approx(0.77821, abs=1e-5))
    assert distances(pair_of(LEVELS, deep)) == (0, 0)
    floats = (LEVELS / np.float32(255)).astype(np.float32)
    assert distances(pair_of(floats, LEVELS))[1] == pytest.approx(0, abs=1e-4)


def test_masked_pixels_do_not_count():
    changed = LEVELS.copy()
    changed[0], changed[:, 1] = 0, 0
    masks = np.ones((2, 16, 16), bool)
    masks[0, 0], masks[1, :, 1] = False, False
    assert distances(pair_of(LEVELS, changed, tuple(masks))) == (0, 0)
    assert distances(pair_of(LEVELS, changed, tuple(0 * masks > 0))) == (0, 0)
