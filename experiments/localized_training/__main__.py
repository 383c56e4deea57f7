"""`python -m experiments.localized_training ...`: the same as `python -m experiments localized_training ...`."""

from experiments.command import alone
from experiments.localized_training.study import STUDY

if __name__ == "__main__":
    alone(STUDY)
