"""States: stacking and unstacking lose nothing, and networks that differ are not stacked."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from advjax.training import create, stack, to_model, unstack


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
