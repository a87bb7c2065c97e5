"""Tiny ImageNet from folders of its layout."""

import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from sparse_ops.data import Augment, load
from sparse_ops.data.tiny_imagenet import NORMALIZE

Image = pytest.importorskip("PIL.Image")
CLASSES = ("n01443537", "n01629819")


def picture(path: Path, shade: int, side: int = 64, grey: bool = False) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.full((side, side) if grey else (side, side, 3), shade, dtype=np.uint8)
    Image.fromarray(pixels).save(path, quality=95)


def write(folder: Path) -> None:
    """Two classes, three images each to learn from; two to test on, the second class first."""
    for index, name in enumerate(CLASSES):
        for number in range(3):
            picture(folder / "train" / name / "images" / f"{name}_{number}.JPEG", 40 * number)
        (folder / "train" / name / f"{name}_boxes.txt").write_text(f"{name}_0.JPEG\t0\t0\t9\t9\n")
        picture(folder / "val" / "images" / f"val_{index}.JPEG", 200, grey=True)
    (folder / "val" / "val_annotations.txt").write_text(
        f"val_0.JPEG\t{CLASSES[1]}\t0\t0\t63\t63\nval_1.JPEG\t{CLASSES[0]}\t0\t0\t63\t63\n"
    )
    (folder / "words.txt").write_text(f"n00001740\tentity\n{CLASSES[1]}\tfire salamander\n")


@pytest.mark.parametrize("inner", ["", "tiny-imagenet-200"])
def test_folders_are_read_as_the_archive_has_them(tmp_path, inner):
    write(tmp_path / inner)
    data = load("tiny-imagenet", tmp_path)
    assert data.train.images.shape == (6, 3, 64, 64) and data.train.images.dtype == torch.uint8
    assert data.train.labels.tolist() == [0, 0, 0, 1, 1, 1]
    assert data.train.images[:, 0, 5, 5].tolist() == [0, 40, 80] * 2
    assert data.test.labels.tolist() == [1, 0]
    assert data.test.images.unique().tolist() == [200]
    assert data.classes == (CLASSES[0], "fire salamander")
    assert data.train.normalize == data.test.normalize == NORMALIZE
    assert (data.train.augment, data.test.augment) == (Augment(4, True), None)


def test_what_is_missing_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"val/val_annotations\.txt"):
        load("tiny-imagenet", tmp_path)
    write(tmp_path)
    (tmp_path / "val" / "images" / "val_1.JPEG").unlink()
    with pytest.raises(FileNotFoundError, match=r"there is no .*val_1\.JPEG"):
        load("tiny-imagenet", tmp_path)


@pytest.mark.parametrize(
    ("annotations", "words"),
    [
        ("val_0.JPEG\tn99999999\t0\t0\t1\t1\n", "line 1: 'n99999999' is no class"),
        ("val_0.JPEG\n", "line 1: '' is no class"),
        (f"\n../../secret.JPEG\t{CLASSES[0]}\n", "line 2: '../../secret.JPEG' must be the name"),
        ("", "must name the images to test on"),
    ],
)
def test_annotations_that_do_not_fit_are_refused(tmp_path, annotations, words):
    write(tmp_path)
    (tmp_path / "val" / "val_annotations.txt").write_text(annotations)
    with pytest.raises(ValueError, match=words):
        load("tiny-imagenet", tmp_path)


def test_damaged_images_and_those_of_another_size_are_named(tmp_path):
    write(tmp_path)
    file = tmp_path / "train" / CLASSES[1] / "images" / f"{CLASSES[1]}_1.JPEG"
    picture(file, 0, side=32)
    with pytest.raises(ValueError, match=r"_1\.JPEG must be of 64×64, got 32×32"):
        load("tiny-imagenet", tmp_path)
    file.write_bytes(b"no image")
    with pytest.raises(ValueError, match=r"_1\.JPEG is not an image that can be read"):
        load("tiny-imagenet", tmp_path)


def test_a_class_without_images_is_refused(tmp_path):
    write(tmp_path)
    (tmp_path / "train" / "n02000000").mkdir()
    with pytest.raises(ValueError, match=r"images must hold \.jpeg, \.jpg, \.png files"):
        load("tiny-imagenet", tmp_path)


def test_without_pillow_the_error_says_what_to_install(tmp_path, monkeypatch):
    write(tmp_path)
    monkeypatch.setitem(sys.modules, "PIL", None)
    with pytest.raises(ImportError, match=r"sparse-ops\[images\]"):
        load("tiny-imagenet", tmp_path)
