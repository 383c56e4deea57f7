"""Parts of the experiment: sources, bands, tables, stages on disk, the InfiMNIST-like row."""

import dataclasses

import jax
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from advjax.data import load as load_set
from advjax.evaluate import Share
from advjax.fingerprint import file_digest
from advjax.training import Trainer, train_step, unstack, with_weights
from experiments.hard_positives.claims import Errors, claims, verdicts
from experiments.hard_positives.config import ATTACKS, BASIC, HELD_OUT_TYPES, INFIMNIST, PRESETS, ROWS, Config
from experiments.hard_positives.run import (
    OPTIMIZER,
    HeldOut,
    choose,
    fresh,
    load,
    of_states,
    stages,
    train_bases,
    train_infimnist,
)
from experiments.hard_positives.study import SCHEDULE, schedule, table1
from experiments.store import open_store
from experiments.study import Row

TINY = Config(preset="tiny", data="digits", train_sources=600, heldout_sources=300, bases=3, heldout_per_type=10)


@pytest.mark.parametrize("heldout_source", ["train", "test"])
def test_sources_are_disjoint_and_decided_by_the_seed(heldout_source):
    config = dataclasses.replace(TINY, heldout_source=heldout_source)
    one, again = (load(config, None).data for _ in range(2))
    other = load(dataclasses.replace(config, seed=1), None).data
    held_out = np.concatenate(one.heldout)
    assert len(np.unique(one.sources)) == 600
    assert len(np.unique(held_out)) == 300
    assert one.heldout_from is (one.train if heldout_source == "train" else one.test)
    if heldout_source == "train":
        assert not np.intersect1d(one.sources, held_out).size
    np.testing.assert_array_equal(one.sources, again.sources)
    assert not np.array_equal(one.sources, other.sources)


def test_the_paper_preset_is_the_papers():
    config = PRESETS["paper"]
    assert len(HELD_OUT_TYPES) == 14
    assert [config.heldout_share(base) for base in range(3)] == [1667, 1667, 1666]
    assert config.training_types == tuple(ATTACKS)
    assert config.pool_size(60_000) == 60_000 + 3 * 9 * 37_663
    clean = (ROWS[BASIC].clean - ROWS["HC-D-9-1.05"].clean) / ROWS[BASIC].clean
    assert round(100 * clean, 1) == 28.2


@given(seed=st.integers(0, 5), sizes=st.lists(st.integers(30, 80), min_size=1, max_size=3), minimum=st.integers(1, 12))
def test_bands_are_of_equal_size_and_inside_their_edges(seed, sizes, minimum):
    rng = np.random.default_rng(seed)
    scores = [rng.uniform(0, 1, size) for size in sizes]
    bands = [(0.0, 0.5), (0.5, 0.75), (0.75, 0.9), (0.9, 1.0)]
    chosen = choose(scores, bands, minimum, jax.random.key(seed))
    inside = {band: min(((s > band[0]) & (s <= band[1])).sum() for s in scores) for band in bands}
    assert set(chosen) == {band for band in bands if inside[band] >= minimum}
    for band, indices in chosen.items():
        for own, drawn in zip(scores, indices, strict=True):
            assert len(np.unique(drawn)) == len(drawn) == min(inside[kept] for kept in chosen)
            assert ((own[drawn] > band[0]) & (own[drawn] <= band[1])).all()


def errors(clean, adversarial, *more):
    """Of networks with these shares of 10,000 clean and 70,000 adversarial images."""
    shares = (Share(float(np.mean(each)), count) for each, count in ((clean, 10_000), (adversarial, 70_000)))
    return Errors(*shares, np.array([clean, adversarial]), *more)


def test_table_keeps_the_papers_rows_and_fills_none_from_it():
    rows = {"FGV": errors([0.005, 0.007], [0.2, 0.3], 37_663, 60_000), BASIC: errors([0.01], [0.6])}
    lines = table1(PRESETS["paper"], rows).splitlines()
    assert "this run: MNIST error %" in lines[0]
    assert "| FGV | 0.697 ± 0.031 | 29.61 | 0.600 ± 0.141 | 25.00 ± 7.07 | 2 | 37,663 + 60,000 |" in lines
    assert "| Basic LeNet | 0.937 ± 0.110 | 64.21 | 1.000 | 60.00 | 1 |  |" in lines
    assert "| FGS | 0.790 ± 0.122 | 31.06 | not run | not run |  |  |" in lines
    assert "| Goodfellow et al. (quoted by the paper) | 0.782 | 17.9 | not run | not run |  |  |" in lines
    assert len(lines) == 2 + len(ROWS) + 1
    assert "digits error" in table1(PRESETS["quick"], rows).splitlines()[0]


def test_schedules_stand_side_by_side():
    assert schedule(PRESETS["cpu"]).keys() == SCHEDULE.keys()
    assert schedule(PRESETS["cpu"])["base networks"] == "1, 10,000 steps of 64"
    assert schedule(PRESETS["cpu"])["data"] == "MNIST"
    assert schedule(PRESETS["quick"])["data"] == "scikit-learn's digits"
    published = schedule(dataclasses.replace(PRESETS["figures"], base="0123456789abcdef"))
    assert published["base networks"] == "1, weights of a file (SHA-256 0123456789ab...)"
    assert published["fine-tuned networks a row"] == "none"


def test_the_base_network_of_a_file_is_that_one_and_known_by_its_digest(tmp_path):
    rng = np.random.default_rng(0)
    shapes = {"conv1": (20, 1, 5, 5), "conv2": (50, 20, 5, 5), "ip1": (500, 800), "ip2": (10, 500)}
    arrays = {f"{name}.weight": rng.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}
    arrays |= {f"{name}.bias": rng.normal(size=shape[:1]).astype(np.float32) for name, shape in shapes.items()}
    np.savez(tmp_path / "lenet.npz", **arrays)
    config = dataclasses.replace(TINY, bases=1, rows=(BASIC,), bands=(), base=str(tmp_path / "lenet.npz"))
    config, data, _ = load(config, None)
    assert config.base == file_digest(tmp_path / "lenet.npz")
    first = next(stages(config, data, open_store(tmp_path / "out", config)))
    assert first.name == "base"
    read = with_weights(fresh(0, "template", 1), first.compute())
    np.testing.assert_array_equal(unstack(read)[0].params["dense2"]["kernel"].get_value(), arrays["ip2.weight"].T)
    with pytest.raises(ValueError, match="base is one network: bases must be 1, got 3"):
        dataclasses.replace(config, bases=3)


def test_verdict_claims_nothing_within_noise():
    rows = {"FGV": errors([0.0095], [0.1]), "FGS": errors([0.02], [1.0]), BASIC: errors([0.01], [1.0])}
    lines = verdicts(PRESETS["cpu"], rows)
    assert (
        "adversarial error 100.00 % -> 10.00 % (better); clean error 1.00 % -> 0.95 % (no clear difference)" in lines[0]
    )
    assert "clean error 1.00 % -> 2.00 % (worse)" in lines[1]
    assert "by construction" in lines[-1]


def test_errors_are_divided_once():
    stored = {
        "clean_wrong": np.arange(100) < np.array([[5], [15]]),
        "adversarial_wrong": np.arange(56) < np.array([[14], [28]]),
        "adversarial_images": np.array([3, 5]),
        "clean_images": np.array(9),
    }
    found = Errors.of(stored)
    np.testing.assert_allclose(found.each, [[0.05, 0.15], [0.25, 0.5]])
    assert (found.clean.value, found.clean.asked, found.adversarial.asked) == (0.1, 100, 56)
    assert (found.trained_on, found.others) == (4, 9)


TYPES = ("FGS", "FGV", *(f"HC-{k}" for k in range(1, 10)))


def words(lines):
    return [line.split(":")[0] for line in lines]


def metrics_of(fgs_score):
    values = {"FGS": (40.0, fgs_score), **dict.fromkeys(TYPES[1:], (100.0, 0.7))}
    return [
        Row("hard_positives", "mnist/train", BASIC, 0, kind, None, name, 9, value)
        for kind, pair in values.items()
        for name, value in zip(("linf", "pass_valid"), pair, strict=True)
    ]


def asked(errors, images):
    """The same shares, of so many images."""
    clean, adversarial = (share._replace(asked=images) for share in errors[:2])
    return errors._replace(clean=clean, adversarial=adversarial)


# Many images, so that the paper's differences are clear.
PAPERS_ROWS = {name: asked(errors([row.clean / 100], [row.adversarial / 100]), 10**8) for name, row in ROWS.items()}
BANDS = {
    "PASS (valid) 0-700": asked(errors([0.0085], [0.40]), 10**8),
    "PASS (valid) 700-900": asked(errors([0.0070], [0.20]), 10**8),
    "PASS (valid) 900-1000": asked(errors([0.0090], [0.60]), 10**8),
}


def test_hard_positives_claims_hold_of_the_papers_table():
    lines = claims(PAPERS_ROWS, BANDS, metrics_of(0.6))
    assert set(words(lines)) == {"Holds"}
    assert lines[0] == (
        "Holds: HC-D-9-1.05 has 28.18 % less clean error than Basic LeNet (here 28.18 % less: 0.937 % -> 0.673 %)."
    )
    assert "14.81 % less clean error than FGS (here 14.81 % less" in lines[1]
    assert "HC-D-9-1.05 has no larger clean error than InfiMNIST-like (0.673 % against 0.697 %)" in lines[2]
    assert "L∞ 40.0 against at least 100.0, PASS (valid) 0.600 against at least 0.700" in lines[7]
    assert "0-700: 0.85 %, 700-900: 0.70 %, 900-1000: 0.90 %" in lines[8]


def test_hard_positives_claims_are_judged_by_the_images_asked():
    few = {name: asked(row, 10_000) for name, row in PAPERS_ROWS.items()}
    # 0.937 % against 0.673 % of 10,000 images is just clear, 0.790 % against it is not.
    assert words(claims(few, BANDS, metrics_of(0.6)))[:2] == ["Holds", "No verdict"]
    worse = {**PAPERS_ROWS, "HC-D-9-1.05": asked(errors([0.0095], [0.30]), 10**8)}
    lines = claims(worse, BANDS, metrics_of(0.8))
    assert words(lines) == [*(["Does not hold"] * 3), "Holds", "Holds", "Holds", "Does not hold", "Does not hold",
                            *(["Holds"] * 4)]  # fmt: skip
    assert "here 1.39 % more: 0.937 % -> 0.950 %" in lines[0]
    partly = {**PAPERS_ROWS, "HC-D-9-1.05": asked(errors([0.0078], [0.10]), 10**8)}
    assert words(claims(partly, BANDS, metrics_of(0.6)))[:2] == ["Holds in part", "Holds in part"]


def test_the_halves_of_fig_6_are_judged_apart():
    bands = {**BANDS, "PASS (valid) 900-1000": asked(errors([0.0060], [0.60]), 10**8)}
    assert words(claims(PAPERS_ROWS, bands, metrics_of(0.6)))[8:] == [
        "Does not hold", "Does not hold", "Holds", "Holds",
    ]  # fmt: skip


def test_claims_that_were_not_asked_say_so():
    lines = claims({BASIC: PAPERS_ROWS[BASIC]}, {}, metrics_of(0.6))
    assert words(lines) == [*(["Not run"] * 7), "Holds", *(["Not run"] * 4)]
    assert f"(it needs HC-D-9-1.05 and {BASIC})" in lines[0]
    assert INFIMNIST in lines[2]


def test_a_stage_is_stored_whole_or_not_at_all(tmp_path):
    store = open_store(tmp_path, TINY)

    def fails():
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        store.ensure("a/b", fails)
    assert not store.done("a/b")
    store.ensure("a/b", lambda: {"x": np.arange(3), "y": np.ones(2)})
    store.ensure("a/b", fails)
    np.testing.assert_array_equal(store.read("a/b", "x")["x"], np.arange(3))
    assert sorted(store.read("a/b")) == ["x", "y"]
    assert not list(tmp_path.rglob("*.partial"))
    assert list(store.seconds()) == ["a/b"]
    assert open_store(tmp_path, TINY).done("a/b")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"rows": ("HC-D-10",)}, "rows must be among"),
        ({"unmixed_rows": (INFIMNIST,)}, "unmixed_rows must be among"),
        ({"heldout_source": "validation"}, "heldout_source must be"),
        ({"bands": (0.5, 0.5)}, "bands must be rising"),
        ({"orders": 0}, "orders must be at least 1"),
    ],
)
def test_config_refuses(change, message):
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(TINY, **change)


@pytest.mark.slow
def test_infimnist_row_is_calibrated_and_never_made_of_the_test_set():
    train, test = load_set("digits", "train"), load_set("digits", "test")
    held_out = HeldOut(test, test.images[:28], test.labels[:28], np.repeat(np.arange(14, dtype=np.int32), 2))
    fit = Trainer(train_step(OPTIMIZER), 16, 20).fit
    bases = with_weights(fresh(0, "template", 1), train_bases(fit, 0, 1, 60, train, 1_500))
    stored = train_infimnist(fit, 0, of_states(bases), 1_500, 0.5, 3, train, 1_500, held_out)
    assert stored["amplitude"] > 0
    assert stored["clean_images"] == 1_500
    assert stored["clean_wrong"].shape == (1, len(test.labels))
    np.testing.assert_allclose(stored["misclassified_share"], 0.5, atol=0.05)
