"""Random signs in hidden space: what draws apart, the same draws on eight devices, and nothing of it in evaluation."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from advjax import fgs, from_nnx, random_sign
from advjax.models import LeNet, RandomSignLayer, capsule_loss, hidden_random_sign
from advjax.models.capsnet import CapsNet
from advjax.models.taps import untapped
from advjax.training import Batch, Trainer, create, stack, to_model, train_step, unstack
from advjax.training.sharding import placement
from tests.training.nets import toy_set

KEY, SIZE = jax.random.key(0), 64
OPTIMIZER = optax.sgd(1.0)
# Powers of two: all that is computed of them is exact, so that the gradients show every draw.
LEVELS = np.float32(2.0) ** -np.arange(8)
BATCH = Batch(jnp.asarray(np.broadcast_to(LEVELS[:, None, None, None], (8, 1, SIZE, 1))), jnp.zeros(8, jnp.int32))


class Probe(nnx.Module):
    """Losses linear in the weights: the gradient at `a` [SIZE] is the mean over images of the tapped images."""

    def __init__(self, layer=None):
        self.a, self.b = nnx.Param(jnp.zeros(SIZE)), nnx.Param(jnp.zeros(SIZE))
        self.layer = layer

    def __call__(self, images, tap=untapped):
        x = images.reshape(images.shape[0], SIZE)
        first = tap("a", x) if self.layer is None else self.layer(x)
        second = tap("b", x) if self.layer is None else self.layer(x)
        score = first @ self.a[...] + second @ self.b[...]
        return jnp.stack([score, -score], -1)


def linear_loss(model, images, labels):
    logits = model(images)
    return logits[:, 0], logits


def draws(state, places="ab"):
    """r [8, SIZE] at each place: the bits of 8 * mean_i 2^-i (1 + r_i / 2)."""
    found = []
    for place in places:
        rest = -8 * np.asarray(state.params[place][...]) - LEVELS.sum()  # sum_i 2^-i r_i / 2
        rows = []
        for level in LEVELS:
            rows.append(np.where(rest > 0, 1, -1))
            rest = rest - rows[-1] * level / 2
        assert not rest.any()
        found.append(np.array(rows))
    return found


def stepped(key=KEY, network=Probe, hidden=None, **options):
    step = train_step(OPTIMIZER, loss=linear_loss, hidden=hidden, **options)
    return jax.jit(step)(create(network(), OPTIMIZER), BATCH, key)[0]


def layered():
    return Probe(RandomSignLayer(0.5, rngs=nnx.Rngs(1)))


TAPS = hidden_random_sign(("a", "b"), 0.5)
KINDS = [{"hidden": TAPS}, {"network": layered}]


@pytest.mark.parametrize("kind", KINDS, ids=["taps", "layer"])
def test_each_element_image_place_and_step_draws_anew(kind):
    first, second = draws(stepped(**kind))
    assert all(set(row) == {-1, 1} for row in (*first, *second))
    everything = np.concatenate([first, second, *draws(stepped(jax.random.key(1), **kind))])
    assert len(np.unique(everything, axis=0)) == 32
    np.testing.assert_array_equal(draws(stepped(**kind))[0], first)


def test_per_example_and_per_batch():
    first = draws(stepped(hidden=hidden_random_sign(("a", "b"), 0.5, per="example")))[0]
    assert all(len(set(row)) == 1 for row in first)
    assert len(np.unique(first)) == 2
    batches = [
        draws(stepped(jax.random.key(i), hidden=hidden_random_sign("a", 0.5, per="batch")), "a")[0] for i in range(8)
    ]
    assert all(len(np.unique(each)) == 1 for each in batches)
    assert len(np.unique(batches)) == 2


def test_only_the_named_taps():
    state = stepped(hidden=hidden_random_sign("b", 0.5))
    np.testing.assert_array_equal(state.params["a"][...], np.full(SIZE, -LEVELS.mean()))
    assert len(np.unique(draws(stepped(hidden=TAPS))[1])) == 2


@pytest.mark.parametrize("kind", [*KINDS, {"hidden": hidden_random_sign(("a", "b"), 0.5, per="batch")}])
def test_eight_devices_draw_what_one_does(kind):
    """Under `pmap`, each with a part of the batch; and by sharding, where the compiler divides one program."""
    options = {name: part for name, part in kind.items() if name != "network"}
    alone = stepped(**kind)
    step = train_step(OPTIMIZER, loss=linear_loss, axis_name="data", **options)
    state = create(kind.get("network", Probe)(), OPTIMIZER)
    parts = jax.tree.map(lambda leaf: leaf.reshape(8, 1, *leaf.shape[1:]), BATCH)
    mapped, _ = jax.pmap(step, axis_name="data", in_axes=(None, 0, None), out_axes=(None, None))(state, parts, KEY)
    np.testing.assert_array_equal(np.array(draws(mapped)), np.array(draws(alone)))
    spread = placement()
    sharded = jax.tree.map(lambda leaf: spread.put(leaf, spread.of_batch(0, leaf.ndim)), BATCH)
    divided, _ = jax.jit(train_step(OPTIMIZER, loss=linear_loss, **options))(state, sharded, KEY)
    np.testing.assert_array_equal(np.array(draws(divided)), np.array(draws(alone)))


@pytest.mark.parametrize("kind", KINDS, ids=["taps", "layer"])
def test_evaluation_sees_none_of_it(kind):
    state = stepped(**kind)
    logits = from_nnx(to_model(state))(BATCH.image)
    plain = Probe()
    plain.a, plain.b = nnx.Param(state.params["a"][...]), nnx.Param(state.params["b"][...])
    np.testing.assert_array_equal(logits, plain(BATCH.image))


def test_without_it_the_bits_are_those_of_before():
    """A network with dropout keeps its masks: the taps draw from keys that no stream has."""
    state = create(nnx.Sequential(lambda x: x.reshape(8, -1), nnx.Dropout(0.5, rngs=nnx.Rngs(0)), Sum()), OPTIMIZER)
    after, _ = jax.jit(train_step(OPTIMIZER, loss=linear_loss))(state, BATCH, KEY)
    key = jax.random.fold_in(jax.random.split(KEY, 3)[1], 0)
    kept = jax.random.bernoulli(jax.random.fold_in(key, 0), 0.5, (8, SIZE))
    expected = -(kept.astype(jnp.float32) * 2.0 * BATCH.image.reshape(8, -1)).mean(0)
    np.testing.assert_array_equal(after.params["layers"][2]["w"][...], expected)


class Sum(nnx.Module):
    """Logits whose first is linear in the weights."""

    def __init__(self):
        self.w = nnx.Param(jnp.zeros(SIZE))

    def __call__(self, x):
        return jnp.stack([x @ self.w[...]] * 2, -1)


def test_attack_and_hidden_signs_go_together_and_the_attack_sees_the_network_as_it_is_used():
    """FGS's gradient is the same with and without them: only the descent differs."""
    seen = []

    def loss(model, images, labels):
        jax.debug.callback(lambda images: seen.append(np.asarray(images)), images)
        logits = model(images)
        return logits[:, 0] - logits[:, 1], logits

    state = create(LeNet(rngs=nnx.Rngs(0)), OPTIMIZER)
    images = jax.random.uniform(KEY, (4, 28, 28, 1))
    batch = Batch(jnp.round(images * 255) / 255, jnp.zeros(4, jnp.int32))
    for hidden in (None, hidden_random_sign(("pool1", "dense1"), 0.5)):
        step = train_step(OPTIMIZER, loss=loss, attack=fgs(0.1), hidden=hidden)
        jax.block_until_ready(jax.jit(step)(state, batch, KEY))
    jax.effects_barrier()
    np.testing.assert_array_equal(seen[0], seen[1])
    assert (seen[0] != batch.image).any()


def test_capsules_and_their_reconstruction_pass_the_taps():
    """The loss asks the network for more than logits, and the signs are not lost on the way."""
    model = CapsNet(types=2, filters=4, rngs=nnx.Rngs(0))
    state = create(model, OPTIMIZER)
    batch = Batch(jnp.ones((2, 28, 28, 1)), jnp.zeros(2, jnp.int32))
    steps = [train_step(OPTIMIZER, loss=capsule_loss, hidden=hidden) for hidden in (None, TAPS_OF_CAPSULES)]
    losses = [float(jax.jit(step)(state, batch, KEY)[1].loss) for step in steps]
    assert losses[0] != losses[1]


TAPS_OF_CAPSULES = hidden_random_sign(("conv1", "primary"), 0.5)


def test_a_network_without_such_taps_is_named():
    step = train_step(OPTIMIZER, loss=linear_loss, hidden=hidden_random_sign("pool9", 0.1))
    with pytest.raises(ValueError, match=r"where must name taps .*'a', 'b'.* got \['pool9'\]"):
        step(create(Probe(), OPTIMIZER), BATCH, KEY)
    with pytest.raises(ValueError, match="must have taps"):
        step(create(Sum(), OPTIMIZER), BATCH, KEY)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [(((), 0.1), "where"), (("a", -1.0), "epsilon"), (("a", 0.1, 3.0), "p must"), (("a", 0.1, 0.5, "all"), "per")],
)
def test_bad_settings_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        hidden_random_sign(*arguments)


def test_training_with_both_goes_on_to_the_same_bits(tmp_path):
    class Tapped(nnx.Module):
        def __init__(self, rngs):
            self.dense = nnx.Linear(36, 3, rngs=rngs)

        def __call__(self, images, tap=untapped):
            return self.dense(tap("input", images.reshape(images.shape[0], -1)))

    step = train_step(OPTIMIZER, attack=random_sign(0.1), hidden=hidden_random_sign("input", 0.1))
    trainer, data = Trainer(step, batch_size=8, block=2), toy_set()

    def start():
        return stack([create(Tapped(nnx.Rngs(0)), OPTIMIZER)])

    whole = trainer.fit(start(), data, 8, KEY)
    trainer.fit(start(), data, 4, KEY, folder=tmp_path, every=2)
    rest = trainer.fit(start(), data, 8, KEY, folder=tmp_path, every=2)
    jax.tree.map(np.testing.assert_array_equal, whole.states.params, rest.states.params)
    assert unstack(whole.states)[0].step == 8
