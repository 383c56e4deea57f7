"""Signals that ask a training to stop: it saves first, and ends with exit status 0."""

import contextlib
import signal
import threading
from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np

__all__ = ["Preempted", "stop_requests"]


class Preempted(SystemExit):
    """A training was asked to stop and has saved all it had done: uncaught, the program ends with status 0."""

    def __init__(self, message: str) -> None:
        super().__init__(0)
        self.message = message

    def __str__(self) -> str:
        return self.message


@contextlib.contextmanager
def stop_requests() -> Iterator[Callable[[], str | None]]:
    """Holds back SIGTERM and SIGINT, and yields a function that tells the name of the one that came, or None.

    The first signal is held back alone: a second one acts at once, as before. All processes of a job get the same
    answer, so that they stop at the same step; each must ask equally often. Signals reach the main thread only: in
    another one nothing is held back.

    >>> with stop_requests() as requested:
    ...     signal.raise_signal(signal.SIGTERM)
    ...     requested()
    'SIGTERM'
    """
    came: list[int] = []
    before: dict[int, Any] = {}

    def hold(number: int, frame: Any) -> None:
        came.append(number)
        _restore(before)

    if threading.current_thread() is threading.main_thread():
        for number in (signal.SIGTERM, signal.SIGINT):
            before[number] = signal.signal(number, hold)
    try:
        yield lambda: _agreed(came)
    finally:
        _restore(before)


def _restore(before: dict[int, Any]) -> None:
    for number in list(before):
        signal.signal(number, before.pop(number))


def _agreed(came: list[int]) -> str | None:
    number = came[0] if came else 0
    if jax.process_count() > 1:
        from jax.experimental import multihost_utils

        number = int(np.max(multihost_utils.process_allgather(np.int32(number))))
    return signal.Signals(number).name if number else None
