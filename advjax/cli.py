"""Command line: `advjax score original.png changed.png`, or two folders; `advjax train`."""

import argparse
import csv
import sys
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NoReturn

import numpy as np

import advjax
from advjax import train_command
from advjax.command import command

__all__ = ["main", "parse", "run"]

_SMALLEST_SIDE = 11  # of SSIM's window
_COLUMNS = (
    "file",
    "pass",
    "ssim",
    "l2_per_pixel",
    "linf",
    "converged",
    *(f"h{r}{c}" for r in range(3) for c in range(3)),
)


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the command line; a bad file ends it with one line on stderr and exit code 2."""
    run(parse(arguments))


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The options of a command line."""
    parser = argparse.ArgumentParser(prog="advjax", description="Adversarial perturbations and their scores.")
    parser.add_argument("--version", action="version", version=f"advjax {advjax.__version__}")
    commands = parser.add_subparsers(dest="command", required=True)
    score = commands.add_parser(
        "score",
        help="how much a changed image looks like its original",
        description="PASS (structural similarity after alignment), SSIM, L2 per pixel and linf in grey levels, and the "
        "warp, for two images, or for all images of the same name in two folders (CSV).",
    )
    score.add_argument("original", type=Path, help="image file, or folder of image files")
    score.add_argument("changed", type=Path, help="image file, or folder with files of the same names")
    score.add_argument("--save", type=Path, metavar="PNG", help="write the aligned image there (two files only)")
    score.add_argument("--csv", type=Path, metavar="FILE", help="write the table there, not to stdout (folders only)")
    score.add_argument("--padding", choices=("valid", "same"), default="valid", help="windows of SSIM (default: valid)")
    score.add_argument("--pyramid", type=int, default=1, help="pyramid levels, more for large motion (default: 1)")
    train = commands.add_parser(
        "train",
        help="train a network on what an attack makes of its images",
        description="Adversarial training: perturb the batch, then one descent step. On all devices of all processes.",
        epilog="A run that was stopped or killed goes on when the same command is given again.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    train_command.add_arguments(train)
    return parser.parse_args(arguments)


def run(options: argparse.Namespace) -> None:
    """Runs the command that the options say."""
    if options.command == "train":
        with command("advjax", interrupted="the same command goes on from the newest checkpoint, if there is one"):
            train_command.train(options)
    else:
        _score(options)


def _score(options: argparse.Namespace) -> None:
    if options.original.is_dir() != options.changed.is_dir():
        _fail("give two files or two folders, not one of each")
    try:
        if options.original.is_dir():
            _score_folders(options)
        else:
            _score_files(options)
    except (ValueError, OSError) as error:
        _fail(str(error))


def _score_files(options: argparse.Namespace) -> None:
    if options.csv is not None:
        _fail("--csv is for two folders")
    pair = [_read(path) for path in (options.original, options.changed)]
    if pair[0].shape != pair[1].shape:
        _fail(f"{options.original} is {_size(pair[0])} but {options.changed} is {_size(pair[1])}")
    row, aligned = _rows([options.changed.name], [pair[0]], [pair[1]], options)[0]
    print(f"PASS          {row['pass']:.6f} (SSIM {options.padding}, after alignment)")
    print(f"SSIM          {row['ssim']:.6f} (without alignment)")
    print(f"L2 per pixel  {row['l2_per_pixel']:.3f} grey levels")
    print(f"linf          {row['linf']:.0f} grey levels")
    print(f"alignment     {'converged' if row['converged'] else 'did not converge'}; warp, original to changed pixels:")
    for r in range(3):
        print("             ", " ".join(f"{row[f'h{r}{c}']:12.6f}" for c in range(3)))
    if options.save is not None:
        _write(options.save, aligned)


def _score_folders(options: argparse.Namespace) -> None:
    from tqdm import tqdm

    if options.save is not None:
        _fail("--save is for two files")
    names = [
        sorted(path.name for path in folder.iterdir() if path.is_file())
        for folder in (options.original, options.changed)
    ]
    alone = sorted(set(names[0]) ^ set(names[1]))
    if alone:
        _fail(f"{len(alone)} file(s) are in one folder only, such as {alone[0]}")
    if not names[0]:
        _fail(f"{options.original} holds no files")
    with tqdm(total=len(names[0]), unit="pair", disable=not sys.stderr.isatty()) as bar:
        rows = []
        for block in _blocks(options.original, options.changed, names[0]):
            rows += [row for row, _ in _rows(*block, options)]
            bar.update(len(block[0]))
    rows.sort(key=lambda row: row["file"])
    if options.csv is None:
        _write_csv(sys.stdout, rows)
    else:
        with open(options.csv, "w", newline="") as file:
            _write_csv(file, rows)


def _blocks(original: Path, changed: Path, names: list[str]) -> Iterator[tuple[list[str], list[Any], list[Any]]]:
    """Pairs of one shape together, in blocks of at most about 4 megapixels, so that memory stays bounded."""
    waiting: dict[tuple[int, ...], tuple[list[str], list[Any], list[Any]]] = defaultdict(lambda: ([], [], []))
    for name in names:
        first, second = _read(original / name), _read(changed / name)
        if first.shape != second.shape:
            raise ValueError(f"{original / name} is {_size(first)} but {changed / name} is {_size(second)}")
        block = waiting[first.shape]
        for entries, entry in zip(block, (name, first, second), strict=True):
            entries.append(entry)
        if len(block[0]) * first.size >= 1 << 22:
            yield waiting.pop(first.shape)
    yield from waiting.values()


def _rows(
    names: list[str], original: list[Any], changed: list[Any], options: argparse.Namespace
) -> list[tuple[dict[str, Any], Any]]:
    # Imported here: `advjax --help` and a bad file should not wait for JAX.
    import jax
    import jax.numpy as jnp

    from advjax.data import to_float
    from advjax.scores import l2_per_pixel, linf, pass_score

    first, second = (jnp.asarray(to_float(np.stack(images))) for images in (original, changed))
    result = jax.device_get(pass_score(second, first, padding=options.padding, levels=options.pyramid))
    distances = jax.device_get((l2_per_pixel(second, first), linf(second, first)))
    rows = []
    for i, name in enumerate(names):
        warp = result.alignment.warp[i]
        row = {
            "file": name,
            "pass": float(result.score[i]),
            "ssim": float(result.ssim[i]),
            "l2_per_pixel": 255 * float(distances[0][i]),
            "linf": 255 * float(distances[1][i]),
            "converged": bool(result.alignment.converged[i]),
            **{f"h{r}{c}": float(warp[r, c]) for r in range(3) for c in range(3)},
        }
        rows.append((row, result.alignment.image[i]))
    return rows


def _read(path: Path) -> Any:
    """The pixels of an 8-bit grey or RGB image file, uint8 [H, W, C]."""
    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(path) as image:
            pixels, mode = np.asarray(image), image.mode
    except UnidentifiedImageError:
        raise ValueError(f"{path} is not an image file that Pillow can read") from None
    except FileNotFoundError:
        raise ValueError(f"{path} does not exist") from None
    if mode in ("LA", "RGBA", "PA"):
        raise ValueError(f"{path} has an alpha channel (mode {mode}); remove it first")
    if mode not in ("L", "RGB"):
        raise ValueError(f"{path} must be 8-bit grey or RGB, got mode {mode} ({pixels.dtype})")
    if min(pixels.shape[:2]) < _SMALLEST_SIDE:
        raise ValueError(f"{path} must have sides of {_SMALLEST_SIDE} pixels or more, got {_size(pixels)}")
    return pixels.reshape(*pixels.shape[:2], -1)


def _write(path: Path, image: Any) -> None:
    from PIL import Image

    pixels = np.round(np.clip(image, 0, 1) * 255).astype(np.uint8)
    Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels).save(path)


def _write_csv(file: Any, rows: list[dict[str, Any]]) -> None:
    writer = csv.DictWriter(file, _COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)


def _size(pixels: Any) -> str:
    channels = 1 if pixels.ndim == 2 else pixels.shape[2]
    return f"{pixels.shape[1]}x{pixels.shape[0]} with {channels} channel(s)"


def _fail(message: str) -> NoReturn:
    print(f"advjax: error: {message}", file=sys.stderr)
    sys.exit(2)


if __name__ == "__main__":
    main()
