"""What a run's folder says of itself: the commit, the images read; and the folders that it refuses."""

import dataclasses
import json
import shutil
import subprocess

import numpy as np
import pytest

from advjax.data import Dataset, data_read, digest, originals
from experiments import provenance, store
from experiments.provenance import commit
from experiments.store import open_store

needs_git = pytest.mark.skipif(shutil.which("git") is None, reason="no git")


@dataclasses.dataclass(frozen=True)
class Choices:
    """A configuration."""

    seed: int = 0


def config_of(folder):
    return json.loads((folder / "config.json").read_text())


@needs_git
def test_the_commit_is_that_of_this_checkout():
    done = subprocess.run(
        ["git", "rev-parse", "HEAD"], cwd=provenance._HERE.parent, capture_output=True, text=True, check=False
    )
    if done.returncode:
        pytest.skip("no checkout")
    assert commit().removesuffix("-dirty") == done.stdout.strip()


@pytest.fixture
def uncached():
    """A commit found anew, before and after."""
    commit.cache_clear()
    yield
    commit.cache_clear()


def git(folder, *arguments):
    identity = ["-c", "user.name=a", "-c", "user.email=a@b.c", "-c", "commit.gpgsign=false"]
    subprocess.run(["git", *identity, *arguments], cwd=folder, check=True, capture_output=True)


@needs_git
def test_changed_files_make_it_dirty_and_other_peoples_repositories_do_not_count(tmp_path, monkeypatch, uncached):
    here = tmp_path / "provenance.py"
    here.write_text("1")
    monkeypatch.setattr(provenance, "_HERE", here)
    assert commit() == provenance._version()  # no repository
    git(tmp_path, "init")
    (tmp_path / "other").write_text("1")
    git(tmp_path, "add", "other")
    git(tmp_path, "commit", "-m", "one")
    commit.cache_clear()
    assert commit() == provenance._version()  # one that does not hold this file, as around an installed copy
    git(tmp_path, "add", "provenance.py")
    git(tmp_path, "commit", "-m", "two")
    git(tmp_path, "tag", "-a", "v1", "-m", "a tag is no commit")
    commit.cache_clear()
    clean = commit()
    assert len(clean) == 40
    here.write_text("2")
    commit.cache_clear()
    assert commit() == f"{clean}-dirty"


def test_config_names_the_commits_of_the_stages_where_they_differ(tmp_path, monkeypatch):
    monkeypatch.setattr(store, "commit", lambda: "one")
    run = open_store(tmp_path, Choices(), "images")
    run.ensure("a", lambda: {"x": np.zeros(1)})
    run.write_config(Choices())
    assert config_of(tmp_path)["commit"] == "one"
    assert "commits_of_stages" not in config_of(tmp_path)
    monkeypatch.setattr(store, "commit", lambda: "two")
    run.ensure("b", lambda: {"x": np.zeros(1)})
    run.write_config(Choices())
    assert config_of(tmp_path)["commit"] == "two"
    assert config_of(tmp_path)["commits_of_stages"] == ["one", "two"]


def test_a_run_does_not_go_on_with_other_images(tmp_path):
    open_store(tmp_path, Choices(), "cifar10 (SHA-256 ab)")
    assert config_of(tmp_path)["data"] == "cifar10 (SHA-256 ab)"
    open_store(tmp_path, Choices(), "cifar10 (SHA-256 ab)")
    with pytest.raises(ValueError, match=r"holds a run of other images \(cifar10 \(SHA-256 ab\); now: cifar10 \(SHA"):
        open_store(tmp_path, Choices(), "cifar10 (SHA-256 cd)")
    before = config_of(tmp_path)
    del before["data"]
    (tmp_path / "config.json").write_text(json.dumps(before))  # of a version that did not say
    assert open_store(tmp_path, Choices(), "cifar10 (SHA-256 cd)").data == "cifar10 (SHA-256 cd)"


def test_the_digest_is_of_every_pixel_and_label_in_any_order(rng):
    images, labels = rng.integers(0, 256, (9, 3, 3, 1)).astype(np.uint8), np.arange(9, dtype=np.int32)

    def of(images, labels):
        return digest(Dataset("d", "train", images, labels, 10))

    order = rng.permutation(9)
    assert of(images, labels) == of(images[order], labels[order])
    assert of(images, labels) != of(images[order], labels)
    assert of(images, labels) != of(images[:8], labels[:8])
    changed = images.copy()
    changed[4, 1, 1] ^= 1
    assert of(images, labels) != of(changed, labels)


def test_a_copy_of_cifar10_is_told_from_the_original_pixels(rng, monkeypatch):
    images, labels = rng.integers(0, 256, (9, 3, 3, 3)).astype(np.uint8), np.arange(9, dtype=np.int32)
    original = Dataset("cifar10", "train", images, labels, 10)
    monkeypatch.setitem(originals._ORIGINALS, "cifar10", (digest(original), digest(original)))
    assert data_read(original, original).startswith("cifar10, 9 and 9 images: the original pixels (SHA-256 ")
    compressed = dataclasses.replace(original, images=images // 8 * 8)
    assert "9 images: not the original pixels, or not all of them (" in data_read(original, compressed)
