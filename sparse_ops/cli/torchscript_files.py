"""The weights of a TorchScript archive, read without its code.

`torch.jit.load` would compile and may run what is in the archive. Its attributes are a pickle of
few types, beside a file for each storage; they are read here as data, and nothing is looked up.
"""

import pickle
import zipfile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

_TYPES = {
    "FloatStorage": torch.float32,
    "DoubleStorage": torch.float64,
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "LongStorage": torch.int64,
    "IntStorage": torch.int32,
    "ShortStorage": torch.int16,
    "CharStorage": torch.int8,
    "ByteStorage": torch.uint8,
    "BoolStorage": torch.bool,
}


class _Anything:
    """Stands for every class and function that the pickle names; keeps what it is made of."""

    def __init__(self, *made_of: Any) -> None:
        self.attributes: dict[str, Any] = {}

    def __setstate__(self, state: Any) -> None:
        self.attributes = state if isinstance(state, dict) else {}


def _tensor(
    storage: Tensor, offset: int, size: tuple[int, ...], stride: tuple[int, ...], *_: Any
) -> Tensor:
    # torch refuses what would reach beyond the storage.
    return storage.as_strided(size, stride, offset)


class _Reader(pickle.Unpickler):
    def __init__(self, archive: zipfile.ZipFile, folder: str) -> None:
        super().__init__(archive.open(f"{folder}/data.pkl"))
        self.archive, self.folder = archive, folder
        self.storages: dict[str, Tensor] = {}

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) == ("torch._utils", "_rebuild_tensor_v2"):
            return _tensor
        return _TYPES.get(name, _Anything) if module == "torch" else _Anything

    def persistent_load(self, about: Any) -> Tensor:
        _, dtype, key, *_ = about
        if key not in self.storages:
            if not isinstance(dtype, torch.dtype):
                raise pickle.UnpicklingError(f"storage {key} is of a type that is not read")
            content = bytearray(self.archive.read(f"{self.folder}/data/{key}"))
            self.storages[key] = (
                torch.frombuffer(content, dtype=dtype) if content else torch.empty(0, dtype=dtype)
            )
        return self.storages[key]


def read_state(path: Path) -> dict[str, Tensor]:
    """The tensors of the archive's module and of the modules in it, as `state_dict` names them.

    Raises:
        ValueError: it cannot be read.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            record = next(name for name in archive.namelist() if name.endswith("/data.pkl"))
            module = _Reader(archive, record.removesuffix("/data.pkl")).load()
    # A damaged pickle fails in any way.
    except Exception as error:
        raise ValueError(f"{path} is a damaged TorchScript archive: {error}") from error
    found: dict[str, Tensor] = {}
    _collect_(found, module, "")
    return found


def _collect_(found: dict[str, Tensor], module: Any, prefix: str) -> None:
    for name, value in module.attributes.items() if isinstance(module, _Anything) else ():
        if isinstance(value, Tensor):
            found[f"{prefix}{name}"] = value
        elif isinstance(value, _Anything):
            _collect_(found, value, f"{prefix}{name}.")
