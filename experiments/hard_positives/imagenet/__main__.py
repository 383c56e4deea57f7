"""`python -m experiments.hard_positives.imagenet ...`: as `python -m experiments hard_positives.imagenet ...`."""

from experiments.command import alone
from experiments.hard_positives.imagenet.study import STUDY

if __name__ == "__main__":
    alone(STUDY)
