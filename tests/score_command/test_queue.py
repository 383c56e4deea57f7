"""The queue: rows in order, bad pairs alone, one compilation a bucket, bounded memory; the scores are stand-ins."""

import threading
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from advjax.score_command import queue
from advjax.score_command.blocks import Settings
from advjax.score_command.pairs import Pair

SMALL, LARGE = (16, 16, 1), (64, 64, 1)
SETTINGS = Settings("valid", 1, None)


def pairs_of(count):
    return [Pair(f"{k:04}", f"{k:04}", Path(f"{k:04}"), Path(f"{k:04}")) for k in range(count)]


@pytest.fixture
def scored(monkeypatch):
    """Stand-ins for reading and scoring; every 50th file is damaged, what `bad` names cannot be scored."""
    seen = SimpleNamespace(blocks=[], alive=0, most_alive=0, bad=set(), running={}, most_running={})
    lock = threading.Lock()

    def load(pair, levels, border):
        if int(pair.name) % 50 == 49:
            raise ValueError(f"{pair.name} is damaged")
        with lock:
            seen.alive += 1
            seen.most_alive = max(seen.most_alive, seen.alive)
        return SimpleNamespace(pair=pair)

    def score_block(pairs, bucket, length, settings):
        with lock:
            seen.running[bucket] = seen.running.get(bucket, 0) + 1
            if not any(each[0] == bucket for each in seen.blocks):
                seen.most_running[bucket] = max(seen.most_running.get(bucket, 0), seen.running[bucket])
        time.sleep(0.001)
        with lock:
            seen.blocks.append((bucket, length, len(pairs)))
            seen.running[bucket] -= 1
        names = [each.pair.name for each in pairs]
        if seen.bad & set(names):
            raise ValueError("masked away")
        with lock:
            seen.alive -= len(pairs)
        return [{"file": name} for name in names]

    monkeypatch.setattr(queue, "load", load)
    monkeypatch.setattr(queue, "score_block", score_block)
    monkeypatch.setattr(queue, "pixels_of_a_block", lambda: 16 * 64 * 64)
    monkeypatch.setattr(queue, "block_length", lambda bucket, count: min(count, 16))
    return seen


def test_rows_come_in_order_and_memory_is_bounded(scored):
    pairs = pairs_of(3000)
    rng = np.random.default_rng(0)
    # The second bucket is rare: its pictures must not wait for the end, nor hold all rows behind them.
    bucket_of = {pair: LARGE if rng.random() < 0.002 else SMALL for pair in pairs}
    behind = 0
    for number, result in enumerate(queue.rows(pairs, bucket_of, SETTINGS, lambda: False)):
        behind = max(behind, scored.alive)
        if number % 50 == 49:
            assert str(result) == f"{number:04} is damaged"
        else:
            assert result == {"file": f"{number:04}"}
    assert number == 2999
    assert scored.most_alive < 40 * 16
    assert {(bucket, length) for bucket, length, _ in scored.blocks} == {(SMALL, 16), (LARGE, min(16, 6))} or len(
        {(bucket, length) for bucket, length, _ in scored.blocks}
    ) == 2
    assert scored.most_running == {SMALL: 1, LARGE: 1}  # until the first block of a bucket has compiled


def test_a_pair_that_cannot_be_scored_costs_itself_only(scored):
    pairs = pairs_of(40)
    scored.bad = {"0003"}
    results = list(queue.rows(pairs, dict.fromkeys(pairs, SMALL), SETTINGS, lambda: False))
    assert [each["file"] for k, each in enumerate(results) if k != 3] == [f"{k:04}" for k in range(40) if k != 3]
    assert str(results[3]) == "0003 cannot be scored: masked away"


def test_a_stop_gives_out_what_is_scored_and_ends_the_threads(scored):
    pairs = pairs_of(400)
    before = threading.active_count()
    asked = iter(range(10**6))
    results = list(queue.rows(pairs, dict.fromkeys(pairs, SMALL), SETTINGS, lambda: next(asked) >= 100))
    names = [each["file"] for each in results if isinstance(each, dict)]
    assert 48 <= len(names) <= 100
    assert names == sorted(names)
    assert threading.active_count() == before


def test_a_large_block_goes_alone(scored, monkeypatch):
    monkeypatch.setattr(queue, "pixels_of_a_block", lambda: 64 * 64)  # 8 of them are one block of 16 such pictures
    pairs = pairs_of(48)
    list(queue.rows(pairs, dict.fromkeys(pairs, LARGE), SETTINGS, lambda: False))
    assert scored.most_alive <= 3 * 16


def test_errors_of_the_program_are_not_hidden(scored, monkeypatch):
    def broken(*arguments):
        raise AssertionError("a mistake")

    monkeypatch.setattr(queue, "score_block", broken)
    pairs = pairs_of(20)
    with pytest.raises(AssertionError, match="a mistake"):
        list(queue.rows(pairs, dict.fromkeys(pairs, SMALL), SETTINGS, lambda: False))
