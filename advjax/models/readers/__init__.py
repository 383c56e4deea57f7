"""Readers of weight files: each turns a format into arrays by name, holds the file for hostile and runs none of it."""

from advjax.models.readers.caffemodel import read_caffemodel
from advjax.models.readers.errors import WeightsError
from advjax.models.readers.npz import read_npz
from advjax.models.readers.safetensors import read_safetensors, write_safetensors
from advjax.models.readers.torch_file import read_torch

__all__ = ["WeightsError", "read_caffemodel", "read_npz", "read_safetensors", "read_torch", "write_safetensors"]
