"""GoogLeNet: BVLC's against a definition in PyTorch through a caffemodel, torchvision's, auxiliary heads, training."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from advjax.models.counting import abstract, count_macs, count_parameters
from advjax.models.googlenet import GoogLeNet, local_response_norm, quick_solver
from advjax.models.taps import features
from advjax.models.weights import load_weights
from tests.models.caffe_files import caffemodel
from tests.models.networks_for_tests import assert_close, filled, loss_falls, our_logits
from tests.models.torchvision_models import randomized, torchvision_logits, torchvision_models, two_images

# models/bvlc_googlenet/train_val.prototxt: num_output of 1x1, 3x3_reduce, 3x3, 5x5_reduce, 5x5, pool_proj
_PROTOTXT = {
    "3a": (64, 96, 128, 16, 32, 32),
    "3b": (128, 128, 192, 32, 96, 64),
    "4a": (192, 96, 208, 16, 48, 64),
    "4b": (160, 112, 224, 24, 64, 64),
    "4c": (128, 128, 256, 24, 64, 64),
    "4d": (112, 144, 288, 32, 64, 64),
    "4e": (256, 160, 320, 32, 128, 128),
    "5a": (256, 160, 320, 32, 128, 128),
    "5b": (384, 192, 384, 48, 128, 128),
}


def _small(rngs, **options):
    return GoogLeNet(10, width=0.125, rngs=rngs, **options)


def test_sizes_of_the_heads_and_of_the_network_of_torchvision():
    model = abstract(GoogLeNet)
    assert count_parameters(model.aux1) + count_parameters(model.aux2) == 6_379_728
    torchvision = abstract(lambda rngs: GoogLeNet(batch_norm=True, aux=False, rngs=rngs))
    assert count_parameters(torchvision) == 6_624_904
    assert count_macs(torchvision, (224, 224, 3)) == pytest.approx(1_498e6, abs=0.5e6)


def _caffe_layers(rng, classes=20):
    """Random blobs for all layers with weights, outputs first, as train_val.prototxt has them."""
    layers = {}

    def add(name, outputs, inputs, *kernel):
        shape = (outputs, inputs, *kernel)
        scale = (2 / np.prod(shape[1:])) ** 0.5
        layers[name] = [rng.normal(0, scale, shape).astype(np.float32), rng.normal(0, 1, outputs).astype(np.float32)]

    add("conv1/7x7_s2", 64, 3, 7, 7)
    add("conv2/3x3_reduce", 64, 64, 1, 1)
    add("conv2/3x3", 192, 64, 3, 3)
    channels = 192
    for block, (one, reduce3, three, reduce5, five, project) in _PROTOTXT.items():
        prefix = f"inception_{block}"
        if block in ("4b", "4e"):
            head = "loss1" if block == "4b" else "loss2"
            add(f"{head}/conv", 128, channels, 1, 1)
            add(f"{head}/fc", 1024, 2048)
            add(f"{head}/classifier", classes, 1024)
        add(f"{prefix}/1x1", one, channels, 1, 1)
        add(f"{prefix}/3x3_reduce", reduce3, channels, 1, 1)
        add(f"{prefix}/3x3", three, reduce3, 3, 3)
        add(f"{prefix}/5x5_reduce", reduce5, channels, 1, 1)
        add(f"{prefix}/5x5", five, reduce5, 5, 5)
        add(f"{prefix}/pool_proj", project, channels, 1, 1)
        channels = one + three + five + project
    add("loss3/classifier", classes, channels)
    return layers


def _torch_bvlc(layers, images):
    """Logits of the three losses, from the prototxt's layers in PyTorch's functions."""
    import torch

    functional = torch.nn.functional
    blobs = {name: [torch.tensor(blob) for blob in pair] for name, pair in layers.items()}

    def conv(name, x, stride=1, pad=0):
        return torch.relu(functional.conv2d(x, *blobs[name], stride=stride, padding=pad))

    def dense(name, x):
        return functional.linear(x.flatten(1), *blobs[name])

    def pool(x):
        return functional.max_pool2d(x, 3, 2, ceil_mode=True)

    def norm(x):
        return functional.local_response_norm(x, 5, alpha=1e-4, beta=0.75, k=1.0)

    def head(name, x):
        x = conv(f"{name}/conv", functional.avg_pool2d(x, 5, 3, ceil_mode=True))
        return dense(f"{name}/classifier", torch.relu(dense(f"{name}/fc", x)))

    bgr = images[..., ::-1] * np.float32(255) - np.float32([104, 117, 123])
    x = torch.tensor(np.ascontiguousarray(bgr.transpose(0, 3, 1, 2)))
    x = norm(pool(conv("conv1/7x7_s2", x, 2, 3)))
    x = pool(norm(conv("conv2/3x3", conv("conv2/3x3_reduce", x), pad=1)))
    losses = []
    for block in _PROTOTXT:
        if block in ("4a", "5a"):
            x = pool(x)
        if block in ("4b", "4e"):
            losses.append(head(f"loss{len(losses) + 1}", x))
        p = f"inception_{block}"
        x = torch.cat(
            [
                conv(f"{p}/1x1", x),
                conv(f"{p}/3x3", conv(f"{p}/3x3_reduce", x), pad=1),
                conv(f"{p}/5x5", conv(f"{p}/5x5_reduce", x), pad=2),
                conv(f"{p}/pool_proj", functional.max_pool2d(x, 3, 1, 1)),
            ],
            1,
        )
    losses.append(dense("loss3/classifier", functional.avg_pool2d(x, 7, 1)))
    return [loss.numpy() for loss in losses]


@pytest.mark.peers
def test_bvlc_equals_its_definition_through_a_caffemodel(rng, tmp_path):
    pytest.importorskip("torch")
    layers, images = _caffe_layers(rng), two_images(224)
    (tmp_path / "bvlc.caffemodel").write_bytes(caffemodel(layers, legacy=True))
    model = load_weights(abstract(lambda rngs: GoogLeNet(20, rngs=rngs)), tmp_path / "bvlc.caffemodel")
    model.train()
    for module in (model.dropout, model.aux1.dropout, model.aux2.dropout):
        module.rate = 0.0
    read = nnx.jit(features)(model, jnp.asarray(images))
    for name, theirs in zip(("aux1", "aux2", "penultimate"), _torch_bvlc(layers, images), strict=True):
        assert_close(np.asarray(read[name]), theirs)


@pytest.mark.peers
def test_logits_equal_those_of_torchvision(tmp_path):
    models, images = torchvision_models(), two_images(96)
    import torch

    theirs = randomized(lambda: models.GoogLeNet(transform_input=True, init_weights=False), images)
    torch.save(theirs.state_dict(), tmp_path / "weights.pth")
    model = load_weights(abstract(lambda rngs: GoogLeNet(batch_norm=True, rngs=rngs)), tmp_path / "weights.pth")
    model.eval()
    assert_close(our_logits(model, images), torchvision_logits(theirs, images))
    x = np.random.default_rng(0).normal(size=(2, 14, 14, 512)).astype(np.float32)
    with torch.no_grad():
        expected = theirs.aux1(torch.tensor(x.transpose(0, 3, 1, 2))).numpy()
    assert_close(np.asarray(nnx.jit(lambda head, x: head(x))(model.aux1, jnp.asarray(x))), expected)


def test_response_norm_equals_numpy(rng):
    x = rng.normal(0, 50, (2, 3, 3, 7)).astype(np.float32)
    expected = np.empty_like(x)
    for channel in range(7):
        around = x[..., max(channel - 2, 0) : channel + 3].astype(np.float64)
        expected[..., channel] = x[..., channel] / (1 + 1e-4 / 5 * (around**2).sum(-1)) ** 0.75
    np.testing.assert_allclose(local_response_norm(jnp.asarray(x), size=5, alpha=1e-4, beta=0.75), expected, rtol=1e-5)


@pytest.mark.parametrize("batch_norm", [False, True])
def test_auxiliary_logits_exist_in_training_mode_alone(batch_norm):
    def read(rngs, train):
        model = _small(rngs, batch_norm=batch_norm)
        model.train() if train else model.eval()
        return features(model, jnp.zeros((2, 224, 224, 3)))

    training, evaluation = (abstract(lambda rngs, t=t: read(rngs, t)) for t in (True, False))
    assert set(training) - set(evaluation) == {"aux1", "aux2"}
    assert training["aux1"].shape == training["aux2"].shape == training["penultimate"].shape == (2, 10)
    blocks = {"inception3a", "inception3b", *(f"inception4{c}" for c in "abcde"), "inception5a", "inception5b"}
    assert set(evaluation) == {"input", "conv1", "conv3", *blocks, "pool", "penultimate"}
    assert evaluation["inception4a"].shape[1:3] == (14, 14)
    assert evaluation["inception5b"].shape[1:3] == (7, 7)


def test_heads_refuse_other_sizes():
    model = filled(_small)
    model.train()
    with pytest.raises(ValueError, match="images must be 224x224 for the auxiliary heads"):
        jax.eval_shape(lambda x: nnx.clone(model)(x), jnp.zeros((1, 64, 64, 3)))


def test_equal_networks_have_equal_definitions():
    assert nnx.graphdef(abstract(_small)) == nnx.graphdef(abstract(_small))


@pytest.mark.slow
@pytest.mark.parametrize("batch_norm", [False, True])
def test_it_trains(batch_norm):
    model = filled(lambda rngs: _small(rngs, aux=False, batch_norm=batch_norm))
    model.dropout.rate = 0.0
    clipped = optax.chain(optax.clip_by_global_norm(1.0), optax.sgd(0.02, momentum=0.9))
    assert loss_falls(model, (32, 32, 3), steps=100, optimizer=clipped)


def test_the_solver_is_caffes_quick_solver():
    solver = quick_solver(4, learning_rate=0.1, momentum=0.9, weight_decay=0.5)
    params = {"layer": {"bias": jnp.ones(1), "kernel": jnp.ones(1)}}
    state, grads = solver.init(params), {"layer": {"bias": jnp.full(1, 2.0), "kernel": jnp.full(1, 2.0)}}
    w = {"bias": 1.0, "kernel": 1.0}
    v = {"bias": 0.0, "kernel": 0.0}
    for step in range(4):
        with jax.numpy_dtype_promotion("standard"):
            updates, state = solver.update(grads, state, params)
        params = jax.tree.map(lambda p, u: p + u, params, updates)
        rate = 0.1 * (1 - step / 4) ** 0.5
        for name, multiple, decay in (("bias", 2, 0.0), ("kernel", 1, 0.5)):
            v[name] = 0.9 * v[name] + multiple * rate * (2.0 + decay * w[name])
            w[name] -= v[name]
            np.testing.assert_allclose(params["layer"][name], [w[name]], rtol=1e-5)
