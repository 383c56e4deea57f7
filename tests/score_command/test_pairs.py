"""Which picture belongs to which."""

import pytest

from advjax.score_command.pairs import pair_up


def lay(folder, *names):
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    return folder


def names(found):
    return [(pair.name, pair.changed_name) for pair in found.pairs]


def test_names_go_before_stems_and_subfolders_stay_apart(tmp_path):
    before = lay(tmp_path / "before", "1.jpg", "1.png", "2.jpg", "cat/1.jpg", "dog/1.v2.bmp", "late.png")
    after = lay(tmp_path / "after", "1.png", "1.jpg", "2.PNG", "cat/1.png", "dog/1.v2.tif", "early.png")
    found = pair_up(before, after)
    assert names(found) == [
        ("1.jpg", "1.jpg"),
        ("1.png", "1.png"),
        ("2.jpg", "2.PNG"),
        ("cat/1.jpg", "cat/1.png"),
        ("dog/1.v2.bmp", "dog/1.v2.tif"),
    ]
    assert found.alone == (after / "early.png", before / "late.png")
    assert found.pairs[3].changed == after / "cat" / "1.png"


@pytest.mark.parametrize(("one", "other"), [(["1.jpg", "1.bmp"], ["1.png"]), (["1.png"], ["1.jpg", "1.bmp"])])
def test_several_of_one_stem_are_ambiguous(tmp_path, one, other):
    with pytest.raises(ValueError, match=r"2 files of .* may belong to 1 of the other folder: 1\.bmp, 1\.jpg"):
        pair_up(lay(tmp_path / "before", *one), lay(tmp_path / "after", *other))


def test_linked_folders_are_walked_on_both_sides(tmp_path):
    originals = lay(tmp_path / "originals", "1.png")
    before, after = tmp_path / "before", lay(tmp_path / "after", "weak/1.png", "strong/1.png")
    before.mkdir()
    for name in ("weak", "strong"):
        (before / name).symlink_to(originals, target_is_directory=True)
    assert names(pair_up(before, after)) == [("strong/1.png", "strong/1.png"), ("weak/1.png", "weak/1.png")]
