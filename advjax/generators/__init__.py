"""Perturbation generation networks: what is to be added to an image comes from a trained network.

Yoo et al. 2017, "Butterfly Effect: Bidirectional Control of Classification Performance by Small Additive Perturbation".
"""

from advjax.generators.frozen import Frozen, FrozenNetworks, trunk_of
from advjax.generators.generated import Generated, generated
from advjax.generators.losses import AdversarialLoss, Problem, discriminator_losses, generator_losses, targets
from advjax.generators.networks import Decoder, Encoder, Generator, generator
from advjax.generators.players import Players
from advjax.generators.step import GeneratorStep, generator_step

__all__ = [
    "Generator", "generator", "Encoder", "Decoder",
    "Players", "FrozenNetworks", "Frozen", "trunk_of",
    "GeneratorStep", "generator_step", "Problem", "AdversarialLoss",
    "targets", "discriminator_losses", "generator_losses",
    "Generated", "generated",
]  # fmt: skip
