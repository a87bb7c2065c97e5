"""CIFAR, from files as the archives hold them; what is damaged or hostile is refused."""

import pickle
from pathlib import Path

import numpy as np
import pytest
import torch

from sparse_ops.data import Augment, batches, load
from sparse_ops.data.cifar import CIFAR10, CIFAR100
from sparse_ops.data.pickled import read_pickled


def text(value: str) -> bytes:
    """A str of Python 2, as the archives were written."""
    return b"U" + bytes([len(value)]) + value.encode()


def number(value: int) -> bytes:
    return b"J" + value.to_bytes(4, "little", signed=True)


def array(data: np.ndarray, code: str = "u1", module: str = "numpy.core.multiarray") -> bytes:
    """An array as numpy 1 wrote it under Python 2: a reconstruction, then its state."""
    shape = b"(" + b"".join(number(size) for size in data.shape) + b"t"
    kind = b"cnumpy\ndtype\n" + text(code) + number(0) + number(1) + b"\x87R"
    kind += b"(" + number(3) + text("|") + b"NNN" + number(-1) + number(-1) + number(0) + b"tb"
    raw = data.tobytes()
    state = number(1) + shape + kind + b"\x89T" + len(raw).to_bytes(4, "little") + raw
    made = f"c{module}\n_reconstruct\n".encode() + b"cnumpy\nndarray\n" + number(0) + b"\x85"
    return made + text("b") + b"\x87R(" + state + b"tb"


def pickled(content: dict[str, bytes]) -> bytes:
    """A dict of Python 2, protocol 2."""
    return b"\x80\x02}(" + b"".join(text(key) + value for key, value in content.items()) + b"u."


def numbers(values: list[int]) -> bytes:
    return b"](" + b"".join(number(value) for value in values) + b"e"


def names(values: list[str]) -> bytes:
    return b"](" + b"".join(text(value) for value in values) + b"e"


def pixels(count: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(256, size=(count, 3072), dtype=np.uint8)


def write_cifar(folder: Path, version, python: bool = True, count: int = 4) -> list[np.ndarray]:
    """Writes the files of one archive; returns the images of each."""
    folder.mkdir(parents=True, exist_ok=True)
    written = []
    train, test = version.pickled if python else version.binary
    for seed, name in enumerate([*train, *test]):
        data = pixels(count, seed)
        labels = [(seed + i) % version.classes for i in range(count)]
        written.append(data)
        if python:
            content = {"batch_label": text("one"), version.labels: numbers(labels)}
            if version is CIFAR100:
                content["coarse_labels"] = numbers([0] * count)
            (folder / name).write_bytes(pickled(content | {"data": array(data)}))
        else:
            before = np.full((count, version.label_bytes), 7, np.uint8)
            before[:, -1] = labels
            (folder / name).write_bytes(np.concatenate([before, data], 1).tobytes())
    classes = [f"class {n}" for n in range(version.classes)]
    if python:
        (folder / version.meta[0]).write_bytes(pickled({version.names: names(classes)}))
    else:
        (folder / version.meta[1]).write_text("\n".join(classes) + "\n\n")
    return written


@pytest.mark.parametrize("python", [True, False])
@pytest.mark.parametrize(("name", "version"), [("cifar10", CIFAR10), ("cifar100", CIFAR100)])
def test_both_archives_are_read(tmp_path, name, version, python):
    *train, test = write_cifar(tmp_path, version, python)
    data = load(name, tmp_path)
    assert data.name == name
    assert data.train.images.shape == (4 * len(train), 3, 32, 32)
    assert torch.equal(
        data.train.images, torch.from_numpy(np.concatenate(train)).reshape(-1, 3, 32, 32)
    )
    assert torch.equal(data.test.images, torch.from_numpy(test).reshape(-1, 3, 32, 32))
    assert data.train.labels.tolist()[:5] == ([0, 1, 2, 3, 1] if len(train) > 1 else [0, 1, 2, 3])
    assert data.test.labels[0] == len(train)
    assert data.classes[-1] == f"class {version.classes - 1}"
    assert (data.train.normalize, data.train.augment) == (version.normalize, Augment(4, True))
    assert (data.test.normalize, data.test.augment) == (version.normalize, None)


@pytest.mark.parametrize("python", [True, False])
def test_the_folder_that_an_archive_unpacks_to_is_found(tmp_path, python):
    write_cifar(tmp_path / CIFAR10.folders[not python], CIFAR10, python)
    assert len(load("cifar10", tmp_path).train) == 20


def test_the_test_writes_what_numpy_reads(tmp_path):
    # The writer above is ours: that it writes real pickles is shown by the real reader.
    data = pixels(2, 0)
    content = pickled({"labels": numbers([1, -2]), "data": array(data)})
    real = pickle.loads(content, encoding="bytes")
    assert real[b"labels"] == [1, -2] and np.array_equal(real[b"data"], data)


def test_images_come_in_batches_normalized(tmp_path):
    write_cifar(tmp_path, CIFAR10)
    test = load("cifar10", tmp_path).test
    ((images, labels),) = batches(test, 10, shuffle=False)
    mean, deviation = (
        torch.tensor(values)[:, None, None]
        for values in (CIFAR10.normalize.mean, CIFAR10.normalize.deviation)
    )
    torch.testing.assert_close(images, (test.images / 255 - mean) / deviation)
    assert labels.tolist() == [5, 6, 7, 8]


def test_classes_without_names_are_numbered(tmp_path):
    write_cifar(tmp_path, CIFAR10)
    (tmp_path / "batches.meta").unlink()
    assert load("cifar10", tmp_path).classes == tuple("0123456789")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "Ran out of input"),
        (b"hello", "data_batch_2 is damaged"),
        (pickled({"labels": numbers([1])})[:-4], "data_batch_2 is damaged"),
        (b"\x80\x02](K\x01e.", "a dict was wanted, got list"),
        (pickled({"labels": numbers([1])}), "must hold data of 3072 bytes an image"),
        (pickled({"data": array(pixels(1, 0))}), "a list of numbers called labels"),
        (pickled({"data": array(pixels(1, 0)), "labels": names(["a"])}), "a list of numbers"),
        (pickled({"data": array(pixels(1, 0)), "labels": numbers([1, 2])}), "must hold 1 labels"),
        (pickled({"data": array(pixels(1, 0)), "labels": numbers([10])}), "labels from 0 to 9"),
        (pickled({"data": array(pixels(1, 0)), "labels": numbers([-1])}), "labels from 0 to 9"),
        (pickled({"data": array(pixels(0, 0)), "labels": numbers([])}), "must hold images"),
        (pickled({"data": array(pixels(1, 0)[:, :9]), "labels": numbers([1])}), "3072 bytes"),
        (pickled({"data": array(pixels(1, 0), "i4"), "labels": numbers([1])}), "unsigned bytes"),
        (
            pickled({"data": array(pixels(1, 0)).replace(number(3072), number(9999))}),
            "must hold 9999 bytes",
        ),
    ],
)
def test_damaged_files_are_named(tmp_path, content, words):
    write_cifar(tmp_path, CIFAR10)
    (tmp_path / "data_batch_2").write_bytes(content)
    with pytest.raises(ValueError, match=words) as caught:
        load("cifar10", tmp_path)
    assert str(tmp_path / "data_batch_2") in str(caught.value)


@pytest.mark.parametrize(
    "program",
    [
        b"cos\nsystem\nU\x0btouch broken\x85R.",
        b"\x80\x02cbuiltins\neval\nU\x041+1\x85R.".replace(b"\x041+1", b"\x031+1"),
        b"\x80\x02c__builtin__\ngetattr\n.",
        b"\x80\x02cnumpy\nload\n.",
        b"\x80\x02cnumpy.core.multiarray\nscalar\n.",
        b"\x80\x02(S'x'\nios\nsystem\n.",
        b"\x80\x04\x8c\x02os\x8c\x06system\x93.",
        b"\x80\x02U\x01xQ.",
    ],
)
def test_a_file_cannot_call_anything(tmp_path, program, monkeypatch):
    monkeypatch.chdir(tmp_path)
    file = tmp_path / "file"
    file.write_bytes(program)
    with pytest.raises(ValueError, match=r"no place in such a file|damaged"):
        read_pickled(file)
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_a_hostile_pickle_names_what_it_wanted(tmp_path):
    class Evil:
        def __reduce__(self):
            return eval, ("1 + 1",)

    (tmp_path / "file").write_bytes(pickle.dumps({"data": Evil()}))
    with pytest.raises(ValueError, match=r"builtins\.eval has no place in such a file"):
        read_pickled(tmp_path / "file")


def test_binary_files_of_another_length_are_refused(tmp_path):
    write_cifar(tmp_path, CIFAR10, python=False)
    file = tmp_path / "test_batch.bin"
    file.write_bytes(file.read_bytes()[:-1])
    with pytest.raises(ValueError, match=r"test_batch\.bin must hold 3073 bytes an image"):
        load("cifar10", tmp_path)
    file.write_bytes(b"\x0a" + bytes(3072))
    with pytest.raises(ValueError, match=r"labels from 0 to 9, got 10 to 10"):
        load("cifar10", tmp_path)


def test_missing_files_are_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"data_batch_1.*test_batch\.bin"):
        load("cifar10", tmp_path)
    with pytest.raises(FileNotFoundError, match=r"put train, test \(the Python version\)"):
        load("cifar100", tmp_path)
    write_cifar(tmp_path, CIFAR10)
    (tmp_path / "data_batch_3").unlink()
    with pytest.raises(FileNotFoundError, match="put data_batch_3 into"):
        load("cifar10", tmp_path)


@pytest.mark.parametrize("content", [pickled({"x": names([])}), pickled({"label_names": b"N"})])
def test_names_that_are_none_are_refused(tmp_path, content):
    write_cifar(tmp_path, CIFAR10)
    (tmp_path / "batches.meta").write_bytes(content)
    with pytest.raises(ValueError, match=r"batches\.meta must hold 10 names of classes"):
        load("cifar10", tmp_path)
