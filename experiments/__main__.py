"""`python -m experiments PAPER --preset quick|cpu|paper`."""

from experiments.command import main
from experiments.papers import STUDIES

if __name__ == "__main__":
    main(STUDIES)
