"""The error of every weight file that is not what it should be."""

__all__ = ["WeightsError"]


class WeightsError(ValueError):
    """A weight file is damaged, hostile, of another network, or not of a format that is read."""
