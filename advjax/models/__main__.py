"""`python -m advjax.models`: the table of the networks and their sizes."""

from advjax.models.registry import table

if __name__ == "__main__":
    print(table())
