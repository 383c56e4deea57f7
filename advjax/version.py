"""The version, in a file of its own: a checkout that is not installed has it too."""

__all__ = ["__version__"]

__version__ = "0.1.0"
