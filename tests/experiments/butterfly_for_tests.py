"""A small form in the place of all four, a few digits, and the smallest run of them."""

import dataclasses

import jax.numpy as jnp
import numpy as np
from flax import nnx

from advjax.data import Dataset
from advjax.models.taps import untapped
from experiments.butterfly.config import Config

__all__ = ["TINY", "Form", "digits", "tiny"]


class Form(nnx.Module):
    """Mean colors of 4x4 pixels, one dense layer and another; a trunk for a generator, and taps."""

    def __init__(self, outputs, key):
        rngs = nnx.Rngs(key)
        self.dense1 = nnx.Linear(49, 8, rngs=rngs)
        self.fc = nnx.Linear(8, outputs, rngs=rngs)

    def trunk(self, images):
        """[B, 7, 7, 1]."""
        return images.reshape(images.shape[0], 7, 4, 7, 4, 1).mean((2, 4))

    def __call__(self, images, tap=untapped):
        x = self.trunk(images).reshape(images.shape[0], -1)
        return tap("penultimate", self.fc(tap("dense1", jnp.tanh(self.dense1(x)))))


# As few programs to compile as there may be: C has as many images as G, all forms are one.
TINY = Config(
    "tiny",
    rows=(
        "table1/digits/R50/A/*", "table1/digits/R50/B/vanilla", "table2/digits/R50/B/Prop-50",
        "table2/digits/R50/B/UAP", "table2/digits/R50/B/EHA", "table3/digits/R50/A/*",
    ),
    main=("digits/R50",),
    seeds=2,
    size="small",
    decoder=(2,),
    encoder_images=24,
    classifier_images=24,
    generator_images=24,
    validation_images=8,
    test_images=24,
    pretrain_steps=2,
    scratch_steps=2,
    tuned_steps=2,
    rate=1e-3,
    epochs=3,
    batch_size=8,
    enhancing_gammas=(1e-4, 1.0),
    adversarial_gammas=(3.0,),
    uap_images=4,
    uap_passes=1,
    members=2,
    attacked_images=6,
    pass_images=4,
    judge_batch=24,
)  # fmt: skip


def tiny(**changes):
    """`TINY` with changes."""
    return dataclasses.replace(TINY, **changes)


def digits(count=96, split="train"):
    """Random images, each other than all others, whose label is their number modulo 10."""
    images = np.random.default_rng(len(split)).integers(0, 256, (count, 28, 28, 1), np.uint8)
    return Dataset("digits", split, images, np.arange(count, dtype=np.int32) % 10, 10)
