"""What an experiment is: a `Study`, a plain record of functions; `run` computes what is missing, and reports."""

import csv
import io
import os
import pathlib
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Generic, NamedTuple, TypeVar

import numpy as np

from advjax.classifier import Classifier
from experiments.page import Page, markdown, mean_std, page_text
from experiments.store import Arrays, Store, open_store

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = [
    "Folder",
    "Loaded",
    "Read",
    "Row",
    "Stage",
    "Study",
    "accuracy_row",
    "classifiers_of",
    "report",
    "rows_text",
    "run",
]

C = TypeVar("C")  # a study's configuration
D = TypeVar("D")  # the data it computes with

Folder = str | os.PathLike[str]
Read = Callable[..., Arrays]
"""`Store.read`: `(stage, *names of arrays) -> arrays`."""


class Row(NamedTuple):
    """One number of a run. The columns of `metrics.csv`, the same for all papers.

    Attributes:
        paper: name of the study.
        data: the data set and, after a slash, which images of it.
        network: whose answers these are.
        member: which one of several such networks, from 0.
        attack: "" if the images are clean.
        epsilon: radius of the attack in its own units; None where it has none.
        metric: what was measured.
        images: how many were asked; 0 where it is no mean over images.
        value: as measured.
    """

    paper: str
    data: str
    network: str
    member: int
    attack: str
    epsilon: float | None
    metric: str
    images: int
    value: float


class Stage(NamedTuple):
    """A step of a run whose arrays are kept, so that it is not computed twice."""

    name: str
    compute: Callable[[], Arrays]


class Loaded(NamedTuple, Generic[C, D]):
    """A configuration whose paths have become digests, the data, and in words what was read."""

    config: C
    data: D
    read: str


class Study(NamedTuple, Generic[C, D]):
    """An experiment of one paper.

    Attributes:
        name: on the command line, and of its package in `experiments`.
        title: heading of its page.
        doc: what it is in a line, then for each preset a command "... --preset NAME  # how long it takes".
        presets: configurations by name.
        load: `(config, data_dir)`: reads the data.
        stages: `(config, data, store)`: what to compute, in order. Asked for one by one, so that a stage may be made of
            what the ones before it left in the store.
        classifiers: `(config, data, read)`: the trained networks by name, for attacks of another study.
        rows: `(config, data, read)`: every number of the run.
        page: `(config, data, read)`: what the report says.
        figures: `(config, data, read)`: figures by file name.
        listed: lines on what it can run, for `--list`.
    """

    name: str
    title: str
    doc: str
    presets: Mapping[str, C]
    load: Callable[[C, Folder | None], Loaded[C, D]]
    stages: Callable[[C, D, Store], Iterable[Stage]]
    classifiers: Callable[[C, D, Read], dict[str, Classifier]]
    rows: Callable[[C, D, Read], list[Row]]
    page: Callable[[C, D, Read], Page]
    figures: Callable[[C, D, Read], dict[str, "Figure"]]
    listed: Callable[[], list[str]] = list

    @property
    def times(self) -> dict[str, str]:
        """By preset, how long it takes."""
        return dict(re.findall(r"--preset (\S+) +# (.+)", self.doc))

    @property
    def results(self) -> pathlib.Path:
        """The folder of its committed results, one subfolder for each preset."""
        return pathlib.Path(__file__).parent / self.name.replace(".", "/") / "results"


def run(study: Study[C, D], config: C, out: Folder, data_dir: Folder | None = None) -> str:
    """Computes what the folder `out` does not hold yet, writes the report there and returns its summary.

    Raises:
        FileNotFoundError: the data are not there; the message says how to prepare them.
        ValueError: `out` holds a run of another configuration or of other images; the data do not fit.
        OSError: `out` cannot be written to.
    """
    config, data, read = study.load(config, data_dir)
    store = open_store(out, config, read)
    for stage in study.stages(config, data, store):
        store.ensure(*stage)
    return report(study, config, data, store)


def report(study: Study[C, D], config: C, data: D, store: Store) -> str:
    """Writes the page, `metrics.csv`, the figures and `config.json` of a finished run, and returns the summary."""
    page = study.page(config, data, store.read)
    figures = study.figures(config, data, store.read)
    store.write_text("table.md", page_text(study.title, config, page, store.data))
    store.write_text("metrics.csv", rows_text(study.rows(config, data, store.read)))
    for name, figure in figures.items():
        store.write_figure(name, figure)
    seconds = store.seconds()
    in_all = sum(seconds.values())
    store.write_config(config, summary=list(page.summary), seconds=seconds, seconds_in_all=round(in_all, 1))
    files = ", ".join(["table.md", "metrics.csv", "config.json", *figures])
    return "\n".join([*page.summary, f"{in_all / 60:.1f} minutes of work; in {store.root}: {files}"])


def classifiers_of(
    study: Study[C, Any], config: C, out: Folder, data_dir: Folder | None = None
) -> dict[str, Classifier]:
    """The networks of a finished run in the folder `out`, for `advjax.evaluate.evaluate`."""
    config, data, read = study.load(config, data_dir)
    return study.classifiers(config, data, open_store(out, config, read).read)


def accuracy_row(
    paper: str, data: str, network: str, attack: str, right: np.ndarray, epsilon: float | None = None, member: int = 0
) -> Row:
    """The row of an accuracy, of bool [N]."""
    value = float(right.mean(dtype=np.float64)) if len(right) else 0.0
    return Row(paper, data, network, member, attack, epsilon, "accuracy", len(right), value)


def pivot(rows: Sequence[Row], metric: str, *, factor: float = 100.0, digits: int = 2) -> str:
    """One metric of all networks as a Markdown table: a line for each data set and attack, a column for each network.

    >>> print(pivot([Row("p", "digits/test", "base", 0, "fgs", 0.1, "accuracy", 500, 0.5)], "accuracy"))
    | images | attack | epsilon | base |
    |---|---|---|---|
    | digits/test | fgs | 0.1 | 50.00 |
    """
    own = [row for row in rows if row.metric == metric]
    networks = dict.fromkeys(row.network for row in own)
    cells: dict[tuple[str, str, str], dict[str, list[float]]] = {}
    for row in own:
        place = row.data, row.attack or "none", "" if row.epsilon is None else f"{row.epsilon:g}"
        cells.setdefault(place, {}).setdefault(row.network, []).append(factor * row.value)
    lines = [
        (*place, *(mean_std(np.array(found[name]), digits) if name in found else "" for name in networks))
        for place, found in cells.items()
    ]
    return markdown(("images", "attack", "epsilon", *networks), lines)


def rows_text(rows: Sequence[Row]) -> str:
    """A CSV with a header line and one line for each row.

    >>> print(rows_text([Row("p", "digits/test", "base", 0, "fgs", 0.1, "accuracy", 500, 0.5)]).strip())
    paper,data,network,member,attack,epsilon,metric,images,value
    p,digits/test,base,0,fgs,0.1,accuracy,500,0.5
    """
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(Row._fields)
    for row in rows:
        epsilon = "" if row.epsilon is None else f"{row.epsilon:.7g}"
        writer.writerow(row._replace(epsilon=epsilon, value=f"{row.value:.7g}"))  # type: ignore[arg-type]
    return text.getvalue()
