"""Streams through Grain: the same batches on any number of processes, to the bit, and errors that name the example."""

import json
import os
import pickle
import signal
import subprocess
import sys
import threading

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from advjax.data import ExampleError, Stream


def numbered(count, offset=0):
    """Examples whose label and pixels are their index."""
    return [{"image": np.full((2, 3, 1), i, np.uint8), "label": i + offset} for i in range(count)]


def add_noise(example, rng):
    noise = rng.integers(0, 100, (2, 3, 1)).astype(np.uint8)
    return {"image": example["image"] + noise, "label": np.int64(example["label"])}


@given(count=st.integers(1, 23), batch_size=st.integers(1, 9), seed=st.integers(0, 2**32 - 1))
def test_each_epoch_of_a_stream_is_a_permutation(count, batch_size, seed):
    stream = Stream(numbered(count), batch_size, seed=seed, threads=2, prefetch=3)
    images, labels = stream.take(3 * -(-count // batch_size))
    stream.close()
    np.testing.assert_array_equal(images[:, :, 0, 0, 0], labels)
    epochs = labels.ravel()[: 3 * count].reshape(3, count)
    assert (np.sort(epochs, axis=1) == np.arange(count)).all()
    if count > 9:
        assert len(np.unique(epochs, axis=0)) == 3


def test_without_shuffling_a_stream_is_in_the_order_of_its_source():
    stream = Stream(numbered(5), 4, seed=0, shuffle=False)
    np.testing.assert_array_equal(stream.take(3)[1], [[0, 1, 2, 3], [4, 0, 1, 2], [3, 4, 0, 1]])


@pytest.mark.parametrize("count", [2, 3, 6])
def test_processes_read_disjoint_parts_of_the_same_batches(count):
    source = numbered(23)
    images, labels = Stream(source, 6, seed=5, transform=add_noise).take(8)
    parts = [
        Stream(source, 6, seed=5, transform=add_noise, process_index=index, process_count=count).take(8)
        for index in range(count)
    ]
    np.testing.assert_array_equal(np.concatenate([part[0] for part in parts], axis=1), images)
    np.testing.assert_array_equal(np.concatenate([part[1] for part in parts], axis=1), labels)


@settings(max_examples=12)
@given(before=st.integers(0, 20), more=st.integers(1, 4), prefetch=st.integers(0, 7), threads=st.integers(1, 3))
def test_a_restored_stream_goes_on_to_the_bit(before, more, prefetch, threads):
    source = numbered(23)
    images, labels = Stream(source, 4, seed=9, transform=add_noise).take(before + 6)
    stopped = Stream(source, 4, seed=9, transform=add_noise, prefetch=prefetch, threads=threads)
    if before:
        stopped.take(before)
    state = json.loads(json.dumps(stopped.state()))
    # What is read ahead or taken after the state was saved does not count, nor the number of processes.
    after = stopped.take(more)
    for index in range(2):
        resumed = Stream(source, 4, seed=9, transform=add_noise, process_index=index, process_count=2)
        resumed.restore(state)
        np.testing.assert_array_equal(resumed.take(6)[0], images[before:, 2 * index : 2 * index + 2])
    np.testing.assert_array_equal(after[0], images[before : before + more])
    stopped.restore(state)
    np.testing.assert_array_equal(stopped.take(6)[1], labels[before:])


def test_draws_of_the_transform_differ_between_examples_epochs_and_seeds():
    source = [{"image": np.zeros((2, 3, 1), np.uint8), "label": i} for i in range(4)]
    takes = [Stream(source, 4, seed=seed, transform=add_noise).take(3)[0] for seed in (0, 1)]
    assert len(np.unique(np.concatenate(takes).reshape(24, 6), axis=0)) == 24


def test_sources_are_read_in_one_call_where_they_can():
    calls = []

    class Together:
        def __len__(self):
            return 10

        def __getitem__(self, index):
            return numbered(10)[index]

        def __getitems__(self, indices):
            calls.append(len(indices))
            return [self[index] for index in indices]

    together = Stream(Together(), 4, seed=1, prefetch=0).take(3)
    assert calls == [4, 4, 4]
    np.testing.assert_array_equal(together[1], Stream(numbered(10), 4, seed=1).take(3)[1])


def test_batches_are_read_ahead_while_nobody_takes_them():
    read = threading.Event()
    last = []

    def note(example, rng):
        last.append(example["label"])
        if len(last) >= 4 * 6:
            read.set()
        return example

    stream = Stream(numbered(50), 4, seed=0, transform=note, prefetch=5)
    stream.take(1)
    assert read.wait(timeout=30)
    assert stream.state()["step"] == 1
    stream.close()


@pytest.mark.parametrize(
    ("source", "options", "message"),
    [
        (numbered(22), {}, "length is 22, in the state 23"),
        (numbered(23, offset=1), {}, "fingerprint"),
        (numbered(23), {"seed": 4}, "seed is 4, in the state 3"),
        (numbered(23), {"batch_size": 6}, "batch_size is 6, in the state 4"),
        (numbered(23), {"shuffle": False}, "shuffle is False, in the state True"),
    ],
)
def test_restore_refuses_the_state_of_another_stream(source, options, message):
    state = Stream(numbered(23), 4, seed=3).state()
    other = Stream(source, **{"batch_size": 4, "seed": 3} | options)
    with pytest.raises(ValueError, match=f"does not belong to this stream.*{message}"):
        other.restore(state)
    with pytest.raises(ValueError, match="step must be"):
        other.restore(other.state() | {"step": -1})


@pytest.mark.parametrize("batch_size", [1, 4])
def test_images_of_two_types_are_refused(batch_size):
    """NumPy would stack uint8 0..255 with float32 0..1, of one batch as of two."""

    def sometimes_float(example, rng):
        image = example["image"]
        return example | {"image": image.astype(np.float32) / 255 if example["label"] % 2 else image}

    stream = Stream(numbered(8), batch_size, seed=0, transform=sometimes_float)
    with pytest.raises((ValueError, RuntimeError), match=r"one size and type, got .*float32.*uint8"):
        stream.take(4)
    stream.close()


def test_errors_name_the_example_and_leave_the_position():
    source = [*numbered(9), {"image": np.zeros((2, 3, 1), np.uint8), "label": 77}]

    def picky(example, rng):
        if example["label"] == 77 and broken:
            raise KeyError("no seventy-seven")
        return example

    broken = True
    stream = Stream(source, 5, seed=0, transform=picky)
    with pytest.raises(ExampleError, match="transform failed on example 9 of the source: KeyError: 'no seventy"):
        stream.take(4)
    assert stream.state()["step"] == 0
    broken = False
    assert 77 in stream.take(2)[1]


class Torn(list):
    """A source with an example whose file is not there."""

    name = "torn-set"

    def __getitem__(self, index):
        if index == 3:
            raise FileNotFoundError(2, "No such file or directory", "/data/3.png")
        return super().__getitem__(index)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (lambda example: {**example, "image": example["image"].astype(np.int16)}, TypeError, "image of int16"),
        (lambda example: {**example, "image": example["image"][0]}, ValueError, r"image of shape \(3, 1\)"),
        (lambda example: {**example, "label": np.eye(3)[0]}, TypeError, "label of float64"),
        (lambda example: {**example, "label": np.eye(3, dtype=int)[0]}, ValueError, r"label of shape \(3,\)"),
        (lambda example: {**example, "image": example["image"][: 1 + example["label"] % 2]}, ValueError, "one size"),
    ],
)
def test_take_refuses_examples_that_are_no_images(change, error, message):
    stream = Stream(numbered(8), 4, seed=0, transform=lambda example, rng: change(example))
    with pytest.raises(error, match=message):
        stream.take(2)


class TornTogether(Torn):
    def __getitems__(self, indices):
        return [self[index] for index in indices]


UNREADABLE = r"^example 3 of torn-set could not be read: FileNotFoundError: \[Errno 2\] No such .*: '/data/3.png'$"


@pytest.mark.parametrize(("kind", "options"), [(Torn, {}), (TornTogether, {}), (Torn, {"workers": 1, "prefetch": 1})])
def test_a_read_that_failed_names_set_example_file_and_cause(kind, options):
    stream = Stream(kind(numbered(8)), 4, seed=0, **options)
    with pytest.raises(ExampleError, match=UNREADABLE) as failed:
        stream.take(2)
    cause = failed.value.__cause__
    while isinstance(cause, ExampleError):
        cause = cause.__cause__
    assert isinstance(cause, FileNotFoundError)
    assert cause.filename == "/data/3.png"
    # Grain speaks of its own frames there.
    assert not getattr(failed.value, "__notes__", [])


def test_a_read_that_failed_when_the_stream_is_made_is_named_too():
    with pytest.raises(ExampleError, match="example 3 of torn-set could not be read: FileNotFoundError"):
        Stream(Torn(numbered(7)), 4, seed=0)


def test_a_transform_that_failed_names_the_file():
    source = [example | {"name": f"/data/{example['label']}.png"} for example in numbered(4)]

    def decode(example, rng):
        raise OSError("image file is truncated")

    with pytest.raises(ExampleError, match=r"example \d of the source \(/data/\d.png\): OSError: image file is trunc"):
        Stream(source, 4, seed=0, transform=decode).take(1)


def test_a_cause_that_cannot_be_pickled_stays_at_home():
    class Local(OSError):
        pass

    for cause, kept in ((OSError("bad block"), "OSError('bad block')"), (Local("bad block"), "None")):
        error = ExampleError("example 3 could not be read")
        error.__cause__ = cause
        again = pickle.loads(pickle.dumps(error))
        assert (str(again), repr(again.__cause__)) == (str(error), kept)


@pytest.mark.parametrize(
    ("source", "options", "error", "message"),
    [
        ([], {}, ValueError, "source must hold at least one example"),
        ([np.zeros(3)], {}, (TypeError, IndexError), "image|indices"),
        ([{"image": object(), "label": 0}], {}, TypeError, "must be an array"),
        (numbered(5), {"batch_size": 0}, ValueError, "batch_size must be positive"),
        (numbered(5), {"process_index": 0, "process_count": 3}, ValueError, "divisible by 3 processes, got 4"),
        (numbered(5), {"process_index": 2, "process_count": 2}, ValueError, r"process_index must be in 0\.\.1"),
        (numbered(5), {"seed": -1}, ValueError, "seed must be in"),
        (numbered(5), {"threads": 0}, ValueError, "threads must be at least 1"),
        (numbered(5), {"prefetch": -1}, ValueError, "prefetch at least 0"),
        (numbered(5), {"workers": -1}, ValueError, "workers"),
    ],
)
def test_stream_refuses_bad_arguments(source, options, error, message):
    with pytest.raises(error, match=message):
        Stream(source, **{"batch_size": 4, "seed": 0} | options)


def test_take_refuses_no_steps():
    with pytest.raises(ValueError, match="steps must be at least 1"):
        Stream(numbered(5), 4, seed=0).take(0)


def test_worker_processes_give_the_same_batches_and_their_death_is_an_error():
    # A local function: the workers get it by value and do not import this file.
    def local(example, rng):
        if example["label"] == 88:
            os.kill(os.getpid(), signal.SIGKILL)
        return {"image": example["image"] + rng.integers(0, 100, (2, 3, 1)).astype(np.uint8), "label": example["label"]}

    source = numbered(23)
    images, labels = Stream(source, 4, seed=2, transform=local).take(7)
    stream = Stream(source, 4, seed=2, transform=local, workers=2, prefetch=2)
    np.testing.assert_array_equal(stream.take(3)[0], images[:3])
    resumed = Stream(source, 4, seed=2, transform=local)
    resumed.restore(stream.state())
    np.testing.assert_array_equal(resumed.take(4)[0], images[3:])
    np.testing.assert_array_equal(stream.take(4)[1], labels[3:])
    stream.close()
    killed = Stream(numbered(23, offset=88 - 22), 4, seed=2, transform=local, workers=1, prefetch=1)
    with pytest.raises(ExampleError, match=r"reads examples of the source died.*terminated.* exit code -9"):
        killed.take(20)


def test_importing_the_data_package_loads_no_grain_and_its_absence_is_explained(monkeypatch):
    program = "import sys, advjax.data; sys.exit(bool({'grain', 'tensorflow_datasets'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0
    monkeypatch.setitem(sys.modules, "grain", None)
    with pytest.raises(ImportError, match=r"advjax\[data\]"):
        Stream(numbered(5), 4, seed=0)


@pytest.mark.mnist
def test_real_mnist_streams_as_it_is_in_memory():
    import tensorflow_datasets as tfds

    from advjax.data import load

    source = tfds.data_source("mnist", split="test", download=False)
    stream = Stream(source, 500, seed=0, process_index=1, process_count=2)
    images, labels = stream.take(20)
    assert images.shape == (20, 250, 28, 28, 1)
    whole = load("mnist", "test")
    other = Stream(source, 500, seed=0, process_index=0, process_count=2).take(20)

    def rows(images, labels):
        flat = np.concatenate([images.reshape(len(labels), -1), labels[:, None].astype(np.uint8)], axis=1)
        return flat[np.lexsort(flat.T)]

    both = np.concatenate([images, other[0]]).reshape(-1, 28, 28, 1), np.concatenate([labels, other[1]]).ravel()
    np.testing.assert_array_equal(rows(*both), rows(whole.images, whole.labels))
    state = stream.state()
    following = stream.take(2)[0]
    stream.restore(state)
    np.testing.assert_array_equal(stream.take(2)[0], following)
