"""The Triton kernels: whether they are here, why not, and their registration as operators.

Facts of the machine are constants, found once at import, as in `_native`. A kernel is registered
for CUDA tensors; under TRITON_INTERPRET=1, which makes Triton run kernels in Python, for CPU
tensors too. There are no backward kernels: gradients are the reference's, on dense weights.
"""

import importlib.util
import os
import re
import sys
from collections.abc import Callable
from functools import partial
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from sparse_ops.ops import _native
from sparse_ops.ops._activation import add_and_activate

# The oldest Triton with which all kernels were interpreted and compiled.
OLDEST = (3, 6)

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"

DTYPES = (torch.float32, torch.float16, torch.bfloat16)


def _kernels(name: str) -> ModuleType:
    """The module sparse_ops.kernels.<name>, also where a checkout is run without being installed.

    setup.py installs the folder kernels/ as sparse_ops.kernels; beside a checkout's sparse_ops/ it
    is not in that package's folder, so that an import has to be told where it is.
    """
    package = "sparse_ops.kernels"
    if package not in sys.modules and importlib.util.find_spec(package) is None:
        folder = Path(__file__).resolve().parents[2] / "kernels"
        spec = importlib.util.spec_from_file_location(
            package, folder / "__init__.py", submodule_search_locations=[str(folder)]
        )
        if spec is None or spec.loader is None or not (folder / "__init__.py").exists():
            raise ModuleNotFoundError(f"no module {package}, and no folder {folder}", name=package)
        module = importlib.util.module_from_spec(spec)
        sys.modules[package] = module
        spec.loader.exec_module(module)
    return import_module(f"{package}.{name}")


def too_old(version: str) -> str | None:
    """Why a Triton of that version is not used, or None."""
    numbers = tuple(int(n) for n in re.findall(r"\d+", version)[:2])
    if numbers >= OLDEST:
        return None
    return f"Triton {version} is too old: {OLDEST[0]}.{OLDEST[1]} or newer is needed"


def _tf32() -> bool:
    """Whether torch's switch for float32 convolutions lets factors be rounded to TF32."""
    cudnn: Any = torch.backends.cudnn
    return cudnn.conv.fp32_precision == "tf32"


def _launch(kernel: Callable[..., Tensor], arguments: tuple[Any, ...], bias: int) -> Tensor:
    """Runs a kernel on a schema's arguments, of which the one after the bias is the residual."""
    before, residual, after = arguments[: bias + 1], arguments[bias + 1], arguments[bias + 2 :]
    if residual is None:
        return kernel(*before, *after)
    activation = next(a for a, code in _native.ACTIVATION_CODES.items() if code == after[-1])
    return add_and_activate(kernel(*before, *after[:-1], 0), residual, activation)


def _periodic_conv2d(*arguments: Any) -> Tensor:
    kernel = partial(_kernels("periodic_conv2d").periodic_conv2d, tf32=_tf32())
    return _launch(kernel, arguments, 4)


def _channel_pruned_conv2d(*arguments: Any) -> Tensor:
    kernel = partial(_kernels("channel_pruned_conv2d").channel_pruned_conv2d, tf32=_tf32())
    return _launch(kernel, arguments, 4)


def _csr_conv2d(*arguments: Any) -> Tensor:
    return _launch(_kernels("csr_conv2d").csr_conv2d, arguments, 4)


def _csr_linear(*arguments: Any) -> Tensor:
    return _launch(_kernels("csr_linear").csr_linear, arguments, 4)


# name -> what launches the kernel, its schema and its shapes: those of the compiled operators.
_OPERATORS: dict[str, tuple[Callable[..., Tensor], str, Callable[..., Tensor]]] = {
    "periodic_conv2d": (_periodic_conv2d, _native.CONV, _native.conv_fake),
    "csr_conv2d": (_csr_conv2d, _native.CONV, _native.conv_fake),
    "channel_pruned_conv2d": (
        _channel_pruned_conv2d,
        _native.CHANNEL_PRUNED,
        _native.channel_pruned_fake,
    ),
    "csr_linear": (_csr_linear, _native.LINEAR, _native.linear_fake),
}

for _name, (_, _schema, _fake) in _OPERATORS.items():
    _native.LIBRARY.define(f"{_name}_triton{_schema}", tags=[torch.Tag.pt2_compliant_tag])
    torch.library.register_fake(f"sparse_ops::{_name}_triton", _fake, lib=_native.LIBRARY)


def _load() -> str | None:
    try:
        version: str = import_module("triton").__version__
        if (reason := too_old(version)) is not None:
            return reason
        for name in _OPERATORS:
            _kernels(name)
    except ImportError as error:
        return f"the Triton kernels are not here ({error})"
    for name, (launcher, _, _) in _OPERATORS.items():
        for key in ("CUDA", "CPU") if INTERPRETED else ("CUDA",):
            _native.LIBRARY.impl(f"{name}_triton", launcher, key)
    return None


# None if the kernels are loaded, else the reason, in the import error's own words.
MISSING: str | None = _load()


def refuses_triton(x: Tensor) -> str | None:
    """Why the Triton kernels cannot run on x, or None if they can."""
    if MISSING is not None:
        return MISSING
    if x.device.type != "cuda" and not (INTERPRETED and x.device.type == "cpu"):
        return f"x is on {x.device.type}, not cuda"
    if x.dtype not in DTYPES:
        return f"x is {x.dtype}, not float32, float16 or bfloat16"
    return None
