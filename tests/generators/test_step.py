"""The two players' step: whom it moves, by which gradient, and what it says of a batch."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from advjax import Classifier, from_function, from_nnx
from advjax.generators import Players, generator_step, trunk_of
from advjax.generators.frozen import Frozen
from advjax.training import Batch, DataError, NonFiniteLossError, Trainer, create, placement, to_model
from tests.generators.players_for_tests import SHAPE, STD, Tapped, equal, known_set, players

SGD = optax.sgd(0.5)
ENHANCING = generator_step(SGD, problem="enhancing", gamma=0.1)


def batch_of(data, count=12):
    return Batch(jnp.asarray(data.images[:count]), jnp.asarray(data.labels[:count]))


def moved_by_hand(start, batch, *, problem, loss, gamma, rate=0.5):
    """The parameters after one step, from the paper's equations and `jax.grad` of each whole loss."""
    images = jnp.asarray(batch.image / 255, jnp.float32)
    graphdef, params, rest = nnx.split(start, nnx.Param, ...)

    def played(params):
        model = nnx.merge(graphdef, params, rest, copy=True)
        model.generator.train()
        v = model.generator(images)
        return v, images + jnp.float32(STD)[None, None, None] * v, model

    def scores(model, x):
        outputs = model.head(model.frozen("trunk", x))
        return jax.nn.sigmoid(outputs[np.arange(len(x)), batch.label] if outputs.shape[1] > 1 else outputs[:, 0])

    _, x, model = played(params)
    right = model.frozen("classifier", x).argmax(-1) == batch.label
    t = (right if problem == "enhancing" else ~right).astype(jnp.float32)

    def of_discriminator(params):
        s = scores(nnx.merge(graphdef, params, rest, copy=True), jax.lax.stop_gradient(x))
        return jnp.mean((s - t) ** 2 if loss == "ls" else -t * jnp.log(s) - (1 - t) * jnp.log(1 - s))

    def of_generator(params):
        v, x, model = played(params)
        s = scores(model, x)
        return jnp.mean((s - 1) ** 2 if loss == "ls" else -jnp.log(s)) + gamma * jnp.mean(v**2)

    def descended(params, loss, name):
        gradient = jax.grad(loss)(params)
        after = jax.tree.map(lambda p, g: p - rate * g, params, gradient)
        return nnx.merge_state(params, nnx.State({name: after[name]}))

    params = descended(params, of_discriminator, "head")
    return descended(params, of_generator, "generator"), t


@pytest.mark.parametrize(
    ("problem", "loss", "per_label"),
    [
        ("enhancing", "ls", False),
        ("enhancing", "lr", False),
        ("adversarial", "ls", False),
        ("adversarial", "lr", False),
        ("enhancing", "ls", True),
    ],
)
def test_a_step_is_that_of_the_equations_with_the_score_computed_anew(problem, loss, per_label):
    step = generator_step(SGD, problem=problem, gamma=0.7, loss=loss)
    start, batch = players(per_label=per_label), batch_of(known_set())
    wanted, t = moved_by_hand(start, batch, problem=problem, loss=loss, gamma=0.7)
    state, metrics = jax.jit(step)(create(start, step.optimizer), batch, jax.random.key(0))
    assert 0 < t.sum() < len(t)
    assert float(metrics.also["wanted"]) == t.sum()
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-5, atol=2e-6), state.params, wanted)


def test_training_leaves_classifier_and_trunk_as_they_were_to_the_bit():
    start = players(trunk=trunk_of(from_nnx(Tapped(11, hidden=7))))
    fitted = Trainer(ENHANCING, batch_size=8, block=5).fit(start, known_set(), 10, jax.random.key(0))
    before, after = (nnx.state(each, Frozen) for each in (start, fitted.model))
    assert len(jax.tree.leaves(before)) == 8
    equal(before, after)
    with pytest.raises(AssertionError):
        equal(nnx.state(start, nnx.Param), nnx.state(fitted.model, nnx.Param))
    with pytest.raises(AssertionError):  # batch statistics move, in training alone
        equal(nnx.state(start, nnx.BatchStat), nnx.state(fitted.model, nnx.BatchStat))


def test_the_trunk_is_what_the_last_layer_reads():
    network, images = Tapped(10), jax.random.uniform(jax.random.key(0), (4, *SHAPE))
    read = trunk_of(from_nnx(network))(images)
    assert read.shape == (4, 5)
    np.testing.assert_allclose(network.dense2(read), network(images), atol=1e-6)


def test_what_classifier_and_trunk_share_is_kept_and_computed_once():
    start, batch = players(), batch_of(known_set())
    assert len(start.frozen.variables) == 4
    program = jax.jit(lambda images: (start.frozen("trunk", images), start.frozen("classifier", images)))
    text = program.lower(jnp.zeros((4, *SHAPE))).compile().as_text()
    assert text.count(" dot(") == 2
    assert batch.image.shape[1:] == SHAPE


def test_from_decisions_alone_no_gradient_of_the_classifier_is_asked_for():
    asked = []
    logits_of = from_nnx(Tapped(10))

    @jax.custom_vjp
    def decisions(images):
        asked.append(images.shape[0])
        return logits_of(images)

    def forward(images):
        raise AssertionError("the classifier is differentiated")

    decisions.defvjp(forward, lambda *_: None)
    black_box = from_function(lambda _, images: decisions(images), jnp.zeros(()))
    start = players(classifier=black_box, trunk=trunk_of(from_nnx(Tapped(11))))
    batch = batch_of(known_set())
    state, metrics = jax.jit(ENHANCING)(create(start, ENHANCING.optimizer), batch, jax.random.key(0))
    assert asked == [12, 12]  # the queries: once for x~, once for x
    white, _ = jax.jit(ENHANCING)(create(players(), ENHANCING.optimizer), batch, jax.random.key(0))
    assert np.isfinite(metrics.loss)
    with pytest.raises(AssertionError):
        equal(state.params, white.params)


def test_the_history_says_what_became_of_the_images():
    data = known_set(12)
    still = generator_step(optax.sgd(0.0), problem="adversarial", gamma=2.0)
    start = players(3)
    row = Trainer(still, batch_size=12, block=1).fit(start, data, 1, jax.random.key(0)).history.rows[0]
    images = jnp.asarray(data.images / 255, jnp.float32)
    start.generator.train()
    v = np.asarray(start.generator(images))
    x = images + np.float32(STD) * v
    clean, logits = (np.asarray(from_nnx(Tapped(10))(each)) for each in (images, x))
    before, after = clean.argmax(-1) == data.labels, logits.argmax(-1) == data.labels
    assert (before & ~after).any()
    said = np.asarray(jax.nn.softmax(logits))[np.arange(12), data.labels]
    s = np.asarray(start.scores(x, data.labels))
    expected = {
        "accuracy": after, "wanted": ~after, "positive": before & ~after, "negative": ~before & after,
        "l2": (v**2).mean((1, 2, 3)), "score": s, "probability": said, "generator_loss": (s - 1) ** 2,
        "discriminator_loss": (s - ~after) ** 2, "loss": (s - 1) ** 2 + 2 * (v**2).mean((1, 2, 3)),
        "saturated": np.zeros(12),
    }  # fmt: skip
    for name, each in expected.items():
        assert row[name] == pytest.approx([np.mean(each)], abs=1e-5), name
    assert set(row) == {"step", *expected}


def test_two_devices_make_the_step_of_one():
    start, batch = players(norm=False), batch_of(known_set())
    one, whole = jax.jit(ENHANCING)(create(start, ENHANCING.optimizer), batch, jax.random.key(0))
    shared = generator_step(SGD, problem="enhancing", gamma=0.1, axis_name="devices")
    halves = jax.tree.map(lambda x: x.reshape(2, 6, *x.shape[1:]), batch)
    by_half = jax.vmap(shared, (None, 0, None), axis_name="devices")
    states, metrics = jax.jit(by_half)(create(start, shared.optimizer), halves, jax.random.key(0))
    close = functools.partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-6)
    for half in range(2):
        jax.tree.map(close, jax.tree.map(lambda x, i=half: x[i], (states.params, metrics)), (one.params, whole))
    one_half = jax.tree.map(lambda x: x[1], states)
    equal(nnx.state(start, Frozen), nnx.state(to_model(one_half), Frozen))


def test_the_trainer_divides_a_batch_over_devices():
    step = generator_step(SGD, problem="enhancing", gamma=0.1)
    one, two = (
        Trainer(step, 8, 2, placement(jax.devices()[:count])).fit(players(), known_set(), 4, jax.random.key(0)).states
        for count in (1, 2)
    )
    close = functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-5)
    jax.tree.map(close, one.params, two.params)  # batch statistics are those of the whole batch
    equal(one.rest["frozen"], two.rest["frozen"])


def test_the_two_players_have_no_common_update():
    state = create(players(), ENHANCING.optimizer)
    with pytest.raises(TypeError, match="updated in turn"):
        ENHANCING.optimizer.update(state.params, state.opt_state, state.params)


def test_a_training_in_two_parts_is_that_in_one(tmp_path):
    trainer = Trainer(generator_step(optax.adam(0.01), problem="enhancing", gamma=0.1), batch_size=8, block=2)
    data, key = known_set(), jax.random.key(0)
    whole = trainer.fit(players(), data, 6, key)
    trainer.fit(players(), data, 2, key, folder=tmp_path)
    parts = trainer.fit(players(), data, 6, key, folder=tmp_path)
    equal(whole.states, parts.states)
    assert whole.history.rows == parts.history.rows
    header, *lines = (tmp_path / "metrics.csv").read_text().splitlines()
    assert header.split(",")[-len(ENHANCING.also) :] == list(ENHANCING.also)
    assert len(lines) == 3


def test_in_the_adversarial_problem_the_lowest_accuracy_in_validation_is_best():
    data = known_set()
    step = generator_step(optax.adam(0.05), problem="adversarial", gamma=0.0)
    fit = functools.partial(Trainer(step, batch_size=8, block=2).fit, players(), data, 12, jax.random.key(0), every=2)
    fitted = fit(validation=(data.images, data.labels))
    accuracies = fitted.history.column("validation_accuracy", 1)[0]
    assert accuracies.min() < accuracies.max()
    images = jnp.asarray(data.images / 255, jnp.float32)
    kept = np.mean(np.asarray(fitted.classifier()(images)).argmax(-1) == data.labels)
    assert kept == pytest.approx(accuracies.min(), abs=1e-6)


def test_a_discriminator_without_a_gradient_is_said():
    start = players()
    start.head.bias[...] = jnp.full(1, -30.0)
    still = generator_step(optax.sgd(0.0), problem="adversarial", gamma=0.0)
    with pytest.warns(RuntimeWarning, match="at step 2: the discriminator of network 0 was saturated for all bad"):
        Trainer(still, batch_size=8, block=2).fit(start, known_set(), 2, jax.random.key(0))


@pytest.mark.parametrize("loss", ["ls", "lr"])
def test_a_discriminator_that_is_right_about_good_images_is_no_fault(loss):
    row = {"wanted": [1.0], "saturated": [0.0]}
    assert generator_step(SGD, problem="enhancing", gamma=0.0, loss=loss).doubt(row) is None


def test_a_diverging_training_is_found():
    wild = generator_step(optax.sgd(1e30), problem="enhancing", gamma=1.0)
    with pytest.raises(NonFiniteLossError):
        Trainer(wild, batch_size=8, block=4).fit(players(), known_set(), 8, jax.random.key(0))


def test_images_that_cannot_be_trained_on_are_found():
    batch = Batch(jnp.full((2, *SHAPE), 2.0), jnp.array([0, 7]))
    with pytest.raises(DataError, match=r"2 of 2 images leave \[0, 1\].*; 1 of 2 labels are no class"):
        ENHANCING(create(players(), ENHANCING.optimizer), batch, jax.random.key(0))


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"problem": "better"}, 'problem must be "enhancing" or "adversarial", got \'better\''),
        ({"loss": "wgan"}, 'loss must be "ls" or "lr", got \'wgan\''),
        ({"gamma": -1.0}, "gamma must be 0 or more, and finite, got -1.0"),
        ({"gamma": float("nan")}, "gamma must be 0 or more, and finite, got nan"),
    ],
)
def test_wrong_settings_are_named(wrong, message):
    with pytest.raises(ValueError, match=message):
        generator_step(SGD, **{"problem": "enhancing", "gamma": 0.1} | wrong)


def test_a_classifier_without_taps_wants_a_trunk():
    plain = from_function(lambda w, images: images.reshape(images.shape[0], -1) @ w, jnp.ones((72, 3)))
    with pytest.raises(ValueError, match="trunk must give the features"):
        players(classifier=plain)
    whole = Classifier(jnp.ones(()), lambda _, images: images)
    with pytest.raises(ValueError, match=r"trunk must give features \[B, F\], got shape \(2, 6, 6, 2\)"):
        players(classifier=plain, trunk=whole)
    assert isinstance(players(classifier=plain, trunk=plain), Players)
