"""`python -m experiments.butterfly ...`: the same as `python -m experiments butterfly ...`."""

from experiments.butterfly.study import STUDY
from experiments.command import alone

if __name__ == "__main__":
    alone(STUDY)
