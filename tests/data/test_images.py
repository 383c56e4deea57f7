"""Sets of encoded images: folders, tables, subsets by class, streams, and the sample photographs if at hand."""

import os

import numpy as np
import pytest
from PIL import Image

from advjax.data import CenterCrop, RandomCrop, Stream, image_folder

CLASSES = {"ant": 3, "bee": 1, "cow": 4, "dog": 2}
samples = pytest.mark.skipif(
    not os.environ.get("ADVJAX_IMAGENET_SAMPLES"), reason="ADVJAX_IMAGENET_SAMPLES does not name the sample photographs"
)


def picture(gray, size=(20, 30)):
    return Image.new("RGB", (size[1], size[0]), (gray, gray, gray))


@pytest.fixture
def folder(tmp_path):
    """Ten one-colored images in four class folders; the gray level is 10 times the label plus the number."""
    for label, (name, count) in enumerate(CLASSES.items()):
        (tmp_path / name).mkdir()
        for number in range(count):
            picture(10 * label + number).save(tmp_path / name / f"{number}.png")
    (tmp_path / "README.txt").write_text("not a class")
    (tmp_path / "ant" / "notes.txt").write_text("not an image")
    return tmp_path


def table(root, lines, header="file,label,name"):
    (root / "labels.csv").write_text("\n".join([header, *lines]) + "\n")


CROP = CenterCrop((8, 8), 10)


def test_class_folders_in_the_order_of_their_names(folder):
    images = image_folder(folder)
    assert (len(images), images.classes) == (10, ("ant", "bee", "cow", "dog"))
    np.testing.assert_array_equal(images.labels, [0, 0, 0, 1, 2, 2, 2, 2, 3, 3])
    assert images.labels.dtype == np.int32
    data = images.in_memory(CROP)
    np.testing.assert_array_equal(data.images[:, 0, 0, 0], [0, 1, 2, 10, 20, 21, 22, 23, 30, 31])
    assert (data.images.shape, data.num_classes) == ((10, 8, 8, 3), 4)
    np.testing.assert_array_equal(data.labels, images.labels)
    assert images[3]["name"] == str(folder / "bee" / "0.png")


def test_classes_are_chosen_by_name_or_label_and_renumbered(folder):
    few = image_folder(folder).of_classes(["dog", 1])
    assert (few.classes, few.numbers) == (("dog", "bee"), (3, 1))
    np.testing.assert_array_equal(few.labels, [1, 0, 0])
    np.testing.assert_array_equal(few.in_memory(CROP).images[:, 0, 0, 0], [10, 30, 31])
    again = few.of_classes(["bee"])
    assert (again.numbers, again.labels.tolist()) == ((1,), [0])


def test_classes_are_drawn_by_the_seed(folder):
    images = image_folder(folder)
    drawn = [images.draw_classes(2, seed).classes for seed in range(12)]
    assert drawn == [images.draw_classes(2, seed).classes for seed in range(12)]
    assert len(set(drawn)) > 2
    assert all(names == tuple(sorted(names)) for names in drawn)
    assert images.draw_classes(4, 0).classes == images.classes


def test_a_stream_reads_them_in_the_background(folder):
    images = image_folder(folder).of_classes(["ant", "cow"])
    with_names = Stream(images, 7, seed=3, transform=CROP, threads=2)
    pixels, labels = with_names.take(2)
    with_names.close()
    assert pixels.shape == (2, 7, 8, 8, 3)
    np.testing.assert_array_equal(pixels[..., 0, 0, 0] >= 20, labels == 1)
    assert (np.sort(pixels[:, :, 0, 0, 0]) == [0, 1, 2, 20, 21, 22, 23]).all()
    random = Stream(images, 7, seed=3, transform=RandomCrop((5, 6)), threads=2)
    assert random.take(1)[0].shape == (1, 7, 5, 6, 3)
    random.close()


def test_a_table_keeps_its_numbers(tmp_path):
    for number in (0, 2, 5):
        picture(number).save(tmp_path / f"{number}.png")
    table(tmp_path, ["5.png,5,crane", "0.png,0,tench", "2.png,2,crane"])
    images = image_folder(tmp_path)
    assert images.classes == ("tench", "", "crane", "", "", "crane")
    np.testing.assert_array_equal(images.labels, [5, 0, 2])
    np.testing.assert_array_equal(images.in_memory(CROP).images[:, 0, 0, 0], [5, 0, 2])
    assert images.of_classes([5]).numbers == (5,)
    with pytest.raises(ValueError, match="several classes named 'crane': choose by label"):
        images.of_classes(["crane"])
    with pytest.raises(ValueError, match=r"no image of the classes \[1\]"):
        images.of_classes([1])


def test_take_keeps_labels_and_the_digest_tells_sets_apart(folder):
    images = image_folder(folder)
    some = images.take(np.array([9, 3]))
    np.testing.assert_array_equal(some.labels, [3, 1])
    assert some[1]["name"].endswith("bee/0.png")
    digests = {each.digest() for each in (images, some, images.of_classes(["dog"]), images.of_classes(["bee"]))}
    assert len(digests) == 4
    assert image_folder(folder).digest() == images.digest()


def test_files_are_taken_as_torchvision_does_and_hidden_ones_are_not(folder, tmp_path_factory):
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    for number in (50, 51):
        picture(number).save(elsewhere / f"{number}.PNG")
    picture(4).convert("L").save(folder / "ant" / "4.pgm")
    (folder / "ant" / "deeper").mkdir()
    picture(5).save(folder / "ant" / "deeper" / "0.ppm")
    (folder / "eel").symlink_to(elsewhere, target_is_directory=True)
    (folder / "dog" / "9.png").symlink_to(elsewhere / "50.PNG")
    # What macOS and Jupyter leave behind is no picture, whatever its name says.
    for hidden in (".ipynb_checkpoints", "__MACOSX"):
        (folder / hidden).mkdir()
        picture(99).save(folder / hidden / "0.png")
    (folder / "bee" / "._0.png").write_bytes(b"resource fork")
    (folder / "bee" / ".ipynb_checkpoints").mkdir()
    picture(99).save(folder / "bee" / ".ipynb_checkpoints" / "0-checkpoint.png")
    images = image_folder(folder)
    assert images.classes == ("ant", "bee", "cow", "dog", "eel")
    grays = images.in_memory(CROP).images[:, 0, 0, 0]
    np.testing.assert_array_equal(grays, [0, 1, 2, 4, 5, 10, 20, 21, 22, 23, 30, 31, 50, 50, 51])
    hidden = images.take(np.array([1])).skipped["hidden, or of the system"]
    assert hidden == (".ipynb_checkpoints", "__MACOSX", "bee/._0.png", "bee/.ipynb_checkpoints")
    assert images.skipped["of a suffix that is not read"] == ("README.txt", "ant/notes.txt")


def test_what_may_be_a_picture_is_not_left_out_unsaid(folder):
    picture(9).save(folder / "beside.png")
    picture(9).save(folder / "cow" / "9.tga")
    (folder / "cow" / "gone.png").symlink_to(folder / "nowhere.png")
    (folder / "cow" / "round").symlink_to(folder, target_is_directory=True)
    (folder / "again").symlink_to(folder, target_is_directory=True)
    with pytest.warns(UserWarning, match="left out") as said:
        images = image_folder(folder)
    assert len(images) == 10
    (words,) = (str(each.message) for each in said)
    for part in (
        "1 of a suffix that is not read (such as cow/9.tga)",
        "1 broken links, or no files (such as cow/gone.png)",
        "2 links back into a folder that they lie in (such as again)",
        "1 pictures beside the class folders (such as beside.png)",
    ):
        assert part in words


def test_a_folder_that_cannot_be_read_is_no_empty_one(folder, monkeypatch):
    def denied(path):
        if str(path).endswith("cow"):
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    scandir = os.scandir
    monkeypatch.setattr(os, "scandir", denied)
    with pytest.raises(PermissionError, match="cow"):
        image_folder(folder)


def test_tables_with_a_mark_or_in_another_encoding(tmp_path):
    picture(1).save(tmp_path / "a.png")
    (tmp_path / "labels.csv").write_text("\ufefffile,label,name\na.png,1,\u00e9land\n", encoding="utf-8")
    assert image_folder(tmp_path).classes == ("", "\u00e9land")
    (tmp_path / "labels.csv").write_text("file,label,name\na.png,1,\u00e9land\n", encoding="latin-1")
    with pytest.raises(ValueError, match=r"labels\.csv must be UTF-8 text"):
        image_folder(tmp_path)


def test_a_truncated_file_is_named(folder):
    path = folder / "cow" / "2.png"
    path.write_bytes(path.read_bytes()[:60])
    images = image_folder(folder)
    with pytest.raises(ValueError, match=r"cow/2\.png is no readable image"):
        images.in_memory(CROP)
    stream = Stream(images, 10, seed=0, transform=CROP, shuffle=False, threads=1)
    with pytest.raises(RuntimeError, match=r"cow/2\.png is no readable image"):
        stream.take(1)
    stream.close()


def test_what_is_no_image_folder_is_refused(tmp_path, folder):
    with pytest.raises(FileNotFoundError, match="nowhere is no folder"):
        image_folder(tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match=r"holds neither a subfolder for each class nor a labels\.csv"):
        image_folder(tmp_path / "empty")
    (folder / "eel").mkdir()
    with pytest.raises(ValueError, match=r"the class folder .*eel holds no image"):
        image_folder(folder)


@pytest.mark.parametrize(
    ("lines", "header", "error", "message"),
    [
        ([], "file,label", ValueError, "lists no image"),
        (["a.png,1"], "path,label", ValueError, "must have the columns file and label"),
        (["a.png,-1"], "file,label", ValueError, "line 2: label must be a number of 0 or more, got '-1'"),
        (["a.png"], "file,label", ValueError, "line 2: label must be"),
        (["a.png,0", "b.png,1"], "file,label", FileNotFoundError, r"line 3: b\.png is not in"),
    ],
)
def test_bad_tables_are_refused(tmp_path, lines, header, error, message):
    picture(1).save(tmp_path / "a.png")
    table(tmp_path, lines, header)
    with pytest.raises(error, match=message):
        image_folder(tmp_path)


@pytest.mark.parametrize("chosen", [["cat"], [4], [-1], [""], [], ["ant", 0]])
def test_bad_choices_of_classes_are_refused(folder, chosen):
    with pytest.raises(ValueError, match=r"has no class|each class once"):
        image_folder(folder).of_classes(chosen)


@pytest.mark.parametrize("count", [0, 5])
def test_too_many_classes_are_refused(folder, count):
    with pytest.raises(ValueError, match=r"count must be in 1\.\.4"):
        image_folder(folder).draw_classes(count, 0)


@samples
def test_the_sample_photographs():
    images = image_folder(os.environ["ADVJAX_IMAGENET_SAMPLES"])
    assert len(images) == 900
    assert images.classes[:2] == ("tench", "goldfish")
    assert images[1]["label"] == images.labels[1] == 1
    assert sum(name == "" for name in images.classes) == len(images.classes) - 900
    ten = images.draw_classes(10, seed=0)
    data = ten.in_memory(CenterCrop((224, 224), 256))
    assert data.images.shape == (10, 224, 224, 3)
    assert data.images.std() > 20
    np.testing.assert_array_equal(data.labels, np.arange(10))
