"""`python -m advjax`, and the command `advjax`."""

import os
import sys

from advjax.command import INTERRUPTED, Ended, leaving_at_once

__all__ = ["main"]


def main() -> None:
    """Runs the command line of this process; Ctrl-C ends it in one line, also while it still imports."""
    try:
        with leaving_at_once("advjax"):
            from advjax import cli

            options = cli.parse()
            if options.command == "train":
                # `Trainer` holds signals back while it has something to save.
                cli.run(options)
                return
        cli.run(options)
    except Ended as end:
        if end.code == INTERRUPTED:
            # XLA's threads may still compute; Python's end pulls what they use from under them, and has crashed so.
            sys.stdout.flush()
            os._exit(INTERRUPTED)
        raise


if __name__ == "__main__":
    main()
