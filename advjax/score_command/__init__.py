"""The command `advjax score`: how much changed pictures look like their originals, for two files or two folders.

The table of two folders is CSV in UTF-8, a row for each pair in the order of the originals' names, with the columns of
`columns.py`. It grows beside its place, as `FILE.partial`, and moves there when it is whole.

Exit codes: 0, all is scored; 1, some pictures of a folder could not be, which stderr lists; 2, the arguments are wrong,
or one of two files; 130, Ctrl-C, after the rows so far were written; 141, nobody reads the output any more.
"""

from advjax.score_command.command import add_arguments, score

__all__ = ["add_arguments", "score"]
