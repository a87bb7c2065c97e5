"""Data sets of images: one that comes with the package, some that are fetched, and your own."""

from sparse_ops.data.augment import Augment, Normalize
from sparse_ops.data.held_out import hold_out
from sparse_ops.data.sets import NAMES, load
from sparse_ops.data.split import Batches, Dataset, Split, batches

__all__ = [
    "NAMES",
    "Augment",
    "Batches",
    "Dataset",
    "Normalize",
    "Split",
    "batches",
    "hold_out",
    "load",
]
