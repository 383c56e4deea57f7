"""`advjax score`: numbers of the library, folders, and one clear line for each bad file."""

import csv
import re

import numpy as np
import pytest
from PIL import Image

from advjax.cli import main
from advjax.scores import l2_per_pixel, pass_score


@pytest.fixture
def picture():
    y, x = np.mgrid[:24, :20]
    spots = [(6, 8, 60), (14, 5, 110), (9, 17, 80), (15, 18, 50)]
    light = sum(a * np.exp(-((x - cx) ** 2 + (y - cy) ** 2) / 12) for cx, cy, a in spots)
    return np.round(40 + light).astype(np.uint8)


@pytest.fixture
def save(tmp_path):
    def save(name, pixels, **options):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(pixels, **options).save(path)
        return str(path)

    return save


def floats(pixels):
    return (pixels.astype(np.float32) / np.float32(255)).reshape(1, *pixels.shape[:2], -1)


@pytest.mark.parametrize("colour", [False, True])
def test_two_files(picture, save, tmp_path, capsys, colour):
    if colour:
        picture = np.stack([picture, 255 - picture, picture // 2], -1)
    changed = np.roll(picture, 1, axis=1)
    aligned = tmp_path / "aligned.png"
    main(["score", save("a.png", picture), save("b.png", changed), "--save", str(aligned)])
    lines = capsys.readouterr().out.splitlines()
    expected = pass_score(floats(changed), floats(picture))
    assert float(lines[0].split()[1]) == pytest.approx(float(expected.score[0]), abs=2e-6)
    assert float(lines[1].split()[1]) == pytest.approx(float(expected.ssim[0]), abs=2e-6)
    assert float(lines[2].split()[3]) == pytest.approx(
        255 * float(l2_per_pixel(floats(changed), floats(picture))[0]), abs=1e-3
    )
    assert float(lines[3].split()[1]) == np.abs(changed.astype(int) - picture).max()
    # The warp moves the centre by the one pixel that the image was rolled.
    centre = np.array([line.split() for line in lines[5:8]], float) @ [10, 12, 1]
    np.testing.assert_allclose(centre[:2] / centre[2], [11, 12], atol=0.1)
    written = np.asarray(Image.open(aligned)).astype(int)
    assert np.abs(written - picture)[2:-2, 2:-2].mean() < 5


def test_two_folders_of_several_sizes(picture, save, tmp_path, capsys):
    rng = np.random.default_rng(0)
    pictures = {"1.png": picture, "2.png": picture[:15], "3.png": 255 - picture}
    for name, pixels in pictures.items():
        save(f"before/{name}", pixels)
        save(f"after/{name}", np.clip(pixels + rng.integers(-9, 10, pixels.shape), 0, 255).astype(np.uint8))
    table = tmp_path / "table.csv"
    main(["score", str(tmp_path / "before"), str(tmp_path / "after"), "--csv", str(table)])
    rows = list(csv.DictReader(table.read_text().splitlines()))
    assert [row["file"] for row in rows] == list(pictures)
    assert all(0 < float(row["pass"]) < 1 for row in rows)
    assert {round(float(row["linf"]), 3) for row in rows} == {9.0}
    main(["score", str(tmp_path / "before"), str(tmp_path / "after")])
    assert capsys.readouterr().out == table.read_text()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda save, p, tmp: save("x.png", p[:20]), "is 20x24 with 1 channel.s. but .* is 20x20"),
        (lambda save, p, tmp: save("x.png", np.stack([p] * 3, -1)), "with 3 channel"),
        (lambda save, p, tmp: save("x.png", np.stack([p] * 4, -1)), "has an alpha channel .mode RGBA."),
        (lambda save, p, tmp: save("x.png", p.astype(np.uint16) * 256), "must be 8-bit grey or RGB, got mode I;16"),
        (lambda save, p, tmp: save("x.png", p[:1, :1]), "must have sides of 11 pixels or more, got 1x1"),
        (lambda save, p, tmp: (tmp / "x.png").write_text("no image") and str(tmp / "x.png"), "is not an image file"),
        (lambda save, p, tmp: str(tmp / "nowhere.png"), "does not exist"),
        (lambda save, p, tmp: str(tmp), "two files or two folders"),
    ],
)
def test_bad_files_get_one_line_and_exit_code_2(make, message, picture, save, tmp_path, capsys):
    good = save("good.png", picture)
    with pytest.raises(SystemExit) as stop:
        main(["score", good, make(save, picture, tmp_path)])
    assert stop.value.code == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert re.search(message, error), error


def test_folders_with_different_names(picture, save, tmp_path, capsys):
    save("before/1.png", picture)
    save("after/2.png", picture)
    with pytest.raises(SystemExit) as stop:
        main(["score", str(tmp_path / "before"), str(tmp_path / "after")])
    assert stop.value.code == 2
    assert "2 file(s) are in one folder only, such as 1.png" in capsys.readouterr().err
