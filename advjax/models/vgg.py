"""VGG-16 for ImageNet, without batch normalization."""

from typing import ClassVar

import jax
from flax import nnx

from advjax.models.blocks import HE_FAN_OUT, IMAGENET_MEAN, IMAGENET_STD, caffe_input, flatten, normalize
from advjax.models.checkpoint_names import Names, caffe_names, names_of, torch_name
from advjax.models.layers import check_images, max_pool
from advjax.models.taps import Tap, untapped

__all__ = ["Vgg16"]

_DEPTHS = (2, 2, 3, 3, 3)
# Blue, green, red in gray levels, as the authors' notes to VGG_ILSVRC_16_layers.caffemodel ask for.
_BGR_MEAN = (103.939, 116.779, 123.68)
_DENSE_NORMAL = nnx.initializers.normal(0.01)


class Vgg16(nnx.Module):
    """VGG's configuration D: 138,357,544 parameters, 15,470M multiply-adds at 224x224.

    Five stages of two, two, three, three and three 3x3 convolutions with ReLU, with 64, 128, 256, 512 and 512
    channels, a max pool 2/2 after each -> dense 4096 -> ReLU -> dropout -> dense 4096 -> ReLU -> dropout -> dense
    `num_classes`. Kernels start as N(0, 2 / fan_out), dense weights as N(0, 0.01^2), biases as 0 (torchvision).
    Images are normalized by ImageNet's mean and standard deviation, or with `caffe` become gray levels in blue, green,
    red less (103.939, 116.779, 123.68).

    Args:
        num_classes: number of logits.
        image_size: height and width of the images, a multiple of 32; it sets the size of the first dense layer.
        width: channels of the first stage; 8 times as many in the last two, 64 times in the dense layers.
        dropout: the rate between the dense layers.
        caffe: read images as the authors' Caffe network does, and its weights.
        rngs: `nnx.Rngs`; the stream `params` draws the weights, `dropout` the masks.

    Taps: input, stage1, ... stage5, dense1, dense2, penultimate; all between the first and the last are hidden ones.

    Source: Simonyan and Zisserman 2015, "Very deep convolutional networks", Table 1; torchvision's vgg.py.

    >>> import jax.numpy as jnp
    >>> nnx.eval_shape(lambda: Vgg16(10, rngs=nnx.Rngs(0))(jnp.zeros((2, 224, 224, 3)))).shape
    (2, 10)
    """

    hidden_taps: ClassVar[tuple[str, ...]] = ("stage1", "stage2", "stage3", "stage4", "stage5", "dense1", "dense2")

    def __init__(
        self,
        num_classes: int = 1000,
        *,
        image_size: int = 224,
        width: int = 64,
        dropout: float = 0.5,
        caffe: bool = False,
        rngs: nnx.Rngs,
    ) -> None:
        if image_size < 32 or image_size % 32:
            raise ValueError(f"image_size must be a multiple of 32, got {image_size}")
        self.image_size, self.caffe = image_size, caffe
        inputs = 3
        for stage, depth in enumerate(_DEPTHS):
            channels = width * min(2**stage, 8)
            convs = []
            for _ in range(depth):
                convs.append(nnx.Conv(inputs, channels, (3, 3), kernel_init=HE_FAN_OUT, rngs=rngs))
                inputs = channels
            setattr(self, f"stage{stage + 1}", nnx.List(convs))
        hidden = 64 * width
        self.dense1 = nnx.Linear(inputs * (image_size // 32) ** 2, hidden, kernel_init=_DENSE_NORMAL, rngs=rngs)
        self.dense2 = nnx.Linear(hidden, hidden, kernel_init=_DENSE_NORMAL, rngs=rngs)
        self.dense3 = nnx.Linear(hidden, num_classes, kernel_init=_DENSE_NORMAL, rngs=rngs)
        self.dropout1 = nnx.Dropout(dropout, rngs=rngs)
        self.dropout2 = nnx.Dropout(dropout, rngs=rngs)

    def __call__(self, images: jax.Array, tap: Tap = untapped) -> jax.Array:
        """Logits float32 [B, num_classes] of RGB images float32 [B, image_size, image_size, 3] in [0, 1]."""
        check_images(images, self.image_size, self.image_size, 3)
        x = caffe_input(images, _BGR_MEAN) if self.caffe else normalize(images, IMAGENET_MEAN, IMAGENET_STD)
        x = tap("input", x)
        for stage in range(1, len(_DEPTHS) + 1):
            for conv in getattr(self, f"stage{stage}"):
                x = nnx.relu(conv(x))
            x = tap(f"stage{stage}", max_pool(x, 2, 2))
        x = tap("dense1", self.dropout1(nnx.relu(self.dense1(flatten(x)))))
        x = tap("dense2", self.dropout2(nnx.relu(self.dense2(x))))
        return tap("penultimate", self.dense3(x))

    def checkpoint_names(self, kind: str) -> list[Names]:
        """torchvision numbers all layers, ReLU and pools included; timm keeps the dense ones as convolutions.

        With `caffe` those of VGG_ILSVRC_16_layers.caffemodel.
        """
        if kind != ("caffe" if self.caffe else "torch"):
            return []
        if self.caffe:
            return [caffe_names(self, _caffe_layer)]
        convs, layer = {}, 0
        for stage, depth in enumerate(_DEPTHS):
            for index in range(depth):
                convs[f"stage{stage + 1}/{index}"] = f"features.{layer}"
                layer += 2
            layer += 1
        torchvision = convs | {"dense1": "classifier.0", "dense2": "classifier.3", "dense3": "classifier.6"}
        timm = convs | {"dense1": "pre_logits.fc1", "dense2": "pre_logits.fc2", "dense3": "head.fc"}

        def spelled(modules: dict[str, str]) -> Names:
            def name(path: str) -> str:
                module, leaf = path.rsplit("/", 1)
                return torch_name(f"{modules[module]}/{leaf}")

            return names_of(self, name)

        return [spelled(torchvision), spelled(timm)]


def _caffe_layer(module: str) -> str:
    if module.startswith("dense"):
        return f"fc{int(module.removeprefix('dense')) + 5}"
    stage, index = module.removeprefix("stage").split("/")
    return f"conv{stage}_{int(index) + 1}"
