"""All jobs by name, in the order of the summary."""

from collections.abc import Mapping
from types import MappingProxyType

from benchmarks.harness import Job
from benchmarks.jobs import attacks, evaluation, generators, minimal, photographs, programs, scores, signs, training

__all__ = ["JOBS"]

JOBS: Mapping[str, Job] = MappingProxyType(
    {
        **attacks.JOBS,
        **minimal.JOBS,
        **evaluation.JOBS,
        **training.JOBS,
        **signs.JOBS,
        **generators.JOBS,
        **scores.JOBS,
        **programs.JOBS,
        **photographs.JOBS,
    }
)
