"""The training step against NumPy by hand, and under an axis against one device."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from advjax.attacks import fgs, pgd, steepest
from advjax.attacks import stack as stack_attacks
from advjax.training import Batch, create, stack, train_step, with_heads


class Softmax(nnx.Module):
    """Softmax regression: its gradient is known in closed form."""

    def __init__(self, rngs):
        self.linear = nnx.Linear(12, 3, rngs=rngs)

    def __call__(self, images):
        return self.linear(images.reshape(images.shape[0], -1))


class Normalized(nnx.Module):
    """A network with batch statistics and dropout."""

    def __init__(self, rngs):
        self.norm = nnx.BatchNorm(12, momentum=0.5, rngs=rngs)
        self.dropout = nnx.Dropout(0.5, rngs=rngs)
        self.linear = nnx.Linear(12, 3, rngs=rngs)

    def __call__(self, images):
        return self.linear(self.dropout(self.norm(images.reshape(images.shape[0], -1))))


@pytest.fixture
def batch(rng):
    image = rng.integers(0, 256, (16, 2, 2, 3)).astype(np.uint8)
    return Batch(jnp.asarray(image), jnp.asarray(rng.integers(0, 3, 16), jnp.int32))


def by_hand(kernel, bias, image, label, steps, rate=0.1, momentum=0.9):
    """`steps` steps of SGD with momentum on the mean cross-entropy, in float64."""
    x = image.reshape(len(image), -1) / 255.0
    velocity = [np.zeros_like(kernel), np.zeros_like(bias)]
    for _ in range(steps):
        logits = x @ kernel + bias
        p = np.exp(logits - logits.max(1, keepdims=True))
        p /= p.sum(1, keepdims=True)
        losses = -np.log(p[np.arange(len(x)), label])
        correct = (logits.argmax(1) == label).sum()
        error = (p - np.eye(3)[label]) / len(x)
        velocity = [momentum * v + g for v, g in zip(velocity, (x.T @ error, error.sum(0)), strict=True)]
        kernel, bias = kernel - rate * velocity[0], bias - rate * velocity[1]
    return kernel, bias, losses.sum(), correct


def test_matches_the_hand_computation(batch):
    optimizer = optax.sgd(0.1, momentum=0.9)
    state = create(Softmax(nnx.Rngs(0)), optimizer)
    start = [np.asarray(state.params["linear"][name][...], np.float64) for name in ("kernel", "bias")]
    step = jax.jit(train_step(optimizer))
    for _ in range(3):
        state, metrics = step(state, batch, jax.random.key(0))
    kernel, bias, loss, correct = by_hand(*start, np.asarray(batch.image), np.asarray(batch.label), 3)
    np.testing.assert_allclose(state.params["linear"]["kernel"][...], kernel, atol=1e-6)
    np.testing.assert_allclose(state.params["linear"]["bias"][...], bias, atol=1e-6)
    np.testing.assert_allclose(metrics.loss, loss, rtol=1e-5)
    assert int(metrics.correct) == correct
    assert int(metrics.examples) == 16
    assert int(state.step) == 3


def test_uint8_and_float_images_train_alike(batch):
    optimizer = optax.sgd(0.1)
    state = create(Softmax(nnx.Rngs(0)), optimizer)
    floats = batch._replace(image=jnp.asarray(np.asarray(batch.image, np.float32) / np.float32(255)))
    states = [train_step(optimizer)(state, b, jax.random.key(0))[0] for b in (batch, floats)]
    jax.tree.map(np.testing.assert_array_equal, *states)


def test_batch_statistics_move_and_the_key_alone_decides_dropout(batch):
    optimizer = optax.sgd(0.1)
    state = create(Normalized(nnx.Rngs(0)), optimizer)
    step = jax.jit(train_step(optimizer))
    one, again, other = (step(state, batch, jax.random.key(seed))[0] for seed in (1, 1, 2))
    later = step(one, batch, jax.random.key(1))[1].loss
    jax.tree.map(np.testing.assert_array_equal, one.params, again.params)
    assert not np.array_equal(one.params["linear"]["kernel"][...], other.params["linear"]["kernel"][...])
    mean = (np.asarray(batch.image).reshape(16, -1) / 255).mean(0)
    np.testing.assert_allclose(one.rest["norm"]["mean"][...], 0.5 * mean, atol=1e-6)
    assert np.isfinite(later)


@pytest.mark.parametrize("over_devices", [False, True], ids=["vmap", "pmap"])
def test_axis_name_makes_the_step_of_the_whole_batch(batch, over_devices):
    parts = 8
    optimizer = optax.sgd(0.1, momentum=0.9)
    state = create(Softmax(nnx.Rngs(0)), optimizer)
    key = jax.random.key(0)
    whole, metrics = train_step(optimizer)(state, batch, key)
    mapped = jax.pmap if over_devices else jax.vmap
    split = jax.tree.map(lambda leaf: leaf.reshape(parts, -1, *leaf.shape[1:]), batch)
    step = mapped(train_step(optimizer, axis_name="data"), axis_name="data")
    spread, sums = step(stack([state] * parts), split, jnp.stack([key] * parts))
    for part in range(parts):
        jax.tree.map(lambda a, b, i=part: np.testing.assert_allclose(a[i], b, atol=1e-6), spread, whole)
        jax.tree.map(lambda a, b, i=part: np.testing.assert_allclose(a[i], b, rtol=1e-6), sums, metrics)


def attacked_by_hand(kernel, bias, image, label, norm, epsilon):
    """The step of eq. 11 in linf or l2 on softmax regression, in float64."""
    x = image.reshape(len(image), -1) / 255.0
    logits = x @ kernel + bias
    p = np.exp(logits - logits.max(1, keepdims=True))
    p /= p.sum(1, keepdims=True)
    gradient = (p - np.eye(3)[label]) @ kernel.T
    step = np.sign(gradient) if norm == "linf" else gradient / np.linalg.norm(gradient, axis=1, keepdims=True)
    return (x + epsilon * step).reshape(image.shape)


@pytest.mark.parametrize(("clean_weight", "norm"), [(0.0, "linf"), (0.25, "linf"), (0.0, "l2")])
def test_attacked_step_descends_on_the_attacked_images(batch, clean_weight, norm):
    """The images are held fixed: the derivative of the l2 step with respect to the weights is not zero."""
    optimizer = optax.sgd(0.1)
    start = create(Softmax(nnx.Rngs(0)), optimizer)
    kernel, bias = (np.asarray(start.params["linear"][name][...], np.float64) for name in ("kernel", "bias"))
    attacked = attacked_by_hand(kernel, bias, np.asarray(batch.image), np.asarray(batch.label), norm, 0.2)
    image, label = np.asarray(batch.image), np.asarray(batch.label)
    on_attacked = by_hand(kernel, bias, attacked * 255, label, 1)
    on_clean = by_hand(kernel, bias, image, label, 1)
    step = train_step(optimizer, attack=steepest(norm, 0.2, levels=None, box=False), clean_weight=clean_weight)
    state, metrics = jax.jit(step)(start, batch, jax.random.key(0))
    for name, clean, hard in zip(("kernel", "bias"), on_clean, on_attacked, strict=False):
        np.testing.assert_allclose(
            state.params["linear"][name][...], clean_weight * clean + (1 - clean_weight) * hard, atol=1e-6
        )
    np.testing.assert_allclose(
        metrics.loss, clean_weight * on_clean[2] + (1 - clean_weight) * on_attacked[2], rtol=1e-5
    )
    assert int(metrics.correct) == on_attacked[3]


class Small(nnx.Module):
    """Batch statistics first, as in the robust networks of Shaham et al., and inside."""

    def __init__(self, rngs):
        self.input_norm = nnx.BatchNorm(3, use_scale=False, use_bias=False, momentum=0.9, rngs=rngs)
        self.conv = nnx.Conv(3, 4, (2, 2), rngs=rngs)
        self.norm = nnx.BatchNorm(4, momentum=0.5, rngs=rngs)
        self.linear = nnx.Linear(16, 3, rngs=rngs)

    def __call__(self, images):
        x = nnx.relu(self.norm(self.conv(self.input_norm(images))))
        return self.linear(x.reshape(x.shape[0], -1))


def test_attack_in_training_mode_is_the_gradient_of_the_whole_batch(batch):
    """The per-image attack with batch statistics against one gradient of the batch's summed loss."""
    optimizer = optax.sgd(0.0)
    start = create(Small(nnx.Rngs(0)), optimizer)
    image = jnp.asarray(np.asarray(batch.image, np.float32) / np.float32(255))

    def total(images):
        model = nnx.merge(start.graphdef, start.params, start.rest, copy=True)
        model.train()
        losses = optax.softmax_cross_entropy_with_integer_labels(model(images), batch.label)
        return losses.sum()

    gradient = jax.grad(total)(image)
    norms = jnp.sqrt(jnp.sum(gradient**2, (1, 2, 3), keepdims=True))
    expected = total(image + 0.3 * gradient / norms)
    step = train_step(optimizer, attack=steepest("l2", 0.3, levels=None, box=False), attack_mode="train")
    _, metrics = jax.jit(step)(start, batch, jax.random.key(0))
    np.testing.assert_allclose(metrics.loss, expected, rtol=1e-5)
    evaluated = jax.jit(train_step(optimizer, attack=steepest("l2", 0.3, levels=None, box=False)))
    assert abs(float(evaluated(start, batch, jax.random.key(0))[1].loss) - float(expected)) > 1e-3


def test_running_averages_see_both_passes_of_an_attack_in_training_mode(batch):
    optimizer = optax.sgd(0.0)
    start = create(Small(nnx.Rngs(0)), optimizer)
    clean = (np.asarray(batch.image) / 255).mean((0, 1, 2))
    attack = steepest("linf", 0.0, levels=None, box=False)
    for mode, passes in (("eval", 1), ("train", 2)):
        state, _ = jax.jit(train_step(optimizer, attack=attack, attack_mode=mode))(start, batch, jax.random.key(0))
        np.testing.assert_allclose(state.rest["input_norm"]["mean"][...], (1 - 0.9**passes) * clean, atol=1e-6)


def test_random_attack_over_devices_is_that_of_one_device(batch):
    optimizer = optax.sgd(0.1)
    state, key, parts = create(Softmax(nnx.Rngs(0)), optimizer), jax.random.key(3), 8
    attack = pgd(0.1, step_size=0.05, steps=2, random_start=True)
    whole, metrics = jax.jit(train_step(optimizer, attack=attack))(state, batch, key)
    split = jax.tree.map(lambda leaf: leaf.reshape(parts, -1, *leaf.shape[1:]), batch)
    step = jax.pmap(train_step(optimizer, attack=attack, axis_name="data"), axis_name="data")
    spread, sums = step(stack([state] * parts), split, jnp.stack([key] * parts))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a[0], b, atol=1e-6), spread, whole)
    np.testing.assert_allclose(sums.loss[0], metrics.loss, rtol=1e-6)


def test_devices_draw_different_dropout_masks_and_keep_equal_states(batch):
    class Dropped(nnx.Module):
        def __init__(self, rngs):
            self.dropout, self.linear = nnx.Dropout(0.5, rngs=rngs), nnx.Linear(12, 3, rngs=rngs)

        def __call__(self, images):
            return self.linear(self.dropout(images.reshape(images.shape[0], -1)))

    optimizer = optax.sgd(0.1)
    state, key = create(Dropped(nnx.Rngs(0)), optimizer), jax.random.key(0)
    same = jax.tree.map(lambda leaf: jnp.stack([leaf[:8]] * 2), batch)
    step = jax.pmap(train_step(optimizer, axis_name="data"), axis_name="data", devices=jax.devices()[:2])
    spread, _ = step(stack([state] * 2), same, jnp.stack([key] * 2))
    jax.tree.map(lambda a: np.testing.assert_array_equal(a[0], a[1]), jax.tree.map(_plain, spread))
    once = jax.jit(train_step(optimizer))(state, Batch(*(leaf[0] for leaf in same)), key)[0]
    assert not np.allclose(once.params["linear"]["kernel"][...], spread.params["linear"]["kernel"][0])


@pytest.mark.parametrize("attack_mode", ["eval", "train"])
def test_dropout_draws_by_the_generator_of_its_network(batch, attack_mode):
    optimizer = optax.sgd(0.1)
    state = create(Normalized(nnx.Rngs(jax.random.key(0, impl="rbg"))), optimizer)
    step = jax.jit(train_step(optimizer, attack=fgs(0.1), attack_mode=attack_mode))
    first, again, other = (step(state, batch, jax.random.key(seed)) for seed in (0, 0, 1))
    assert float(first[1].loss) == float(again[1].loss) != float(other[1].loss)
    step(first[0], batch, jax.random.key(2))  # the new state is of the same kind


def _plain(leaf):
    return jax.random.key_data(leaf) if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key) else leaf


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"clean_weight": 0.5}, "needs an attack"),
        ({"clean_weight": 1.0, "attack": fgs(0.1)}, r"\[0, 1\)"),
        ({"attack": stack_attacks([fgs(0.1), fgs(0.2)])}, "single attack"),
        ({"attack": fgs(0.1), "attack_mode": "test"}, '"eval" or "train"'),
    ],
)
def test_train_step_refuses(options, message):
    with pytest.raises(ValueError, match=message):
        train_step(optax.sgd(0.1), **options)


def test_auxiliary_heads_are_weighed():
    def three_heads(images, tap):
        for name in ("aux1", "aux2"):
            tap(name, 2.0 * images[:, 0, 0])
        tap("conv1", 5.0 * images[:, 0, 0])
        return tap("penultimate", images[:, 0, 0])

    images, labels = jnp.array([[[[0.3, 0.9]]]]), jnp.array([1])
    losses, logits = with_heads(0.3)(three_heads, images, labels)
    entropy = [np.log1p(np.exp(-factor * 0.6)) for factor in (1, 2)]
    np.testing.assert_allclose(losses, [entropy[0] + 0.6 * entropy[1]], rtol=1e-5)
    np.testing.assert_array_equal(logits, images[:, 0, 0])
