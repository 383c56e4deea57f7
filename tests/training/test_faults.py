"""Images and labels that a training does not take: the compiled step counts them, whoever runs it is told."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from advjax.attacks import fgs, steepest
from advjax.data import Resident, Stream
from advjax.training import (
    Batch,
    Checkpoints,
    DataError,
    NonFiniteLossError,
    Trainer,
    create,
    ensemble,
    measure,
    placement,
    predict,
    stack,
    train_step,
)

OPTIMIZER = optax.sgd(0.1)


class Softmax(nnx.Module):
    """The smallest network of three classes."""

    def __init__(self, rngs):
        self.linear = nnx.Linear(12, 3, rngs=rngs)

    def __call__(self, images):
        return self.linear(images.reshape(images.shape[0], -1))


STATE = create(Softmax(nnx.Rngs(0)), OPTIMIZER)
PIXELS = np.random.default_rng(0).integers(0, 256, (16, 2, 2, 3)).astype(np.uint8)
LABELS = np.arange(16, dtype=np.int32) % 3
GREYS = PIXELS.astype(np.float32) / np.float32(255)


def broken(images):
    """Of the images two are normalized, one off the grid, and one not finite; the others are as they were."""
    images = images.copy()
    images[3:5] = (images[3:5] - 0.13) / 0.31
    images[5] += 0.3 / 255
    images[9, 0, 0, 1] = np.nan
    return images


def counted(metrics):
    return [int(count) for count in jax.device_get(metrics.faults)]


@pytest.mark.parametrize(
    ("attack", "images", "labels", "want"),
    [
        (None, PIXELS, LABELS, [0, 0, 0, 0]),
        (steepest("linf", 0.1), PIXELS, LABELS, [0, 0, 0, 0]),
        (steepest("linf", 0.1), GREYS, LABELS, [0, 0, 0, 0]),
        (None, broken(GREYS), LABELS, [1, 2, 0, 0]),
        (steepest("linf", 0.1, levels=None), broken(GREYS), LABELS, [1, 2, 0, 0]),
        (steepest("linf", 0.1), broken(GREYS), LABELS, [1, 2, 1, 0]),
        # Stored pixels are on the grid of 256 levels, and on that of 511, not on that of 16.
        (steepest("linf", 0.1, levels=511), PIXELS, LABELS, [0, 0, 0, 0]),
        (steepest("linf", 0.1, levels=16), PIXELS, LABELS, [0, 0, 16, 0]),
        (None, PIXELS, np.where(np.arange(16) < 3, [3, -1, 7] + 13 * [0], LABELS), [0, 0, 0, 3]),
    ],
)
def test_the_compiled_step_counts_them(attack, images, labels, want):
    step = jax.jit(train_step(OPTIMIZER, attack=attack))
    _, metrics = step(STATE, Batch(jnp.asarray(images), jnp.asarray(labels, jnp.int32)), jax.random.key(0))
    assert counted(metrics) == want
    if any(want):
        with pytest.raises(DataError, match=f"{next(filter(None, want))} of 16"):
            metrics.check()
    else:
        metrics.check()


def test_devices_add_up_their_counts():
    batch = Batch(jnp.asarray(broken(GREYS)), jnp.asarray(LABELS).at[12].set(3))
    split = jax.tree.map(lambda leaf: leaf.reshape(8, -1, *leaf.shape[1:]), batch)
    step = jax.pmap(train_step(OPTIMIZER, attack=steepest("linf", 0.1), axis_name="data"), axis_name="data")
    _, metrics = step(stack([STATE] * 8), split, jnp.stack([jax.random.key(0)] * 8))
    assert [np.asarray(part).tolist() for part in metrics.faults] == [[1.0] * 8, [2.0] * 8, [1.0] * 8, [1.0] * 8]


def test_steps_side_by_side_are_checked_together():
    batch = Batch(jnp.asarray(broken(GREYS)), jnp.asarray(LABELS))
    _, metrics = jax.jit(jax.vmap(train_step(OPTIMIZER), (0, None, 0)))(
        stack([STATE] * 2), batch, jax.random.split(jax.random.key(0), 2)
    )
    with pytest.raises(DataError, match=r"2 of 32 images hold NaN.*; 4 of 32 images leave"):
        metrics.check()


def test_a_step_that_is_not_compiled_raises():
    batch = Batch(jnp.asarray((GREYS - 0.13) / 0.31), jnp.asarray(LABELS))
    with pytest.raises(DataError, match=r"16 of 16 images leave \[0, 1\].*computes inside itself"):
        train_step(OPTIMIZER)(STATE, batch, jax.random.key(0))


def fit(data, attack=None, steps=8, **options):
    """Two networks, of which each reads its own order, four steps a block."""
    where = placement(jax.devices()[: options.pop("devices", 1)])
    trainer = Trainer(train_step(OPTIMIZER, attack=attack), batch_size=4, block=4, placement=where)
    return trainer.fit(ensemble(Softmax, OPTIMIZER, 2), data, steps, jax.random.key(0), **options)


@pytest.mark.parametrize("devices", [1, 4])
def test_the_trainer_names_the_step_and_saves_nothing_after_it(tmp_path, devices):
    """Image 13 is between the levels; nothing is shuffled, so that steps 3, 7, ... read it."""
    images = GREYS.copy()
    images[13] += 0.3 / 255
    data = Resident(images, LABELS, shuffle=False)
    # Without an attack that rounds, such images are as good as any.
    fit(data, devices=devices)
    fit(data, fgs(0.0, levels=None), devices=devices)
    message = (
        r"at step 3, of network 0's batch, 1 of 4 images lie between the levels that the attack rounds to.*levels=None"
        r"; no checkpoint was saved yet in "
    )
    with pytest.raises(DataError, match=message):
        fit(data, fgs(0.0), devices=devices, folder=tmp_path, every=4)
    assert Checkpoints(tmp_path / "checkpoints").steps() == []
    assert (tmp_path / "metrics.csv").read_text().count("\n") == 1


def test_a_set_that_was_changed_after_it_was_checked_is_found():
    data = Resident(GREYS.copy(), LABELS, shuffle=False)
    data.images[...] = (data.images - 0.13) / 0.31
    with pytest.raises(DataError, match=r"at step 0, of network 0's batch, 4 of 4 images leave \[0, 1\]"):
        fit(data, steepest("linf", 0.1))


def test_a_label_that_is_no_class_is_named_and_not_called_a_loss_that_is_not_finite():
    labels = LABELS.copy()
    labels[6] = 3
    with pytest.raises(DataError, match=r"at step 1, of network 0's batch, 1 of 4 labels are no class of the network"):
        fit(Resident(PIXELS, labels, shuffle=False))


def test_a_loss_that_was_not_finite_before_keeps_its_name():
    labels = LABELS.copy()
    labels[14] = 3
    optimizer = optax.sgd(jnp.inf)
    trainer = Trainer(train_step(optimizer), batch_size=4, block=4)
    data = Resident(PIXELS, labels, shuffle=False)
    with pytest.raises(NonFiniteLossError, match="loss of network 0 is nan at step 1"):
        trainer.fit(ensemble(Softmax, optimizer, 1), data, 4, jax.random.key(0))


def examples(images, labels=LABELS):
    return [{"image": image, "label": int(label)} for image, label in zip(images, labels, strict=True)]


@pytest.mark.parametrize("attack", [None, steepest("linf", 0.1)])
def test_a_stream_of_normalized_images_is_refused_by_the_number_of_the_example(attack):
    stream = Stream(examples((GREYS - 0.13) / 0.31), 4, seed=0, shuffle=False)
    with pytest.raises(ValueError, match=r"example 0 .* in \[0, 1\].*got values in \[-0\.3\d+, 2\.5\d+\]"):
        fit(stream, attack)


def test_a_stream_off_the_grid_is_told_by_the_step():
    stream = Stream(examples(GREYS + np.float32(0.3 / 255) * (GREYS < 0.9)), 4, seed=0, shuffle=False)
    with pytest.raises(DataError, match=r"at step 0, of network 0's batch, 4 of 4 images lie between the levels"):
        fit(stream, steepest("linf", 0.1))


def test_validation_and_prediction_take_what_training_takes():
    states = stack([STATE])
    normalized = (GREYS - 0.13) / 0.31
    for images in (normalized, broken(GREYS)):
        with pytest.raises(ValueError, match=r"images must be uint8, or float32 in \[0, 1\].*got values in \["):
            predict(states, images)
    with pytest.raises(ValueError, match=r"validation images must be .*got values in"):
        fit(Resident(PIXELS, LABELS), validation=(normalized, LABELS))
    with pytest.raises(ValueError, match=r"labels must be classes of the networks, 0\.\.2, got values from 0 to 3"):
        measure(states, PIXELS, np.where(LABELS == 2, 3, LABELS).astype(np.int32), batch_size=8)
    with pytest.raises(ValueError, match=r"labels must be classes of the networks, 0\.\.2, got values from -1 to 1"):
        measure(states, PIXELS, LABELS - 1)


def test_images_of_another_shape_are_named():
    data = Resident(np.zeros((8, 3, 3, 3), np.uint8), LABELS[:8])
    message = r"cannot take images of shape \[B, H, W, C\] = \(4, 3, 3, 3\): "
    with pytest.raises(ValueError, match=message):
        fit(data)
    with pytest.raises(ValueError, match=r"cannot take images of shape \[B, H, W, C\] = \(8, 3, 3, 3\): "):
        measure(stack([STATE]), data.images, data.labels, batch_size=8)


@pytest.mark.parametrize(
    ("image", "label", "message"),
    [
        (GREYS[0], LABELS, r"batch.image must be uint8, or floats in \[0, 1\].*got float32 of shape \(2, 2, 3\)"),
        (PIXELS.astype(np.int32), LABELS, "batch.image must be .*got int32"),
        (PIXELS, LABELS[:3], r"batch.label must be integers \[16\].*got int32 of shape \(3,\)"),
        (PIXELS, LABELS.astype(np.float32), r"batch.label must be .*got float32 of shape \(16,\)"),
    ],
)
def test_batches_of_other_types_or_shapes_are_refused(image, label, message):
    with pytest.raises(ValueError, match=message):
        train_step(OPTIMIZER)(STATE, Batch(jnp.asarray(image), jnp.asarray(label)), jax.random.key(0))


def test_a_loss_must_return_one_number_for_each_image():
    step = train_step(OPTIMIZER, loss=lambda model, images, labels: (jnp.float32(0), model(images)))
    with pytest.raises(ValueError, match=r"must return losses \[B\] and logits \[B, K\] for B = 16 .*got shapes \(\)"):
        step(STATE, Batch(jnp.asarray(PIXELS), jnp.asarray(LABELS)), jax.random.key(0))
