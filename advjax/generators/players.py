"""The players of a perturbation generation network: what is trained, and the frozen networks that it is trained on."""

import jax
import jax.numpy as jnp
from flax import nnx

from advjax.classifier import Classifier
from advjax.generators.frozen import FrozenNetworks, trunk_of
from advjax.generators.networks import Generator

__all__ = ["Players"]


class Players(nnx.Module):
    """A generator G and a discriminator D around a classifier C; `generator_step` trains G and D's last layer.

        v = G(x)   x~ = x + std v   s = D(x~) = sigmoid(w . trunk(x~) + b)

    C and the trunk are frozen: in evaluation mode, and no training moves one of their bits. A call gives C's logits of
    x~, so that the accuracy of `Fitted.model`, and a validation in `Trainer.fit`, are those of C on perturbed images.

    The paper's D is not told the label, though "C is right" depends on it, and a linear layer of C's features moves
    every image along the same w. With `per_label` it is told: s = sigmoid(w_y . trunk(x~) + b_y), w and b of its own
    for each label y (a conditional discriminator; Mirza and Osindero 2014; not the paper's). G is told none in either.

    Args:
        generator: see `Generator`.
        classifier: C; of it only the label of x~ is asked.
        shape: [H, W, C] of an image.
        trunk: features [B, F] of images, as a `Classifier` whose logits they are. The default is what C's last layer
            reads (the paper's white box, `trunk_of`); another network's trunk knows of C its decisions alone.
        per_label: whether D has an output for each of C's classes, and reads that of the image's label.
        rngs: `nnx.Rngs`; the stream `params` draws the discriminator's layer.

    Raises:
        ValueError: the trunk takes no such images, or gives no features [B, F].

    Source: Yoo et al. 2017, sections 3.1 to 3.4.

    >>> from advjax import from_nnx
    >>> from advjax.models import LeNet, ShahamNet
    >>> from advjax.generators.networks import Decoder
    >>> class Small(nnx.Module):
    ...     def trunk(self, images): return images[:, ::4, ::4]
    >>> generator = Generator(Small(), Decoder(1, (4,), 1, rngs=nnx.Rngs(0)))
    >>> players = Players(generator, from_nnx(LeNet(rngs=nnx.Rngs(0))), (28, 28, 1), rngs=nnx.Rngs(1))
    >>> images, labels = jnp.zeros((2, 28, 28, 1)), jnp.array([3, 5])
    >>> players(images).shape, players.scores(players.generator.perturbed(images), labels).shape
    ((2, 10), (2,))
    """

    def __init__(
        self,
        generator: Generator,
        classifier: Classifier,
        shape: tuple[int, int, int],
        *,
        trunk: Classifier | None = None,
        per_label: bool = False,
        rngs: nnx.Rngs,
    ) -> None:
        trunk = trunk_of(classifier) if trunk is None else trunk
        features = _features("trunk", trunk, shape)
        self.generator = generator
        self.per_label = per_label
        self.head = nnx.Linear(features, _features("classifier", classifier, shape) if per_label else 1, rngs=rngs)
        self.frozen = FrozenNetworks(classifier=classifier, trunk=trunk)

    def __call__(self, images: jax.Array) -> jax.Array:
        """The classifier's logits [B, K] of x~, unclipped as in the paper, for images float32 [B, H, W, C]."""
        return self.frozen("classifier", self.generator.perturbed(images))

    def scores(self, images: jax.Array, labels: jax.Array) -> jax.Array:
        """The discriminator's s [B] of images x~ [B, H, W, C] with their labels int32 [B]."""
        return jax.nn.sigmoid(self.judged(self.frozen("trunk", images), labels))

    def judged(self, features: jax.Array, labels: jax.Array) -> jax.Array:
        """The discriminator's logits [B] of the trunk's features [B, F]: s before the sigmoid."""
        outputs = self.head(features)
        if self.per_label:
            return jnp.take_along_axis(outputs, labels[:, None], -1)[:, 0]
        return outputs[:, 0]


def _features(name: str, network: Classifier, shape: tuple[int, int, int]) -> int:
    image = jax.ShapeDtypeStruct((2, *shape), jnp.float32)
    try:
        found = jax.eval_shape(network, image)
    except Exception as error:  # whatever the network, or its framework, says
        raise ValueError(
            f"{name} must give the features of images [B, H, W, C] = {image.shape} (where the classifier takes no "
            f"`tap`, as networks of advjax.models do, give a function as trunk): {error}"
        ) from error
    if found.ndim != 2 or found.shape[0] != 2:
        raise ValueError(f"{name} must give features [B, F], got shape {found.shape} for a batch of 2")
    return int(found.shape[1])
