"""`python -m advjax`, and the command `advjax`."""

import os
import sys

from advjax.command import INTERRUPTED, Ended, leaving_at_once

__all__ = ["main"]


def main() -> None:
    """Runs the command line of this process; Ctrl-C ends it in one line, also while it still imports."""
    with leaving_at_once("advjax"):
        from advjax import cli

        options = cli.parse()
        if options.command == "train":
            import advjax.training  # noqa: F401 (seconds, of which a KeyboardInterrupt would make a traceback)
    try:
        cli.run(options)
    except Ended as end:
        if end.code == INTERRUPTED:
            # XLA's threads may still compute; Python's end pulls what they use from under them, and has crashed so.
            sys.stdout.flush()
            os._exit(INTERRUPTED)
        raise


if __name__ == "__main__":
    main()
