"""The loop: orders, one trace, stacked networks as in turn, and an end at a loss that is not finite."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from hypothesis import given
from hypothesis import strategies as st

from advjax.training import Batch, NonFiniteLossError, Trainer, create, predict, stack, train_step, unstack
from advjax.training import loop as loop_module
from advjax.training.loop import batch_order


class Small(nnx.Module):
    """A convolution and a dense layer: what a stack makes grouped convolutions of."""

    def __init__(self, seed):
        rngs = nnx.Rngs(seed)
        self.conv = nnx.Conv(1, 4, (3, 3), rngs=rngs)
        self.dense = nnx.Linear(4 * 36, 3, rngs=rngs)

    def __call__(self, images):
        return self.dense(nnx.relu(self.conv(images)).reshape(images.shape[0], -1))


OPTIMIZER = optax.sgd(0.05, momentum=0.9)


def states(seeds):
    return stack([create(Small(seed), OPTIMIZER) for seed in seeds])


@pytest.fixture
def pool(rng):
    label = rng.integers(0, 3, 60)
    image = rng.integers(0, 100, (60, 6, 6, 1)) + 60 * label[:, None, None, None]
    return Batch(jnp.asarray(image, jnp.uint8), jnp.asarray(label, jnp.int32))


@given(size=st.integers(1, 40), start=st.integers(0, 30), steps=st.integers(1, 12), batch_size=st.integers(1, 16))
def test_order_goes_through_whole_epochs_and_can_start_anywhere(size, start, steps, batch_size):
    key = jax.random.key(3)
    whole = batch_order(key, size, 0, start + steps, batch_size)
    np.testing.assert_array_equal(whole[start:], batch_order(key, size, start, steps, batch_size))
    epochs = whole.ravel()[: whole.size // size * size].reshape(-1, size)
    assert (np.sort(epochs, axis=1) == np.arange(size)).all()


def test_every_epoch_and_every_key_has_another_order():
    orders = [batch_order(jax.random.key(seed), 50, 0, 2, 50) for seed in (0, 1)]
    rows = np.concatenate(orders)
    assert len(np.unique(rows, axis=0)) == 4


def test_stacked_networks_train_as_in_turn(pool):
    trainer = Trainer(train_step(OPTIMIZER), batch_size=8, block=4)
    members = [np.arange(40), np.arange(20, 60), np.arange(30)]
    key = jax.random.key(1)
    together, losses = trainer.fit(states(range(3)), pool, members, 10, key)
    step = jax.jit(train_step(OPTIMIZER))
    for network, trained in enumerate(unstack(together)):
        alone, key_s = create(Small(network), OPTIMIZER), jax.random.split(key, 3)[network]
        for i, rows in enumerate(members[network][batch_order(key_s, len(members[network]), 0, 10, 8)]):
            batch = Batch(pool.image[rows], pool.label[rows])
            alone, _ = step(alone, batch, jax.random.fold_in(key_s, i))
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), trained, alone)
    assert losses.shape == (3, 3)
    assert (losses[:, -1] < losses[:, 0]).all()


def test_vmapped_networks_train_as_mapped_ones(pool, monkeypatch):
    results = []
    for backend in ("cpu", "gpu"):
        monkeypatch.setattr(loop_module.jax, "default_backend", lambda name=backend: name)
        trainer = Trainer(train_step(OPTIMIZER), batch_size=8, block=5)
        results.append(trainer.fit(states(range(2)), pool, [np.arange(60)] * 2, 5, jax.random.key(0))[0])
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), *results)


def test_two_halves_are_the_whole_to_the_bit_and_nothing_is_traced_again(pool):
    trainer = Trainer(train_step(OPTIMIZER), batch_size=8, block=4)
    members, key = [np.arange(60), np.arange(50)], jax.random.key(2)
    whole, _ = trainer.fit(states(range(2)), pool, members, 14, key)
    half, _ = trainer.fit(states(range(2)), pool, members, 6, key)
    half, losses = trainer.fit(half, pool, members, 8, key)
    jax.tree.map(np.testing.assert_array_equal, whole, half)
    assert losses.shape == (2, 2)
    assert trainer._run._cache_size() == 1


def test_a_loss_that_is_not_finite_ends_the_run_and_names_the_step(pool):
    optimizer = optax.chain(optax.scale_by_schedule(lambda count: jnp.where(count == 6, jnp.inf, 0.0)))
    trainer = Trainer(train_step(optimizer), batch_size=8, block=4)
    start = stack([create(Small(seed), optimizer) for seed in range(2)])
    with pytest.raises(NonFiniteLossError, match=r"network 0 is nan at step 7"):
        trainer.fit(start, pool, [np.arange(60)] * 2, 20, jax.random.key(0))


def test_progress_bar_shows_loss_and_rate(pool, capfd):
    trainer = Trainer(train_step(OPTIMIZER), batch_size=8, block=4)
    trainer.fit(states([0]), pool, [np.arange(60)], 8, jax.random.key(0), progress="small net")
    shown = capfd.readouterr().err
    assert "small net" in shown
    assert "loss=" in shown
    assert "img/s" in shown


def test_predict_in_padded_batches_is_the_networks_own_answer(pool):
    stacked = states(range(2))
    images = np.asarray(pool.image)
    expected = [np.argmax(Small(seed)(images.astype(np.float32) / np.float32(255)), axis=-1) for seed in range(2)]
    np.testing.assert_array_equal(predict(stacked, images, batch_size=25), expected)
    assert predict(stacked, images[:0]).shape == (2, 0)


@pytest.mark.parametrize(
    ("members", "message"),
    [
        ([np.arange(60)], "one index array for each"),
        ([np.arange(60), np.arange(0)], r"members\[1\]"),
        ([np.array([60]), np.arange(60)], r"members\[0\]"),
        ([np.array([-1]), np.arange(60)], r"members\[0\]"),
    ],
)
def test_fit_refuses_bad_members(pool, members, message):
    trainer = Trainer(train_step(OPTIMIZER), batch_size=8, block=4)
    with pytest.raises(ValueError, match=message):
        trainer.fit(states(range(2)), pool, members, 4, jax.random.key(0))


def test_trainer_and_predict_refuse_bad_arguments():
    with pytest.raises(ValueError, match="at least 1"):
        Trainer(train_step(OPTIMIZER), batch_size=0)
    with pytest.raises(TypeError, match="uint8"):
        predict(states([0]), np.zeros((1, 6, 6, 1), np.float32))
