"""Loading through TFDS, on small data sets written here and (marked `mnist`) on the real one."""

import io
import json
import logging
import re
import shutil
import subprocess
import sys

import numpy as np
import pytest
from array_record.python import array_record_module
from PIL import Image

from advjax.data import CenterCrop, Stream, imagenet, load


def _write(root, name, version, splits, *, file_format="array_record", more=None):
    """A data set in the TFDS layout, 16 records to a chunk, written without TensorFlow.

    `more` are further features and their values for example i.
    """
    import tensorflow_datasets as tfds

    folder = root / name / version
    folder.mkdir(parents=True)
    shape = next(iter(splits.values()))[0].shape[1:]
    further = (more or {}).items()
    features = tfds.features.FeaturesDict(
        {
            "image": tfds.features.Image(shape=shape),
            "label": tfds.features.ClassLabel(num_classes=10),
            **{key: feature for key, (feature, _) in further},
        }
    )
    features.save_config(str(folder))
    for split, (images, labels) in splits.items():
        path = folder / f"{name}-{split}.array_record-00000-of-00001"
        writer = array_record_module.ArrayRecordWriter(str(path), "group_size:16")
        for index, (image, label) in enumerate(zip(images, labels, strict=True)):
            png = io.BytesIO()
            Image.fromarray(image.squeeze()).save(png, "png")
            png.seek(0)
            rest = {key: value(index) for key, (_, value) in further}
            writer.write(features.serialize_example({"image": png, "label": int(label), **rest}))
        writer.close()
    info = {"name": name, "version": version, "fileFormat": file_format}
    info["splits"] = [
        {
            "name": split,
            "filepathTemplate": "{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}",
            "numBytes": "1",
            "shardLengths": [str(len(labels))],
        }
        for split, (_, labels) in splits.items()
    ]
    (folder / "dataset_info.json").write_text(json.dumps(info))


def _random(count, shape, seed=0):
    rng = np.random.default_rng(seed)
    return rng.integers(0, 256, (count, *shape), np.uint8), rng.integers(0, 10, count)


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """A folder with an "mnist" of 2,100 images (more than one block) and a "cifar10" of 20."""
    root = tmp_path_factory.mktemp("tfds")
    mnist = {"train": _random(2100, (28, 28, 1)), "test": _random(30, (28, 28, 1), 1)}
    cifar10 = {"train": _random(20, (32, 32, 3), 2)}
    _write(root, "mnist", "3.0.1", mnist)
    _write(root, "mnist", "2.9.10", {"train": _random(3, (28, 28, 1), 3)})
    _write(root, "cifar10", "3.0.2", cifar10)
    return root, mnist, cifar10


def test_images_and_labels_come_back_in_order(prepared):
    root, mnist, cifar10 = prepared
    for name, split, (images, labels) in [
        ("mnist", "train", mnist["train"]),
        ("mnist", "test", mnist["test"]),
        ("cifar10", "train", cifar10["train"]),
    ]:
        dataset = load(name, split, data_dir=root)
        np.testing.assert_array_equal(dataset.images, images)
        np.testing.assert_array_equal(dataset.labels, labels)
        assert (dataset.images.dtype, dataset.labels.dtype) == (np.uint8, np.int32)
        assert (dataset.name, dataset.split, dataset.num_classes) == (name, split, 10)


@pytest.mark.parametrize("bounds", ["[:7]", "[1990:2010]", "[-5:]", "[:-2000]"])
def test_slices(prepared, bounds):
    root, mnist, _ = prepared
    start, stop = (int(part) if part else None for part in bounds[1:-1].split(":"))
    dataset = load("mnist", f"train{bounds}", data_dir=root)
    np.testing.assert_array_equal(dataset.images, mnist["train"][0][start:stop])
    np.testing.assert_array_equal(dataset.labels, mnist["train"][1][start:stop])


def test_the_environment_variable_is_read_at_the_call(prepared, monkeypatch):
    root, mnist, _ = prepared
    monkeypatch.setenv("TFDS_DATA_DIR", "/nowhere")
    with pytest.raises(FileNotFoundError, match="/nowhere/mnist"):
        load("mnist", "test")
    monkeypatch.setenv("TFDS_DATA_DIR", str(root))
    np.testing.assert_array_equal(load("mnist", "test").images, mnist["test"][0])


def test_no_log_line_about_the_group_size(prepared, caplog):
    with caplog.at_level(logging.DEBUG):
        load("mnist", "test", data_dir=prepared[0])
    assert "group size" not in caplog.text


def test_absent_data_set_says_where_it_looked_and_how_to_prepare_it(tmp_path):
    with pytest.raises(FileNotFoundError) as caught:
        load("mnist", "train", data_dir=tmp_path)
    message = str(caught.value)
    assert "data set 'mnist' is not there" in message
    assert str(tmp_path / "mnist") in message
    assert 'pip install "advjax[prepare]"' in message
    command = message.split('python -c "')[1].removesuffix('"')
    compile(command, "message", "exec")
    assert f"tfds.builder('mnist', data_dir='{tmp_path}', file_format='array_record')" in command


def test_a_format_for_tensorflow_is_not_read(tmp_path):
    _write(tmp_path, "mnist", "3.0.1", {"train": _random(2, (28, 28, 1))}, file_format="tfrecord")
    with pytest.raises(FileNotFoundError, match=r"stored as tfrecord, .*(?s:.)*advjax\[prepare\]"):
        load("mnist", "train", data_dir=tmp_path)


_POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:4d7a2146\nsize 12345\n"
_SHARD = "mnist-train.array_record-00000-of-00001"


@pytest.fixture(scope="module")
def sound(tmp_path_factory):
    """A folder with an "mnist" of 120 and 30 images to copy and to damage."""
    root = tmp_path_factory.mktemp("sound")
    _write(root, "mnist", "3.0.1", {"train": _random(120, (28, 28, 1)), "test": _random(30, (28, 28, 1), 1)})
    return root


def _flipped(content):
    return content[: len(content) // 2] + bytes([content[len(content) // 2] ^ 255]) + content[len(content) // 2 + 1 :]


@pytest.mark.parametrize(
    ("file", "change", "problem"),
    [
        (_SHARD, None, "is missing"),
        (_SHARD, lambda content: b"", "is cut: it has 0 bytes"),
        (_SHARD, lambda content: content[: 2**16], "is cut or damaged"),
        (_SHARD, lambda content: content[:-100], r"is cut or damaged \(Corrupted Riegeli/records file"),
        (_SHARD, _flipped, r"is damaged \(RuntimeError: Corrupted Riegeli/records file"),
        (_SHARD, lambda content: _POINTER.encode(), "is a pointer of Git LFS .*: run `git lfs pull`"),
        (_SHARD, lambda content: b"/annex/objects/SHA256E-s12--4d7a\n", "is a pointer of git-annex"),
        (_SHARD, "mnist-test.array_record-00000-of-00001", "holds 30 examples, .* it should hold 120"),
        ("dataset_info.json", None, "is missing"),
        ("dataset_info.json", lambda content: content[:100], r"is cut or no JSON \(Unterminated string"),
        ("dataset_info.json", lambda content: b"{}", "holds no JSON object"),
        ("dataset_info.json", lambda content: b'{"version": "1.0.0", "name": 3}', "is not what TFDS writes"),
        ("dataset_info.json", lambda content: _POINTER.encode(), "is a pointer of Git LFS"),
        ("features.json", None, "is missing"),
        ("features.json", lambda content: content[:100], r"is cut or no JSON \(Expecting"),
        ("features.json", lambda content: content.replace(b'"label"', b'"class"'), "names no feature label"),
    ],
)
def test_a_damaged_file_is_named_with_the_way_to_prepare_the_data_set_again(sound, tmp_path, file, change, problem):
    shutil.copytree(sound, tmp_path / "root")
    folder = tmp_path / "root" / "mnist" / "3.0.1"
    path = folder / file
    if change is None:
        path.unlink()
    else:
        path.write_bytes((folder / change).read_bytes() if isinstance(change, str) else change(path.read_bytes()))
    with pytest.raises(OSError, match=f"data set 'mnist' is damaged: {re.escape(str(path))} {problem}") as caught:
        load("mnist", "train", data_dir=tmp_path / "root")
    text = str(caught.value)
    assert f"remove {folder}" in text
    assert f"tfds.builder('mnist', data_dir='{tmp_path / 'root'}', file_format='array_record')" in text


def test_a_file_that_holds_more_than_it_should_is_damaged_too(sound, tmp_path):
    shutil.copytree(sound, tmp_path / "root")
    folder = tmp_path / "root" / "mnist" / "3.0.1"
    shutil.copy(folder / _SHARD, folder / "mnist-test.array_record-00000-of-00001")
    with pytest.raises(OSError, match=r"holds 120 examples, .* it should hold 30"):
        load("mnist", "test", data_dir=tmp_path / "root")


def test_only_versions_are_versions(sound, tmp_path):
    for name in ("3.0.1.bak2", "3.0.1.incompleteAB12", "incomplete.CD34_3.0.2", "4.0", "3.0.02"):
        shutil.copytree(sound / "mnist" / "3.0.1", tmp_path / "mnist" / name)
    with pytest.raises(FileNotFoundError, match=r"'mnist' is not there \(3\.0\.02, 3\.0\.1\.bak2, .*: no version\)"):
        load("mnist", "test", data_dir=tmp_path)
    _write(tmp_path, "mnist", "3.0.1", {"train": _random(3, (28, 28, 1))})
    assert len(load("mnist", "train", data_dir=tmp_path).labels) == 3


def test_the_newest_of_several_versions_is_read(tmp_path):
    for version, count in (("3.0.9", 2), ("3.0.10", 3), ("2.11.0", 4)):
        _write(tmp_path, "mnist", version, {"train": _random(count, (28, 28, 1))})
    assert len(load("mnist", "train", data_dir=tmp_path).labels) == 3
    (tmp_path / "mnist" / "3.0.11").mkdir()
    with pytest.raises(OSError, match=r"3\.0\.11/dataset_info\.json is missing"):
        load("mnist", "train", data_dir=tmp_path)


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (lambda content: content[:100], "is cut: it has 100 bytes"),
        (lambda content: _POINTER.encode(), "is a pointer of"),
    ],
)
def test_a_damaged_imagenet_is_found_when_it_is_opened(prepared_imagenet, tmp_path, change, problem):
    shutil.copytree(prepared_imagenet[0], tmp_path / "root")
    path = tmp_path / "root" / "imagenet2012" / "5.1.0" / "imagenet2012-train.array_record-00000-of-00001"
    path.write_bytes(change(path.read_bytes()))
    with pytest.raises(OSError, match=f"data set 'imagenet2012' is damaged: {re.escape(str(path))} {problem}"):
        imagenet("train", data_dir=tmp_path / "root")
    assert len(imagenet("validation", data_dir=tmp_path / "root")) == 5


def test_a_damaged_record_of_imagenet_is_found_when_it_is_read(prepared_imagenet, tmp_path):
    shutil.copytree(prepared_imagenet[0], tmp_path / "root")
    path = tmp_path / "root" / "imagenet2012" / "5.1.0" / "imagenet2012-train.array_record-00000-of-00001"
    path.write_bytes(_flipped(path.read_bytes()))
    train = imagenet("train", data_dir=tmp_path / "root")
    with pytest.raises(OSError, match=f"'imagenet2012' is damaged: {re.escape(str(path))} is .*damaged"):
        train.__getitems__(range(40))


def test_unknown_names_and_splits(prepared):
    with pytest.raises(ValueError, match=r"name must be one of .*'mnist', 'cifar10', .*\), got 'minst'"):
        load("minst", "train")
    with pytest.raises(ValueError, match=r"split must be one of \['test', 'train'\] for mnist, got 'valid'"):
        load("mnist", "valid", data_dir=prepared[0])
    for split in ("train[:10%]", "train[3]", "train+test", ""):
        with pytest.raises(ValueError, match="split must look like"):
            load("mnist", split, data_dir=prepared[0])
    for name in ("mnist", "digits"):
        with pytest.raises(ValueError, match=f"split 'train.*' of {name} holds no example"):
            load(name, "train[5000:]", data_dir=prepared[0])


def test_without_tfds(monkeypatch, prepared):
    monkeypatch.setitem(sys.modules, "tensorflow_datasets", None)
    with pytest.raises(ImportError, match=r'tensorflow-datasets: pip install "advjax\[data\]"'):
        load("mnist", "train", data_dir=prepared[0])


def test_importing_the_package_loads_no_data_library():
    heavy = ["tensorflow_datasets", "tensorflow", "sklearn", "array_record", "matplotlib"]
    program = f"import sys, advjax, advjax.data; print([name for name in {heavy} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def _imagenet_features():
    import tensorflow_datasets as tfds

    return {"file_name": (tfds.features.Text(), lambda index: f"n{index:08d}_1.JPEG")}


@pytest.fixture(scope="module")
def prepared_imagenet(tmp_path_factory):
    """An "imagenet2012" of ten classes and 40 small images."""
    root = tmp_path_factory.mktemp("imagenet")
    images, labels = _random(40, (40, 50, 3), 4)
    labels[:10] = np.arange(10)
    splits = {"train": (images, labels), "validation": (images[:5], labels[:5]), "test": (images[:2], labels[:2])}
    _write(root, "imagenet2012", "5.1.0", splits, more=_imagenet_features())
    return root, images, labels


def test_imagenet_is_read_encoded_image_by_image(prepared_imagenet):
    root, images, labels = prepared_imagenet
    train = imagenet("train", data_dir=root)
    assert (len(train), len(train.classes), train.name) == (40, 10, "imagenet2012 train")
    assert len(imagenet("validation", data_dir=root)) == 5
    np.testing.assert_array_equal(train.labels, labels)
    assert isinstance(train[7]["image"], bytes)
    assert (train[7]["label"], train[7]["name"]) == (labels[7], "n00000007_1.JPEG")
    whole = train.in_memory(CenterCrop((40, 50), None))
    np.testing.assert_array_equal(whole.images, images)


def test_a_slice_of_imagenet_and_of_its_classes(prepared_imagenet):
    root, images, labels = prepared_imagenet
    part = imagenet("train[5:25]", data_dir=root)
    np.testing.assert_array_equal(part.labels, labels[5:25])
    few = part.of_classes([7, 9])
    chosen = np.isin(labels[5:25], [7, 9])
    np.testing.assert_array_equal(few.labels, (labels[5:25] == 9)[chosen])
    np.testing.assert_array_equal(few.in_memory(CenterCrop((40, 50), None)).images, images[5:25][chosen])


def test_imagenet_through_a_stream(prepared_imagenet, caplog):
    root, images, labels = prepared_imagenet
    with caplog.at_level(logging.DEBUG):
        stream = Stream(imagenet("train", data_dir=root), 8, seed=0, transform=CenterCrop((40, 50), None), threads=2)
        pixels, found = stream.take(5)
        stream.close()
    assert "group size" not in caplog.text
    order = [int(np.flatnonzero((images == each).all((1, 2, 3)))[0]) for each in pixels.reshape(40, 40, 50, 3)]
    assert sorted(order) == list(range(40))
    np.testing.assert_array_equal(found.ravel(), labels[order])


def test_absent_imagenet_says_which_archives_to_put_where(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"ILSVRC2012_img_train\.tar and ILSVRC2012_img_val\.tar") as caught:
        imagenet("train", data_dir=tmp_path)
    assert str(tmp_path / "downloads" / "manual") in str(caught.value)
    compile(str(caught.value).split('python -c "')[1].removesuffix('"'), "message", "exec")


def test_splits_without_labels_are_refused(prepared_imagenet):
    with pytest.raises(ValueError, match=r"of \['train', 'validation'\] for imagenet2012, got 'test'"):
        imagenet("test", data_dir=prepared_imagenet[0])
    with pytest.raises(ValueError, match=r"holds no example"):
        imagenet("train[40:]", data_dir=prepared_imagenet[0])
    with pytest.raises(ValueError, match="got 'imagenet2012'; imagenet\\(\\) reads it"):
        load("imagenet2012", "train")


def test_further_small_sets(tmp_path):
    import tensorflow_datasets as tfds

    coarse = {"coarse_label": (tfds.features.ClassLabel(num_classes=20), lambda index: index % 20)}
    cifar100 = {"train": _random(30, (32, 32, 3), 5)}
    svhn = {split: _random(10, (32, 32, 3), seed) for seed, split in enumerate(("train", "test", "extra"), 6)}
    stl10 = {split: _random(6, (96, 96, 3), seed) for seed, split in enumerate(("train", "test", "unlabelled"), 9)}
    _write(tmp_path, "cifar100", "3.0.2", cifar100, more=coarse)
    _write(tmp_path, "svhn_cropped", "3.1.0", svhn)
    _write(tmp_path, "stl10", "1.0.0", stl10)
    for name, splits in [("cifar100", cifar100), ("svhn_cropped", svhn), ("stl10", stl10)]:
        for split, (images, labels) in splits.items():
            if split == "unlabelled":
                with pytest.raises(ValueError, match=r"one of \['test', 'train'\] for stl10, got 'unlabelled'"):
                    load(name, split, data_dir=tmp_path)
                continue
            dataset = load(name, split, data_dir=tmp_path)
            np.testing.assert_array_equal(dataset.images, images)
            np.testing.assert_array_equal(dataset.labels, labels)


@pytest.mark.mnist
def test_real_mnist():
    train, test = load("mnist", "train"), load("mnist", "test")
    assert train.images.shape == (60_000, 28, 28, 1)
    assert test.images.shape == (10_000, 28, 28, 1)
    # The class counts and the mean gray level of the original files, whatever the stored order.
    assert np.bincount(train.labels).tolist() == [5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949]
    assert np.bincount(test.labels).tolist() == [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]
    assert train.images.mean() == pytest.approx(33.3184, abs=1e-4)
