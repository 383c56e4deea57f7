"""States: stacking and unstacking lose nothing, and networks that differ are not stacked."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from advjax.training import create, stack, to_model, unstack, weights_of, with_weights


def linear(seed, features=2):
    return nnx.Linear(3, features, rngs=nnx.Rngs(seed))


def test_unstack_undoes_stack():
    states = [create(linear(seed), optax.sgd(0.1, momentum=0.9)) for seed in range(3)]
    for before, after in zip(states, unstack(stack(states)), strict=True):
        jax.tree.map(np.testing.assert_array_equal, before, after)


def test_to_model_has_the_states_weights_and_evaluates():
    model = nnx.Sequential(linear(0), nnx.Dropout(0.5, rngs=nnx.Rngs(1)))
    x = jnp.ones((4, 3))
    again = to_model(create(model, optax.sgd(0.1)))
    np.testing.assert_array_equal(again(x), linear(0)(x))


def test_a_state_outlives_donation_of_the_model_and_the_reverse():
    model = linear(0)
    state = create(model, optax.sgd(0.1))
    jax.jit(lambda tree: jax.tree.map(lambda leaf: leaf + 1, tree), donate_argnums=0)(state.params)
    assert np.isfinite(np.asarray(model.kernel[...])).all()


@pytest.mark.parametrize(
    ("states", "message"),
    [
        (lambda: [], "at least one state"),
        (lambda: [create(linear(0), optax.sgd(0.1)), create(linear(0), optax.adam(0.1))], r"states\[1\]"),
        (lambda: [create(linear(0), optax.sgd(0.1)), create(linear(0, 3), optax.sgd(0.1))], r"states\[1\]"),
    ],
)
def test_stack_refuses(states, message):
    with pytest.raises(ValueError, match=message):
        stack(states())


def noisy(seed):
    """A network with weights, batch statistics and a random stream."""
    rngs = nnx.Rngs(seed)
    layers = nnx.Linear(3, 2, rngs=rngs), nnx.BatchNorm(2, rngs=rngs), nnx.Dropout(0.5, rngs=rngs)
    return create(nnx.Sequential(*layers), optax.sgd(0.1, momentum=0.9))


def test_weights_come_back_to_the_bit_and_nothing_else_does(tmp_path):
    states, others = (stack([noisy(seed) for seed in seeds]) for seeds in ((0, 1), (2, 3)))
    np.savez(tmp_path / "both.npz", **weights_of(states), loss=np.ones(3))
    with np.load(tmp_path / "both.npz") as stored:
        again = with_weights(others, stored)
    for before, after in zip(unstack(states), unstack(again), strict=True):
        np.testing.assert_array_equal(to_model(before)(jnp.ones((4, 3))), to_model(after)(jnp.ones((4, 3))))
    jax.tree.map(np.testing.assert_array_equal, weights_of(states), weights_of(again))
    keys = [leaf for leaf in jax.tree.leaves(others.rest) if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)]
    kept = [leaf for leaf in jax.tree.leaves(again.rest) if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)]
    assert keys
    assert all(bool((one == other).all()) for one, other in zip(keys, kept, strict=True))


def test_weights_of_other_networks_are_refused():
    one, pair = noisy(0), stack([noisy(0), noisy(1)])
    with pytest.raises(ValueError, match=r"arrays must hold .*bias.* of shape \(2,\), got shape \(2, 2\)"):
        with_weights(one, weights_of(pair))
    with pytest.raises(ValueError, match=r"arrays must hold .* of shape \(2,\), got none"):
        with_weights(one, {})
