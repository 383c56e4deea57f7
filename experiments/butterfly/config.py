"""What a run is: its rows, which images play which part, and every choice that the paper leaves open."""

import dataclasses
from fnmatch import fnmatchcase
from typing import Literal, NamedTuple

from experiments.butterfly.rows import ENCODERS, ROWS, Cell
from experiments.config import Settings, presets, setting

__all__ = ["PRESETS", "Config", "Game", "Target"]


class Target(NamedTuple):
    """A classifier that is enhanced or attacked: its data set, its form, its start (see `Cell`) and its seed."""

    data: str
    classifier: str
    start: str
    seed: int = 0

    @property
    def name(self) -> str:
        """As its stages are called."""
        return f"{self.data}/{self.classifier}-{self.start} {self.seed}"


class Game(NamedTuple):
    """A generator that is trained.

    Attributes:
        target: the classifier that answers.
        problem: what is wanted of it.
        method: "Prop-50", "Prop-101" or "Prop-B".
        loss: "ls" or "lr".
        gamma: weight of mean(v^2).
        images: what it learns from: "G", images that the classifier has not learned from, or "C", those that it has.
        per_label: whether the discriminator is told the label (ours, see `Players`).
    """

    target: Target
    problem: Literal["enhancing", "adversarial"]
    method: str
    loss: Literal["ls", "lr"]
    gamma: float
    images: Literal["G", "C"] = "G"
    per_label: bool = False

    @property
    def encoder(self) -> str:
        """The form of its encoder."""
        return ENCODERS[self.method]

    @property
    def trunk(self) -> str | None:
        """The form of the network from external images whose trunk judges; None: the classifier's own trunk."""
        if self.problem == "enhancing":
            return None
        return "R101" if self.method == "Prop-B" else self.target.classifier

    @property
    def name(self) -> str:
        """As its stages are called."""
        images = "" if self.images == "G" else " on C"
        told = ", D told the label" if self.per_label else ""
        return f"{self.target.name}/{self.problem} {self.method}-{self.loss} gamma {self.gamma:g}{images}{told}"


@dataclasses.dataclass(frozen=True)
class Config(Settings):
    """One run. The defaults are the preset `paper`, as far as the paper says anything."""

    rows: tuple[str, ...] = setting(
        tuple(f"table?/{data}/*" for data in ("STL-10", "ImageNet-10", "ImageNet-50")),
        "cells of the tables (--list), or patterns of them; UAP and EHA want a Prop- cell of the same classifier.",
    )
    main: tuple[str, ...] = setting(("STL-10/R50",), "data set and classifier of sweeps, seeds and further questions.")
    seeds: int = setting(3, "classifiers [A] of the main ones with Prop-50 each, of their own weights and orders.")
    size: Literal["paper", "small"] = setting("paper", "networks for 224x224, or narrow ones for 28x28 and 32x32.")
    width: int = setting(64, "channels that small networks begin with.")
    decoder: tuple[int, ...] = setting((), "channels of the decoder's blocks; none: 512, 256, 128, 64, or fewer.")
    weights: str = setting("", "folder of published weights (resnet50.safetensors, ...), stored as their SHA-256.")
    encoder_images: int = setting(0, "E, the external images of the encoders; 0: there are published weights.", least=0)
    classifier_images: int = setting(0, "C, what classifiers learn from; 0: what E, G and V leave.", least=0)
    generator_images: int = setting(0, "G, what generators learn from; 0: the classifier's, as in the paper.", least=0)
    validation_images: int = setting(500, "V, looked at after each epoch, and where baselines are matched.")
    test_images: int = setting(0, "T, the first so many test images; 0: all.", least=0)
    pretrain_steps: int = setting(0, "of the networks trained on E.", least=0)
    scratch_steps: int = setting(20_000, "of the classifiers [A] ([R]).")
    tuned_steps: int = setting(5_000, "of the classifiers [B] ([R]).")
    rate: float = setting(1e-4, "learning rate of classifiers (Adam, [R]).")
    epochs: int = setting(20, "of the generators ([R]).")
    batch_size: int = setting(32, "images a step, of all networks ([R]).")
    generator_rate: float = setting(1e-4, "learning rate of generators (Adam, [R]).")
    discriminator_rate: float = setting(1e-4, "of discriminators' last layers (Adam, [R]).")
    enhancing_gamma: float = setting(1e-4, "weight of mean(v^2) in the enhancing problem (the paper's).")
    adversarial_gamma: float = setting(3.0, "in the adversarial problem (the paper's).")
    enhancing_gammas: tuple[float, ...] = setting((0.0, 1e-4, 0.01, 0.1, 1.0), "of Figs. 4, 6 and 9, main ones.")
    adversarial_gammas: tuple[float, ...] = setting((0.3, 1.0, 3.0, 10.0), "of Figs. 7 and 8, main ones.")
    uap_images: int = setting(10_000, "the first images of G, at most, from which universal perturbations are made.")
    uap_passes: int = setting(10, "over them, at most.")
    members: int = setting(5, "classifiers [A] in the ensemble, at most.")
    attacked_images: int = setting(500, "first test images under FGS and PGD, before the generator.")
    epsilon: float = setting(8 / 255, "of these (linf).")
    pass_images: int = setting(500, "first test images with PASS.")
    judge_batch: int = setting(100, "images judged at once.")

    def __post_init__(self) -> None:
        super().__post_init__()
        for pattern in self.rows:
            if not any(fnmatchcase(name, pattern) for name in ROWS):
                raise ValueError(f"rows must be names or patterns of cells (--list), got {pattern!r}")
        for cell in self.cells.values():
            if cell.method in ("UAP", "EHA") and self.reference(cell) is None:
                raise ValueError(f"rows must hold a Prop- cell of Table 2 for {cell.name}, whose strength is its")

    @property
    def cells(self) -> dict[str, Cell]:
        """The rows of the run."""
        return {name: cell for name, cell in ROWS.items() if any(fnmatchcase(name, each) for each in self.rows)}

    @property
    def data(self) -> tuple[str, ...]:
        """The data sets of the rows."""
        return tuple(dict.fromkeys(cell.data for cell in self.cells.values()))

    def target(self, cell: Cell, seed: int = 0) -> Target:
        """The classifier of a cell."""
        return Target(cell.data, cell.classifier, cell.start, seed)

    def game(self, cell: Cell) -> Game | None:
        """The generator of a cell; None: it has none."""
        if cell.method not in ENCODERS or cell.loss not in ("ls", "lr"):
            return None
        gamma = self.enhancing_gamma if cell.problem == "enhancing" else self.adversarial_gamma
        return Game(self.target(cell), cell.problem, cell.method, "lr" if cell.loss == "lr" else "ls", gamma)

    def reference(self, cell: Cell) -> Game | None:
        """The adversarial generator of a cell's classifier that baselines are matched with: Table 2's first."""
        for other in self.cells.values():
            own = self.game(other)
            if other.table == 2 and own is not None and own.target == self.target(cell):
                return own
        return None

    def is_main(self, target: Target) -> bool:
        """Whether this classifier has sweeps and further questions."""
        return f"{target.data}/{target.classifier}" in self.main

    @property
    def mains(self) -> list[Target]:
        """The enhanced main classifiers [A] that have a Prop-50 cell."""
        games = [self.game(cell) for cell in self.cells.values()]
        found = [each.target for each in games if each and (each.problem, each.method) == ("enhancing", "Prop-50")]
        return [target for target in dict.fromkeys(found) if target.start == "A" and self.is_main(target)]

    def repeated(self, target: Target, *, per_label: bool = False) -> list[Game]:
        """The main row: the same game with other classifiers, weights and orders."""
        targets = [target._replace(seed=seed) for seed in range(self.seeds)]
        games = [Game(each, "enhancing", "Prop-50", "ls", self.enhancing_gamma) for each in targets]
        return [game._replace(per_label=per_label) for game in games]

    @property
    def told(self) -> list[Game]:
        """The games of the main data sets' cells in which the discriminator is told the label (ours), seeds first."""
        found = [game for target in self.mains for game in self.repeated(target, per_label=True)]
        for cell in self.cells.values():
            game = self.game(cell)
            if game is not None and game.problem == "adversarial" and self.is_main(game.target) and cell.table == 2:
                found.append(game._replace(per_label=True))
        return found

    def swept(self, problem: str) -> dict[Target, list[Game]]:
        """By main classifier the games of Prop-50 that differ in gamma alone."""
        found: dict[Target, list[Game]] = {}
        for cell in self.cells.values():
            game = self.game(cell)
            if game is None or not self.is_main(game.target):
                continue
            if (game.problem, game.method, game.loss) != (problem, "Prop-50", "ls"):
                continue
            gammas = self.enhancing_gammas if problem == "enhancing" else self.adversarial_gammas
            found[game.target] = [game._replace(gamma=gamma) for gamma in gammas]
        return found

    @property
    def games(self) -> list[Game]:
        """All generators of the run."""
        found = [game for cell in self.cells.values() if (game := self.game(cell)) is not None]
        for target in self.mains:
            found += self.repeated(target)
            if self.generator_images:
                found.append(self.repeated(target)[0]._replace(images="C"))
        found += self.told
        for problem in ("enhancing", "adversarial"):
            found += [game for games in self.swept(problem).values() for game in games]
        return list(dict.fromkeys(found))

    @property
    def targets(self) -> list[Target]:
        """All classifiers of the run, those of the ensemble beside the main ones among them."""
        found = [self.target(cell) for cell in self.cells.values()] + [game.target for game in self.games]
        found += [target._replace(seed=seed) for target in self.mains for seed in range(self.members)]
        return list(dict.fromkeys(found))

    @property
    def pretrained(self) -> list[tuple[str, str]]:
        """Data set and form of the networks that come from external images."""
        found = [(target.data, target.classifier) for target in self.targets if target.start == "B"]
        found += [(game.target.data, game.encoder) for game in self.games]
        found += [(game.target.data, game.trunk) for game in self.games if game.trunk is not None]
        return list(dict.fromkeys(found))


_STAND_IN = "size=small generator_rate=.001 discriminator_rate=.001 rate=.001 "

PRESETS = presets(
    Config,
    {
        # Of Table 2 all but Prop-101, for each program takes half a minute to compile; VGG16 learns nothing of so few
        # images.
        "quick": _STAND_IN
        + """
            rows=table1/digits/R50/*,table2/digits/R50/B/*[!1],table3/digits/R50/*
            main=digits/R50 seeds=3 width=8 decoder=16,8
            encoder_images=600 classifier_images=50 generator_images=320 validation_images=150
            pretrain_steps=300 scratch_steps=300 tuned_steps=100
            epochs=20 enhancing_gammas=0,.0001,1 adversarial_gammas=.3,3
            uap_images=60 members=4 attacked_images=200 epsilon=.1 pass_images=200
        """,
        "cpu": _STAND_IN
        + """
            rows=table?/MNIST/*,table?/CIFAR-10/R50/*,table1/CIFAR-10/VGG16/*
            main=MNIST/R50,CIFAR-10/R50 seeds=3 width=8 decoder=32,16
            encoder_images=25000 classifier_images=300 generator_images=4000 validation_images=2000 test_images=5000
            pretrain_steps=2000 scratch_steps=1000 tuned_steps=300
            epochs=4 uap_images=100 members=4
        """,
        # Seven cells, at a width with which a GPU has work; it spends its minutes on compiling one program a game.
        "gpu": _STAND_IN
        + """
            rows=table1/CIFAR-10/R50/?/vanilla,table1/CIFAR-10/R50/A/Prop-50,table2/CIFAR-10/R50/B/*[!1]
            main=CIFAR-10/R50 seeds=3 width=32 decoder=256,128 batch_size=128
            encoder_images=25000 classifier_images=3000 generator_images=18000 validation_images=2000
            pretrain_steps=4000 scratch_steps=600 tuned_steps=300
            epochs=12 enhancing_gammas=.0001,.01,1 adversarial_gammas=3 uap_images=200 members=4
        """,
        "paper": "",
    },
)
