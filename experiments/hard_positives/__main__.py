"""`python -m experiments.hard_positives ...`: the same as `python -m experiments hard_positives ...`."""

import sys

from experiments.command import main
from experiments.hard_positives.study import STUDY

if __name__ == "__main__":
    main({STUDY.name: STUDY}, [STUDY.name, *sys.argv[1:]])
