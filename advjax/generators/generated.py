"""A trained generator as an attack."""

from typing import Any, ClassVar

import jax
from flax import nnx

from advjax.attacks import All, Asks, Attack, Box, Constraint, Problem, Quantize, State
from advjax.attacks.part import Mask
from advjax.attacks.regions import mask_constraints
from advjax.content import Content
from advjax.generators.networks import Generator
from advjax.value import shared, static, value

__all__ = ["Generated", "generated"]


def generated(generator: Generator, *, mask: Mask | None = None, levels: int | None = 256) -> "Generated":
    """The image that a trained generator makes: x + std G(x), then clipped to [0, 1] and rounded to the grid.

    It goes wherever attacks go (`perturb`, `evaluate`, `train_step`), asks the model nothing and computes no gradient.
    The generator is read in evaluation mode, and a change of its weights alone does not compile anew. The paper neither
    clips nor rounds: `Generator.perturbed` does neither. An enhancing generator is none that an attack's `success`
    speaks of (right becomes wrong): compare `prediction` with `clean_prediction`.

    Args:
        generator: trained by `generator_step`: `fitted.model.generator`.
        mask: as for `fgs`; the rest of the image stays.
        levels: number of gray levels, to the nearest of which the result is rounded; None: not rounded.

    Raises:
        TypeError: not a `Generator`.

    Source: Yoo et al. 2017, eqs. 1 and 2.

    >>> import jax.numpy as jnp
    >>> from advjax import from_function, perturb
    >>> from advjax.generators.networks import Decoder
    >>> class Small(nnx.Module):
    ...     def trunk(self, images): return images[:, ::4, ::4]
    >>> network = Generator(Small(), Decoder(1, (4,), 1, rngs=nnx.Rngs(0)))
    >>> classifier = from_function(lambda w, x: jnp.stack([x.mean((1, 2, 3)), w - x.mean((1, 2, 3))], -1), 0.6)
    >>> result = perturb(generated(network), classifier, jnp.ones((2, 8, 8, 1)), jnp.array([0, 0]))
    >>> result.image.shape, result.calls.tolist()
    ((2, 8, 8, 1), [2, 2])
    """
    if not isinstance(generator, Generator):
        raise TypeError(f"generator must be a Generator of advjax.generators, got {type(generator).__name__}")
    evaluated = nnx.clone(generator)
    evaluated.eval()
    graphdef, variables = nnx.split(evaluated)
    grid = () if levels is None else (Quantize(levels),)
    return Generated(All((Box(), *grid, *mask_constraints(mask))), variables, Content(graphdef))


@value
class Generated(Attack):
    """See `generated`, which makes it.

    Attributes:
        constraint: makes the image allowed, grid included.
        variables: the generator's, the same for all images.
        graphdef: its structure.
    """

    constraint: Constraint
    variables: Any = shared()
    graphdef: Content = static()
    asks: ClassVar[Asks] = "nothing"

    def step(self, problem: Problem, state: State) -> State:
        generator = nnx.merge(self.graphdef.held, self.variables, copy=True)
        image: jax.Array = generator.perturbed(state.image[None])[0]
        return state._replace(image=self.constraint(image, problem.image))
