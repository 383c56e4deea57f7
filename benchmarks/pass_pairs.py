"""The pairs that PASS is measured on: digits and their adversarial images, moved photographs, crops of one image."""

import cv2
import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

from advjax.attacks import fgs, fgv, hot_cold, perturb
from advjax.classifier import from_nnx
from advjax.data import load, to_float
from advjax.models.lenet import LeNet
from tests.reference import pass_opencv, photographs

Pairs = dict[str, tuple[np.ndarray, np.ndarray]]  # kind -> (perturbed, original), [B, H, W] each


def mnist_pairs(per_kind: int) -> Pairs:
    """Test digits beside their adversarial images (of a LeNet trained here), noisy, rotated and shifted copies."""
    train, test = load("mnist", "train"), load("mnist", "test")
    model = LeNet(rngs=nnx.Rngs(0))
    optimizer = nnx.Optimizer(model, optax.adam(1e-3), wrt=nnx.Param)

    @nnx.jit
    def step(model: LeNet, optimizer: nnx.Optimizer, images: jax.Array, labels: jax.Array) -> None:
        def loss(model: LeNet) -> jax.Array:
            return optax.softmax_cross_entropy_with_integer_labels(model(images), labels).mean()

        optimizer.update(model, nnx.grad(loss)(model))

    for start in range(0, 32000, 128):
        rows = slice(start, start + 128)
        step(model, optimizer, jnp.asarray(to_float(train.images[rows])), jnp.asarray(train.labels[rows]))
    digits, rng = np.asarray(to_float(test.images[:per_kind])), np.random.default_rng(0)
    attacks = {"FGS": fgs(), "FGV": fgv(), "HC-1": hot_cold(1), "HC-5": hot_cold(5)}
    batch = (from_nnx(model), jnp.asarray(digits), jnp.asarray(test.labels[:per_kind]))
    gray = digits[..., 0]
    changed = {name: np.asarray(perturb(attack, *batch).image)[..., 0] for name, attack in attacks.items()}
    changed["noise, sigma 0.1"] = pass_opencv.on_grid(gray + rng.normal(0, 0.1, gray.shape))
    changed["rotated to 15 deg"] = np.stack([pass_opencv.rotated(x, rng.uniform(-15, 15)) for x in gray])
    changed["shifted to 2 px"] = np.stack([pass_opencv.shifted(x, *rng.uniform(-2, 2, 2)) for x in gray])
    both = (pass_opencv.shifted(pass_opencv.rotated(x, rng.uniform(-8, 8)), *rng.uniform(-1, 1, 2)) for x in gray)
    changed["rotated, shifted, noise"] = pass_opencv.on_grid(np.stack(list(both)) + rng.normal(0, 0.05, gray.shape))
    return {name: (images, gray) for name, images in changed.items()}


def photograph_pairs(pictures: np.ndarray, displacement: float, noise: float) -> tuple[np.ndarray, list[np.ndarray]]:
    """The photographs moved by known homographies, and those."""
    rng, side = np.random.default_rng(1), pictures.shape[1]
    warps = [pass_opencv.random_homography(rng, side, side, displacement) for _ in pictures]
    moved = np.stack([pass_opencv.moved(*pair) for pair in zip(pictures, warps, strict=True)])
    return pass_opencv.on_grid(moved + rng.normal(0, noise, moved.shape)), warps


def whole_pixel_shifts(images: np.ndarray, shift: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """Two crops of the same images [N, H, W, C], apart by (x, y) pixels: what is in both is equal to the bit."""
    side = images.shape[1] - 4
    moved, original = (images[:, 1 + y : 1 + y + side, 1 + x : 1 + x + side] for x, y in (shift, (0, 0)))
    return moved, original


def turned_pictures(pictures: np.ndarray, degrees: float) -> tuple[np.ndarray, np.ndarray]:
    """The photographs turned about their center, with black corners, and the warp onto them."""
    side = pictures.shape[1]
    turn = cv2.getRotationMatrix2D(((side - 1) / 2, (side - 1) / 2), degrees, 1)
    return np.stack([pass_opencv.rotated(picture, degrees) for picture in pictures]), np.vstack([turn, [[0, 0, 1]]])


def shuffled(kinds: Pairs) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """All pairs in a random order, hard and easy side by side, and where each went."""
    images, originals = (np.concatenate([pair[k] for pair in kinds.values()]) for k in range(2))
    order = np.random.default_rng(0).permutation(len(images))
    return images[order], originals[order], np.argsort(order)


def cifar_pairs(count: int) -> Pairs:
    """Gray CIFAR-10 test images beside noisy, rotated and shifted copies."""
    gray = np.asarray(to_float(load("cifar10", "test").images[:count])) @ np.float32([0.299, 0.587, 0.114])
    gray, rng = pass_opencv.on_grid(gray), np.random.default_rng(0)
    changed = {
        "noise, sigma 0.1": pass_opencv.on_grid(gray + rng.normal(0, 0.1, gray.shape)),
        "rotated to 15 deg": np.stack([pass_opencv.rotated(x, rng.uniform(-15, 15)) for x in gray]),
        "shifted to 2 px": np.stack([pass_opencv.shifted(x, *rng.uniform(-2, 2, 2)) for x in gray]),
    }
    return {name: (images, gray) for name, images in changed.items()}


def pictures(count: int) -> tuple[np.ndarray, str]:
    """Gray photographs of 224 x 224 and where they are from."""
    found = photographs.from_folder(count, 224)
    return (photographs.bundled(224), "scikit-image's own") if found is None else (found, "ImageNet samples")
