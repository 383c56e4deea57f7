"""Perturbation generation networks: what is to be added to an image comes from a trained network.

Yoo et al. 2017, "Butterfly Effect: Bidirectional Control of Classification Performance by Small Additive Perturbation".
"""

from advjax.generators.networks import Decoder, Encoder, Generator, generator

__all__ = ["Decoder", "Encoder", "Generator", "generator"]
