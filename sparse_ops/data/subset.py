"""Makes the subset of Fashion-MNIST that comes with the package, from the four whole files.

python -m sparse_ops.data.subset SOURCE_FOLDER [TARGET_FOLDER]

Of each class the first 1,000 training and the first 200 test images are taken, in the order in
which they stand in the set: the same source gives the same files.
"""

import argparse
from pathlib import Path

import torch
from torch import Tensor

from sparse_ops.data.idx import write_idx
from sparse_ops.data.sets import IDX_FILES, SUBSET, read_idx_sets

PER_CLASS = {"train": 1000, "test": 200}


def first_of_each(labels: Tensor, count: int) -> Tensor:
    """Ascending indices of the first `count` of each of the ten labels.

    Raises:
        ValueError: there are fewer of one.
    """
    chosen = []
    for label in range(10):
        places = (labels == label).nonzero().flatten()[:count]
        if len(places) < count:
            raise ValueError(f"{count} of label {label} were wanted, there are {len(places)}")
        chosen.append(places)
    return torch.cat(chosen).sort().values


def make_subset(source: Path, target: Path) -> None:
    """Reads the four files in `source`, writes four smaller ones to `target`, gzipped."""
    target.mkdir(parents=True, exist_ok=True)
    sets = dict(zip(IDX_FILES, read_idx_sets(source), strict=True))
    for split, (images, labels) in sets.items():
        chosen = first_of_each(labels, PER_CLASS[split])
        for name, items in zip(IDX_FILES[split], (images, labels), strict=True):
            write_idx(target / f"{name}.gz", items[chosen])


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m sparse_ops.data.subset", description=__doc__)
    parser.add_argument("source", type=Path)
    parser.add_argument("target", type=Path, nargs="?", default=SUBSET)
    given = parser.parse_args(arguments)
    make_subset(given.source, given.target)


if __name__ == "__main__":
    main()
