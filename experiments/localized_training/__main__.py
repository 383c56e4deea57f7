"""`python -m experiments.localized_training ...`: the same as `python -m experiments localized_training ...`."""

import sys

from experiments.command import main
from experiments.localized_training.study import STUDY

if __name__ == "__main__":
    main({STUDY.name: STUDY}, [STUDY.name, *sys.argv[1:]])
