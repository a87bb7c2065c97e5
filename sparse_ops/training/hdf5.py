"""State dicts in HDF5 files as GSM's authors keep them, and in .npz files by the same rules.

One dataset for each entry, at the top of the file. Its name is the entry's with "+" for "/", and
without a leading "module."; read back, names that are whole numbers become int. Floating point is
float32. Beside the entries there may be `deps`, the widths of the layers.

HDF5 needs the package h5py. Files may come from strangers: nothing in them is run, and no link in
them is followed to another file.

Source: the code of Ding et al., NeurIPS 2019, arXiv:1909.12778. It passes over entries that a model
has no place for in silence; here there is a warning.
"""

import os
import warnings
import zipfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import ModuleType

import numpy as np
import torch
from torch import Tensor, nn

from sparse_ops._files import replacing

DEPS = "deps"


def save(
    state: Mapping[str, Tensor],
    path: str | os.PathLike[str],
    deps: Iterable[int] | None = None,
) -> None:
    """Writes a state dict; the file is whole or not there.

    Args:
        state: such as `model.state_dict()`.
        path: ends in .npz for NumPy's format; is HDF5 otherwise.
        deps: the widths of the layers, to be kept beside it.

    Raises:
        ValueError: two entries would have one name, or a name could not be read back.
        ImportError: h5py is wanted, and is not there.
        OSError: the file cannot be written.
    """
    arrays: dict[str, np.ndarray] = {}
    for name, value in state.items():
        key = name.removeprefix("module.")
        if "+" in key or key == DEPS or not key:
            raise ValueError(f"{name!r} cannot be the name of an entry: it would not be read back")
        key = key.replace("/", "+")
        if key in arrays:
            raise ValueError(f"two entries would be named {key!r}")
        value = value.detach().cpu()
        arrays[key] = (value.float() if value.is_floating_point() else value).numpy()
    if deps is not None:
        arrays[DEPS] = np.asarray(list(deps), dtype=np.int64)
    h5py = None if _is_npz(path) else _h5py()
    with replacing(path) as temporary:
        if h5py is None:
            with open(temporary, "wb") as stream:
                np.savez(stream, **arrays)  # type: ignore[arg-type]
        else:
            with h5py.File(temporary, "w") as file:
                for name, array in arrays.items():
                    file.create_dataset(name, data=array)


def load(path: str | os.PathLike[str]) -> dict[str | int, Tensor]:
    """Reads what `save`, or the authors' code, wrote; `deps` is an entry like others.

    Raises:
        ValueError: the file is damaged, or holds something other than arrays of numbers.
        ImportError: h5py is wanted, and is not there.
        OSError: there is no such file.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f"there is no file {os.fspath(path)}")
    found: dict[str | int, Tensor] = {}
    for name, array in (_read_npz if _is_npz(path) else _read_hdf5)(path).items():
        if array.dtype.kind not in "fiub":
            raise ValueError(f"{os.fspath(path)}: {name} is {array.dtype}, numbers were wanted")
        key = name.replace("+", "/")
        # Native byte order, and memory that torch may write to.
        plain = np.array(array, dtype=array.dtype.newbyteorder("="))
        found[int(key) if key.isdecimal() else key] = torch.from_numpy(plain)
    return found


@torch.no_grad()
def assign_(model: nn.Module, state: Mapping[str | int, Tensor]) -> list[str]:
    """Copies the entries into the parameters and buffers of their names; warns of what is left.

    Returns:
        The model's names that the state has no entry for: they are as they were.

    Raises:
        ValueError: an entry has another shape than its parameter; the model is then as it was.
    """
    own = model.state_dict(keep_vars=True)
    given = {str(n).removeprefix("module."): v for n, v in state.items() if n != DEPS}
    for name in given.keys() & own.keys():
        if given[name].shape != own[name].shape:
            raise ValueError(
                f"{name} must be {tuple(own[name].shape)}, as in the model, "
                f"got {tuple(given[name].shape)}"
            )
    for name in given.keys() & own.keys():
        own[name].copy_(given[name])
    missing = [name for name in own if name not in given]
    unused = [name for name in given if name not in own]
    for words, names in (
        ("the state has no entry for", missing),
        ("the model has no place for", unused),
    ):
        if names:
            warnings.warn(f"{words} {', '.join(names[:5])} ({len(names)} in all)", stacklevel=2)
    return missing


def _is_npz(path: str | os.PathLike[str]) -> bool:
    return Path(path).suffix == ".npz"


def _h5py() -> ModuleType:
    try:
        import h5py
    except ImportError as error:
        raise ImportError(
            "HDF5 files need the package h5py: pip install 'sparse-ops[hdf5]'; "
            "a file name that ends in .npz does without"
        ) from error
    return h5py


def _read_npz(path: str | os.PathLike[str]) -> dict[str, np.ndarray]:
    try:
        with np.load(path, allow_pickle=False) as file:
            return {name: file[name] for name in file.files}
    except (ValueError, EOFError, AttributeError, TypeError, zipfile.BadZipFile) as error:
        raise ValueError(f"{os.fspath(path)} is not a whole .npz file: {error}") from error


def _read_hdf5(path: str | os.PathLike[str]) -> dict[str, np.ndarray]:
    h5py = _h5py()
    arrays = {}
    try:
        with h5py.File(path, "r") as file:
            for name in file:
                entry = file[name] if isinstance(file.get(name, getlink=True), h5py.HardLink) else 0
                # Links, and data that is kept outside of the file, could read any other file.
                if not isinstance(entry, h5py.Dataset) or entry.external or entry.is_virtual:
                    raise ValueError(f"{name} is no dataset of this file itself")
                arrays[name] = np.asarray(entry[()])
    except (OSError, RuntimeError, KeyError, ValueError) as error:
        raise ValueError(f"{os.fspath(path)} cannot be read as HDF5: {error}") from error
    return arrays
