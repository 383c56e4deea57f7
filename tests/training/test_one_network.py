"""One network in, one network out: of NNX and of Linen, to the bits of its stack of one, and as file and classifier."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen, nnx

from advjax import from_linen
from advjax.attacks import fgs
from advjax.data.pipeline import batch_order
from advjax.models import load
from advjax.training import LinenModel, Trainer, create, stack, train_step
from tests.training.nets import OPTIMIZER, TRAINER, equal, states, toy_set

DATA = toy_set()
KEY = jax.random.key(0)
PIXELS = jnp.asarray(DATA.images, jnp.float32) / 255


class Regular(nnx.Module):
    """Batch statistics and dropout, in training mode as it is made."""

    def __init__(self, rngs):
        self.norm = nnx.BatchNorm(1, rngs=rngs)
        self.dropout = nnx.Dropout(0.5, rngs=rngs)
        self.dense = nnx.Linear(36, 3, rngs=rngs)

    def __call__(self, images):
        return self.dense(self.dropout(self.norm(images)).reshape(images.shape[0], -1))


class OfLinen(linen.Module):
    """The same in Linen, with a switch of its own name."""

    rate: float = 0.5

    @linen.compact
    def __call__(self, images, is_training=True):
        images = linen.BatchNorm(use_running_average=not is_training, momentum=0.9)(images)
        images = linen.Dropout(self.rate, deterministic=not is_training)(images)
        return linen.Dense(3)(images.reshape(images.shape[0], -1))


def of_linen(rate=0.5):
    net = OfLinen(rate)
    return net, net.init(jax.random.key(1), PIXELS[:1], is_training=False)


def plain(tree):
    """With the data of typed keys."""
    is_key = lambda leaf: jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)  # noqa: E731
    return jax.tree.map(lambda leaf: np.asarray(jax.random.key_data(leaf) if is_key(leaf) else leaf), tree)


@pytest.mark.parametrize("make", [lambda: Regular(nnx.Rngs(0)), lambda: LinenModel(*of_linen())], ids=["nnx", "linen"])
def test_it_trains_as_a_stack_of_one_goes_on_in_its_folder_and_stays_as_it_was(make, tmp_path):
    trainer, model = Trainer(train_step(OPTIMIZER, attack=fgs(0.05), clean_weight=0.5), batch_size=8, block=4), make()
    before = plain(nnx.state(model))
    whole = trainer.fit(model, DATA, 12, KEY)
    equal(plain(whole.states), plain(trainer.fit(stack([create(make(), OPTIMIZER)]), DATA, 12, KEY).states))
    for steps in (4, 12):
        fitted = trainer.fit(
            model, DATA, steps, KEY, folder=tmp_path / "run", every=4, validation=(PIXELS, DATA.labels)
        )
    equal(plain(whole.states), plain(fitted.states))
    assert trainer._block._cache_size() == 1
    # The network that was given has its variables and its mode; the one given back has its own, and evaluates.
    equal(plain(nnx.state(model)), before)
    assert not np.array_equal(model(PIXELS), model(PIXELS))
    logits = fitted.classifier()(PIXELS)
    np.testing.assert_array_equal(fitted.model(PIXELS), logits)
    right = np.mean(np.argmax(logits, -1) == DATA.labels)
    np.testing.assert_allclose(right, max(row["validation_accuracy"] for row in fitted.history.rows), rtol=1e-6)
    fitted.save(tmp_path / "weights.safetensors")
    again = load(make(), tmp_path / "weights.safetensors")
    again.eval()
    np.testing.assert_array_equal(again(PIXELS), logits)


def test_linen_takes_the_steps_of_its_own_gradients_and_statistics():
    net, start = of_linen(rate=0.0)
    fitted = Trainer(train_step(OPTIMIZER), batch_size=8, block=3).fit(LinenModel(net, start), DATA, 3, KEY)
    params, moved, memory = start["params"], start["batch_stats"], OPTIMIZER.init(start["params"])

    def loss(params, moved, images, labels):
        logits, after = net.apply({"params": params, "batch_stats": moved}, images, mutable=["batch_stats"])
        return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean(), after["batch_stats"]

    for rows in batch_order(jax.random.key_data(jax.random.split(KEY, 1)[0]), 60, 0, 3, 8):
        slope, moved = jax.grad(loss, has_aux=True)(params, moved, PIXELS[rows], DATA.labels[rows])
        updates, memory = OPTIMIZER.update(slope, memory, params)
        params = optax.apply_updates(params, updates)
    found = fitted.model.variables
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), found, {"params": params, "batch_stats": moved}
    )
    np.testing.assert_allclose(from_linen(net, found)(PIXELS), fitted.classifier()(PIXELS), atol=1e-6)


def test_an_attack_in_training_mode_refuses_linen():
    step = train_step(OPTIMIZER, attack=fgs(0.1), attack_mode="train")
    with pytest.raises(ValueError, match="needs a network of NNX"):
        Trainer(step, 8, 4).fit(LinenModel(*of_linen()), DATA, 4, KEY)


def test_several_networks_come_one_by_one(tmp_path):
    trainer = TRAINER
    fitted = trainer.fit(states(2), DATA, 4, KEY)
    for ask in (lambda: fitted.model, fitted.classifier, lambda: fitted.save(tmp_path / "weights.safetensors")):
        with pytest.raises(ValueError, match="of one network, got 2: take them from models"):
            ask()
    logits = [classifier(PIXELS) for classifier in fitted.classifiers()]
    np.testing.assert_array_equal(logits, [model(PIXELS) for model in fitted.models])
    assert not np.array_equal(*logits)
    with pytest.raises(TypeError, match=r"model must be an nnx.Module .* got OfLinen"):
        trainer.fit(OfLinen(), DATA, 4, KEY)
