"""An image's logits must not depend on the image beside it: what does is found, rounding and masks are not."""

import jax
import jax.numpy as jnp
import pytest
from flax import nnx
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from advjax import fgs, from_function, from_nnx, perturb, pgd
from advjax.attacks import Fault, stack
from advjax.attacks.consistency import is_batch_dependent
from tests.models_for_tests import grid_images, linear, linear_weights

IMAGES = jnp.asarray(grid_images(0, (8, 4, 4, 1)))
LABELS = jnp.arange(8, dtype=jnp.int32) % 4
WEIGHTS = linear_weights(0, 16)
ASK = jax.jit(is_batch_dependent)


class Normalized(nnx.Module):
    """With batch statistics under a switch of its own name, so that it stays in training mode."""

    def __init__(self, dtype=jnp.float32):
        rngs = nnx.Rngs(0)
        self.norm = nnx.BatchNorm(1, rngs=rngs, dtype=dtype)
        self.dense = nnx.Linear(16, 4, rngs=rngs, dtype=dtype)

    def __call__(self, x, fitting=True):
        x = self.norm(x, use_running_average=not fitting)
        return self.dense(x.reshape(x.shape[0], -1))


def with_logits(change):
    def model(weights, images):
        return change(linear(weights, images))

    return from_function(model, WEIGHTS)


def noise(shape):
    return jax.random.normal(jax.random.key(0), shape)


# What sound models answer: logits h [B, K], changed image by image.
SOUND = {
    "as they are": lambda h: h,
    "a class masked": lambda h: h.at[:, 0].set(-1e9),
    "minus infinity": lambda h: h.at[:, 0].set(-jnp.inf),
    "offset": lambda h: h + 1e5,
    "saturated": lambda h: 1e6 * h,
    "small": lambda h: 1e-6 * h,
    "probabilities": jax.nn.softmax,
    "bfloat16": lambda h: h.astype(jnp.bfloat16),
    "float16": lambda h: h.astype(jnp.float16),
    "constant": jnp.zeros_like,
    "no numbers": lambda h: h * jnp.nan,
    "classes": lambda h: jnp.argsort(jnp.argsort(h)).astype(jnp.int32),
}
# The same with the company in them.
TIED = {
    "as they are": lambda h: h - h.mean(0, keepdims=True),
    "by place": lambda h: h + 0.1 * noise(h.shape),
    "a class masked": lambda h: (h - h.mean(0, keepdims=True)).at[:, 0].set(-1e9),
    "offset": lambda h: h - h.mean(0, keepdims=True) + 1e5,
    "saturated": lambda h: 1e6 * (h - h.mean(0, keepdims=True)),
    "small": lambda h: 1e-6 * (h - h.mean(0, keepdims=True)),
    "bfloat16": lambda h: (h - h.mean(0, keepdims=True)).astype(jnp.bfloat16),
    "no numbers": lambda h: jnp.log(h - h.mean(0, keepdims=True)),
}


@pytest.mark.parametrize("name", SOUND)
def test_images_by_themselves(name):
    assert not ASK(with_logits(SOUND[name]), IMAGES)


@pytest.mark.parametrize("name", TIED)
def test_images_tied_together(name):
    classifier = with_logits(TIED[name])
    assert ASK(classifier, IMAGES)
    assert ASK(classifier, IMAGES[:1])  # there is none beside it: one is made


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_batch_statistics(dtype):
    model = Normalized(dtype)
    with jax.numpy_dtype_promotion("standard"):  # Flax asks for it in half precision
        assert ASK(from_nnx(model), IMAGES)
        assert not ASK(from_nnx(model, fitting=False), IMAGES)


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (lambda weights, images: linear(weights, images[:1]), r"whatever B, got \(1, 4\) for two"),
        (lambda weights, images: linear(weights, images.reshape(1, 4, 4, 1)), "whatever B, but does not take two"),
    ],
)
def test_a_classifier_of_single_images_is_refused(model, message):
    with pytest.raises(ValueError, match=message):
        perturb(fgs(0.1), from_function(model, WEIGHTS), IMAGES, LABELS)


TRAINING = from_nnx(Normalized())
EVALUATED = from_nnx(Normalized(), fitting=False)
WARNING = "answers an image otherwise beside other images.*BatchNorm.*from_nnx"


@pytest.mark.parametrize("attack", [fgs(0.1), stack([fgs(0.1), fgs(0.2)])], ids=["one", "stack"])
def test_perturb_warns_of_a_model_in_training_mode(attack):
    with pytest.warns(UserWarning, match=WARNING):
        result = perturb(attack, TRAINING, IMAGES, LABELS)
    assert (result.faults == Fault.BATCH_DEPENDENT).all()
    assert not perturb(attack, EVALUATED, IMAGES, LABELS).faults.any()


class Noisy(nnx.Module):
    def __init__(self, scale):
        self.rngs = nnx.Rngs(0)
        self.dense = nnx.Linear(16, 4, rngs=nnx.Rngs(1))
        self.scale = scale

    def __call__(self, x):
        if self.scale:
            x = x + self.scale * jax.random.normal(self.rngs.noise(), x.shape)
        return self.dense(x.reshape(x.shape[0], -1))


@pytest.mark.parametrize("scale", [0.5, 1e-3])
def test_perturb_warns_of_a_random_model(scale):
    """However little it draws: it is found in the program, not in the logits."""
    with pytest.warns(UserWarning, match="one fixed draw.*expectation_over") as told:
        result = perturb(fgs(0.1), from_nnx(Noisy(scale)), IMAGES, LABELS)
    assert len(told) == 1
    assert (result.faults == Fault.RANDOM).all()
    assert not perturb(fgs(0.1), from_nnx(Noisy(0.0)), IMAGES, LABELS).faults.any()


@pytest.mark.parametrize("told", [Fault.BATCH_DEPENDENT, Fault.RANDOM])
def test_in_a_users_jit_vmap_and_shard_map_the_result_tells(told):
    classifier = TRAINING if told == Fault.BATCH_DEPENDENT else from_nnx(Noisy(0.5))

    def faults(images, labels):
        return perturb(fgs(0.1), classifier, images, labels).faults

    found = jax.jit(faults)(IMAGES, LABELS)
    assert (found == told).all()
    mapped = jax.vmap(faults)(IMAGES.reshape(2, 4, 4, 4, 1), LABELS.reshape(2, 4))
    assert mapped.shape == (2, 4)
    assert (mapped == told).all()
    mesh = jax.make_mesh((4,), ("data",), axis_types=(AxisType.Auto,))
    split = PartitionSpec("data")
    apart = jax.shard_map(faults, mesh=mesh, in_specs=(split, split), out_specs=split)
    assert (jax.jit(apart)(IMAGES, LABELS) == told).all()
    with pytest.warns(UserWarning, match=WARNING if told == Fault.BATCH_DEPENDENT else "one fixed draw"):
        jax.jit(lambda: perturb(fgs(0.1), classifier, IMAGES, LABELS))().check()


@pytest.mark.parametrize("axes", [AxisType.Auto, AxisType.Explicit])
def test_on_a_mesh(axes):
    mesh = jax.make_mesh((4,), ("data",), axis_types=(axes,))
    images, labels = jax.device_put((IMAGES, LABELS), NamedSharding(mesh, PartitionSpec("data")))
    with pytest.warns(UserWarning, match=WARNING):
        perturb(fgs(0.1), TRAINING, images, labels)
    assert not perturb(fgs(0.1), EVALUATED, images, labels).faults.any()


def test_sharded_images_are_not_gathered():
    mesh = jax.make_mesh((4,), ("data",), axis_types=(AxisType.Auto,))
    images = jax.device_put(IMAGES, NamedSharding(mesh, PartitionSpec("data")))
    program = ASK.lower(EVALUATED, images).compile().as_text()
    assert not any(name in program for name in ("all-gather", "all-to-all", "collective-permute"))


def test_what_nobody_reads_costs_nothing():
    """As in a training step: XLA takes the passes out of the program where `faults` are not used."""

    def cost(pick):
        program = jax.jit(lambda images: pick(perturb(PGD, EVALUATED, images, LABELS))).lower(IMAGES).compile()
        return program.as_text().count(" dot(")

    alone = cost(lambda result: result.image)
    assert cost(lambda result: (result.image, result.faults)) > alone


PGD = pgd(0.1, step_size=0.05, steps=2, random_start=False)
