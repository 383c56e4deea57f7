"""`python -m experiments.robust_optimization ...`: the same as `python -m experiments robust_optimization ...`."""

import sys

from experiments.command import main
from experiments.robust_optimization.study import STUDY

if __name__ == "__main__":
    main({STUDY.name: STUDY}, [STUDY.name, *sys.argv[1:]])
