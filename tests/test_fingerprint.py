"""Fingerprints: the same in every process, another for other numbers, types, shapes or structure."""

import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from advjax import fgs, from_function, from_nnx, pgd
from advjax.fingerprint import fingerprint
from tests.models_for_tests import NnxNet, linear, linear_weights


def test_it_is_the_same_in_every_process():
    program = (
        "from flax import nnx\n"
        "from advjax import from_function, from_nnx, pgd\n"
        "from advjax.fingerprint import fingerprint\n"
        "from tests.models_for_tests import NnxNet, linear, linear_weights\n"
        "print(fingerprint(from_function(linear, linear_weights())), fingerprint(from_nnx(NnxNet(nnx.Rngs(0)))),"
        " fingerprint(pgd(0.1, step_size=0.1, steps=3)))"
    )
    other = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout.split()
    network = from_nnx(NnxNet(nnx.Rngs(0)))
    parts = [from_function(linear, linear_weights()), network, pgd(0.1, step_size=0.1, steps=3)]
    assert [fingerprint(part) for part in parts] == other
    assert len(set(other)) == 3


def test_other_content_has_another_one():
    numbers = np.arange(6, dtype=np.int32)
    parts = [
        pgd(0.1, step_size=0.1, steps=3), pgd(0.1, step_size=0.1, steps=4), pgd(0.1, step_size=0.2, steps=3),
        pgd(0.1, norm="l2", step_size=0.1, steps=3), fgs(0.1), fgs(np.float32([0.1])), fgs(),
        numbers, numbers[::-1], numbers.reshape(2, 3), numbers.view(np.float32), jnp.zeros(3, jnp.bfloat16),
        jax.random.key(0), jax.random.key(1), [1, 2], (1, 2), [[1], 2], {"a": 1}, {"b": 1}, {"a": True}, {"a": None},
        "a", b"a", "b", 1.0, np.zeros((0, 3)),
    ]  # fmt: skip
    assert len({fingerprint(part) for part in parts}) == len(parts)
    assert fingerprint(1, 2) != fingerprint(2, 1)
    assert fingerprint(fgs(0.1)) == fingerprint(fgs(0.1))
    assert fingerprint(numbers) == fingerprint(jnp.asarray(numbers)) == fingerprint(np.repeat(numbers, 2)[::2])


def test_what_has_no_content_is_refused():
    with pytest.raises(TypeError, match="of arrays, numbers, texts and bytes, got function"):
        fingerprint({"loss": linear})
