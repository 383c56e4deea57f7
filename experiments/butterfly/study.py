"""Perturbations from a trained generator that make a classifier better or worse, without a change of the classifier.

python -m experiments butterfly --preset quick   # scikit-learn's digits, small networks: minutes on two cores
python -m experiments butterfly --preset cpu     # MNIST and CIFAR-10, small networks: two hours of two cores, estimated
python -m experiments butterfly --preset gpu     # CIFAR-10, networks four times as wide: minutes of one H100
python -m experiments butterfly --preset paper   # STL-10, ImageNet-10 and -50: days of one H100, estimated
"""

import numpy as np

from experiments.butterfly import sections
from experiments.butterfly.answers import answer_of, seeds_of, told, verdict
from experiments.butterfly.claims import claims
from experiments.butterfly.config import PRESETS, Config
from experiments.butterfly.figures import figures
from experiments.butterfly.images import Data
from experiments.butterfly.rows import NEEDS, ROWS, SOURCES, STAND_INS, Cell, listed
from experiments.butterfly.run import classifiers, load, stages
from experiments.page import Page, markdown
from experiments.study import Read, Row, Study

__all__ = ["STUDY"]

NAME = "butterfly"


def rows(config: Config, data: Data, read: Read) -> list[Row]:
    """Every number of the run."""
    lines = []

    def add(own: str, network: str, member: int, attack: str, metrics: dict[str, np.ndarray]) -> None:
        for metric, values in metrics.items():
            value = float(values.mean(dtype=np.float64))
            lines.append(Row(NAME, own, network, member, attack, None, metric, len(values), value))

    def both(stage: str, suffix: str = "") -> dict[str, np.ndarray]:
        found = read(stage, f"right{suffix}", f"probability{suffix}")
        return {"accuracy": found[f"right{suffix}"], "probability": found[f"probability{suffix}"]}

    for name, form in config.pretrained:
        if data.parts[name].encoder is not None:
            add(_test(data, name), f"external {form}", 0, "", both(f"external judged/{name}/{form}"))
    for target in config.targets:
        own = _test(data, target.data)
        add(own, f"{target.classifier} {target.start}", target.seed, "", both(f"vanilla/{target.name}"))
    for game in config.games:
        found, stage = read(f"judged/{game.name}"), f"judged/{game.name}"
        network, attack = f"{game.target.classifier} {game.target.start}", game.name.partition("/")[2].partition("/")[2]
        sizes = {name: found[name] for name in ("mean_square", "pixel_square", "pixel_square_rounded", "norm", "pass")}
        add(_test(data, game.target.data), network, game.target.seed, attack, both(stage) | sizes)
        add(_test(data, game.target.data), network, game.target.seed, f"{attack}, 8 bits", both(stage, "_rounded"))
    for name, cell in config.cells.items():
        for suffix in ("", "_matched") if cell.method == "UAP" else ("",) if cell.method == "EHA" else ():
            stage, network = f"baseline/{name}", f"{cell.classifier} {cell.start}"
            size = {"pixel_square": read(stage)[f"pixel_square{suffix}"]}
            add(
                _test(data, cell.data),
                network,
                0,
                f"{cell.method}{suffix.replace('_', ' ')}",
                both(stage, suffix) | size,
            )
    for target in config.mains:
        own, network = _test(data, target.data), f"{target.classifier} {target.start}"
        for stage, suffix, attack in sections.INSTEAD:
            add(own, network, 0, attack, both(f"{stage}/{target.name}", suffix))
        for attack, right in read(f"attacked/{target.name}").items():
            add(own, network, 0, attack.replace("_", " "), {"accuracy": right})
    return lines


def _test(data: Data, name: str) -> str:
    return f"{name}/{data.parts[name].test.split}"


def page(config: Config, data: Data, read: Read) -> Page:
    """The run's cells beside the paper's, what they mean, and what no run here can say."""
    return Page(
        note=_note(config),
        table=markdown(
            ("cell", "paper: STL-10", "ImageNet-10", "ImageNet-50", "this run", "8 bits", "than vanilla", "mean v²",
             "RMS in pixels", "PASS"),
            [_line(config, read, cell) for cell in config.cells.values()],
        ) + "\n\nEach: accuracy in percent / mean probability of the true class, on T.",
        paper={
            "data": "STL-10 without normalization, ImageNet-10 and -50 with; all at 224x224",
            "external images": "ImageNet, by published weights",
            "generator's images": "the training set (whether the classifier's own, it does not say)",
            "classifiers": "ResNet-50 and -101, VGG16, DenseNet-169; iterations not given",
            "training": "Adam; rate and epochs not given",
            "gamma": "0.0001 enhancing, 3 adversarial",
            "x~": "not said to be clipped",
            "UAP, EHA": "strengths not given",
        },
        run={
            "data": ", ".join(f"{name}{' (stand-in)' if name in STAND_INS else ''}" for name in config.data),
            "external images": sections.external_images(config),
            "generator's images": sections.generator_images(config),
            "classifiers": sections.networks(config),
            "training": f"Adam at {config.generator_rate:g} (G), {config.discriminator_rate:g} (D); {config.epochs} "
            f"epochs of batch {config.batch_size}",
            "gamma": f"{config.enhancing_gamma:g} enhancing, {config.adversarial_gamma:g} adversarial",
            "x~": "not clipped (\"this run\"), and clipped to 256 levels (\"8 bits\")",
            "UAP, EHA": f"linf 10/255, fooling 0.8, {config.uap_passes} passes over {config.uap_images} images of G at "
            "most; FGSM at the RMS in pixels of the generator on V",
        },
        claims=claims(config, read),
        summary=_summary(config, read),
        sections=sections.sections(config, data, read) | {"Tables 1 to 3 of the paper": _not_reproduced(config)},
        counted="A difference counts where the exact two-sided sign test over the images that two networks answer "
        "differently gives less than 5 %. Intervals are of Student's t over seeds, each with a classifier and a "
        "generator of its own.",
    )  # fmt: skip


def _note(config: Config) -> str:
    if not set(config.data) & set(STAND_INS):
        return ""
    names = ", ".join(name for name in config.data if name in STAND_INS)
    return (
        f"**Stand-ins: {names} with narrow small-image networks in the place of STL-10 and ImageNet at 224x224.** No "
        "number of the paper's tables can be reproduced without these and ImageNet's published weights, and none is "
        "claimed to be: the paper's numbers stand beside for the order of the cells alone. R50, R101, VGG16 and D169 "
        f"are {sections.networks(config)}. The external images are other images of the same set and classes, not "
        "another and larger one."
    )


def _line(config: Config, read: Read, cell: Cell) -> tuple[str, ...]:
    paper = [
        next(
            (other.told for other in ROWS.values() if other[:2] == (cell.table, data) and other.place == cell.place), ""
        )
        for data in list(SOURCES)[:3]
    ]
    answer, game = answer_of(config, read, cell), config.game(cell)
    base = read(f"vanilla/{config.target(cell).name}", "right")["right"]
    word = "" if cell.method == "vanilla" else verdict(base, answer.right)
    more = ["", "", ""]
    if game is not None:
        found = read(f"judged/{game.name}", "mean_square", "pixel_square", "pass")
        size = np.sqrt(found["pixel_square"].mean(dtype=np.float64))
        more = [f"{found['mean_square'].mean():.3g}", f"{size:.3f}", f"{found['pass'].mean():.3f}"]
    elif cell.method in ("UAP", "EHA"):
        square = read(f"baseline/{cell.name}", "pixel_square")["pixel_square"].mean(dtype=np.float64)
        more = ["", f"{np.sqrt(square):.3f}", ""]
    rounded = "" if game is None else told(*answer_of(config, read, cell, rounded=True))
    return (cell.name, *paper, told(*answer), rounded, word, *more)


def _summary(config: Config, read: Read) -> list[str]:
    lines = []
    for target in config.mains:
        before, after = seeds_of(config, read, target)
        lines.append(
            f"{target.data}, {target.classifier} [A]: {100 * np.mean(before):.1f} % alone, {100 * np.mean(after):.1f} "
            f"% with Prop-50 ({config.seeds} seeds)"
        )
    for cell in config.cells.values():
        if cell.table == 2:
            lines.append(f"{cell.name}: {told(*answer_of(config, read, cell))}")
    return lines


def _not_reproduced(config: Config) -> str:
    lines = []
    for name, cell in ROWS.items():
        if cell.data in STAND_INS:
            continue
        status = "above" if name in config.cells else f"not run: {NEEDS[cell.data]}"
        lines.append((name, cell.told, status))
    return markdown(("cell", "paper", "this run"), lines)


TITLE = "Yoo et al. 2017, Tables 1 to 3"
STUDY = Study(NAME, TITLE, __doc__ or "", PRESETS, load, stages, classifiers, rows, page, figures, listed)
