"""`train_step(augment=...)`: what the step trains on, whose draw each image gets, and that nothing else sees it."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from advjax.attacks import fgs, pgd
from advjax.disturb import ColorJitter, RandomCrop, RandomFlip
from advjax.training import Batch, Trainer, create, placement, train_step
from tests.training.nets import Small, equal, toy_set

KEY = jax.random.key(3)
OPTIMIZER = optax.sgd(0.1)


class Net(nnx.Module):
    """Softmax regression after dropout, which draws from the step's key too."""

    def __init__(self, rngs):
        self.dropout = nnx.Dropout(0.5, rngs=rngs)
        self.linear = nnx.Linear(48, 3, rngs=rngs)

    def __call__(self, images):
        return self.linear(self.dropout(images.reshape(images.shape[0], -1)))


@pytest.fixture
def state():
    return create(Net(nnx.Rngs(0)), OPTIMIZER)


@pytest.fixture
def batch(rng):
    image = rng.integers(0, 256, (16, 4, 4, 3)).astype(np.uint8)
    return Batch(jnp.asarray(image), jnp.asarray(rng.integers(0, 3, 16), jnp.int32))


def test_it_trains_on_what_augment_makes_clean_and_attacked(state, batch):
    settings = {"attack": pgd(0.1, steps=2, step_size=0.05), "clean_weight": 0.5}
    step = train_step(OPTIMIZER, augment=lambda keys, images: images[:, :, ::-1], **settings)
    mirrored = batch._replace(image=batch.image[:, :, ::-1])
    results = [jax.jit(s)(state, b, KEY) for s, b in ((step, batch), (train_step(OPTIMIZER, **settings), mirrored))]
    equal(*((after.params, metrics) for after, metrics in results))


def test_its_draws_change_no_other_draw(state, batch):
    """Of dropout and of the attack's random start: augmenting by nothing trains to the bits of not augmenting."""
    settings = {"attack": pgd(0.1, steps=1, step_size=0.05)}
    seen = []

    def nothing(keys, images):
        seen.append(jax.random.bits(keys[0], (2,)))
        return images

    results = [train_step(OPTIMIZER, augment=augment, **settings)(state, batch, KEY) for augment in (None, nothing)]
    equal(*((after.params, metrics) for after, metrics in results))
    others = [jax.random.bits(jax.random.fold_in(key, 0), (2,)) for key in jax.random.split(KEY, 3)]
    assert not any(np.array_equal(seen[0], other) for other in others)


def test_each_image_draws_by_its_place_in_the_whole_batch(state, batch):
    model = nnx.merge(state.graphdef, state.params, state.rest, copy=True)
    model.dropout.rate = 0.0  # devices draw dropout of their own
    state = create(model, OPTIMIZER)
    same = batch._replace(image=jnp.broadcast_to(batch.image[:1], batch.image.shape))
    step = train_step(OPTIMIZER, augment=RandomFlip(), axis_name="data")
    parts = jax.tree.map(lambda leaf: leaf.reshape(8, 2, *leaf.shape[1:]), same)
    _, sums = jax.vmap(step, (None, 0, None), axis_name="data")(state, parts, KEY)
    whole = jax.jit(train_step(OPTIMIZER, augment=RandomFlip()))(state, same, KEY)[1]
    np.testing.assert_allclose(sums.loss[0], whole.loss, rtol=1e-6)
    plain, turned = (
        jax.jit(train_step(OPTIMIZER, augment=RandomFlip(p)))(state, same, KEY)[1].loss for p in (0.0, 1.0)
    )
    assert min(plain, turned) < whole.loss < max(plain, turned)


def test_eight_devices_train_as_one():
    found = []
    for where in (placement(jax.devices()[:1]), placement()):
        trainer = Trainer(
            train_step(OPTIMIZER, augment=RandomCrop(6, padding=2)), batch_size=8, block=4, placement=where
        )
        found.append(trainer.fit(Small(nnx.Rngs(0)), toy_set(), 4, KEY))
    one, eight = (jax.device_get(jax.tree.leaves(each.states.params)) for each in found)
    for ours, theirs in zip(one, eight, strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-6)


def test_validation_is_of_the_images_as_they_are():
    """A network that stays as it is: black images in training change what it says there, not its validation."""
    data = toy_set()
    found = []
    for augment in (None, lambda keys, images: images * 0):
        trainer = Trainer(train_step(optax.sgd(0.0), augment=augment), batch_size=8, block=4)
        found.append(trainer.fit(Small(nnx.Rngs(0)), data, 4, KEY, validation=(data.images, data.labels)))
    plain, black = found
    np.testing.assert_array_equal(*(each.history.column("validation_loss", 1) for each in found))
    assert not np.array_equal(plain.loss, black.loss)


def test_an_attack_of_levels_rounds_what_augment_makes_outside_a_jit_too(state, batch):
    step = train_step(OPTIMIZER, augment=ColorJitter(0.4, 0.4, 0.4, 0.1), attack=fgs(0.1))
    plain, compiled = (run(state, batch, KEY)[1].loss for run in (step, jax.jit(step)))
    np.testing.assert_allclose(plain, compiled, rtol=1e-5)


@pytest.mark.parametrize(
    "augment", [lambda keys, images: images[:3], lambda keys, images: images[0], lambda keys, images: images > 0.5]
)
def test_what_is_no_batch_of_images_is_refused(state, batch, augment):
    with pytest.raises(ValueError, match=r"augment must return float32 images \[B, H, W, C\] for B = 16, got"):
        train_step(OPTIMIZER, augment=augment)(state, batch, KEY)
