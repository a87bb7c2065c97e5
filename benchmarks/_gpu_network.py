"""Whole networks of gpu_run.py: what `plan` makes of them on a card, graph against graph."""

import time
from collections.abc import Iterator
from functools import partial

import torch
from torch import nn

import sparse_ops
from benchmarks._gpu_setting import DEADLINE, DEVICE, DRY, HALF, in_time, last, use
from benchmarks._gpu_sparse import guarded
from sparse_ops import patterns
from sparse_ops.models import resnet18
from sparse_ops.patterns import Periodic


def network() -> Iterator[dict]:
    """ResNet-18 in two patterns, at a batch that fills a card and at one that does not."""
    cases = [("PSD1_P8", 256), ("PSD2_P8", 256), ("PSD2_P8", 32)]
    for left, (name, batch) in zip(range(len(cases), 0, -1), cases, strict=True):
        if not in_time() or (DRY and left < len(cases)):
            return
        what = {
            "network": "dry" if DRY else "resnet18",
            "what": name,
            "precision": HALF,
            "batch": batch,
        }
        # A plan takes somewhat longer than its budget: kernels are compiled.
        budget_s = 2.0 if DRY else 0.7 * (DEADLINE - time.monotonic()) / left
        row = partial(_network_row, patterns.NAMED[name], 1 if DRY else batch, budget_s)
        yield guarded(what, row)


def pruned(pattern: Periodic) -> nn.Module:
    """The network, its 3×3 layers in the pattern."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 16, 3), nn.ReLU(), nn.Conv2d(16, 16, 3))
    model = model if DRY else resnet18(1000, stem="imagenet")
    for module in model.modules():
        if isinstance(module, nn.Conv2d) and module.kernel_size == (3, 3):
            mask = pattern.mask(tuple(module.weight.shape))
            module.weight.data.mul_(mask)
    return model.eval()


def _network_row(pattern: Periodic, batch: int, budget_s: float) -> dict:
    dtype = torch.float32 if DRY else use(HALF)
    model = pruned(pattern).to(DEVICE, dtype)
    side = 8 if DRY else 224
    x = last(torch.randn(batch, 3, side, side, device=DEVICE).to(dtype))
    plan = sparse_ops.plan(model, x, budget_s=budget_s, progress=False)
    print(plan, flush=True)
    row: dict[str, object] = {
        "layers": len(plan.layers),
        "packed": len(plan.packed),
        "dense form": plan.dense_forms.fastest,
        "packed form": plan.packed_forms.fastest,
        "notes": "; ".join(plan.notes)[:1000],
    }
    if plan.whole is not None:
        times = {"ours_ms": plan.whole.packed_ms, "dense_ms": plan.whole.dense_ms}
        spread = {"low": plan.whole.low, "high": plan.whole.high}
        row |= times | {"speedup": plan.whole.speedup} | spread
    fast = plan.apply(model)
    with torch.no_grad():
        off = float((fast(x).float() - model(x).float()).abs().max())
    return row | {"recorded": fast._compiled_call_impl is not None, "off": off}
