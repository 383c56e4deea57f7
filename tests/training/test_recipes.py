"""The recipes of adversarial training against their equations written out, and on one device as on eight."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from advjax.attacks import Divergence, NormalStart, Problem, fgs, perturb, pgd
from advjax.classifier import from_nnx
from advjax.entropy import divergences
from advjax.keys import image_keys
from advjax.training import (
    Batch,
    PairLoss,
    Trainer,
    awp,
    create,
    fast,
    free,
    mart,
    placement,
    stack,
    to_model,
    trades,
    train_step,
    triangular,
    watched,
)
from advjax.training.recipes import Mart, Trades
from tests.training.nets import Small, toy_set

RATE = 0.1
SGD = optax.sgd(RATE)
KEY = jax.random.key(5)


class Net(nnx.Module):
    """Two dense layers with a smooth unit between."""

    def __init__(self, rngs):
        self.first, self.last = nnx.Linear(12, 5, rngs=rngs), nnx.Linear(5, 3, rngs=rngs)

    def __call__(self, images):
        return self.last(jnp.tanh(4 * self.first(images.reshape(images.shape[0], -1))))


def logits_of(params, images):
    """The same from the parameters, without NNX."""
    hidden = images.reshape(images.shape[0], -1) @ params["first"]["kernel"] + params["first"]["bias"][None]
    return jnp.tanh(4 * hidden) @ params["last"]["kernel"] + params["last"]["bias"][None]


def plain(state):
    """The parameters as a dict of arrays."""
    names = ("first", "last")
    return {name: {leaf: state.params[name][leaf][...] for leaf in ("kernel", "bias")} for name in names}


def assert_close(params, expected, atol=1e-6):
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=atol), params, expected)


def descended(params, gradient):
    return jax.tree.map(lambda w, g: w - RATE * g, params, gradient)


def entropy(logits, labels):
    return -jnp.take_along_axis(jax.nn.log_softmax(logits), labels[:, None], -1)[:, 0]


def divergence(clean, logits):
    return jnp.sum(jax.nn.softmax(clean) * (jax.nn.log_softmax(clean) - jax.nn.log_softmax(logits)), -1)


@pytest.fixture
def batch(rng):
    image = rng.integers(0, 256, (8, 2, 2, 3)) / np.float32(255)
    return Batch(jnp.asarray(image, jnp.float32), jnp.asarray(rng.integers(0, 3, 8), jnp.int32))


@pytest.fixture
def state():
    return create(Net(nnx.Rngs(0)), SGD)


def starts(step, state, batch):
    """Where the step's attack begins, from the keys that it draws by."""
    attack_key = jax.random.split(KEY, 3)[0]
    clean = logits_of(plain(state), batch.image)

    def one(image, label, clean, key):
        return step.attack.init(Problem(lambda x: logits_of(plain(state), x[None])[0], image, label, clean), key).image

    return jax.vmap(one)(batch.image, batch.label, clean, image_keys(attack_key, 8))


def ascended(climbed, start, clean, epsilon, step_size, steps):
    """Projected ascent in linf by the signs of the gradient of a sum over images."""
    x = start
    for _ in range(steps):
        x = x + step_size * jnp.sign(jax.grad(lambda x: jnp.sum(climbed(x)))(x))
        x = jnp.clip(jnp.clip(x, clean - epsilon, clean + epsilon), 0, 1)
    return x


def of_trades(clean, logits, labels):
    return entropy(clean, labels) + 6 * divergence(clean, logits)


def of_mart(clean, logits, labels):
    p, q, hot = jax.nn.softmax(clean), jax.nn.softmax(logits), jax.nn.one_hot(labels, 3)
    boost = -jnp.log(1 - jnp.max(q * (1 - hot), -1))
    return entropy(logits, labels) + boost + 6 * divergence(clean, logits) * (1 - jnp.sum(p * hot, -1))


@pytest.mark.parametrize(("recipe", "loss"), [(trades, of_trades), (mart, of_mart)], ids=["trades", "mart"])
def test_the_step_of_pairs_is_its_equations(recipe, loss, state, batch):
    step, params = recipe(SGD, 0.1, step_size=0.04, steps=4, levels=None), plain(state)

    @jax.jit
    def expected(params):
        clean = logits_of(params, batch.image)

        def climbed(x):
            logits = logits_of(params, x)
            return divergence(clean, logits) if recipe is trades else entropy(logits, batch.label)

        x = ascended(climbed, starts(step, state, batch), batch.image, 0.1, 0.04, 4)

        def objective(params):
            return jnp.mean(loss(logits_of(params, batch.image), logits_of(params, x), batch.label))

        right = jnp.sum(logits_of(params, x).argmax(-1) == batch.label)
        return x, right, *jax.value_and_grad(objective)(params)

    attacked, right, value, gradient = expected(params)
    assert np.abs(attacked - batch.image).max() > 0.09
    after, metrics = jax.jit(step)(state, batch, KEY)
    assert_close(plain(after), descended(params, gradient))
    np.testing.assert_allclose(metrics.loss / 8, value, rtol=1e-5)
    assert int(metrics.correct) == int(right)


def test_the_start_is_beside_the_image(batch):
    start = NormalStart(pgd(0.1, step_size=0.1, steps=1, random_start=False))
    image, label = jnp.full((40, 40, 3), 0.5), jnp.int32(0)
    noise = start.init(Problem(None, image, label, None), KEY).image - image
    np.testing.assert_allclose([noise.mean(), noise.std()], [0, 0.001], atol=5e-5)
    assert start.random


def test_the_divergence_is_relative_entropy_and_survives_masked_classes():
    logits = np.random.default_rng(0).normal(size=(2, 4)).astype(np.float32) * 3
    p, q = (np.exp(each) / np.exp(each).sum() for each in logits.astype(np.float64))
    expected = np.sum(p * np.log(p / q))
    np.testing.assert_allclose(divergences(*jnp.asarray(logits)), expected, rtol=1e-5)
    np.testing.assert_allclose(Divergence()(logits[1], jnp.int32(0), logits[0]), expected, rtol=1e-5)
    masked = jnp.concatenate([jnp.asarray(logits), jnp.full((2, 1), -jnp.inf)], 1)
    value, slopes = jax.value_and_grad(lambda each: divergences(*each))(masked)
    np.testing.assert_allclose(value, expected, rtol=1e-5)
    assert np.isfinite(slopes).all()


def test_marts_boost_keeps_its_digits_and_slope_where_a_rival_is_certain():
    logits, labels = jnp.array([[0.0, 30.0, -5.0]]), jnp.array([0])
    value, slope = jax.value_and_grad(lambda each: Mart(0.0)(each, each, labels)[0])(logits)
    # 30 for the label, and for the rival -log(1 - p) = 30 - log(1 + exp(-5)).
    np.testing.assert_allclose(value, 60 - np.log1p(np.exp(-5)), rtol=1e-5)
    np.testing.assert_allclose(slope[0, 1], 2.0, atol=1e-4)


def test_half_precision_is_widened_before_exponentials():
    clean, logits = jnp.array([[4.0, 0.0, 0.0]]), jnp.array([[0.0, 4.0, 0.0]])
    for loss in (Trades(), Mart()):
        halves = loss(clean.astype(jnp.bfloat16), logits.astype(jnp.bfloat16), jnp.array([0]))
        np.testing.assert_array_equal(halves, loss(clean, logits, jnp.array([0])))


def test_fast_training_makes_one_long_step(state, batch):
    step, params = fast(SGD, 0.1, watch=3, levels=None), plain(state)

    @jax.jit
    def expected(params):
        start = starts(step.step, state, batch)
        x = ascended(lambda x: entropy(logits_of(params, x), batch.label), start, batch.image, 0.1, 0.125, 1)
        return start, jax.grad(lambda params: jnp.mean(entropy(logits_of(params, x), batch.label)))(params)

    start, gradient = expected(params)
    assert np.abs(start - batch.image).max() > 0.05
    after, _ = jax.jit(step.step)(state, batch, KEY)
    assert_close(plain(after), descended(params, gradient))
    assert step.attack == pgd(0.1, step_size=0.025, steps=10, levels=None)
    assert step.images == 3


def test_the_first_images_are_watched_before_the_update(state, batch):
    """Counted as if they were all: `also` holds sums over the batch. So long a step changes the answers."""
    batch = batch._replace(label=logits_of(plain(state), batch.image).argmax(-1).astype(jnp.int32).at[0].add(1) % 3)
    attack = fgs(0.01, levels=None)
    step = watched(train_step(optax.sgd(-20.0)), attack, images=6)
    after, metrics = jax.jit(step)(state, batch, KEY)

    def right(network):
        keys = image_keys(jax.random.fold_in(KEY, np.uint32(2**32 - 2)), 6)
        found = perturb(attack, from_nnx(to_model(network)), batch.image[:6], batch.label[:6], keys)
        return int(np.sum(np.asarray(found.prediction == batch.label[:6])))

    assert 0 < right(state) != right(after)
    np.testing.assert_allclose(metrics.also["watched"], right(state) * 8 / 6, rtol=1e-6)


def test_a_collapse_is_doubted():
    step = watched(train_step(SGD, attack=pgd(0.1, step_size=0.1, steps=1)), pgd(0.1, step_size=0.02, steps=10))
    assert step.doubt({"accuracy": [0.8, 0.3, 0.2], "watched": [0.5, 0.07, 0.0]}) is None
    assert "network 1 answers 90%" in step.doubt({"accuracy": [0.8, 0.9], "watched": [0.5, 0.1]})


def test_free_training_moves_weights_and_perturbation_by_one_gradient(state, batch):
    step = free(SGD, 0.1, shape=(8, 2, 2, 3), replays=3)
    state, second = create(Net(nnx.Rngs(0)), step.optimizer), batch._replace(image=batch.image[::-1])

    @jax.jit
    def replay(params, moved, each):
        def objective(params, images):
            return jnp.mean(entropy(logits_of(params, images), each.label))

        loss, slopes = jax.value_and_grad(objective, (0, 1))(params, jnp.clip(each.image + moved, 0, 1))
        return descended(params, slopes[0]), jnp.clip(moved + 0.1 * jnp.sign(slopes[1]), -0.1, 0.1), loss

    params, moved, losses = plain(state), jnp.zeros_like(batch.image), []
    for each in (batch, batch, batch, second, second, second):
        params, moved, loss = replay(params, moved, each)
        losses.append(loss)
    run = jax.jit(step)
    for each in (batch, second):
        state, metrics = run(state, each, KEY)
    assert_close(plain(state), params)
    np.testing.assert_allclose(state.opt_state.perturbation, moved, atol=1e-6)
    np.testing.assert_allclose(metrics.loss / 8, np.mean(losses[3:]), rtol=1e-5)
    assert (int(state.step), float(metrics.examples), run._cache_size()) == (2, 8.0, 1)


def test_awp_descends_where_the_kernels_are_worst(state, batch):
    attack = pgd(0.1, step_size=0.1, steps=1, levels=None)
    inner = train_step(SGD, attack=attack, loss=Trades())

    @jax.jit
    def expected(params):
        images = inner.task(state, batch, KEY).images

        def objective(params):
            clean, logits = (logits_of(params, x) for x in (batch.image, images))
            return jnp.mean(of_trades(clean, logits, batch.label))

        def worse(w, g):
            return w if w.ndim == 1 else w + 0.3 * jnp.linalg.norm(w) * g / jnp.linalg.norm(g)

        value, uphill = jax.value_and_grad(objective)(params)
        there = jax.tree.map(worse, params, uphill)
        return value, descended(params, jax.grad(objective)(there)), descended(params, uphill)

    value, params, without = expected(plain(state))
    after, metrics = jax.jit(awp(inner, gamma=0.3))(state, batch, KEY)
    assert_close(plain(after), params)
    np.testing.assert_allclose(metrics.loss / 8, value, rtol=1e-5)
    assert np.abs(np.asarray(params["first"]["kernel"] - without["first"]["kernel"])).max() > 1e-3


def test_a_layer_without_a_gradient_stays_finite(batch):
    state = create(Net(nnx.Rngs(0)), SGD)
    still = jax.tree.map(jnp.zeros_like, state.params)
    state = type(state)(state.step, still, state.rest, state.opt_state, state.graphdef)
    after, _ = jax.jit(awp(train_step(SGD), gamma=0.3))(state, batch, KEY)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(after.params))


STEPS = {
    "free": free(optax.adam(0.01), 0.1, shape=(8, 6, 6, 1), replays=2),
    "awp": awp(train_step(optax.sgd(0.05), attack=fgs(0.1)), 0.05),
}


# Of one device; one for all tests, so that its program is compiled once.
TRAINERS = {name: Trainer(step, batch_size=8, block=4) for name, step in STEPS.items()}


@pytest.mark.parametrize("name", STEPS)
def test_eight_devices_train_what_one_does(name):
    results = []
    for trainer in (TRAINERS[name], Trainer(STEPS[name], batch_size=8, block=4, placement=placement())):
        results.append(trainer.fit(Small(nnx.Rngs(0)), toy_set(), 8, KEY))
        assert trainer._block._cache_size() == 1
    one, eight = (jax.device_get(result.states.params) for result in results)
    assert_close(eight, one, atol=1e-5)
    np.testing.assert_allclose(results[1].loss, results[0].loss, rtol=1e-5)


def test_free_training_goes_on_to_the_same_bits(tmp_path):
    trainer = TRAINERS["free"]
    straight = trainer.fit(Small(nnx.Rngs(0)), toy_set(), 8, KEY).states
    trainer.fit(Small(nnx.Rngs(0)), toy_set(), 4, KEY, folder=tmp_path, every=4)
    resumed = trainer.fit(Small(nnx.Rngs(0)), toy_set(), 8, KEY, folder=tmp_path, every=4).states
    jax.tree.map(
        np.testing.assert_array_equal, (resumed.params, resumed.opt_state), (straight.params, straight.opt_state)
    )
    assert np.abs(straight.opt_state.perturbation).max() > 0.09


def test_an_axis_of_devices_makes_the_step_of_the_whole_batch(state, batch):
    attack = fgs(0.1)
    whole, parts = (
        watched(awp(train_step(SGD, attack=attack, axis_name=name), 0.3), attack, images=8) for name in (None, "data")
    )
    once, metrics = jax.jit(whole)(state, batch, KEY)
    split = jax.tree.map(lambda leaf: leaf.reshape(4, -1, *leaf.shape[1:]), batch)
    run = jax.jit(jax.vmap(parts, axis_name="data"))
    spread, sums = run(stack([state] * 4), split, jnp.stack([KEY] * 4))
    for part in range(4):
        jax.tree.map(lambda a, b, i=part: np.testing.assert_allclose(a[i], b, atol=1e-6), spread, once)
        jax.tree.map(lambda a, b, i=part: np.testing.assert_allclose(a[i], b, rtol=1e-5), sums, metrics)


def test_the_triangular_rate_is_interpolation():
    steps = np.arange(0, 50)
    for rise in (0.4, 0.5):
        rate = triangular(0.2, 40, rise=rise)
        expected = np.interp(steps, [0, 40 * rise, 40], [0, 0.2, 0])
        np.testing.assert_allclose(rate(jnp.asarray(steps)), expected, atol=1e-7)


class Wrong(PairLoss):
    def __call__(self, clean_logits, logits, labels):
        return jnp.mean(logits)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: train_step(SGD, loss=Trades()), "needs an attack"),
        (
            lambda: train_step(SGD, loss=Trades(), attack=pgd(0.1, step_size=0.1, steps=1), clean_weight=0.5),
            "weighs both",
        ),
        (lambda: trades(SGD, 0.1, step_size=0.1, steps=1, beta=-1.0), "beta must be 0 or more"),
        (lambda: mart(SGD, 0.1, step_size=0.1, steps=1, weight=np.inf), "weight must be 0 or more"),
        (lambda: NormalStart(pgd(0.1, step_size=0.1, steps=1), -1.0), "size must be a finite number"),
        (lambda: awp(train_step(SGD), gamma=-1.0), "gamma must be 0 or more"),
        (lambda: free(SGD, -0.1, shape=(8, 2, 2, 3)), "epsilon must be a finite number"),
        (lambda: free(SGD, 0.1, shape=(8, 2, 2, 3), replays=0), "replays must be an integer of 1"),
        (lambda: free(SGD, 0.1, shape=(2, 2, 3)), r"shape must be that of a batch, \(B, H, W, C\)"),
        (lambda: free(SGD, 0.1, shape=(8, 2, 2, 3), attack=None), "attack is none of free training's options"),
        (lambda: watched(train_step(SGD), pgd(0.1, step_size=0.1, steps=1), images=0), "images must be an integer"),
        (lambda: watched(fast(SGD, 0.1), pgd(0.1, step_size=0.1, steps=1)), "must not be watched already"),
        (lambda: triangular(0.1, 10, rise=1.0), "rise between 0 and 1"),
    ],
)
def test_bad_arguments_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_awp_wants_a_step_of_one_gradient():
    with pytest.raises(TypeError, match="got FreeStep"):
        awp(free(SGD, 0.1, shape=(8, 2, 2, 3)))


def test_batches_and_losses_of_other_shapes_are_refused(state, batch):
    step = free(SGD, 0.1, shape=(4, 2, 2, 3))
    with pytest.raises(ValueError, match=r"that of the batches, \(8, 2, 2, 3\), got \(4, 2, 2, 3\)"):
        jax.eval_shape(step, create(Net(nnx.Rngs(0)), step.optimizer), batch, KEY)
    step = train_step(SGD, loss=Wrong(), attack=pgd(0.1, step_size=0.1, steps=1))
    with pytest.raises(ValueError, match=r"must return losses \[8\], got shape \(\)"):
        jax.eval_shape(step, state, batch, KEY)
