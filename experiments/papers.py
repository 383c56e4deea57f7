"""All studies, by name."""

from typing import Any

from experiments.butterfly.study import STUDY as BUTTERFLY
from experiments.hard_positives.imagenet.study import STUDY as IMAGENET
from experiments.hard_positives.study import STUDY as HARD_POSITIVES
from experiments.localized_training.study import STUDY as LOCALIZED_TRAINING
from experiments.random_sign.study import STUDY as RANDOM_SIGN
from experiments.robust_optimization.study import STUDY as ROBUST_OPTIMIZATION
from experiments.study import Study

__all__ = ["STUDIES"]

_ALL = (HARD_POSITIVES, IMAGENET, ROBUST_OPTIMIZATION, LOCALIZED_TRAINING, RANDOM_SIGN, BUTTERFLY)
STUDIES: dict[str, Study[Any, Any]] = {study.name: study for study in _ALL}
