"""What the experiment hands to training: which images each row's networks see, at which places signs are drawn."""

import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from advjax.attacks import fgs
from advjax.data import Dataset
from advjax.models import hidden_random_sign
from experiments.random_sign import run
from experiments.random_sign.config import PRESETS, Config
from experiments.random_sign.recipes import RECIPES
from experiments.random_sign.rows import ROWS, listed
from tests.experiments.spies import spy_on_training

CONFIG = Config("handed", rows=("mnist/LeNet", "mnist/FGSM-LeNet", "mnist/R-LeNet"), seeds=2, epochs=3, seed=5)
HIDDEN = ("pool1", "pool2", "dense1")


def digits(count=256):
    rng = np.random.default_rng(0)
    return Dataset(
        "mnist", "train", rng.integers(0, 256, (count, 28, 28, 1), np.uint8), np.arange(count, dtype=np.int32) % 10, 10
    )


@pytest.fixture
def training(monkeypatch):
    return spy_on_training(monkeypatch, run)


def handed(training, kind, place="", **options):
    config = CONFIG if not options else Config("handed", rows=CONFIG.rows, seeds=2, epochs=3, seed=5, **options)
    return training.of(run.learned, config, "mnist/LeNet", kind, place, 0.1, 2, digits(), pathlib.Path("nowhere"))


def test_the_base_learns_from_the_images_alone(training):
    spy = handed(training, "base")
    assert (spy.step["attack"], spy.step["hidden"], spy.step["clean_weight"]) == (None, None, 0.0)
    assert spy.trainer["batch_size"] == 128
    assert spy.steps == 3 * 2


def test_fgsm_rows_learn_from_both_in_equal_parts(training):
    spy = handed(training, "FGSM")
    assert spy.step["attack"] == fgs(0.1, levels=None)
    assert spy.step["clean_weight"] == 0.5
    assert spy.step["hidden"] is None


@pytest.mark.parametrize(("place", "names"), [("input", ("input",)), ("hidden", HIDDEN), ("both", ("input", *HIDDEN))])
def test_random_signs_are_drawn_at_their_places_and_no_image_is_attacked(training, place, names):
    spy = handed(training, "R", place, p=0.7, per="example")
    assert spy.step["hidden"] == hidden_random_sign(names, 0.1, 0.7, "example")
    assert (spy.step["attack"], spy.step["clean_weight"]) == (None, 0.0)


def test_all_rows_of_a_network_begin_with_the_same_weights_and_see_the_same_order(training):
    spies = [handed(spy_on, kind, place) for kind, place in (("base", ""), ("R", "both")) for spy_on in [training]]
    assert spies[0].key == spies[1].key
    first, second = (run.fresh(CONFIG, "mnist/LeNet", 2, digits()) for _ in range(2))
    kernels = [np.asarray(model.conv1.kernel[...]) for model in (*first, *second)]
    np.testing.assert_array_equal(kernels[0], kernels[2])
    assert (kernels[0] != kernels[1]).any()


def test_lenet_standardizes_by_its_training_images_or_has_pixels(training):
    pixels = digits().images / 255
    model = run.fresh(CONFIG, "mnist/LeNet", 1, digits())[0]
    assert (model.mean, model.std) == (pytest.approx(pixels.mean(), rel=1e-5), pytest.approx(pixels.std(), rel=1e-5))
    raw = Config("handed", rows=CONFIG.rows, standardize=False)
    assert run.fresh(raw, "mnist/LeNet", 1, digits())[0].mean == 0


def test_the_sweep_holds_its_images_back():
    kept, heldout = run.divided(Config("handed", heldout=56), digits())
    assert (len(kept.labels), len(heldout.labels)) == (200, 56)
    together = np.concatenate([kept.images, heldout.images]).reshape(256, -1)
    assert len(np.unique(together, axis=0)) == 256


def test_every_row_of_the_tables_is_there_with_what_it_needs():
    """Tables 1 to 5 have 6, 4, 11, 12 and 9 lines; the six of Table 1 are among Table 3's, and ResNet-20 is ours."""
    in_paper = {name for name, row in ROWS.items() if row.error is not None}
    assert len(in_paper) + 2 == 4 + 11 + 12 + 9  # two are not built
    lines = listed()
    assert len(lines) == len(ROWS) + 2 >= 25
    assert all(any(line.startswith(f"{name} (") for line in lines) for name in ROWS)


def test_base_rows_are_wanted_by_their_others():
    with pytest.raises(ValueError, match="rows must hold the base of each row, got none of mnist/LeNet"):
        Config("x", rows=("mnist/R-LeNet",))


@pytest.mark.parametrize("name", RECIPES)
def test_recipes_make_optimizers_for_any_number_of_steps(name):
    for steps in (2, 1000):
        optimizer = RECIPES[name].optimizer(steps, 10)
        params = jnp.zeros(3)
        with jax.numpy_dtype_promotion("standard"):  # as a step of training does
            optimizer.update(params, optimizer.init(params), params)


def test_presets_run_here_name_rows_that_can():
    for preset in ("cpu", "cpu-pixels", "cpu-capsules", "cpu-cifar10"):
        assert all(RECIPES[ROWS[row].recipe].here for row in PRESETS[preset].rows)
