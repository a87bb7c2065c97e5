"""The data sets: what comes with the package, what is read from folders, what is refused."""

import json
from pathlib import Path

import pytest
import torch

from sparse_ops.data import NAMES, load
from sparse_ops.data.idx import write_idx
from sparse_ops.data.sets import IDX_FILES, SUBSET, read_idx_sets
from sparse_ops.data.subset import first_of_each, main


def write_idx_sets(folder: Path, train: int = 30, test: int = 20, ending: str = "") -> None:
    generator = torch.Generator().manual_seed(0)
    folder.mkdir(parents=True, exist_ok=True)
    for (images, labels), count in zip(IDX_FILES.values(), (train, test), strict=True):
        pixels = torch.randint(256, (count, 28, 28), dtype=torch.uint8, generator=generator)
        write_idx(folder / f"{images}{ending}", pixels)
        write_idx(folder / f"{labels}{ending}", (torch.arange(count) % 10).to(torch.uint8))


def write_digits(folder: Path, each: int = 10) -> None:
    generator = torch.Generator().manual_seed(0)
    folder.mkdir()
    for digit in range(10):
        data = torch.rand(each * 784, generator=generator).mul(1000).round().div(1000).tolist()
        (folder / f"{digit}.json").write_text(json.dumps({"data": data}))


def rows(images: torch.Tensor) -> set[bytes]:
    return {image.numpy().tobytes() for image in images}


def test_the_subset_has_as_many_images_of_each_class():
    data = load("fashion-mnist-subset")
    assert data.train.images.shape == (10_000, 1, 28, 28)
    assert data.test.images.shape == (2_000, 1, 28, 28)
    assert data.train.labels.bincount().tolist() == [1000] * 10
    assert data.test.labels.bincount().tolist() == [200] * 10
    assert len(data.classes) == 10


def test_the_subset_is_normalized_by_its_training_split():
    data = load("fashion-mnist-subset")
    assert abs(float(data.train.images.mean())) < 1e-4
    assert float(data.train.images.std()) == pytest.approx(1, abs=1e-3)
    assert data.test.images.mean() != 0
    assert not rows(data.train.images) & rows(data.test.images)


def test_the_subset_fits_into_six_megabytes_and_has_its_licence_beside_it():
    assert sum(file.stat().st_size for file in SUBSET.iterdir()) < 6_000_000
    licence = (SUBSET.parent / "LICENSE-fashion-mnist").read_text()
    assert "Zalando SE" in licence
    assert "Permission is hereby granted" in licence


def test_a_subset_is_the_first_of_each_class_in_their_order(tmp_path):
    assert first_of_each(torch.arange(10).repeat(3), 2).tolist() == list(range(20))
    labels = torch.cat([torch.arange(9, -1, -1), torch.arange(10)])
    assert first_of_each(labels, 1).tolist() == list(range(10))
    with pytest.raises(ValueError, match="3 of label 0 were wanted, there are 2"):
        first_of_each(labels, 3)


def test_a_subset_of_few_is_read_like_the_whole(tmp_path, monkeypatch):
    monkeypatch.setattr("sparse_ops.data.subset.PER_CLASS", {"train": 3, "test": 2})
    main([str(SUBSET), str(tmp_path / "few")])
    few, whole = load("fashion-mnist", tmp_path / "few"), read_idx_sets(SUBSET)
    assert (len(few.train), len(few.test)) == (30, 20)
    # The whole is balanced, so what comes first in it comes first here too.
    assert few.train.labels[0] == whole[0][1][0]
    images, labels = read_idx_sets(tmp_path / "few")[1]
    for label in range(10):
        first = whole[1][0][whole[1][1] == label][:2]
        assert torch.equal(images[labels == label], first)


@pytest.mark.parametrize("ending", ["", ".gz"])
@pytest.mark.parametrize("name", ["mnist", "fashion-mnist"])
def test_idx_sets_are_read_from_a_folder(tmp_path, name, ending):
    write_idx_sets(tmp_path, ending=ending)
    data = load(name, tmp_path)
    assert data.name == name
    assert (len(data.train), len(data.test)) == (30, 20)
    assert data.train.labels.tolist()[:3] == [0, 1, 2]


@pytest.mark.parametrize("name", ["mnist", "fashion-mnist"])
def test_missing_idx_files_are_named_with_their_place(tmp_path, name):
    write_idx_sets(tmp_path)
    (tmp_path / "train-labels-idx1-ubyte").unlink()
    with pytest.raises(FileNotFoundError, match=r"put train-labels-idx1-ubyte \(") as caught:
        load(name, tmp_path)
    assert str(tmp_path) in str(caught.value)


@pytest.mark.parametrize(
    ("file", "content", "words"),
    [
        ("train-labels-idx1-ubyte", torch.zeros(29), "a label for each of the 30 images"),
        ("train-labels-idx1-ubyte", torch.full((30,), 10), "labels from 0 to 9, got 10"),
        ("t10k-images-idx3-ubyte", torch.zeros(20, 27, 28), "images of 28×28"),
        ("t10k-images-idx3-ubyte", torch.zeros(0, 28, 28), "images of 28×28"),
        ("t10k-images-idx3-ubyte", torch.zeros(20, 28), "must have 3 dimensions, got 2"),
    ],
)
def test_idx_files_that_do_not_go_together_are_refused(tmp_path, file, content, words):
    write_idx_sets(tmp_path)
    write_idx(tmp_path / file, content.to(torch.uint8))
    with pytest.raises(ValueError, match=words) as caught:
        load("mnist", tmp_path)
    assert str(tmp_path / file) in str(caught.value)


def test_digits_are_split_by_the_tail_of_each_class(tmp_path):
    write_digits(tmp_path / "d")
    data = load("digits", tmp_path / "d")
    assert data.train.labels.bincount().tolist() == [8] * 10
    assert data.test.labels.bincount().tolist() == [2] * 10
    assert not rows(data.train.images) & rows(data.test.images)


def test_digits_that_come_twice_are_on_one_side_only(tmp_path):
    write_digits(tmp_path / "d")
    file = tmp_path / "d" / "4.json"
    values = json.loads(file.read_text())["data"]
    values[-784:] = values[:784]
    file.write_text(json.dumps({"data": values}))
    data = load("digits", tmp_path / "d")
    assert len(data.train) + len(data.test) == 99
    assert not rows(data.train.images) & rows(data.test.images)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("{", r"must be \{"),
        ("[1, 2]", r"must be \{"),
        ('{"digits": []}', r"must be \{"),
        ('{"data": "text"}', r"must be \{"),
        ('{"data": []}', "784 numbers an image"),
        (json.dumps({"data": [0.0] * 785}), "784 numbers an image"),
        (json.dumps({"data": [2.0] * 784}), "numbers from 0 to 1"),
        (json.dumps({"data": [float("nan")] * 784}), "numbers from 0 to 1"),
        ("[" * 100_000, r"must be \{"),
    ],
)
def test_damaged_digits_are_refused(tmp_path, content, words):
    write_digits(tmp_path / "d")
    (tmp_path / "d" / "3.json").write_text(content)
    with pytest.raises(ValueError, match=words) as caught:
        load("digits", tmp_path / "d")
    assert str(tmp_path / "d" / "3.json") in str(caught.value)


def test_missing_digits_are_named_with_how_to_get_them(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"0\.json.*fetch --digits"):
        load("digits", tmp_path)


def test_a_channel_of_one_colour_is_no_division_by_zero(tmp_path):
    write_idx_sets(tmp_path)
    write_idx(tmp_path / IDX_FILES["train"][0], torch.full((30, 28, 28), 7, dtype=torch.uint8))
    assert not bool(load("mnist", tmp_path).train.images.any())


def test_names_that_are_not_there_are_answered_with_those_that_are():
    with pytest.raises(ValueError, match="no data set 'cifar'; there are fashion-mnist-subset"):
        load("cifar")


@pytest.mark.parametrize(
    ("name", "arguments", "words"),
    [
        ("fashion-mnist-subset", {"folder": "x"}, "takes no folder"),
        ("mnist", {"size": 32}, "size is for images"),
        ("images", {}, "need the folder"),
        ("images", {"folder": "x", "size": 0}, "size must be at least 1"),
    ],
)
def test_arguments_that_are_not_for_a_set_are_refused(name, arguments, words):
    with pytest.raises(ValueError, match=words):
        load(name, **arguments)


def test_all_names_are_offered():
    assert NAMES == (
        "fashion-mnist-subset",
        "fashion-mnist",
        "mnist",
        "digits",
        "cifar10",
        "cifar100",
        "tiny-imagenet",
        "images",
    )
