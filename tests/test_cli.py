"""`advjax score` of two files: numbers of the library, what the pictures were, and one clear line for each bad file."""

import re
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from advjax.cli import main
from advjax.score_command import files
from advjax.score_command.table import Scored
from advjax.scores import border_mask, l2_per_pixel, pass_score


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
        Image.fromarray(pixels).save(path, **options)
        return str(path)

    return save


def floats(pixels):
    return (pixels.astype(np.float32) / np.float32(255)).reshape(1, *pixels.shape[:2], -1)


@pytest.mark.parametrize("color", [False, True])
def test_two_files(picture, save, tmp_path, capsys, color):
    if color:
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
    # The warp moves the center by the one pixel that the image was rolled.
    center = np.array([line.split() for line in lines[5:8]], float) @ [10, 12, 1]
    np.testing.assert_allclose(center[:2] / center[2], [11, 12], atol=0.1)
    assert lines[8:] == [f"pictures      20x24, {'RGB' if color else 'L'}"]
    written = np.asarray(Image.open(aligned)).astype(int)
    assert np.abs(written - picture)[2:-2, 2:-2].mean() < 5


@pytest.fixture
def score(capsys, monkeypatch):
    """`score(a, b, *options)`: the printed lines by their first word. PASS is a stand-in (see test_two_files)."""
    seen = {}

    def pass_of(images, masks, settings, sizes=None):
        seen.update(images=images, masks=masks)
        score = np.float32(1 - np.abs(images[0] - images[1]).mean())
        return Scored(score, score, np.eye(3), np.bool_(True)), images[0]

    monkeypatch.setattr(files, "pass_of", pass_of)

    def score(*arguments):
        main(["score", *arguments])
        return {line.split()[0]: line for line in capsys.readouterr().out.splitlines()}

    score.seen = seen
    return score


def test_pictures_are_turned_upright_and_it_is_said(picture, save, score):
    exif = Image.Exif()
    exif[0x0112] = 3
    turned = save("b.png", np.ascontiguousarray(picture[::-1, ::-1]), exif=exif)
    said = score(save("a.png", picture), turned)
    assert said["PASS"].split()[1] == "1.000000"
    assert said["linf"].split()[1] == "0"
    assert said["notes"].endswith("changed turned upright (EXIF orientation 3)")


def deep_ppm(path, values):
    path.write_bytes(b"P6 %d %d 65535\n" % values.shape[1::-1] + values.astype(">u2").tobytes())
    return str(path)


def test_deep_pictures_keep_their_depth(save, score, tmp_path):
    values = np.random.default_rng(0).integers(0, 65000, (12, 14, 3)).astype(np.uint16)
    changed = values.copy()
    changed[3, 4, 1] += 200
    said = score(deep_ppm(tmp_path / "a.ppm", values), deep_ppm(tmp_path / "b.ppm", changed))
    assert said["linf"].split()[1] == "0.77821"  # 200 / 257; 8 bits would say 0 or 1
    assert said["pictures"].split()[-1] == "RGB;16"
    gray = values[..., 0]
    said = score(save("a.png", gray), save("b.tif", (gray / 65535).astype(np.float32)))
    assert float(said["linf"].split()[1]) < 1e-4
    assert said["pictures"].endswith("I;16 and F")


def test_a_border_of_one_value_is_masked(picture, save, score):
    bordered = np.pad(picture, ((0, 0), (0, 2)))
    first, second = save("a.png", np.pad(picture, ((0, 0), (0, 2)), mode="edge")), save("b.png", bordered)
    said = score(first, second, "--mask-border", "0")
    assert said["masked"].split()[1] == f"{100 * 2 / 22:.2f}"
    assert said["linf"].split()[1] == "0"  # of the pixels that both have
    changed, original = score.seen["masks"]
    np.testing.assert_array_equal(changed, border_mask(bordered, 0))
    assert original.all()
    assert "masked" not in score(first, second)
    assert score.seen["masks"] is None


def deep(save, p, tmp):
    import cv2  # Pillow writes no such file

    path = str(tmp / "x.png")
    cv2.imwrite(path, np.stack([p.astype(np.uint16) * 256 + 77] * 3, -1))
    return path


def huge(save, p, tmp):
    """The header of a PNG file that would fill the memory."""
    header = b"IHDR" + struct.pack(">IIBBBBB", 1 << 30, 1 << 30, 8, 2, 0, 0, 0)
    path = tmp / "x.png"
    path.write_bytes(b"\x89PNG\r\n\x1a\n\0\0\0\r" + header + struct.pack(">I", zlib.crc32(header)) + b"\0\0\0\0IDAT")
    return str(path)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda save, p, tmp: save("x.png", p[:20]), "is 20x24 with 1 channel.s. but .* is 20x20"),
        (lambda save, p, tmp: save("x.png", np.stack([p] * 3, -1)), "with 3 channel"),
        (lambda save, p, tmp: save("x.png", np.stack([p] * 4, -1)), "x.png has transparent pixels .mode RGBA."),
        (lambda save, p, tmp: save("x.tif", p.astype(np.int32)), "x.tif holds signed 32-bit integers .mode I."),
        (lambda save, p, tmp: save("x.png", p[:1, :1]), "is 20x24 with 1 channel.s. but .* is 1x1"),
        (lambda save, p, tmp: (tmp / "x.png").write_text("no image") and str(tmp / "x.png"), "x.png is no readable"),
        (deep, "x.png has 16-bit color .mode RGB;16., which Pillow cuts to 8 bits: convert it to binary PPM"),
        (huge, "x.png is no readable image: Image size .* exceeds limit"),
        (lambda save, p, tmp: str(tmp / "nowhere.png"), "nowhere.png does not exist"),
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


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--csv", "t.csv"], "--csv is for two folders"),
        (["--save", "nowhere/x.png"], "--save: the folder .*nowhere does not exist"),
        (["--save", "x.txt"], "--save must end in the suffix of a picture"),
        (["--mask-border", "300"], "--mask-border: expected 0 to 255 or 'corner', got '300'"),
        (["--pyramid", "3"], "must have sides of 32 pixels or more"),
    ],
)
def test_bad_options_end_it_before_the_work(options, message, picture, save, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = save("x.png", picture)
    with pytest.raises(SystemExit) as stop:
        main(["score", path, path, *options])
    assert stop.value.code == 2
    assert re.search(message, capsys.readouterr().err)
