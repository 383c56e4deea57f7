"""Ends a run before its time is over: at the next checkpoint of a training, or at once between two."""

import contextlib
import signal
from collections.abc import Iterator
from typing import Any

__all__ = ["OutOfTimeError", "deadline"]

# Of the time: when the run is asked to stop, and when it is no longer asked.
_ASKED, _FORCED = 0.9, 0.97


class OutOfTimeError(BaseException):
    """The time is over. No `Exception`: what handles those must not go on."""


@contextlib.contextmanager
def deadline(minutes: float | None) -> Iterator[None]:
    """Raises `OutOfTimeError` in the main thread before `minutes` are over; None: never.

    A SIGTERM comes after 90 % of the time: a `Trainer` holds it back, saves at the end of its block of steps and raises
    `Preempted`; anywhere else, and if it comes again after 97 %, it raises. A program that is being compiled, or a
    block that runs, is waited for. A SIGTERM from outside does the same.

    Raises:
        ValueError: `minutes` is not more than 0.
        OSError: the system has no timer signals (Windows).
    """
    if minutes is None:
        yield
        return
    if not minutes > 0:
        raise ValueError(f"minutes must be more than 0, got {minutes}")
    if not hasattr(signal, "setitimer"):
        raise OSError("--minutes needs timer signals, which this system does not have")

    def leave(number: int, frame: Any) -> None:
        raise OutOfTimeError

    handlers = {signal.SIGALRM: lambda number, frame: signal.raise_signal(signal.SIGTERM), signal.SIGTERM: leave}
    before = {number: signal.signal(number, handler) for number, handler in handlers.items()}
    signal.setitimer(signal.ITIMER_REAL, 60 * minutes * _ASKED, 60 * minutes * (_FORCED - _ASKED))
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        for number, handler in before.items():
            signal.signal(number, handler)
