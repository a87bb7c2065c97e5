#!/usr/bin/env python3
"""Configurations of the form by wgmma against cuDNN on a Hopper card.

python benchmarks/gpu_wgmma.py [CHANNELS ...]     both batches; the rows, then gpu_wgmma.json

Each is compiled, checked against float64 and timed as a CUDA graph, by turns with cuDNN in
channels_last. Numbers are those of `configs.WgmmaConfig`, without the last two.
"""

import json
import os
import statistics
import sys
from functools import partial
from pathlib import Path

import torch
from torch.nn import functional as F

ROOT = Path(__file__).resolve().parents[1]
if str(ROOT) not in sys.path:
    sys.path.insert(0, str(ROOT))

# Run as a script, it is not in a package.
from benchmarks._gpu_clock import graphed, ratios  # noqa: E402
from benchmarks._gpu_packs import pack  # noqa: E402
from benchmarks._gpu_setting import conv_problem, last, off, use  # noqa: E402
from benchmarks.layers import Conv  # noqa: E402
from kernels.clock import rounds_on_device  # noqa: E402
from sparse_ops.ops import _tuned  # noqa: E402

SIDES = {64: 56, 128: 28, 256: 14, 512: 7}
BATCHES = (256, 32)
CHECKED = 16
# channels, pattern -> configurations
CASES: dict[tuple[int, str], tuple[tuple[int, ...], ...]] = {
    (256, "PSD2_P8 sorted"): (
        (4, 8, 2, 64, 3, 6, 3, 0),
        (4, 8, 2, 64, 3, 6, 5, 0),
        (4, 4, 2, 64, 4, 6, 3, 1),
        (4, 2, 3, 64, 3, 6, 3, 1),
    ),
    (256, "PSD1_P8 sorted"): ((4, 8, 2, 64, 3, 6, 3, 0), (4, 4, 2, 64, 4, 6, 3, 1)),
    (256, "PSD4_P16 sorted"): ((4, 8, 2, 64, 3, 3, 3, 0), (4, 4, 2, 64, 3, 5, 3, 1)),
    (512, "PSD2_P8 sorted"): (
        (8, 2, 2, 64, 4, 6, 3, 1),
        (8, 4, 2, 64, 4, 4, 3, 0),
        (8, 2, 3, 64, 3, 6, 3, 1),
    ),
    (512, "PSD1_P8 sorted"): ((8, 4, 2, 64, 4, 4, 3, 0), (8, 2, 2, 64, 4, 6, 3, 1)),
    (512, "PSD4_P16 sorted"): ((8, 4, 2, 64, 4, 3, 3, 0),),
    (128, "PSD2_P8 sorted"): ((2, 8, 2, 64, 3, 6, 3, 1), (2, 8, 3, 64, 2, 5, 3, 1)),
    (128, "PSD1_P8 sorted"): ((2, 8, 3, 64, 2, 5, 3, 1),),
    (64, "PSD2_P8 sorted"): (
        (2, 4, 3, 64, 2, 6, 3, 1),
        (2, 4, 2, 64, 3, 6, 3, 1),
        (4, 2, 2, 32, 3, 4, 3, 1),
    ),
}


@torch.inference_mode()
def row(conv: Conv, kind: str, numbers: tuple[int, ...], batch: int, weight: torch.Tensor) -> dict:
    """What a configuration takes, and how far off it is."""
    packed = pack(weight, kind)
    x, what = conv_problem(conv, batch, weight.dtype)
    call = partial(packed.run, x, packed.weight, None, 1, 1, backend="wgmma")
    dense = last(packed.weight.to_dense())
    about = what | {"removed": kind, "config": list(numbers)}
    with _tuned.trying("wgmma", numbers):
        exact = F.conv2d(x[:CHECKED].double(), dense.double(), None, 1, 1)
        error = off(call()[:CHECKED], exact)
        mine, theirs = rounds_on_device(
            graphed(call), graphed(partial(F.conv2d, x, dense, None, 1, 1))
        )
    times = {"ours_ms": statistics.median(mine), "dense_ms": statistics.median(theirs)}
    return about | {"off": error} | times | ratios(theirs, mine)


def main(only: list[str]) -> int:
    if not torch.cuda.is_available():
        print("there is no card")
        return 1
    rows, dtype = [], use("bf16")
    for (channels, kind), cases in CASES.items():
        if only and str(channels) not in only:
            continue
        conv = Conv("resnet18", channels, channels, SIDES[channels])
        weight = torch.randn(channels, channels, 3, 3, device="cuda").to(dtype)
        for numbers in cases:
            for batch in BATCHES:
                try:
                    found = row(conv, kind, numbers, batch, weight)
                except RuntimeError as error:
                    found = {"layer": conv.label, "config": list(numbers), "failed": str(error)}
                rows.append(found)
                print(json.dumps(found, ensure_ascii=False), flush=True)
    here = {"device": torch.cuda.get_device_name(), "torch": torch.__version__}
    made = {"card": here, "command": "python benchmarks/gpu_wgmma.py", "rows": rows}
    out = Path(os.environ.get("OUT", "."), "gpu_wgmma.json")
    out.write_text(json.dumps(made, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    return 1 if any("failed" in found for found in rows) else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
