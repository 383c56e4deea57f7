"""The command's arguments, what is wrong with them, and which of the two ways it goes."""

import argparse
import os
import pathlib

from advjax.score_command.columns import COLUMNS

__all__ = ["DESCRIPTION", "EPILOG", "add_arguments", "score"]

DESCRIPTION = """\
PASS (structural similarity after alignment), SSIM, L2 per pixel and linf in gray levels, and the warp: for two
pictures, or for all pictures of two folders and their subfolders that have one name, up to the suffix (CSV).

Pictures are turned upright by their EXIF orientation, and compared gray or RGB, in 8 or 16 bits or as floats in [0, 1];
of several in a file the first is taken. Transparent pixels, and 16-bit color that Pillow cuts (all but binary PPM), are
refused."""

EPILOG = "\n".join(
    [
        "columns of the table:",
        *(f"  {name:14}{text}" for name, text in COLUMNS.items() if not name.startswith("h") or name == "height"),
        f"  {'h00 ... h22':14}{COLUMNS['h00']}",
        "",
        "exit codes: 0 all is scored; 1 some pictures of a folder are not, which stderr lists; 2 the arguments are",
        "wrong, or one of two files; 130 Ctrl-C, the rows so far are kept; 141 nobody reads the output any more.",
    ]
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's arguments, its description and its end."""
    parser.description, parser.epilog = DESCRIPTION, EPILOG
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("original", type=pathlib.Path, help="picture file, or folder of picture files")
    parser.add_argument("changed", type=pathlib.Path, help="picture file, or folder with files of the same names")
    parser.add_argument("--save", type=pathlib.Path, metavar="PNG", help="write the aligned picture there (two files)")
    parser.add_argument(
        "--csv", type=pathlib.Path, metavar="FILE", help="write the table there, not to stdout (two folders)"
    )
    parser.add_argument(
        "--padding", choices=("valid", "same"), default="valid", help="windows of SSIM (default: valid)"
    )
    parser.add_argument("--pyramid", type=int, default=1, help="pyramid levels, more for large motion (default: 1)")
    parser.add_argument(
        "--mask-border",
        type=_border,
        metavar="LEVEL",
        help="leave out the border of each picture that has exactly this gray level, 0 to 255, as a rotation leaves it;"
        " or 'corner': that of the corners",
    )


def score(options: argparse.Namespace) -> int:
    """Runs the command and returns its exit code: 0, or 1 where some pictures of a folder could not be scored.

    Raises:
        ValueError, OSError: wrong arguments, or nothing can be scored.
    """
    folders = options.original.is_dir()
    if folders != options.changed.is_dir():
        raise ValueError("give two files or two folders, not one of each")
    _check(options, folders)
    # Imported here: `advjax --help` and wrong arguments should not wait for it.
    from advjax.score_command.blocks import Settings
    from advjax.score_command.files import score_files
    from advjax.score_command.folders import score_folders

    settings = Settings(options.padding, options.pyramid, options.mask_border)
    if folders:
        return score_folders(options.original, options.changed, options.csv, settings)
    score_files(options.original, options.changed, options.save, settings)
    return 0


def _check(options: argparse.Namespace, folders: bool) -> None:
    """What would fail after all the work fails before it."""
    if folders and options.save is not None:
        raise ValueError("--save is for two files")
    if not folders and options.csv is not None:
        raise ValueError("--csv is for two folders")
    if options.pyramid < 1:
        raise ValueError(f"--pyramid must be at least 1, got {options.pyramid}")
    for name, path in (("--csv", options.csv), ("--save", options.save)):
        if path is None or path.is_fifo() or path.is_char_device():
            continue
        if path.is_dir():
            raise ValueError(f"{name} must be a file, {path} is a folder")
        if not path.absolute().parent.is_dir():
            raise ValueError(f"{name}: the folder {path.absolute().parent} does not exist")
        if not os.access(path.absolute().parent, os.W_OK):
            raise ValueError(f"{name}: {path.absolute().parent} cannot be written to")
    if options.save is not None:
        from PIL import Image

        Image.init()
        kind = Image.registered_extensions().get(options.save.suffix.lower())
        if kind not in Image.SAVE:
            raise ValueError(f"--save must end in the suffix of a picture, such as .png, got {options.save.name}")


def _border(text: str) -> int | str:
    if text == "corner":
        return text
    if text.isdecimal() and int(text) <= 255:
        return int(text)
    raise argparse.ArgumentTypeError(f"expected 0 to 255 or 'corner', got {text!r}")
