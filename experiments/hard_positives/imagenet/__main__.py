"""`python -m experiments.hard_positives.imagenet ...`: as `python -m experiments hard_positives.imagenet ...`."""

import sys

from experiments.command import main
from experiments.hard_positives.imagenet.study import STUDY

if __name__ == "__main__":
    main({STUDY.name: STUDY}, [STUDY.name, *sys.argv[1:]])
