"""Folders of images."""

import sys
from pathlib import Path

import pytest
import torch

from sparse_ops.data import load

Image = pytest.importorskip("PIL.Image", reason="pillow is not installed")


def write_folder(folder: Path) -> None:
    """Two classes; red ones and blue ones, of several sizes and endings."""
    for split, count in (("train", 3), ("test", 2)):
        for name, colour in (("red", (255, 0, 0)), ("blue", (0, 0, 255))):
            (folder / split / name).mkdir(parents=True)
            for number in range(count):
                ending = "png" if number % 2 else "JPG"
                image = Image.new("RGB", (10 + number, 20), colour)
                image.save(folder / split / name / f"{number}.{ending}")


def test_classes_are_folders_in_the_order_of_their_names(tmp_path):
    write_folder(tmp_path)
    (tmp_path / "train" / "red" / "notes.txt").write_text("not an image")
    data = load("images", tmp_path, size=8)
    assert data.classes == ("blue", "red")
    assert data.train.images.shape == (6, 3, 8, 8)
    assert data.test.images.shape == (4, 3, 8, 8)
    assert data.train.labels.tolist() == [0, 0, 0, 1, 1, 1]
    red, _, blue = data.test.images[-1].flatten(1).mean(1)
    assert red > 0 > blue


def test_images_of_other_modes_become_three_channels(tmp_path):
    write_folder(tmp_path)
    Image.new("L", (9, 9), 128).save(tmp_path / "train" / "red" / "grey.png")
    Image.new("RGBA", (9, 9)).save(tmp_path / "train" / "red" / "clear.png")
    assert load("images", tmp_path).train.images.shape == (8, 3, 32, 32)


def test_each_channel_is_normalized(tmp_path):
    write_folder(tmp_path)
    images = load("images", tmp_path, size=8).train.images
    torch.testing.assert_close(images.mean((0, 2, 3)), torch.zeros(3), rtol=0, atol=1e-5)


def test_a_file_that_is_no_image_is_named(tmp_path):
    write_folder(tmp_path)
    broken = tmp_path / "test" / "blue" / "broken.png"
    broken.write_bytes(b"not an image")
    with pytest.raises(ValueError, match=r"broken\.png is not an image that can be read"):
        load("images", tmp_path)


def test_an_image_that_ends_early_is_named(tmp_path):
    write_folder(tmp_path)
    file = tmp_path / "train" / "red" / "1.png"
    file.write_bytes(file.read_bytes()[:50])
    with pytest.raises(ValueError, match=r"1\.png is not an image that can be read"):
        load("images", tmp_path)


def test_of_images_that_nobody_has_divided_a_tenth_of_each_class_is_to_test_on(tmp_path):
    for name, count in (("few", 10), ("many", 30)):
        (tmp_path / name).mkdir()
        for grey in range(count):
            Image.new("L", (4, 4), 8 * grey).save(tmp_path / name / f"{grey:02}.png")
    data, again = (load("images", tmp_path, size=4) for _ in range(2))
    assert data.classes == ("few", "many")
    assert data.train.labels.tolist() == [0] * 9 + [1] * 27
    assert data.test.labels.tolist() == [0] + [1] * 3
    assert torch.equal(data.test.images, again.test.images)
    # Every image is on one side.
    shades = torch.cat([data.train.images, data.test.images])[:, 0, 0, 0]
    labels = torch.cat([data.train.labels, data.test.labels])
    assert [len(shades[labels == label].unique()) for label in (0, 1)] == [10, 30]


def test_a_folder_without_splits_is_told_what_it_must_hold(tmp_path):
    with pytest.raises(FileNotFoundError, match="it must hold one folder for each class"):
        load("images", tmp_path)


def test_a_split_without_classes_is_refused(tmp_path):
    (tmp_path / "train").mkdir()
    with pytest.raises(ValueError, match="one folder for each class, got none"):
        load("images", tmp_path)


def test_a_class_without_images_is_refused(tmp_path):
    write_folder(tmp_path)
    (tmp_path / "train" / "green").mkdir()
    with pytest.raises(ValueError, match=r"green must hold \.jpeg, \.jpg, \.png files"):
        load("images", tmp_path)


def test_classes_that_are_only_tested_are_refused(tmp_path):
    write_folder(tmp_path)
    (tmp_path / "test" / "red").rename(tmp_path / "test" / "pink")
    with pytest.raises(ValueError, match=r"not so: \['pink', 'red'\]"):
        load("images", tmp_path)


def test_without_pillow_the_error_says_what_to_install(tmp_path, monkeypatch):
    write_folder(tmp_path)
    monkeypatch.setitem(sys.modules, "PIL", None)
    with pytest.raises(ImportError, match=r"sparse-ops\[images\]"):
        load("images", tmp_path)


def test_photographs_are_turned_as_they_say(tmp_path):
    """A camera that was held upright stores what it saw lying, and writes down how to turn it."""
    write_folder(tmp_path)
    photograph = Image.new("RGB", (16, 8), (255, 255, 255))
    photograph.paste((0, 0, 0), (0, 0, 8, 8))
    about = Image.Exif()
    about[0x0112] = 6  # its left is the top
    photograph.save(tmp_path / "train" / "blue" / "0.JPG", exif=about)
    image = load("images", tmp_path, size=8).train.images[0]
    assert image[:, :3].max() < image[:, 5:].min()
