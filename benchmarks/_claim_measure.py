"""What a claim is held against: one sparse network, measured against the dense one it was."""

import copy
import tempfile
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

import sparse_ops as so
from benchmarks.limits import machine_limits
from sparse_ops.masks import Masks, prunable
from sparse_ops.report import count_macs, forms_of
from sparse_ops.report.versus import compare


@dataclass(frozen=True)
class Pace:
    """How long things may take.

    Attributes:
        images: to learn from, and the most to test on, where a network is trained.
        epochs, batch_size: over them.
        amp: what forward passes are computed in then; None for float32.
        budget_s, seconds: of a plan, and of a comparison.
        compile_s: for torch.compile, on each side; None: it is not tried.
    """

    images: int = 4000
    epochs: int = 2
    batch_size: int = 128
    amp: str | None = None
    budget_s: float = 60.0
    seconds: float = 4.0
    compile_s: float | None = 60.0


def measure(dense: nn.Module, masks: Masks, example: Tensor, pace: Pace) -> dict[str, Any]:
    """Plans, converts, checks against float64, races, and weighs; as plain data.

    Args:
        dense: masked, in eval mode.
        example: (batch, ...), random.

    Raises:
        RuntimeError: the converted network is not as near to the float64 result as the dense one.
    """
    plan = so.plan(
        dense,
        example,
        masks or None,
        budget_s=pace.budget_s,
        compile=pace.compile_s is not None,
        progress=False,
    )
    fast = plan.apply(dense)
    check(dense, fast, example)
    layers = count_macs(dense, example)
    weights, macs = sum(l.weights for l in layers), sum(l.dense for l in layers)
    kept, kept_macs = (
        sum(_nnz(masks, l.name, l.weights) for l in layers),
        round(sum(l.dense / l.weights * _nnz(masks, l.name, l.weights) for l in layers)),
    )
    forms = forms_of(dense, (example,), compile_s=pace.compile_s)
    packed_forms = forms_of(fast, (example,), compile_s=pace.compile_s)
    sides = forms.calls[forms.fastest], packed_forms.calls[packed_forms.fastest]
    found = compare(*sides, pace.seconds)
    peak, bandwidth = limits(min(0.5, pace.seconds))
    floor_ms = 1e3 * max(kept_macs / peak, (4 * kept + 4 * example.numel()) / bandwidth)
    return {
        "shape": list(example.shape),
        "batch": len(example),
        "threads": torch.get_num_threads(),
        "dtype": "float32",
        "weights": weights,
        "kept": kept,
        "macs": macs // len(example),
        "kept_macs": kept_macs // len(example),
        "ideal": macs / max(1, kept_macs),
        "dense_form": forms.fastest,
        "packed_form": packed_forms.fastest,
        "forms": forms.milliseconds,
        "skipped": forms.skipped,
        **asdict(found),
        "floor_ms": floor_ms,
        "of_floor": floor_ms / found.packed_ms,
        "bytes": _bytes(dense, fast, masks),
        "layers": [
            asdict(l) | {"nnz": _nnz(masks, l.name, l.weights)} for l in layers if l.weights
        ],
    }


def check(dense: nn.Module, fast: nn.Module, example: Tensor) -> None:
    """Compares both with float64. At most ten times the dense network's own error is allowed.

    Raises:
        RuntimeError: it is more; or it is no number.
    """
    with torch.inference_mode():
        exact = copy.deepcopy(dense).double()(example.double())
        scale = float(exact.abs().max())
        errors = [float((m(example).double() - exact).abs().max()) / scale for m in (dense, fast)]
    # Sixteen roundings of the largest output: below that, errors are of the same kind.
    allowed = max(10 * errors[0], 16 * 2.0**-24)
    if not errors[1] <= allowed:
        raise RuntimeError(
            f"the converted network is off by {errors[1]:.2g} of the largest output; "
            f"dense float32 is off by {errors[0]:.2g}: wrong before it is fast"
        )


@cache
def limits(seconds: float) -> tuple[float, float]:
    return machine_limits(seconds)


def _nnz(masks: Masks, layer: str, weights: int) -> int:
    mask = masks.get(f"{layer}.weight")
    return weights if mask is None else int(mask.sum())


def _bytes(dense: nn.Module, fast: nn.Module, masks: Masks) -> dict[str, int]:
    """Of both networks, on disk and in memory; packed on disk as a whole, and as planned for speed.

    In memory is what parameters and buffers hold, not what a call needs beside.
    """
    with tempfile.TemporaryDirectory() as folder:
        plain, packed, planned = (Path(folder, name) for name in ("a", "b", "c"))
        save_file({n: t.contiguous() for n, t in dense.state_dict().items()}, plain)
        so.save(packed_all(dense, masks), packed)
        so.save(fast, planned)
        sizes = [path.stat().st_size for path in (plain, packed, planned)]
    names = ("dense_disk", "packed_disk", "planned_disk")
    held = {"dense_memory": held_bytes(dense), "planned_memory": held_bytes(fast)}
    return dict(zip(names, sizes, strict=True)) | held


def packed_all(dense: nn.Module, masks: Masks) -> nn.Module:
    """A copy with every masked layer packed in the most regular format that takes its mask."""
    model = copy.deepcopy(dense)
    kinds = (so.PeriodicConv2d, so.ChannelPrunedConv2d, so.CSRConv2d, so.CSRLinear)
    for name, mask in masks.items():
        path = name.removesuffix(".weight")
        layer = model.get_submodule(path)
        kind: Any = next((k for k in kinds if k.refuses(layer, mask) is None), None)
        if kind is not None:
            model.set_submodule(path, kind.from_dense(layer, mask))
    return model.eval()


def held_bytes(model: nn.Module) -> int:
    """Bytes of all parameters and buffers, each piece of memory once."""
    found: dict[int, int] = {}
    for tensor in (*model.parameters(), *model.buffers()):
        storage = tensor.untyped_storage()
        found[storage.data_ptr()] = storage.nbytes()
    return sum(found.values())


def masks_of(model: nn.Module, masks: Masks) -> Masks:
    """Those masks that are of weights of Conv2d and Linear."""
    return {name: mask for name, mask in masks.items() if name in prunable(model)}
