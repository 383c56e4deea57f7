"""A disk on which files can grow no further: what the system says then is as final as a full disk."""

import contextlib
import resource


@contextlib.contextmanager
def full_disk(size):
    """No file may grow beyond `size` bytes; Python ignores the signal, so a write raises OSError."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
