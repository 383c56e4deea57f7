"""The published Caffe networks in NumPy, layer by layer after their prototxt files: their blobs and their logits.

Each layer draws its blobs where it is computed, so a network is written once. Images are [B, 3, H, W], blue first.
"""

import numpy as np


class CaffeNet:
    """Layers by Caffe's rules; `blobs` fills with what a `.caffemodel` would hold."""

    def __init__(self, seed=0):
        self.rng, self.blobs = np.random.default_rng(seed), {}

    def conv(self, name, x, outputs, kernel, stride=1, pad=0, *, bias=False, group=1):
        inputs = x.shape[1] // group
        weight = self.rng.normal(0, (2 / (inputs * kernel**2)) ** 0.5, (outputs, inputs, kernel, kernel))
        self.blobs[name] = [np.float32(weight)]
        padded = np.pad(x, ((0, 0), (0, 0), (pad, pad), (pad, pad)))
        windows = np.lib.stride_tricks.sliding_window_view(padded, (kernel, kernel), (2, 3))[:, :, ::stride, ::stride]
        parts = zip(np.split(windows, group, 1), np.split(np.float64(self.blobs[name][0]), group), strict=True)
        y = np.concatenate([np.einsum("bihwuv,oiuv->bohw", part, each, optimize=True) for part, each in parts], 1)
        if bias:
            self.blobs[name].append(np.float32(self.rng.normal(0, 0.5, outputs)))
            y = y + np.float64(self.blobs[name][1])[:, None, None]
        return y

    def dense(self, name, x, outputs):
        weight = self.rng.normal(0, (2 / x[0].size) ** 0.5, (outputs, x[0].size))
        self.blobs[name] = [np.float32(weight), np.float32(self.rng.normal(0, 0.1, outputs))]
        weight, bias = np.float64(self.blobs[name][0]), np.float64(self.blobs[name][1])
        return x.reshape(len(x), -1) @ weight.T + bias

    def norm(self, names, x):
        """BatchNorm, which keeps sums and their count, and Scale."""
        statistics, scale = names
        channels, count = x.shape[1], np.float32(self.rng.uniform(2, 900))
        mean, var = self.rng.normal(0, 0.3, channels), self.rng.uniform(0.5, 1.5, channels) * x.var()
        self.blobs[statistics] = [np.float32(mean * count), np.float32(var * count), np.float32([count])]
        self.blobs[scale] = [
            np.float32(self.rng.uniform(0.5, 1.5, channels)),
            np.float32(self.rng.normal(0, 0.1, channels)),
        ]
        total, squares, counted = (np.float64(blob) for blob in self.blobs[statistics])
        gamma, beta = (np.float64(blob)[:, None, None] for blob in self.blobs[scale])
        mean, var = (total / counted)[:, None, None], (squares / counted)[:, None, None]
        return gamma * (x - mean) / np.sqrt(var + 1e-5) + beta


def relu(x):
    return np.maximum(x, 0)


def pool(x, kernel, stride, pad=0, *, ceil=True):
    """MAX; Caffe rounds the number of windows up, and a window may reach beyond the picture."""
    count = (x.shape[2] + 2 * pad - kernel) / stride + 1
    count = int(np.ceil(count) if ceil else count)
    edge = max((count - 1) * stride + kernel - x.shape[2] - pad, 0)
    padded = np.pad(x, ((0, 0), (0, 0), (pad, edge), (pad, edge)), constant_values=-np.inf)
    rows = [slice(i * stride, i * stride + kernel) for i in range(count)]
    return np.stack([np.stack([padded[:, :, r, c].max((2, 3)) for c in rows], -1) for r in rows], 2)


def gray_levels(images, mean, scale=1.0):
    """[B, H, W, 3] in [0, 1], red first -> Caffe's input."""
    return (np.float64(images)[..., ::-1] * 255 - np.array(mean)).transpose(0, 3, 1, 2) * scale


def vgg16(net, images, *, width, classes):
    """VGG_ILSVRC_16_layers_deploy.prototxt."""
    x = gray_levels(images, (103.939, 116.779, 123.68))
    for stage, (depth, factor) in enumerate(((2, 1), (2, 2), (3, 4), (3, 8), (3, 8)), 1):
        for index in range(1, depth + 1):
            x = relu(net.conv(f"conv{stage}_{index}", x, factor * width, 3, pad=1, bias=True))
        x = pool(x, 2, 2)
    for name in ("fc6", "fc7"):
        x = relu(net.dense(name, x, 64 * width))
    return net.dense("fc8", x, classes)


def resnet(net, images, depths, *, width, classes, numbered, biased):
    """KaimingHe/deep-residual-networks: ResNet-50 letters its blocks and has a bias in conv1, the others do neither."""
    x = net.conv("conv1", gray_levels(images, (103.06262, 115.902885, 123.15163)), width, 7, 2, 3, bias=biased)
    x = pool(relu(net.norm(("bn_conv1", "scale_conv1"), x)), 3, 2)
    for stage, depth in enumerate(depths, 2):
        for index in range(depth):
            block = f"{stage}{f'b{index}' if numbered and index and stage in (3, 4) else 'abcdef'[index]}"
            channels, stride = width * 2 ** (stage - 2), 2 if stage > 2 and index == 0 else 1

            def unit(branch, y, outputs, kernel, stride=1, block=block):
                y = net.conv(f"res{block}_{branch}", y, outputs, kernel, stride, kernel // 2)
                return net.norm((f"bn{block}_{branch}", f"scale{block}_{branch}"), y)

            shortcut = unit("branch1", x, 4 * channels, 1, stride) if index == 0 else x
            y = relu(unit("branch2a", x, channels, 1, stride))
            y = relu(unit("branch2b", y, channels, 3))
            x = relu(shortcut + unit("branch2c", y, 4 * channels, 1))
    return net.dense("fc1000", x.mean((2, 3)), classes)


def senet(net, images, depths, *, width, classes, groups):
    """hujie-frank/SENet: SE-ResNet-50, or SENet-154 where the 3x3 convolutions have groups."""
    x = gray_levels(images, (104, 117, 123))

    def unit(name, x, outputs, kernel, stride=1, group=1):
        x = net.conv(name, x, outputs, kernel, stride, kernel // 2, group=group)
        return net.norm((f"{name}/bn", f"{name}/bn/scale"), x)

    if groups == 1:
        x = relu(unit("conv1/7x7_s2", x, width, 7, 2))
    else:
        x = relu(unit("conv1_1/3x3_s2", x, width, 3, 2))
        x = relu(unit("conv1_3/3x3", relu(unit("conv1_2/3x3", x, width, 3)), 2 * width, 3))
    x = pool(x, 3, 2)
    for stage, depth in enumerate(depths, 2):
        for index in range(1, depth + 1):
            name, channels = f"conv{stage}_{index}", width * 2 ** (stage - 2)
            stride = 2 if stage > 2 and index == 1 else 1
            inner = (channels, channels, stride, 1) if groups == 1 else (2 * channels, 4 * channels, 1, stride)
            y = relu(unit(f"{name}_1x1_reduce", x, inner[0], 1, inner[2]))
            y = relu(unit(f"{name}_3x3", y, inner[1], 3, inner[3], groups))
            y = unit(f"{name}_1x1_increase", y, 4 * channels, 1)
            weight = net.conv(f"{name}_1x1_down", y.mean((2, 3), keepdims=True), channels // 4, 1, bias=True)
            weight = net.conv(f"{name}_1x1_up", relu(weight), 4 * channels, 1, bias=True)
            kernel = 3 if groups > 1 and stride == 2 else 1
            shortcut = unit(f"{name}_1x1_proj", x, 4 * channels, kernel, stride) if index == 1 else x
            x = relu(y / (1 + np.exp(-weight)) + shortcut)
    return net.dense("classifier", x.mean((2, 3)), classes)


def densenet(net, images, depths, *, growth, classes):
    """shicai/DenseNet-Caffe."""
    x = net.conv("conv1", gray_levels(images, (103.94, 116.78, 123.68), 0.017), 2 * growth, 7, 2, 3)
    x = pool(relu(net.norm(("conv1/bn", "conv1/scale"), x)), 3, 2, 1, ceil=False)
    for stage, depth in enumerate(depths, 2):
        for index in range(1, depth + 1):
            y = x
            for part, outputs, kernel in (("x1", 4 * growth, 1), ("x2", growth, 3)):
                name = f"conv{stage}_{index}/{part}"
                y = net.conv(name, relu(net.norm((f"{name}/bn", f"{name}/scale"), y)), outputs, kernel, 1, kernel // 2)
            x = np.concatenate([x, y], 1)
        name = f"conv{stage}_blk"
        x = relu(net.norm((f"{name}/bn", f"{name}/scale"), x))
        if stage <= len(depths):
            x = net.conv(name, x, x.shape[1] // 2, 1)
            x = x.reshape(*x.shape[:2], x.shape[2] // 2, 2, x.shape[3] // 2, 2).mean((3, 5))
    return net.conv("fc6", x.mean((2, 3), keepdims=True), classes, 1, bias=True)[:, :, 0, 0]
