"""The progress bar of a training: loss, accuracy, images a second and the time left."""

import contextlib
from collections.abc import Callable, Iterator

import jax

__all__ = ["bar"]


@contextlib.contextmanager
def bar(title: str | None, images: int) -> Iterator[Callable[[int, float, float], None]]:
    """Yields `advance(images, loss, accuracy)` of a bar to `images`; without a title, or elsewhere than in the first of
    several processes, it shows nothing.

    >>> with bar(None, 10) as advance:
    ...     advance(10, 0.5, 0.9)
    """
    if title is None or jax.process_index() > 0:
        yield lambda count, loss, accuracy: None
        return
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
