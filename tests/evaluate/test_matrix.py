"""evaluate: the numbers of `perturb`, whatever the batches and devices; one program; errors that name the argument."""

import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from advjax import Failure, fgs, from_function, from_nnx, perturb, pgd, stack
from advjax.data import Dataset
from advjax.evaluate import evaluate
from advjax.scores import pass_score
from tests.models_for_tests import NnxNet, convolutional, convolutional_weights, grid_images, linear, linear_weights

MODEL = from_function(convolutional, convolutional_weights(0))
OTHER = from_function(convolutional, convolutional_weights(1))
IMAGES = np.round(grid_images(3, (21, 8, 8, 1)) * 255).astype(np.uint8)
LABELS = np.array(MODEL(jnp.asarray(IMAGES / np.float32(255))).argmax(-1), np.int32)
LABELS[:3] = (LABELS[:3] + 1) % 5  # answered wrongly when clean
KEY = jax.random.key(5)
ONE = jax.devices()[:1]
PGD = pgd(0.05, step_size=0.02, steps=3)


def run(attacks, models=None, data=(IMAGES, LABELS), **options):
    options = {"key": KEY, "batch_size": 8, "devices": ONE, **options}
    return evaluate(models or {"model": MODEL}, attacks, data, **options)


def perturbed(attack, model=MODEL, restart=0):
    return perturb(attack, model, jnp.asarray(IMAGES / np.float32(255)), LABELS, jax.random.fold_in(KEY, restart))


def test_every_number_is_that_of_perturb():
    report = run({"pgd": PGD})
    expected, cell, clean = perturbed(PGD), report.cell("model", "pgd"), report.cell("model", "clean")
    assert 0 < np.asarray(expected.success).sum() < 18
    np.testing.assert_array_equal(clean.correct, np.arange(21) >= 3)
    np.testing.assert_array_equal(cell.correct, expected.prediction == LABELS)
    np.testing.assert_array_equal(cell.success, expected.success)
    np.testing.assert_array_equal(cell.failure, expected.failure)
    for name in ("l0", "l1", "l2", "linf"):
        np.testing.assert_allclose(getattr(cell, name), getattr(expected, name), rtol=1e-5)
    logits = np.asarray(MODEL(expected.image), np.float64)
    loss = np.log(np.exp(logits).sum(-1)) - logits[np.arange(21), LABELS]
    np.testing.assert_allclose(cell.loss, loss, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(cell.mean_loss, loss.mean(), rtol=1e-4)
    hits = np.asarray(expected.success)
    assert cell.success_rate == hits.sum() / 18
    np.testing.assert_allclose(cell.mean_distances["l2"], np.asarray(expected.l2)[hits].mean(), rtol=1e-5)
    assert sum(cell.failures.values()) == 21 - hits.sum()
    assert cell.failures["ALREADY_MISCLASSIFIED"] == 3


def test_results_do_not_depend_on_batches_and_devices():
    assert len(jax.devices()) == 8
    cell = run({"pgd": PGD}, batch_size=100, devices=None).cell("model", "pgd")
    expected = perturbed(PGD)
    np.testing.assert_array_equal(cell.success, expected.success)
    np.testing.assert_allclose(cell.l1, expected.l1, rtol=1e-4)
    np.testing.assert_allclose(cell.loss, run({"pgd": PGD}).cell("model", "pgd").loss, rtol=1e-4, atol=1e-5)


def test_numbers_given_for_each_image_go_with_it():
    rng = np.random.default_rng(0)
    attack = fgs(rng.uniform(0, 0.2, 21), mask=rng.random((21, 8, 8, 1)) < 0.7)
    cell, expected = run({"masked": attack}).cell("model", "masked"), perturbed(attack)
    np.testing.assert_array_equal(cell.success, expected.success)
    np.testing.assert_array_equal(cell.l0, expected.l0)
    np.testing.assert_allclose(cell.linf, expected.linf, rtol=1e-5)


def test_other_weights_numbers_and_a_ragged_batch_compile_nothing(jit_compilations):
    def model(weights, images):
        return convolutional(weights, images)

    first, *others = (from_function(model, convolutional_weights(seed)) for seed in range(3))
    run({"fgs": fgs(0.1)}, {"a": first}, (IMAGES[:16], LABELS[:16]))
    before = jit_compilations()
    assert before > 1
    # Two models, another epsilon, and a last batch of five.
    run({"fgs": fgs(0.2)}, dict(zip("ab", others, strict=True)), transfer=True)
    assert jit_compilations() == before


def test_transferred_attacks():
    report = run({"pgd": PGD}, {"a": MODEL, "b": OTHER}, transfer=True)
    images = perturbed(PGD).image
    np.testing.assert_array_equal(report.cell("b", "pgd", "a").correct, OTHER(images).argmax(-1) == LABELS)
    np.testing.assert_array_equal(report.cell("a", "pgd", "a").correct, MODEL(images).argmax(-1) == LABELS)
    cell, clean = report.cell("b", "pgd", "a"), report.cell("b", "clean")
    np.testing.assert_array_equal(cell.success, clean.correct & ~cell.correct)
    np.testing.assert_array_equal(cell.failure == Failure.ALREADY_MISCLASSIFIED, ~clean.correct)
    np.testing.assert_array_equal(cell.l2, report.cell("a", "pgd").l2)
    sources = [(cell.model, cell.attack, cell.source) for cell in report.cells]
    assert sources == [
        ("a", "clean", "a"), ("a", "pgd", "a"), ("a", "pgd", "b"),
        ("b", "clean", "b"), ("b", "pgd", "a"), ("b", "pgd", "b"),
    ]  # fmt: skip


def test_without_transfer_each_model_answers_for_itself():
    report = run({"pgd": PGD}, {"a": MODEL, "b": OTHER})
    assert [(cell.model, cell.source) for cell in report.cells[1::2]] == [("a", "a"), ("b", "b")]
    np.testing.assert_array_equal(report.cell("b", "pgd").success, perturbed(PGD, OTHER).success)


def test_restarts_and_the_worst_case():
    weak = pgd(0.06, step_size=0.02, steps=3)
    report = run({"weak": weak, "fgs": fgs(0.03)}, restarts=3)
    results = [perturbed(weak, restart=restart) for restart in range(3)]
    right = np.stack([np.asarray(result.prediction) == LABELS for result in results])
    assert (right[0] != right[1]).any()
    cell = report.cell("model", "weak")
    np.testing.assert_array_equal(cell.run_correct, right)
    np.testing.assert_array_equal(cell.correct, right.all(axis=0))
    assert report.cell("model", "fgs").run_correct.shape == (1, 21)  # it draws nothing
    single = np.asarray(perturbed(fgs(0.03)).prediction) == LABELS
    survivors = right.all(axis=0) & single & (np.arange(21) >= 3)
    np.testing.assert_array_equal(report.survivors("model"), survivors)
    assert report.worst_case()["model"].value == survivors.mean()
    assert report.worst_case(["fgs"])["model"].value == (single & (np.arange(21) >= 3)).mean()


def test_the_members_of_a_stack_are_runs():
    members = [fgs(0.02), fgs(0.08)]
    cell = run({"stack": stack(members)}).cell("model", "stack")
    expected = np.stack([np.asarray(perturbed(member).prediction) == LABELS for member in members])
    np.testing.assert_array_equal(cell.run_correct, expected)


def test_numbers_for_each_image_in_a_stack_go_with_it():
    rng = np.random.default_rng(0)
    members = [fgs(rng.uniform(0, 0.2, 21)) for _ in range(2)]
    cell = run({"stack": stack(members)}).cell("model", "stack")
    expected = np.stack([np.asarray(perturbed(member).prediction) == LABELS for member in members])
    np.testing.assert_array_equal(cell.run_correct, expected)


def test_scores_are_taken_where_they_are_asked_for(monkeypatch):
    """Without the seconds that PASS takes to compile: the score is the mean difference of the pairs it is given."""

    class Score:
        def __init__(self, perturbed, original):
            self.score = jnp.mean(jnp.abs(perturbed - original), axis=(1, 2, 3))

    monkeypatch.setattr("advjax.evaluate.measure.pass_score", Score)
    monkeypatch.setattr("advjax.evaluate.checks._PASS_SIDE", 8)
    cell = run({"stack": stack([fgs(0.02), fgs(0.08)])}, pass_scores=True).cell("model", "stack")
    np.testing.assert_allclose(cell.pass_score, cell.l1 / 64, rtol=1e-5)
    assert run({"fgs": fgs(0.05)}).cell("model", "fgs").pass_score is None


@pytest.mark.slow
@pytest.mark.parametrize("devices", [1, 2])
def test_pass_scores(devices):
    images = np.round(grid_images(3, (4, 12, 12, 1)) * 255).astype(np.uint8)
    model = from_function(linear, linear_weights(0, 144))
    clean = jnp.asarray(images / np.float32(255))
    labels = np.asarray(model(clean).argmax(-1))
    report = run({"fgs": fgs(0.1)}, {"m": model}, (images, labels), pass_scores=True, devices=jax.devices()[:devices])
    expected = pass_score(perturb(fgs(0.1), model, clean, labels).image, clean).score
    np.testing.assert_allclose(report.cells[1].pass_score, expected, atol=1e-4)
    assert "PASS" in report.to_markdown()


def test_a_data_set_or_float_images_are_the_same_data():
    as_bytes = run({"fgs": fgs(0.05)}).to_json()
    assert run({"fgs": fgs(0.05)}, data=Dataset("test", "test", IMAGES, LABELS, 5)).to_json() == as_bytes
    assert run({"fgs": fgs(0.05)}, data=(IMAGES / np.float32(255), jnp.asarray(LABELS))).to_json() == as_bytes


def test_a_flax_network_on_several_devices():
    network = from_nnx(NnxNet(nnx.Rngs(0)))  # with batch statistics, and a random stream of its dropout
    cell = run({"fgs": fgs(0.05)}, {"net": network}, devices=jax.devices()[:3]).cell("net", "fgs")
    expected = perturbed(fgs(0.05), network)
    np.testing.assert_array_equal(cell.correct, expected.prediction == LABELS)
    np.testing.assert_allclose(cell.l2, expected.l2, rtol=1e-5)


def test_logits_that_are_not_numbers_are_no_right_answer():
    def broken(weights, images):
        bright = jnp.max(images, axis=(1, 2, 3)) > 0.9
        return linear(weights, images) + jnp.where(bright, jnp.nan, 0)[:, None]

    images = np.zeros((2, 6, 6, 1), np.uint8)
    images[1, 0, 0] = 255
    report = run({"fgs": fgs(0.0)}, {"m": from_function(broken, linear_weights())}, (images, np.array([0, 0])))
    assert not report.cell("m", "clean").correct[1]
    assert np.isnan(report.cell("m", "clean").mean_loss)
    assert '"mean_loss": "nan"' in report.to_json()


def test_a_progress_bar_counts_every_image(capsys, monkeypatch):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    run({"pgd": PGD, "fgs": fgs(0.1)}, restarts=2, progress="evaluation")
    error = capsys.readouterr().err
    assert "evaluation: 100%" in error
    assert f"{21 * 4}/{21 * 4}" in error.replace(".0", "")


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"models": {}}, ValueError, "models must be a mapping from name to Classifier with at least one entry"),
        ({"models": [MODEL]}, TypeError, "models must be a mapping .* got list"),
        ({"models": {"m": convolutional}}, TypeError, r"models\['m'\] must be a Classifier .*from_nnx.* got function"),
        ({"models": {"": MODEL}}, ValueError, "models .* names non-empty strings, got ''"),
        ({"models": {"m": MODEL, "m ": MODEL}}, ValueError, "models .* without duplicate names, got more than one 'm'"),
        ({"models": {"m": MODEL, "l": from_function(linear, linear_weights())}}, ValueError, r"models\['l'\] cannot"),
        (
            {"models": {"m": MODEL, "l": from_function(linear, linear_weights(0, 64, 7))}},
            ValueError,
            "models must all have the same number of classes, got {'m': 5, 'l': 7}",
        ),
        ({"models": {"m": from_function(lambda w, x: x, 0.0)}}, ValueError, r"models\['m'\] must return logits"),
        ({"attacks": {}}, ValueError, "attacks must be a mapping from name to attack with at least one entry"),
        ({"attacks": {"clean": fgs()}}, ValueError, 'attacks must not use the name "clean"'),
        ({"attacks": {"a": "fgs"}}, TypeError, r"attacks\['a'\]: attack must be an attack such as fgs\(\)"),
        ({"attacks": {"a": fgs(np.full(4, 0.1))}}, ValueError, r"attacks\['a'\]: step_size has one entry for each"),
        ({"data": IMAGES}, TypeError, r"data must be a pair \(images, labels\) or an advjax.data.Dataset, got ndarray"),
        ({"data": (IMAGES, LABELS[:4])}, ValueError, r"data: labels must have shape \(21,\).* got \(4,\)"),
        ({"data": (IMAGES[:0], LABELS[:0])}, ValueError, "data must hold at least one image"),
        ({"data": (IMAGES[0], LABELS)}, ValueError, r"data: images must be \[N, H, W, C\], got shape \(8, 8, 1\)"),
        ({"data": (IMAGES.astype(np.int64), LABELS)}, TypeError, "data: images must be uint8, or float32.* got int64"),
        ({"data": (IMAGES, LABELS / 1.0)}, TypeError, "data: labels must be integers, got float64"),
        ({"data": (IMAGES, LABELS + 3)}, ValueError, "data: labels must be classes from 0 to 4, got 7"),
        ({"data": (IMAGES, LABELS - 9)}, ValueError, "data: labels must be classes from 0, got -9"),
        ({"data": (IMAGES.astype(np.float32), LABELS)}, ValueError, r"images must be finite numbers in \[0, 1\]"),
        ({"key": 0}, TypeError, r"key must be jax.random.key\(seed\), got int"),
        ({"key": np.zeros(2, np.uint32)}, TypeError, r"key must be jax.random.key\(seed\), got uint32\[2\]"),
        ({"key": jax.random.split(KEY)}, ValueError, r"key must be .* got an array of keys of shape \(2,\)"),
        ({"batch_size": 0}, ValueError, "batch_size must be an integer of 1 or more, got 0"),
        ({"restarts": 0}, ValueError, "restarts must be an integer of 1 or more, got 0"),
        ({"devices": []}, ValueError, "devices must hold at least one device"),
        ({"pass_scores": True}, ValueError, "pass_scores needs images .* at least 11 pixels, got 8 x 8 x 1"),
    ],
)  # fmt: skip
def test_bad_input(change, error, message):
    arguments = {"models": {"model": MODEL}, "attacks": {"fgs": fgs(0.1)}, "data": (IMAGES, LABELS), "key": KEY}
    arguments |= {"batch_size": 8, "devices": ONE} | change
    with pytest.raises(error, match=message):
        evaluate(arguments.pop("models"), arguments.pop("attacks"), arguments.pop("data"), **arguments)
