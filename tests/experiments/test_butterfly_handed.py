"""What the stages of the butterfly study are handed: whose images, which networks, which strength."""

import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from advjax.attacks.perturbation import Perturbation
from advjax.classifier import from_function
from experiments.butterfly import forms, judge, learn, questions
from experiments.butterfly.answers import course, stood_still, verdict
from experiments.butterfly.claims import claims
from experiments.butterfly.config import Config, Game, Target
from experiments.butterfly.images import Data, divided
from experiments.butterfly.rows import ROWS, STAND_INS, listed
from tests.experiments.butterfly_for_tests import Form, digits, tiny
from tests.experiments.spies import fake_perturbation, spy_on_training

PARTS = divided(tiny(), "digits", digits(), digits(40, "test"))
TARGET = Target("digits", "R50", "A")
GAME = Game(TARGET, "enhancing", "Prop-50", "ls", 1e-4)
NOWHERE = pathlib.Path("nowhere")


def rows_of(images):
    """Images as a set, to be compared."""
    return {image.tobytes() for image in images}


# The cells.


def test_every_cell_of_the_three_tables_is_a_row_with_the_papers_numbers_and_says_what_it_needs():
    paper = {name: cell for name, cell in ROWS.items() if cell.data not in STAND_INS}
    assert [sum(cell.table == table for cell in paper.values()) for table in (1, 2, 3)] == [60, 60, 24]
    assert all(cell.accuracy is not None for cell in paper.values())
    assert paper["table1/STL-10/VGG16/A/Prop-50"].told == "92.4/0.903"
    assert paper["table2/ImageNet-50/D169/B/UAP"].told == "39.7/0.272"
    assert paper["table3/ImageNet-50/R101/B/Prop-B-lr"].told == "22.2/0.206"
    # Table 3 repeats cells of the other two.
    for cell in paper.values():
        if cell.table == 3 and cell.loss != "lr":
            table = 2 if cell.method == "Prop-B" else 1
            assert paper[f"table{table}/ImageNet-50/{cell.classifier}/{cell.start}/{cell.method}"].told == cell.told
    lines = listed()
    assert all(any(line.startswith(f"{name} ({cell.told}): ") for line in lines) for name, cell in paper.items())
    assert all("not here" in line for line in lines[: len(paper)])


def test_cells_say_which_problem_and_game_they_are_of():
    config = Config("x")
    game = config.game(ROWS["table2/STL-10/VGG16/B/Prop-B"])
    assert game == Game(Target("STL-10", "VGG16", "B"), "adversarial", "Prop-B", "ls", 3.0)
    assert (game.encoder, game.trunk) == ("R101", "R101")
    known = config.game(ROWS["table2/STL-10/VGG16/B/Prop-50"])
    assert (known.encoder, known.trunk) == ("R50", "VGG16")
    helped = config.game(ROWS["table1/STL-10/VGG16/B/Prop-101"])
    assert (helped.problem, helped.encoder, helped.trunk, helped.gamma) == ("enhancing", "R101", None, 1e-4)
    assert config.game(ROWS["table2/STL-10/VGG16/B/EHA"]) is None


def test_a_run_has_the_games_of_its_cells_seeds_sweeps_and_one_on_the_classifiers_own_images():
    config = tiny(rows=("table?/digits/R50/*",), enhancing_gammas=(0.0, 1.0), adversarial_gammas=(0.3,))
    games = config.games
    assert len(games) == len(set(games))
    helped = [game for game in games if game.target.classifier == "R50" and game.method == "Prop-50"]
    assert {game.target.seed for game in helped} == {0, 1}
    assert {game.gamma for game in helped if game.problem == "enhancing"} == {0, 1e-4, 1}
    assert [game for game in games if game.images == "C"] == [GAME._replace(images="C")]
    assert {game.loss for game in games if game.method == "Prop-B"} == {"ls", "lr"}
    # In the paper's preset generators learn from the classifier's images anyway.
    assert not [game for game in tiny(generator_images=0).games if game.images == "C"]


def test_main_games_are_played_again_with_a_discriminator_that_is_told_the_label():
    config = tiny(rows=("table?/digits/R50/*", "table2/digits/VGG16/B/Prop-50"))
    told = [game for game in config.games if game.per_label]
    assert told == config.told
    assert [(game.problem, game.method, game.target.start, game.target.seed) for game in told] == [
        ("enhancing", "Prop-50", "A", 0), ("enhancing", "Prop-50", "A", 1), ("adversarial", "Prop-50", "B", 0),
        ("adversarial", "Prop-101", "B", 0), ("adversarial", "Prop-B", "B", 0),
    ]  # fmt: skip
    assert {game._replace(per_label=False) for game in told} < set(config.games)
    assert len({game.name for game in config.games}) == len(config.games)


def test_baselines_want_a_generator_to_be_matched_with():
    with pytest.raises(ValueError, match="rows must hold a Prop- cell of Table 2 for table2/digits/R50/B/UAP"):
        tiny(rows=("table2/digits/R50/B/UAP",))
    with pytest.raises(ValueError, match=r"rows must be names or patterns of cells .* got 'table4/\*'"):
        tiny(rows=("table4/*",))


# The images.


def test_the_parts_share_no_image_and_none_with_the_test_set():
    pieces = [PARTS.encoder, PARTS.classifier, PARTS.generator, PARTS.validation]
    assert [len(piece.labels) for piece in pieces] == [24, 24, 24, 8]
    assert len(set.union(*(rows_of(piece.images) for piece in pieces))) == 80
    assert rows_of(PARTS.test.images) == rows_of(digits(40, "test").images[:24])


def test_without_images_of_its_own_a_generator_has_the_classifiers_and_these_take_what_is_left():
    parts = divided(tiny(generator_images=0, classifier_images=0), "digits", digits(), digits(40, "test"))
    assert parts.generator is parts.classifier
    assert len(parts.classifier.labels) == 96 - 24 - 8


def test_more_images_than_there_are_is_an_error():
    with pytest.raises(ValueError, match=r"must be 70 at most together, the training images of digits, got 80"):
        divided(tiny(), "digits", digits(70), digits(40, "test"))


def test_units_are_those_that_the_networks_see():
    assert PARTS.units == PARTS.std
    assert PARTS.std[0] == pytest.approx(np.std(digits().images / 255), rel=0.05)


# The networks.


@pytest.fixture
def networks(monkeypatch):
    """Names in the place of trained networks, and what was put together of them."""
    handed = {}
    monkeypatch.setattr(forms, "external", lambda config, data, read, name, form: f"external {form}")
    monkeypatch.setattr(forms, "target_of", lambda config, data, read, target: f"classifier {target.name}")
    monkeypatch.setattr(forms, "from_nnx", lambda model: model)
    monkeypatch.setattr(forms, "trunk_of", lambda network: f"trunk of {network}")

    def generator(encoder, shape, **options):
        handed["encoder"], handed["std"], handed["channels"] = encoder, options["std"], options["channels"]
        return "generator"

    def players(generator, classifier, shape, *, trunk, per_label, rngs):
        handed["classifier"], handed["trunk"], handed["shape"] = classifier, trunk, shape
        handed["per_label"] = per_label
        return "players"

    monkeypatch.setattr(forms, "generator", generator)
    monkeypatch.setattr(forms, "Players", players)
    return handed


@pytest.mark.parametrize(
    ("problem", "method", "trunk"),
    [
        ("enhancing", "Prop-50", None),
        ("adversarial", "Prop-50", "trunk of external VGG16"),
        ("adversarial", "Prop-B", "trunk of external R101"),
    ],
)
def test_the_trunk_is_the_classifiers_or_an_external_networks_that_knows_of_it_its_form_or_nothing(
    networks, problem, method, trunk
):
    game = Game(Target("digits", "VGG16", "B"), problem, method, "ls", 1.0)
    assert forms.players_of(tiny(), Data({"digits": PARTS}, {}), None, game) == "players"
    assert networks["trunk"] == trunk
    assert networks["classifier"] == "classifier digits/VGG16-B 0"
    assert networks["encoder"] == ("external R50" if method == "Prop-50" else "external R101")
    assert (networks["std"], networks["shape"], networks["channels"]) == (PARTS.units, (28, 28, 1), (2,))
    assert not networks["per_label"]
    forms.players_of(tiny(), Data({"digits": PARTS}, {}), None, game._replace(per_label=True))
    assert networks["per_label"]


def test_classifiers_b_begin_as_the_external_network_but_for_their_last_layer(monkeypatch):
    monkeypatch.setattr(forms, "network", lambda config, parts, form, key, classes=0: Form(10, key))
    outside = Form(10, jax.random.key(9))
    monkeypatch.setattr(forms, "external", lambda *_: outside)
    data = Data({"digits": PARTS}, {})
    begun = {start: forms.begun(tiny(), data, None, Target("digits", "R50", start)) for start in "AB"}

    def same(layer, start):
        return bool((getattr(begun[start], layer).kernel[...] == getattr(outside, layer).kernel[...]).all())

    assert (same("dense1", "A"), same("dense1", "B"), same("fc", "B")) == (False, True, False)


# The training.


@pytest.fixture
def training(monkeypatch):
    """A spy in the place of `Trainer`, `train_step` and `generator_step`."""
    spy = spy_on_training(monkeypatch, learn)

    def step(generator, discriminator, **options):
        spy.step = options
        return "step"

    monkeypatch.setattr(learn, "generator_step", step)
    for cached in (learn._generator_trainer, learn._classifier_trainer):
        cached.cache_clear()
    yield spy
    for cached in (learn._generator_trainer, learn._classifier_trainer):
        cached.cache_clear()


@pytest.mark.parametrize("images", ["G", "C"])
def test_generators_learn_from_their_images_as_many_steps_whosever_these_are_and_v_is_looked_at(training, images):
    game = GAME._replace(images=images, gamma=0.1, loss="lr")
    spy = training.of(learn.played, tiny(), PARTS, game, nnx.Linear(1, 1, rngs=nnx.Rngs(0)), NOWHERE)
    assert spy.step == {"problem": "enhancing", "gamma": 0.1, "loss": "lr"}
    wanted = {"G": PARTS.generator, "C": PARTS.classifier}[images]
    assert rows_of(spy.data.images) == rows_of(wanted.images)
    assert (spy.steps, spy.trainer["block"], spy.options["every"]) == (3 * 3, 3, 3)
    assert rows_of(spy.options["validation"][0]) == rows_of(PARTS.validation.images)


def test_a_tuned_classifier_has_gs_images_and_the_generators_steps(training):
    spy = training.of(questions.instead, tiny(), PARTS, Form(10, 0), TARGET, 3, NOWHERE)
    assert rows_of(spy.data.images) == rows_of(PARTS.generator.images)
    assert spy.steps == 9


# The judging.


def test_an_answer_that_is_no_number_is_wrong_and_has_no_probability():
    logits = np.array([[2.0, 0.0], [0.0, 2.0], [np.nan, 0.0]], np.float32)
    found = judge.counted(logits, np.zeros(3, np.int32))
    assert found["right"].tolist() == [True, False, False]
    np.testing.assert_allclose(found["probability"], [1 / (1 + np.exp(-2)), 1 / (1 + np.exp(2)), 0], rtol=1e-6)


@pytest.mark.parametrize(("wanted", "found"), [(0.25, 0.5), (4.0, 1.0)])
def test_a_strength_is_found_by_its_size_or_is_the_largest(wanted, found):
    assert judge.matched(lambda strength: strength**2, wanted) == pytest.approx(found, abs=1e-4)


@pytest.fixture
def attacks(monkeypatch):
    """Every attack that was made: its strength, the network, the images; the images come back a little brighter."""
    made = []

    def perturb_all(attack, network, images, labels, **options):
        made.append((attack, network, np.asarray(images)))
        pixels = np.asarray(images, np.float32) / (255 if images.dtype == np.uint8 else 1)
        return fake_perturbation(pixels + np.float32(attack.strength), labels)

    for module in (judge, questions):
        monkeypatch.setattr(module, "perturb_all", perturb_all)
        monkeypatch.setattr(module, "generated", lambda generator: _Fixed(0.25))
        monkeypatch.setattr(module, "fgs", lambda epsilon, **options: _Fixed(epsilon / 2))
    monkeypatch.setattr(questions, "pgd", lambda epsilon, **options: _Fixed(epsilon))
    return made


class _Fixed:
    def __init__(self, strength):
        self.strength = strength


class _Players:
    generator = "generator"


def mean_classifier():
    """Logits that are ten times the mean pixel, for class 1 of ten."""
    return from_function(lambda w, x: jnp.zeros((x.shape[0], 10)).at[:, 1].set(w * x.mean((1, 2, 3))), jnp.float32(10))


def test_fgsm_gets_the_generators_size_from_v_and_is_asked_once_for_t(attacks):
    found = judge.eha(tiny(), PARTS, mean_classifier(), _Players())
    assert found["epsilon"] == pytest.approx(0.5, abs=1e-3)
    assert found["wanted"] == pytest.approx(0.25, abs=1e-5)
    np.testing.assert_allclose(np.sqrt(found["pixel_square"]), 0.25, atol=1e-3)
    assert [rows_of(images) == rows_of(PARTS.test.images) for *_, images in attacks] == [False] * (len(attacks) - 1) + [
        True
    ]
    assert all(rows_of(images) == rows_of(PARTS.validation.images) for *_, images in attacks[:-1])


def test_a_universal_perturbation_is_made_of_gs_images_at_its_papers_radius_and_at_the_generators(attacks, monkeypatch):
    made = []

    class Found:
        fooling_rates, passes = np.array([0.5]), 1

        def __init__(self, radius):
            self.perturbation = np.full((28, 28, 1), radius / 2, np.float32)

    def universal(classifier, images, key, *, epsilon, **options):
        made.append((epsilon, np.asarray(images), options))
        return Found(epsilon)

    monkeypatch.setattr(judge, "universal_perturbation", universal)
    monkeypatch.setattr(judge, "added", lambda v, **options: _Fixed(float(v.ravel()[0])))
    found = judge.uap(tiny(), PARTS, mean_classifier(), _Players())
    assert [radius for radius, *_ in made] == [10 / 255, pytest.approx(0.25, abs=1e-5)]
    np.testing.assert_allclose(made[0][1] * 255, PARTS.generator.images[:4], atol=1e-3)
    assert made[0][2] == {"passes": 1, "fooling_rate": 0.8}
    np.testing.assert_allclose(np.sqrt(found["pixel_square"]), 5 / 255, rtol=1e-4)
    np.testing.assert_allclose(np.sqrt(found["pixel_square_matched"]), 0.25, rtol=1e-3)


def test_a_gray_box_attack_is_made_on_the_classifier_and_a_white_box_one_through_the_generator(attacks, monkeypatch):
    together = from_function(lambda w, x: jnp.zeros((x.shape[0], 10)) + w, jnp.float32(0))
    monkeypatch.setattr(questions, "from_nnx", lambda players: together)
    classifier = mean_classifier()
    found = questions.attacked(tiny(), PARTS, classifier, _Players())
    assert {f"{name}_{who}" for name in ("clean", "fgs", "pgd") for who in ("alone", "helped", "aware")} == set(found)
    networks = [network for attack, network, _ in attacks if attack.strength == tiny().epsilon]  # pgd
    assert networks == [classifier, together]
    # The generator comes behind the attacked image, not the clean one.
    helped = [images for attack, _, images in attacks if attack.strength == 0.25]
    np.testing.assert_allclose(helped[2] - helped[0], tiny().epsilon, atol=1e-6)


def test_shifts_and_members_are_averaged_as_probabilities_and_cost_no_more_than_a_generator():
    sure = from_function(lambda w, x: jnp.zeros((x.shape[0], 10)).at[:, 3].set(w), jnp.float32(30))
    others = [from_function(lambda w, x: jnp.zeros((x.shape[0], 10)).at[:, 4].set(w), jnp.float32(12))] * 2
    config = tiny(members=3)
    alone, shifted = (questions.averaged(config, [sure], PARTS.test, views) for views in (1, 5))
    np.testing.assert_allclose(shifted["probability"], alone["probability"], rtol=1e-5)
    # Two of three are sure of 4, though the sum of logits is larger for 3.
    three = questions.averaged(config, [sure, *others], PARTS.test, 1)
    assert three["right"].tolist() == (PARTS.test.labels == 4).tolist()
    assert int(questions.ensemble(config, [sure, *others], PARTS, 2)["members"]) == 2


# What is said of it.


def test_a_generator_that_stood_still_is_counted():
    wanted, saturated = np.array([0.5, 0.5, 1.0]), np.array([0.5, 0.4, 0.0])
    names = ("accuracy", "generator_loss", "discriminator_loss", "l2", "positive", "negative", "validation_accuracy")
    arrays = dict.fromkeys(names, np.zeros(3)) | {"wanted": wanted, "saturated": saturated}

    def read(stage, *keys):
        return {key: arrays[key] for key in keys}

    assert set(course(read, GAME)) == {*names, "wanted", "saturated"}
    assert stood_still(read, GAME) == 1


def test_better_is_of_the_same_images():
    right = np.arange(100) % 2 == 0
    assert verdict(right, np.ones(100, bool)) == "better"
    assert verdict(right, right) == "no clear difference"


def test_claims_without_their_cells_are_not_run():
    lines = claims(tiny(rows=("table1/digits/R50/A/vanilla",)), lambda *_: {})
    assert len(lines) >= 6
    assert all(line.startswith("Not run: ") for line in lines)


def test_perturbations_of_the_library_have_what_is_read_of_them():
    assert {"image", "prediction"} <= set(Perturbation.__dataclass_fields__)
