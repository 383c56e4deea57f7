"""The progress of a training: a bar on a terminal, a line now and then elsewhere."""

import contextlib
import sys
import time
from collections.abc import Callable, Iterator

import jax

__all__ = ["bar"]

# Between two lines where there is no terminal: the log of a job of a day stays readable.
_SECONDS = 60.0


@contextlib.contextmanager
def bar(title: str | None, images: int) -> Iterator[Callable[[int, float, float], None]]:
    """Yields `advance(images, loss, accuracy)`, which shows how many of `images` are done, how well and how fast.

    On a terminal (of stderr) it is a bar with the time left. Elsewhere, in a file or a pipe, it is a line on stderr
    at most once a minute. Without a title, or elsewhere than in the first of several processes, it shows nothing.

    >>> with bar(None, 10) as advance:
    ...     advance(10, 0.5, 0.9)
    """
    if title is None or jax.process_index() > 0:
        yield lambda count, loss, accuracy: None
        return
    with _drawn(title, images) if sys.stderr.isatty() else contextlib.nullcontext(_Lines(title, images)) as advance:
        yield advance


@contextlib.contextmanager
def _drawn(title: str, images: int) -> Iterator[Callable[[int, float, float], None]]:
    from tqdm import tqdm

    with tqdm(total=images, desc=title, unit="img", unit_scale=True, dynamic_ncols=True) as shown:
        started = False

        def advance(count: int, loss: float, accuracy: float) -> None:
            nonlocal started
            if not started:
                # What an earlier call did counts for the length, not for the speed.
                started, shown.initial = True, count
                shown.n = count
                shown.refresh()
                return
            shown.set_postfix(loss=f"{loss:.4f}", accuracy=f"{accuracy:.4f}", refresh=False)
            shown.update(count)

        yield advance


class _Lines:
    """`advance` in lines; the first call says what an earlier run did, as for a bar."""

    def __init__(self, title: str, images: int) -> None:
        self._title, self._images = title, images
        self._done: int | None = None
        self._begun = self._told = time.monotonic()
        self._before = 0

    def __call__(self, count: int, loss: float, accuracy: float) -> None:
        now = time.monotonic()
        if self._done is None:
            self._done = self._before = count
            return
        self._done += count
        if now - self._told < _SECONDS:
            return
        self._told = now
        speed = (self._done - self._before) / (now - self._begun)
        print(
            f"{self._title}: {self._done} of {self._images} images ({self._done / self._images:.0%}), "
            f"loss {loss:.4f}, accuracy {accuracy:.4f}, {speed:.0f} images/s",
            file=sys.stderr,
            flush=True,
        )
