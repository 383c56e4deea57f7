"""How a command ends: in one line and an exit code where its message says all, else with a traceback."""

import contextlib
import os
import select
import signal
import sys
from collections.abc import Iterator
from typing import Any, NoReturn

__all__ = ["INTERRUPTED", "Ended", "ExplainedError", "command", "fail", "leaving_at_once"]

INTERRUPTED = 128 + signal.SIGINT
"""The exit code after Ctrl-C, as shells count: 130."""
_BAD, _NO_READER = 2, 128 + 13  # SIGPIPE, which Windows does not name


class ExplainedError(Exception):
    """An error whose message is all that the user of a command needs, beside those that Python has for bad input."""


_EXPLAINED = (ExplainedError, ValueError, TypeError, ImportError, OSError)


class Ended(SystemExit):
    """The end of a command that has said why: `code` for the shell, the message as its text."""

    def __init__(self, code: int, message: str) -> None:
        super().__init__(code)
        self.message = message

    def __str__(self) -> str:
        return self.message


def fail(name: str, message: str, code: int = _BAD) -> NoReturn:
    """Ends the command `name` with one line on stderr.

    >>> with contextlib.redirect_stderr(sys.stdout):
    ...     fail("advjax", "no such file: a.png")
    Traceback (most recent call last):
    ...
    advjax.command.Ended: advjax: error: no such file: a.png
    """
    line = f"{name}: {'interrupted' if code == INTERRUPTED else 'error'}: {' '.join(message.split())}"
    print(line, file=sys.stderr, flush=True)
    raise Ended(code, line)


@contextlib.contextmanager
def command(name: str, *, interrupted: str = "the same command begins anew") -> Iterator[None]:
    """Ends the program with one line on stderr, and no traceback, for what the user of the command `name` can mend.

    Bad input (ValueError, TypeError, ImportError, OSError) and an `ExplainedError` end it with code 2, Ctrl-C with 130.
    When whoever reads its output leaves (`advjax score ... | head`), it ends in silence with 141, as `cat` does. A
    `Preempted` has said its line itself and goes through with its code 0. Anything else is a mistake of the program,
    and keeps its traceback.

    Args:
        name: what the line begins with.
        interrupted: what the line says after Ctrl-C: what is left, and how to go on.

    >>> with contextlib.redirect_stderr(sys.stdout), contextlib.suppress(SystemExit), command("advjax train"):
    ...     raise ValueError("steps must be 0 or more, got -1")
    advjax train: error: steps must be 0 or more, got -1
    """
    try:
        yield
        sys.stdout.flush()
    except KeyboardInterrupt:
        fail(name, interrupted, INTERRUPTED)
    except _EXPLAINED as error:
        if isinstance(error, BrokenPipeError) and _nobody_reads():
            raise Ended(_NO_READER, f"{name}: nobody reads the output") from None
        fail(name, "; ".join([str(error) or repr(error), *getattr(error, "__notes__", [])]))


@contextlib.contextmanager
def leaving_at_once(name: str) -> Iterator[None]:
    """Meanwhile Ctrl-C ends the process on the spot, with one line and code 130: for when nothing is at stake.

    In imports a KeyboardInterrupt may end in a traceback: some extension modules print it and raise another error.
    """

    def leave(number: int, frame: Any) -> None:
        os.write(2, f"\n{name}: interrupted\n".encode())
        os._exit(INTERRUPTED)

    before = signal.signal(signal.SIGINT, leave)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _nobody_reads() -> bool:
    """Whether stdout is the pipe that broke; it then leads to nowhere, so that the end of Python does not fail too."""
    try:
        poll = select.poll()
        poll.register(sys.stdout.fileno(), select.POLLOUT)
        broken = any(events & (select.POLLERR | select.POLLHUP) for _, events in poll.poll(0))
    except (AttributeError, OSError):  # Windows has no poll; a stdout that is no file breaks no pipe
        return False
    if broken:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return broken
