"""`python -m experiments.robust_optimization ...`: the same as `python -m experiments robust_optimization ...`."""

from experiments.command import alone
from experiments.robust_optimization.study import STUDY

if __name__ == "__main__":
    alone(STUDY)
