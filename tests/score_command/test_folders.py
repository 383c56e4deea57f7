"""Two folders: few programs for many sizes, rows that do not depend on the others, and files that are no use."""

import csv
import os
import pathlib
import re
import signal

import jax
import numpy as np
import pytest
from PIL import Image

from advjax.cli import main
from advjax.command import Ended
from advjax.score_command import folders, queue
from advjax.score_command.buckets import buckets
from advjax.scores import l2_per_pixel, pass_score


def rows_of(text):
    return list(csv.DictReader(text.splitlines()))


def floats(pixels):
    return (pixels.astype(np.float32) / np.float32(255)).reshape(1, *pixels.shape[:2], -1)


@pytest.fixture
def run(tmp_path, capfd):
    """`run(*options) -> (exit code, stdout, stderr)` of the folders before and after."""

    def run(*options):
        code = 0
        try:
            main(["score", str(tmp_path / "before"), str(tmp_path / "after"), *options])
        except SystemExit as end:
            code = end.code
        return code, *capfd.readouterr()

    return run


@pytest.fixture
def three(save, picture, noisy):
    """Three pairs of two sizes in a row of names."""
    pictures = {"1.png": picture, "2.png": picture[:15], "3.png": 255 - picture}
    for name, pixels in pictures.items():
        save(f"before/{name}", pixels)
        save(f"after/{name}", noisy(pixels))
    return pictures


def test_twelve_sizes_take_few_programs_and_each_row_is_the_pictures_own(save, noisy, run):
    # With contrast everywhere: where an alignment is ill-determined, rounding decides where the iteration rests.
    coarse = np.random.default_rng(0).integers(20, 236, (8, 8), np.uint8)
    large = np.asarray(Image.fromarray(coarse).resize((40, 44), Image.Resampling.BICUBIC))
    pictures = {f"{k:02}.png": large[: 44 - 2 * k, : 29 + k] for k in range(12)}
    moved = {name: np.roll(noisy(pixels), 1, axis=1) for name, pixels in pictures.items()}
    for name in pictures:
        save(f"before/{name}", pictures[name])
        save(f"after/{name}", moved[name])
    compiled = []

    def note(name, seconds, fun_name="", **_):
        if name.endswith("backend_compile_duration") and "score" in fun_name:
            compiled.append(fun_name)

    jax.monitoring.register_event_duration_secs_listener(note)
    try:
        code, out, error = run()
    finally:
        jax.monitoring.clear_event_listeners()
    assert (code, error) == (0, "")
    programs = set(buckets(dict.fromkeys([(*pixels.shape, 1) for pixels in pictures.values()], 1)).values())
    assert len(compiled) == len(programs) == 1  # padding a few small pictures is quicker than compiling once more
    rows = rows_of(out)
    assert [row["file"] for row in rows] == sorted(pictures)
    # As if it were alone in the world, in an array of its own size.
    name, row = "11.png", rows[11]
    expected = pass_score(floats(moved[name]), floats(pictures[name]))
    assert float(row["pass"]) == pytest.approx(float(expected.score[0]), abs=2e-6)
    assert float(row["ssim"]) == pytest.approx(float(expected.ssim[0]), abs=2e-6)
    warp = [[float(row[f"h{r}{c}"]) for c in range(3)] for r in range(3)]
    np.testing.assert_allclose(warp, expected.alignment.warp[0], atol=1e-4)
    assert float(row["l2_per_pixel"]) == pytest.approx(
        255 * float(l2_per_pixel(floats(moved[name]), floats(pictures[name]))[0]), rel=1e-5
    )
    largest = np.abs(moved[name].astype(int) - pictures[name]).max()
    assert float(row["linf"]) == largest  # exactly: they are integers
    assert (row["width"], row["height"]) == tuple(map(str, reversed(pictures[name].shape)))


def test_the_table_says_what_it_holds(three, run, tmp_path, stand_in):
    code, out, error = run("--padding", "same")
    assert (code, error) == (0, "")
    rows = rows_of(out)
    assert [row["file"] for row in rows] == [row["changed"] for row in rows] == list(three)
    assert {row["padding"] for row in rows} == {"same"}
    assert {row["linf"] for row in rows} == {"9.0"}
    assert {(row["mode"], row["changed_mode"], row["masked"], row["notes"]) for row in rows} == {("L", "L", "0.0", "")}
    assert run("--padding", "same", "--csv", str(tmp_path / "table.csv")) == (0, "", "")
    assert (tmp_path / "table.csv").read_text() == out
    assert os.listdir(tmp_path / "before") == os.listdir(tmp_path / "after")


def test_bad_files_are_listed_and_the_others_scored(three, save, picture, run, tmp_path, stand_in):
    whole = (tmp_path / "after" / "1.png").read_bytes()
    save("before/4.png", picture)
    (tmp_path / "after" / "4.png").write_bytes(whole[:60] + b"\0" + whole[61:])
    save("before/5.png", picture)
    save("after/5.png", picture[:, :15])
    save("before/6.png", np.dstack([picture] * 4))
    save("after/6.png", np.dstack([picture] * 4))
    save("before/7.png", picture[:5])
    save("after/7.png", picture[:5])
    save("before/8.png", picture)
    code, out, error = run("--csv", str(tmp_path / "table.csv"))
    assert (code, out) == (1, "")
    assert [row["file"] for row in rows_of((tmp_path / "table.csv").read_text())] == list(three)
    lines = error.splitlines()
    assert lines[0] == "advjax: 5 of 8 could not be scored:"
    for words in (
        "after/4.png is no readable image: ",
        f"5.png is 20x24 with 1 channel(s) but {tmp_path}/after/5.png is 15x24",
        "before/6.png has transparent pixels (mode RGBA): put it on a background first",
        "before/7.png must have sides of 11 pixels or more, got 20x5",
        "before/8.png has no partner in the other folder",
    ):
        assert sum(words in line for line in lines) == 1, (words, error)


def test_what_is_no_picture_is_left_out_and_counted(three, run, tmp_path, stand_in):
    (tmp_path / "before" / ".DS_Store").write_bytes(b"macOS")
    (tmp_path / "before" / "._1.png").write_bytes(b"resource fork")
    (tmp_path / "after" / "notes.txt").write_text("text")
    (tmp_path / "after" / "round").symlink_to(tmp_path / "after", target_is_directory=True)
    code, out, error = run()
    assert code == 0
    assert len(rows_of(out)) == 3
    first, second = error.splitlines()
    assert first.endswith("before: 2 hidden, or of the system (such as .DS_Store)")
    assert second.endswith(
        "after: 1 of a suffix that is not read (such as notes.txt), "
        "1 links back into a folder that they lie in (such as round)"
    )


def test_subfolders_and_other_suffixes_find_their_partners(save, picture, run, stand_in):
    save("before/cat/1.png", picture)
    save("after/cat/1.bmp", picture)
    code, out, _ = run()
    (row,) = rows_of(out)
    assert (code, row["file"], row["changed"], row["linf"]) == (0, "cat/1.png", "cat/1.bmp", "0.0")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--csv", "nowhere/table.csv"], "--csv: the folder .*nowhere does not exist"),
        (["--csv", "."], "--csv must be a file"),
        (["--save", "aligned.png"], "--save is for two files"),
        (["--pyramid", "0"], "--pyramid must be at least 1, got 0"),
    ],
)
def test_what_would_fail_at_the_end_fails_before_the_work(options, words, three, run, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(folders, "pair_up", lambda *_: pytest.fail("began to work"))
    code, _, error = run(*options)
    assert code == 2
    assert error.count("\n") == 1
    assert re.search(words, error), error


def test_folders_without_a_common_name(save, picture, run):
    save("before/1.png", picture)
    save("after/2.png", picture)
    code, out, error = run()
    assert (code, out) == (2, "")
    assert "no picture of" in error
    assert error.count("\n") == 1


def test_names_that_are_no_utf8_are_kept(save, picture, run, tmp_path, stand_in):
    for folder in ("before", "after"):
        save(f"{folder}/x.png", picture)
        os.rename(os.fsencode(tmp_path / folder / "x.png"), os.fsencode(tmp_path / folder) + b"/caf\xe9.png")
    (tmp_path / "table.csv").write_text("an older table")
    code, *_ = run("--csv", str(tmp_path / "table.csv"))
    assert code == 0
    assert b"\ncaf\xe9.png,1.0," in (tmp_path / "table.csv").read_bytes()


@pytest.fixture
def in_the_foreground():
    """A shell's background jobs ignore Ctrl-C, and the command does as it is told: these tests may be run in one."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("in_the_foreground")
@pytest.mark.parametrize("to_file", [False, True])
def test_ctrl_c_keeps_the_rows_and_the_older_table(to_file, save, picture, run, tmp_path, stand_in, monkeypatch):
    for k in range(40):
        save(f"before/{k:02}.png", picture)
        save(f"after/{k:02}.png", picture)
    table = tmp_path / "table.csv"
    table.write_text("an older table")
    load, read = queue.load, []

    def interrupted(pair, levels, border):
        read.append(pair.name)
        if len(read) == 20:
            signal.raise_signal(signal.SIGINT)
        return load(pair, levels, border)

    monkeypatch.setattr(queue, "load", interrupted)
    monkeypatch.setattr(queue, "block_length", lambda *_: 4)
    before = signal.getsignal(signal.SIGINT)
    code, out, error = run(*(["--csv", str(table)] if to_file else []))
    assert code == 130
    assert signal.getsignal(signal.SIGINT) is before
    assert table.read_text() == "an older table"
    rows = rows_of((tmp_path / "table.csv.partial").read_text() if to_file else out)
    assert [row["file"] for row in rows] == [f"{k:02}.png" for k in range(len(rows))]
    assert 8 <= len(rows) <= 20
    kept = f", their rows are in {table}.partial" if to_file else ""
    assert error == f"advjax: interrupted: {len(rows)} of 40 pairs are scored{kept}\n"
    # The next run begins anew and takes the table's place.
    monkeypatch.setattr(queue, "load", load)
    assert run("--csv", str(table))[0] == 0
    assert len(rows_of(table.read_text())) == 40
    assert not pathlib.Path(f"{table}.partial").exists()


def test_an_error_of_the_program_keeps_the_rows_too(three, run, tmp_path, stand_in, monkeypatch):
    def broken(*arguments):
        raise AssertionError("a mistake")

    monkeypatch.setattr(queue, "score_block", broken)
    with pytest.raises(AssertionError, match="a mistake"):
        run("--csv", str(tmp_path / "table.csv"))
    assert not (tmp_path / "table.csv").exists()


def test_masks_of_the_borders_are_handed_on(save, picture, run, monkeypatch):
    bordered = np.pad(picture, 3)
    save("before/1.png", np.pad(picture, 3, mode="edge"))
    save("after/1.png", bordered)
    seen = {}

    def pass_of(images, masks, settings, sizes):
        seen["masks"] = masks
        raise Ended(3, "seen")

    monkeypatch.setattr("advjax.score_command.blocks.pass_of", pass_of)
    assert run("--mask-border", "0")[0] == 3
    changed, original = seen["masks"]
    np.testing.assert_array_equal(changed[0], bordered > 0)
    assert original[0].all()


def test_links_and_pipes_stay(three, run, tmp_path, stand_in):
    (tmp_path / "target.csv").write_text("an older table")
    (tmp_path / "link.csv").symlink_to(tmp_path / "target.csv")
    assert run("--csv", str(tmp_path / "link.csv"))[0] == 0
    assert (tmp_path / "link.csv").is_symlink()
    assert len(rows_of((tmp_path / "target.csv").read_text())) == 3
    os.mkfifo(tmp_path / "pipe")
    reader = os.open(tmp_path / "pipe", os.O_RDONLY | os.O_NONBLOCK)
    assert run("--csv", str(tmp_path / "pipe"))[0] == 0
    assert os.read(reader, 1 << 16) == (tmp_path / "target.csv").read_bytes()
    os.close(reader)
    assert (tmp_path / "pipe").is_fifo()
