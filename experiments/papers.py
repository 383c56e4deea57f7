"""All studies, by name."""

from typing import Any

from experiments.localized_training.study import STUDY as LOCALIZED_TRAINING
from experiments.robust_optimization.study import STUDY as ROBUST_OPTIMIZATION
from experiments.study import Study

__all__ = ["STUDIES"]

STUDIES: dict[str, Study[Any, Any]] = {study.name: study for study in (ROBUST_OPTIMIZATION, LOCALIZED_TRAINING)}
