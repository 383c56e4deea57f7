"""NumPy's `.npz`: a zip archive of arrays, compressed or not; Python objects, which are pickles, are refused."""

import zipfile
from pathlib import Path

import numpy as np

from advjax.models.readers.errors import WeightsError

__all__ = ["read_npz"]

# Weights that were pruned to a tenth shrink tenfold; a file of a megabyte that unfolds into many gigabytes is hostile.
_MOST_UNFOLDED = 100


def read_npz(path: Path) -> dict[str, np.ndarray]:
    """All arrays of a file by name.

    Raises:
        WeightsError: the file is truncated or damaged, holds two arrays of one name or Python objects, or claims to
            unfold into more than a hundred times its size.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = Path(folder) / "weights.npz"
    ...     np.savez(path, scale=np.float32([1, 2]))
    ...     read_npz(path)
    {'scale': array([1., 2.], dtype=float32)}
    """
    size = path.stat().st_size
    try:
        with zipfile.ZipFile(path) as archive:
            members = archive.infolist()
        claimed, names = sum(member.file_size for member in members), {member.filename for member in members}
        if len(names) < len(members):
            raise WeightsError(f"{path}: two entries of the zip archive have one name")
        if claimed > _MOST_UNFOLDED * size:
            raise WeightsError(f"{path}: refused: the arrays claim {claimed} bytes, the file has {size}")
        with np.load(path, allow_pickle=False) as stored:
            return {name: stored[name] for name in stored.files}
    except WeightsError:
        raise
    except Exception as error:  # zipfile, zlib, and NumPy's parser of headers raise some fifteen kinds
        raise WeightsError(f"{path} is no archive of NumPy arrays, or it is damaged: {error}") from None
