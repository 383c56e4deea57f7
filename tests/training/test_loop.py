"""The loop: one trace, stacked networks as in turn, all placements alike, and clear ends."""

import dataclasses
import re
import sys
import types

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from advjax.attacks import pgd
from advjax.data.pipeline import batch_order
from advjax.training import (
    Batch,
    NonFiniteLossError,
    Resident,
    Stream,
    Trainer,
    create,
    ensemble,
    measure,
    placement,
    predict,
    stack,
    train_step,
    unstack,
)
from advjax.training import predictions as predictions_module
from advjax.training import progress as progress_module
from advjax.training.feed import feed_of
from tests.training.nets import OPTIMIZER, TRAINER, Small, equal, states, toy_set


@pytest.fixture
def data():
    return toy_set()


def close(one, other, atol=1e-5):
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=atol), one, other)


def test_stacked_networks_train_as_in_turn(data):
    trainer = TRAINER
    members = [np.arange(40), np.arange(20, 60), np.arange(30)]
    key = jax.random.key(1)
    fitted = trainer.fit(states(3), Resident(data.images, data.labels, members), 10, key)
    step = jax.jit(train_step(OPTIMIZER))
    for network, trained in enumerate(unstack(fitted.states)):
        alone, key_s = create(Small(nnx.Rngs(network)), OPTIMIZER), jax.random.split(key, 3)[network]
        for i, rows in enumerate(
            members[network][batch_order(jax.random.key_data(key_s), len(members[network]), 0, 10, 8)]
        ):
            batch = Batch(jnp.asarray(data.images[rows]), jnp.asarray(data.labels[rows]))
            alone, _ = step(alone, batch, jax.random.fold_in(key_s, i))
        close(trained, alone)
    assert fitted.loss.shape == fitted.accuracy.shape == (3, 3)
    assert (fitted.loss[:, -1] < fitted.loss[:, 0]).all()


def test_vmapped_networks_train_as_mapped_ones(data, monkeypatch):
    results = []
    for backend in ("cpu", "gpu"):
        monkeypatch.setattr(jax, "default_backend", lambda name=backend: name)
        trainer = Trainer(train_step(OPTIMIZER), batch_size=8, block=5, placement=placement(jax.devices()[:1]))
        results.append(trainer.fit(states(2), data, 5, jax.random.key(0)).states)
    close(*results)


def test_networks_of_other_hyper_parameters_train_in_one_program(data):
    """Learning rates inside the optimizer's state: each network has its own."""
    optimizer = optax.inject_hyperparams(optax.sgd)(learning_rate=0.1)
    rates = [0.01, 0.1]
    parts = []
    for rate in rates:
        state = create(Small(nnx.Rngs(0)), optimizer)
        state.opt_state.hyperparams["learning_rate"] = jnp.float32(rate)
        parts.append(state)
    together = Trainer(train_step(optimizer), batch_size=8, block=5).fit(stack(parts), data, 5, jax.random.key(0))
    keys = jax.random.split(jax.random.key(0), 2)
    for network, rate in enumerate(rates):
        plain = optax.sgd(rate)
        alone, step = create(Small(nnx.Rngs(0)), plain), jax.jit(train_step(plain))
        for i, rows in enumerate(batch_order(jax.random.key_data(keys[network]), 60, 0, 5, 8)):
            batch = Batch(jnp.asarray(data.images[rows]), jnp.asarray(data.labels[rows]))
            alone, _ = step(alone, batch, jax.random.fold_in(keys[network], i))
        close(unstack(together.states)[network].params, alone.params)


def test_two_halves_are_the_whole_to_the_bit_and_nothing_is_traced_again(data):
    trainer = Trainer(train_step(OPTIMIZER), batch_size=8, block=4)
    two, key = Resident(data.images, data.labels, [np.arange(60), np.arange(50)]), jax.random.key(2)
    whole = trainer.fit(states(2), two, 14, key)
    half = trainer.fit(states(2), two, 6, key)
    half = trainer.fit(half.states, two, 8, key)
    equal(whole.states, half.states)
    # The rows end at multiples of the block again.
    assert [row["step"] for row in half.history.rows] == [8, 12, 14]
    assert trainer._block._cache_size() == 1


@pytest.mark.parametrize("parameters", ["replicated", "sharded"])
@pytest.mark.parametrize("split", [1, 2])
def test_eight_devices_train_as_one(data, parameters, split):
    """Mean gradients are summed in another order: equal to 1e-5 after ten attacked steps."""
    attack = pgd(0.05, step_size=0.02, steps=2, random_start=True)
    step = train_step(OPTIMIZER, attack=attack)
    one = Trainer(step, 8, 5, placement(jax.devices()[:1])).fit(states(2), data, 10, jax.random.key(0))
    where = placement(networks=split, parameters=parameters, smallest=16)
    trainer = Trainer(step, 8, 5, where)
    eight = trainer.fit(states(2), data, 10, jax.random.key(0))
    close(one.states.params, eight.states.params)
    np.testing.assert_allclose(one.loss, eight.loss, rtol=1e-5)
    assert trainer._block._cache_size() == 1
    assert any(len(leaf.sharding.device_set) == 8 for leaf in jax.tree.leaves(eight.states.params))
    assert (parameters == "sharded") == any(
        "data" in leaf.sharding.spec for leaf in jax.tree.leaves(eight.states.params)
    )


class Regular(nnx.Module):
    """Batch statistics and dropout: what a training step moves beside the weights."""

    def __init__(self, rate, rngs):
        self.norm = nnx.BatchNorm(1, rngs=rngs)
        self.dropout = nnx.Dropout(rate, rngs=rngs)
        self.dense = nnx.Linear(36, 3, rngs=rngs)

    def __call__(self, images):
        return self.dense(self.dropout(self.norm(images)).reshape(images.shape[0], -1))


def test_eight_devices_share_the_statistics_of_the_whole_batch(data):
    step, fitted = train_step(OPTIMIZER), []
    for where in (placement(jax.devices()[:1]), placement()):
        start = ensemble(lambda rngs: Regular(0.0, rngs), OPTIMIZER, 2)
        fitted.append(Trainer(step, 8, 5, where).fit(start, data, 10, jax.random.key(0)))
    for part in ("params", "rest"):
        one, eight = (jax.tree.leaves(getattr(result.states, part)) for result in fitted)
        for a, b in zip(one, eight, strict=True):
            if jnp.issubdtype(a.dtype, jnp.floating):
                np.testing.assert_allclose(a, b, atol=1e-5)


def test_a_network_with_dropout_goes_on_to_the_same_bits_on_eight_devices(data, tmp_path):
    trainer, key = Trainer(train_step(OPTIMIZER), 8, 4, placement(parameters="sharded", smallest=8)), jax.random.key(0)

    def start():
        return ensemble(lambda rngs: Regular(0.5, rngs), OPTIMIZER, 1)

    whole = trainer.fit(start(), data, 12, key)
    trainer.fit(start(), data, 4, key, folder=tmp_path)
    equal(whole.states.params, trainer.fit(start(), data, 12, key, folder=tmp_path).states.params)
    plain = TRAINER.fit(start(), data, 12, key, folder=tmp_path)
    equal(whole.states.params, plain.states.params)


def source(count=60):
    whole = toy_set()
    return [{"image": whole.images[i], "label": int(whole.labels[i])} for i in range(count)]


@pytest.mark.parametrize("devices", [1, 8])
def test_a_stream_feeds_all_networks_and_goes_on_to_the_same_bits(tmp_path, devices):
    trainer = Trainer(train_step(OPTIMIZER), batch_size=8, block=4, placement=placement(jax.devices()[:devices]))
    key = jax.random.key(0)
    whole = trainer.fit(states(2), Stream(source(), 8, seed=3), 14, key)
    for steps in (8, 14):
        fitted = trainer.fit(states(2), Stream(source(), 8, seed=3), steps, key, folder=tmp_path / "run", every=4)
    equal(whole.states, fitted.states)
    np.testing.assert_array_equal(whole.loss[:, -1], fitted.loss[:, -1])


def poisoned(at):
    return optax.chain(optax.scale_by_schedule(lambda count: jnp.where(count == at, jnp.inf, -0.01)))


def test_a_loss_that_is_not_finite_ends_the_run_and_names_step_and_checkpoint(data, tmp_path):
    optimizer = poisoned(6)
    trainer = Trainer(train_step(optimizer), batch_size=8, block=2)
    with pytest.raises(NonFiniteLossError, match=r"network 0 is nan at step 7"):
        trainer.fit(ensemble(Small, optimizer, 2), data, 20, jax.random.key(0))
    with pytest.raises(NonFiniteLossError, match=r"step 7.*last good checkpoint, in .*, is of step 6"):
        trainer.fit(ensemble(Small, optimizer, 2), data, 20, jax.random.key(0), folder=tmp_path, every=2)


def test_weights_that_are_not_finite_are_not_saved(data, tmp_path):
    """The update of a block's last step is poisoned: its losses are all finite."""
    optimizer = poisoned(3)
    trainer = Trainer(train_step(optimizer), batch_size=8, block=2)
    with pytest.raises(
        NonFiniteLossError, match=r"a variable of network 0 .* after step 4.* checkpoint, in .*, is of step 2"
    ):
        trainer.fit(ensemble(Small, optimizer, 1), data, 20, jax.random.key(0), folder=tmp_path, every=2)


def test_validation_keeps_the_best_and_stops_early(data, tmp_path):
    """A rate that grows a hundredfold ruins the network: validation sees it."""
    optimizer = optax.sgd(lambda count: jnp.where(count < 40, 0.05, 5.0))
    trainer, validation = Trainer(train_step(optimizer), batch_size=8, block=8), (data.images, data.labels)
    fitted = trainer.fit(
        ensemble(Small, optimizer, 2), data, 400, jax.random.key(0),
        folder=tmp_path, every=8, validation=validation, patience=3,
    )  # fmt: skip
    best_step, best = fitted.history.best()
    assert fitted.early
    assert int(fitted.best.step[0]) == best_step <= int(fitted.states.step[0]) - 3 * 8
    assert int(fitted.states.step[0]) < 400
    np.testing.assert_allclose(measure(fitted.best, *validation).accuracy.mean(), best)
    for network, model in enumerate(fitted.models):
        np.testing.assert_array_equal(model.dense.kernel[...], fitted.best.params["dense"]["kernel"][...][network])
    again = trainer.fit(
        ensemble(Small, optimizer, 2), data, 400, jax.random.key(0),
        folder=tmp_path, every=8, validation=validation, patience=3,
    )  # fmt: skip
    assert again.early
    equal(again.best, fitted.best)
    equal(again.states, fitted.states)


def test_running_averages_that_are_not_finite_end_the_run(data):
    """The loss in training mode does not read them."""

    class Broken(Regular):
        def __call__(self, images):
            logits = super().__call__(images)
            self.norm.var[...] = jnp.full_like(self.norm.var[...], jnp.inf)
            return logits

    trainer = TRAINER
    with pytest.raises(NonFiniteLossError, match="variable of network 0 is not finite after step 4"):
        trainer.fit(ensemble(lambda rngs: Broken(0.0, rngs), OPTIMIZER, 1), data, 8, jax.random.key(0))


def test_a_terminal_shows_a_bar_with_loss_accuracy_and_rate(data, capfd, monkeypatch):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    trainer = TRAINER
    trainer.fit(states([0]), data, 8, jax.random.key(0), progress="small net")
    shown = capfd.readouterr().err
    for part in ("small net", "loss=", "accuracy=", "img/s", "64.0/64.0"):
        assert part in shown


def test_a_pipe_gets_a_line_a_minute(data, capfd, monkeypatch):
    times = iter(range(0, 1000, 25))
    monkeypatch.setattr(progress_module, "time", types.SimpleNamespace(monotonic=lambda: float(next(times))))
    trainer = TRAINER
    trainer.fit(states([0]), data, 24, jax.random.key(0), progress="small net")
    # Made at 0 s, told of the start at 25 s and of the six blocks of 32 images at 50, 75, ..., 175 s.
    lines = capfd.readouterr().err.splitlines()
    assert len(lines) == 2
    assert re.fullmatch(r"small net: 64 of 192 images \(33%\), loss \d\.\d{4}, accuracy 0\.\d{4}, 1 images/s", lines[0])
    assert lines[1].startswith("small net: 160 of 192 images (83%)")


def test_tensorboard_events_are_written(data, tmp_path):
    tensorboard = pytest.importorskip("tensorboardX")
    trainer = TRAINER
    trainer.fit(states(1), data, 8, jax.random.key(0), folder=tmp_path, tensorboard=True)
    assert tensorboard.__version__
    assert [path for path in tmp_path.iterdir() if "tfevents" in path.name]


def test_predict_in_batches_is_the_networks_own_answer(data):
    stacked, images = states(2), data.images
    expected = [
        np.argmax(Small(nnx.Rngs(seed))(images.astype(np.float32) / np.float32(255)), axis=-1) for seed in range(2)
    ]
    np.testing.assert_array_equal(predict(stacked, images, batch_size=25), expected)
    np.testing.assert_array_equal(predict(stacked, images, batch_size=16, placement=placement()), expected)
    programs = predictions_module._answers._cache_size()
    np.testing.assert_array_equal(predict(stacked, images[:7], batch_size=25), np.array(expected)[:, :7])
    assert predict(stacked, images[:0]).shape == (2, 0)
    assert predictions_module._answers._cache_size() == programs
    with pytest.raises(ValueError, match="batch_size must be at least 1, got 0"):
        predict(stacked, images, batch_size=0)
    with pytest.raises(ValueError, match="one class for each of 60 images, got 3"):
        measure(stacked, images, data.labels[:3])
    # States that lie on one device are moved to the placement's.
    there = jax.device_put(states(2), jax.devices()[0])
    np.testing.assert_array_equal(predict(there, images, batch_size=25, placement=placement(networks=2)), expected)
    with pytest.raises(TypeError, match=r"images must be uint8, or float32.*got float64"):
        predict(stacked, images.astype(np.float64))
    spread = measure(stacked, images, data.labels, batch_size=25, placement=placement())
    score = measure(stacked, images, data.labels, batch_size=25)
    np.testing.assert_allclose(spread, score, rtol=1e-5)
    np.testing.assert_allclose(score.accuracy, np.mean(np.array(expected) == data.labels[None], axis=1))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"every": 6}, "multiple of block=4"),
        ({"patience": 2}, "needs validation and every"),
        ({"tensorboard": True}, "needs a folder"),
        ({"steps": -1}, "0 or more"),
        ({"data": Resident(toy_set().images, toy_set().labels, [np.arange(60)])}, "one index array for each"),
        ({"data": Stream(source(), 4, seed=0)}, "trainer's, 8"),
        ({"validation": (toy_set().images[:0], toy_set().labels[:0])}, "validation images must be"),
        ({"validation": (toy_set().images, toy_set().labels - 1)}, "validation labels must be .* got -1"),
    ],
)
def test_fit_refuses(data, change, message):
    trainer = TRAINER
    arguments = {"data": data, "steps": 4, "key": jax.random.key(0)} | change
    with pytest.raises(ValueError, match=message):
        trainer.fit(states(2), **arguments)


def test_the_order_of_a_block_asks_the_device_for_nothing(data, monkeypatch):
    """It would wait for the block before."""
    keys = jax.random.split(jax.random.key(0), 2)
    feed, expected = feed_of(data, placement(jax.devices()[:1]), keys, 8, 4), data.order(keys, 4, 3, 8)
    monkeypatch.setattr(jax.random, "key_data", None)
    monkeypatch.setattr(jax, "device_get", None)
    np.testing.assert_array_equal(feed.next(4, 3)[1][:, :3], expected)


def test_a_stream_needs_processes_that_hold_their_own_rows(monkeypatch):
    """Networks on different processes: each would take its own part of the rows for the whole batch."""
    stream, keys, spread = Stream(source(), 8, seed=0), jax.random.split(jax.random.key(0), 2), placement(networks=2)
    monkeypatch.setattr(jax, "process_count", lambda: 8)
    with pytest.raises(ValueError, match="networks must divide the 1 devices of a process, got 2"):
        feed_of(stream, spread, keys, 8, 4)


def test_trainer_refuses_bad_arguments(data):
    with pytest.raises(ValueError, match="at least 1"):
        Trainer(train_step(OPTIMIZER), batch_size=0)
    with pytest.raises(TypeError, match="Resident or a Stream"):
        Trainer(train_step(OPTIMIZER)).fit(states(1), data.images, 1, jax.random.key(0))
    with pytest.raises(ValueError, match="divisible by the 8 devices"):
        Trainer(train_step(OPTIMIZER), 12, placement=placement()).fit(states(1), data, 1, jax.random.key(0))
    apart = states(2)
    apart = dataclasses.replace(apart, step=jnp.array([0, 6], jnp.int32))
    with pytest.raises(ValueError, match=r"one step, got states of steps \[0, 6\]"):
        Trainer(train_step(OPTIMIZER)).fit(apart, data, 1, jax.random.key(0))
    with pytest.raises(ValueError, match="stacked"):
        Trainer(train_step(OPTIMIZER)).fit(create(Small(nnx.Rngs(0)), OPTIMIZER), data, 1, jax.random.key(0))
