"""`python -m experiments.hard_positives ...`: the same as `python -m experiments hard_positives ...`."""

from experiments.command import alone
from experiments.hard_positives.study import STUDY

if __name__ == "__main__":
    alone(STUDY)
