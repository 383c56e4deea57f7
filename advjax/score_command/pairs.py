"""Which picture of one folder belongs to which of the other."""

import dataclasses
import pathlib
from collections import defaultdict
from collections.abc import Iterable, Mapping

from advjax.data.picture_files import picture_files

__all__ = ["Pair", "Pairs", "pair_up"]


@dataclasses.dataclass(frozen=True)
class Pair:
    """Two picture files.

    Attributes:
        name: of the original, and `changed_name` of the other, as the table prints them.
        original: where the original lies, and `changed` the other.
    """

    name: str
    changed_name: str
    original: pathlib.Path
    changed: pathlib.Path


@dataclasses.dataclass(frozen=True)
class Pairs:
    """Two folders beside each other.

    Attributes:
        pairs: in the order of the originals' names.
        alone: the paths of pictures that have no partner.
        skipped: for each of the two folders what is no picture, by reason.
    """

    pairs: tuple[Pair, ...]
    alone: tuple[pathlib.Path, ...]
    skipped: tuple[Mapping[str, tuple[str, ...]], Mapping[str, tuple[str, ...]]]


def pair_up(original: pathlib.Path, changed: pathlib.Path) -> Pairs:
    """The pictures of two folders and their subfolders that have one name; or else one name up to the suffix.

    Raises:
        ValueError: of one name up to the suffix there are several that may belong together.
        OSError: a folder cannot be read.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     for name in ("a/1.jpg", "a/2.jpg", "b/1.png"):
    ...         pathlib.Path(folder, name).parent.mkdir(exist_ok=True)
    ...         pathlib.Path(folder, name).touch()
    ...     found = pair_up(pathlib.Path(folder, "a"), pathlib.Path(folder, "b"))
    >>> [(pair.name, pair.changed_name) for pair in found.pairs], [path.name for path in found.alone]
    ([('1.jpg', '1.png')], ['2.jpg'])
    """
    found = picture_files(original), picture_files(changed)
    there = set(found[1].paths)
    partner = {name: name for name in found[0].paths if name in there}
    left = [_by_stem(name for name in each.paths if name not in partner) for each in found]
    alone = []
    for folder, own, others in ((original, left[0], left[1]), (changed, left[1], left[0])):
        for stem, names in own.items():
            if stem not in others:
                alone += [folder / name for name in names]
            elif len(names) > 1:
                raise ValueError(
                    f"{len(names)} files of {folder} may belong to {stem} of the other folder: {', '.join(names)}"
                )
    partner.update((names[0], left[1][stem][0]) for stem, names in left[0].items() if stem in left[1])
    pairs = [Pair(name, other, original / name, changed / other) for name, other in sorted(partner.items())]
    return Pairs(tuple(pairs), tuple(sorted(alone)), (found[0].skipped, found[1].skipped))


def _by_stem(names: Iterable[str]) -> dict[str, list[str]]:
    groups = defaultdict(list)
    for name in names:
        groups[str(pathlib.PurePosixPath(name).with_suffix(""))].append(name)
    return dict(groups)
