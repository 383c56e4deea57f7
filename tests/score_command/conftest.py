"""Small pictures, saved where a test wants them."""

from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from advjax.score_command import blocks


@pytest.fixture
def picture():
    """Four spots of light, uint8 [24, 20]."""
    y, x = np.mgrid[:24, :20]
    spots = [(6, 8, 60), (14, 5, 110), (9, 17, 80), (15, 18, 50)]
    light = sum(a * np.exp(-((x - cx) ** 2 + (y - cy) ** 2) / 12) for cx, cy, a in spots)
    return np.round(40 + light).astype(np.uint8)


@pytest.fixture
def save(tmp_path):
    """`save(name, pixels, **options) -> path`, a string; folders are made."""

    def save(name, pixels, **options):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(path, **options)
        return str(path)

    return save


@pytest.fixture
def noisy():
    """`noisy(pixels, seed)`: uint8 pixels with some noise that reaches 9 levels."""

    def noisy(pixels, seed=0):
        noise = np.random.default_rng(seed).integers(-9, 10, pixels.shape)
        noise[0, 0] = 9
        return (np.clip(pixels, 9, 246) + noise).astype(np.uint8)

    return noisy


@pytest.fixture
def stand_in(monkeypatch):
    """In place of `pass_score`, which takes seconds to compile: 1 minus the mean difference. The shapes it saw."""
    shapes = []

    def pass_score(changed, original, *, padding, levels, sizes, image_mask, template_mask):
        shapes.append(changed.shape)
        score = 1 - np.abs(np.asarray(changed) - np.asarray(original)).mean((-3, -2, -1))
        warp = np.broadcast_to(np.eye(3), (*score.shape, 3, 3))
        alignment = SimpleNamespace(warp=warp, converged=score > 0, image=changed)
        return SimpleNamespace(score=score, ssim=score, alignment=alignment)

    monkeypatch.setattr(blocks, "pass_score", pass_score)
    return shapes
