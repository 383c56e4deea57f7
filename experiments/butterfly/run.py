"""The run: networks from external images, classifiers, generators, and what is judged on T."""

from collections.abc import Iterator
from functools import partial

from advjax.classifier import Classifier
from advjax.generators import Players
from experiments.butterfly import forms, judge, learn, questions
from experiments.butterfly.config import Config, Game, Target
from experiments.butterfly.images import Data, load
from experiments.butterfly.rows import Cell
from experiments.networks import classifier_of, key_of, restored_model
from experiments.store import Arrays, Store
from experiments.study import Read, Stage

__all__ = ["classifiers", "load", "stages", "trained_players"]


def stages(config: Config, data: Data, store: Store) -> Iterator[Stage]:
    """External networks, classifiers, generators, baselines, questions: each trained, then judged."""
    read = store.read
    for name, form in config.pretrained:
        yield Stage(f"external/{name}/{form}", partial(_external, config, data, store, name, form))
        if data.parts[name].encoder is not None:
            yield Stage(f"external judged/{name}/{form}", partial(_external_judged, config, data, read, name, form))
    for target in config.targets:
        yield Stage(f"classifier/{target.name}", partial(_classifier, config, data, store, target))
        yield Stage(f"vanilla/{target.name}", partial(_vanilla, config, data, read, target))
    for game in config.games:
        yield Stage(f"game/{game.name}", partial(_played, config, data, store, game))
        yield Stage(f"judged/{game.name}", partial(_judged, config, data, read, game))
    for name, cell in config.cells.items():
        if cell.method in ("UAP", "EHA"):
            yield Stage(f"baseline/{name}", partial(_baseline, config, data, read, cell))
    for target in config.mains:
        yield Stage(f"instead/{target.name}", partial(_instead, config, data, store, target))
        yield Stage(f"ensemble/{target.name}", partial(_ensemble, config, data, read, target))
        yield Stage(f"attacked/{target.name}", partial(_attacked, config, data, read, target))


def trained_players(config: Config, data: Data, read: Read, game: Game) -> Players:
    """The players of a finished game, in evaluation mode."""
    model = restored_model(forms.players_of(config, data, read, game), read(f"game/{game.name}"))
    assert isinstance(model, Players)
    return model


def classifiers(config: Config, data: Data, read: Read) -> dict[str, Classifier]:
    """All classifiers of the rows, without the ensembles'."""
    targets = dict.fromkeys(config.target(cell) for cell in config.cells.values())
    return {target.name: forms.target_of(config, data, read, target) for target in targets}


def _external(config: Config, data: Data, store: Store, name: str, form: str) -> Arrays:
    parts = data.parts[name]
    if parts.encoder is None:
        return forms.published(config, data, parts, form)
    model = forms.network(config, parts, form, key_of(config.seed, "external", form))
    folder = store.checkpoints("external", name, form)
    return learn.learned(config, model, parts.encoder, config.pretrain_steps, ("external", form), folder)


def _external_judged(config: Config, data: Data, read: Read, name: str, form: str) -> Arrays:
    model = forms.network(config, data.parts[name], form, key_of(config.seed, form))
    network = classifier_of(model, read(f"external/{name}/{form}"))
    return judge.vanilla(config, network, data.parts[name].test)


def _classifier(config: Config, data: Data, store: Store, target: Target) -> Arrays:
    steps = config.scratch_steps if target.start == "A" else config.tuned_steps
    model, images = forms.begun(config, data, store.read, target), data.parts[target.data].classifier
    folder = store.checkpoints("classifier", target.name)
    return learn.learned(config, model, images, steps, ("classifier", *target), folder)


def _vanilla(config: Config, data: Data, read: Read, target: Target) -> Arrays:
    parts, network = data.parts[target.data], forms.target_of(config, data, read, target)
    known = {f"{name}_known": array for name, array in judge.vanilla(config, network, parts.classifier).items()}
    return judge.vanilla(config, network, parts.test) | known


def _played(config: Config, data: Data, store: Store, game: Game) -> Arrays:
    players = forms.players_of(config, data, store.read, game)
    return learn.played(config, data.parts[game.target.data], game, players, store.checkpoints("game", game.name))


def _judged(config: Config, data: Data, read: Read, game: Game) -> Arrays:
    before, after = forms.players_of(config, data, read, game), trained_players(config, data, read, game)
    classifier = forms.target_of(config, data, read, game.target)
    return judge.judged(config, data.parts[game.target.data], before, after, classifier)


def _baseline(config: Config, data: Data, read: Read, cell: Cell) -> Arrays:
    game = config.reference(cell)
    assert game is not None  # the configuration asks for it
    players, classifier = trained_players(config, data, read, game), forms.target_of(config, data, read, game.target)
    made = judge.uap if cell.method == "UAP" else judge.eha
    return made(config, data.parts[cell.data], classifier, players)


def _instead(config: Config, data: Data, store: Store, target: Target) -> Arrays:
    parts, game = data.parts[target.data], config.repeated(target)[0]
    classifier = forms.target_of(config, data, store.read, target)
    views = questions.views_of(classifier, trained_players(config, data, store.read, game), parts)
    form = forms.network(config, parts, target.classifier, key_of(config.seed, "form"))
    model = restored_model(form, store.read(f"classifier/{target.name}"))
    return questions.instead(config, parts, model, target, views, store.checkpoints("instead", target.name))


def _ensemble(config: Config, data: Data, read: Read, target: Target) -> Arrays:
    views = int(read(f"instead/{target.name}", "views")["views"])
    targets = [target._replace(seed=seed) for seed in range(config.members)]
    networks = [forms.target_of(config, data, read, each) for each in targets]
    return questions.ensemble(config, networks, data.parts[target.data], views)


def _attacked(config: Config, data: Data, read: Read, target: Target) -> Arrays:
    players = trained_players(config, data, read, config.repeated(target)[0])
    classifier = forms.target_of(config, data, read, target)
    return questions.attacked(config, data.parts[target.data], classifier, players)
