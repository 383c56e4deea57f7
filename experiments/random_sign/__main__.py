"""`python -m experiments.random_sign ...`: the same as `python -m experiments random_sign ...`."""

from experiments.command import alone
from experiments.random_sign.study import STUDY

if __name__ == "__main__":
    alone(STUDY)
