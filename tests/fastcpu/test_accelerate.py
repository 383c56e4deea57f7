"""`accelerate` keeps a function's meaning: control flow, transformations, effects, keys, sharding, other backends."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from advjax.fastcpu import accelerate

KERNEL = jnp.asarray(np.random.default_rng(1).normal(size=(3, 3, 1, 8)) / 3, jnp.float32)


def loss(image, kernel=KERNEL):
    """Convolution, separate max pool and ReLU of one image [8,8,1]."""
    x = lax.conv_general_dilated(image[None], kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))
    x = lax.reduce_window(x, -jnp.inf, lax.max, (1, 2, 2, 1), (1, 2, 2, 1), "VALID")
    return jnp.square(jax.nn.relu(x)).sum()


def climb(image, kernel=KERNEL):
    return lax.fori_loop(0, 3, lambda _, x: x + 0.1 * jax.grad(loss)(x, kernel), image)


def until(image, kernel=KERNEL):
    """Climb while the loss is small: a loop whose condition reads the model."""
    return lax.while_loop(lambda x: loss(x, kernel) < 50, lambda x: x + 0.1 * jax.grad(loss)(x, kernel), image)


def is_rewritten(function, *arguments):
    return "select_and_scatter_add" not in str(jax.make_jaxpr(function)(*arguments))


@pytest.fixture
def images(rng):
    return jnp.asarray(rng.random((16, 8, 8, 1)), jnp.float32)


@pytest.mark.parametrize("function", [climb, until])
def test_loops_under_vmap(function, images):
    batched = jax.vmap(function)
    assert not is_rewritten(batched, images)
    assert is_rewritten(accelerate(batched), images)
    np.testing.assert_allclose(jax.jit(accelerate(batched))(images), jax.jit(batched)(images), atol=2e-5)


def test_inside_every_transformation(images):
    fast, wanted = accelerate(climb), jax.jit(jax.vmap(climb))(images)
    np.testing.assert_allclose(jax.jit(jax.vmap(fast))(images), wanted, atol=2e-5)
    np.testing.assert_allclose(jax.vmap(jax.jit(fast))(images), wanted, atol=2e-5)
    np.testing.assert_allclose(fast(images[0]), wanted[0], atol=2e-5)
    np.testing.assert_allclose(accelerate(accelerate(climb))(images[0]), wanted[0], atol=2e-5)


def test_differentiated_later(images):
    """The gradient of an accelerated loss and of an accelerated gradient (a Hessian-vector product)."""
    image, tangent = images[0], images[1]
    np.testing.assert_allclose(jax.grad(accelerate(loss))(image), jax.grad(loss)(image), atol=1e-6)

    def products(gradient):
        """Of the Hessian with a vector, forward and backward."""
        forward = jax.jvp(gradient, (image,), (tangent,))[1]
        return forward, jax.vjp(gradient, image)[1](tangent)[0]

    np.testing.assert_allclose(products(accelerate(jax.grad(loss))), products(jax.grad(loss)), atol=2e-5)


def test_closure_over_traced_values(images):
    @jax.jit
    def outer(kernel, image):
        return accelerate(lambda x: climb(x, kernel))(image)

    np.testing.assert_allclose(outer(KERNEL, images[0]), climb(images[0]), atol=2e-5)
    fast = jax.grad(lambda kernel: accelerate(lambda x: loss(x, kernel))(images[0]))(KERNEL)
    np.testing.assert_allclose(fast, jax.grad(loss, 1)(images[0], KERNEL), rtol=1e-5)


def test_trees_keywords_and_none(images):
    def function(tree, *, scale, nothing=None):
        return {"gradient": scale * jax.grad(loss)(tree["image"]), "nothing": nothing, "label": tree["label"]}

    tree = {"image": images[0], "label": jnp.int32(3)}
    fast, plain = accelerate(function)(tree, scale=2.0), function(tree, scale=2.0)
    assert jax.tree.structure(fast) == jax.tree.structure(plain)
    assert fast["label"] == 3
    np.testing.assert_allclose(fast["gradient"], plain["gradient"], atol=1e-6)


def test_typed_keys_inside_loops(images):
    def noisy(key, image):
        def step(carry, _):
            key, x = carry
            key, used = jax.random.split(key)
            return (key, x + 0.1 * jax.grad(loss)(x) + 0.01 * jax.random.normal(used, x.shape)), None

        return lax.scan(step, (key, image), length=3)[0]

    keys = jax.random.split(jax.random.key(0), len(images))
    fast, plain = (jax.jit(f)(keys, images) for f in (accelerate(jax.vmap(noisy)), jax.vmap(noisy)))
    assert (jax.random.key_data(fast[0]) == jax.random.key_data(plain[0])).all()
    np.testing.assert_allclose(fast[1], plain[1], atol=2e-5)


def test_one_trace_for_many_calls(images):
    traces = []

    def counted(image, scale):
        traces.append(1)
        return scale * climb(image)

    function = jax.jit(accelerate(jax.vmap(counted, (0, None))))
    function(images, 1.0)
    before = len(traces)
    function(images + 1, 2.0)
    assert len(traces) == before == 1


def test_effects_happen_once_and_in_order(images, capfd):
    def talkative(image):
        def step(i, x):
            jax.debug.print("step {}", i, ordered=True)
            return x + 0.1 * jax.grad(loss)(x)

        return lax.fori_loop(0, 3, step, image)

    assert is_rewritten(accelerate(talkative), images[0])
    jax.block_until_ready(jax.jit(accelerate(talkative))(images[0]))
    jax.effects_barrier()
    assert capfd.readouterr().out.split("\n")[:3] == ["step 0", "step 1", "step 2"]


def test_other_backends_run_the_function_itself(images, monkeypatch):
    gradient = jax.grad(loss)
    assert is_rewritten(accelerate(gradient), images[0])
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    assert not is_rewritten(accelerate(gradient), images[0])
    received = object()
    assert accelerate(lambda value: value)(received) is received


def test_sharded_images_stay_where_they_are(images):
    mesh = jax.make_mesh((8,), ("batch",), axis_types=(AxisType.Auto,))
    sharding = NamedSharding(mesh, PartitionSpec("batch"))
    function = jax.jit(accelerate(jax.vmap(climb)), out_shardings=sharding)
    sharded = jax.device_put(images, sharding)
    program = function.lower(sharded).compile().as_text()
    assert not any(name in program for name in ("all-gather", "all-to-all", "collective-permute", "all-reduce"))
    np.testing.assert_allclose(function(sharded), jax.jit(jax.vmap(climb))(images), atol=2e-5)


def test_shard_map_is_left_alone_and_works_around(images):
    """A step under `shard_map` may be accelerated from outside or inside; the axis name stays usable."""
    mesh = jax.make_mesh((8,), ("batch",), axis_types=(AxisType.Auto,))
    spec = PartitionSpec("batch")

    def mean_gradient(images):
        return lax.pmean(jax.vmap(jax.grad(loss))(images).mean(0), "batch")

    def on_mesh(function):
        return jax.jit(jax.shard_map(function, mesh=mesh, in_specs=spec, out_specs=PartitionSpec()))

    wanted = jax.vmap(jax.grad(loss))(images).mean(0)
    np.testing.assert_allclose(accelerate(on_mesh(mean_gradient))(images), wanted, atol=2e-5)
    np.testing.assert_allclose(on_mesh(accelerate(mean_gradient))(images), wanted, atol=2e-5)


def test_explicitly_sharded_types_are_left_alone(images):
    mesh = jax.make_mesh((8,), ("batch",), axis_types=(AxisType.Explicit,))
    gradient = jax.vmap(jax.grad(loss))
    with jax.set_mesh(mesh):
        sharded = jax.device_put(images, NamedSharding(mesh, PartitionSpec("batch")))
        np.testing.assert_allclose(jax.jit(accelerate(gradient))(sharded), gradient(images), atol=2e-5)
