"""Other people's networks, planned and applied as a user would, each row in a process of its own.

python -m benchmarks.ecosystem --results benchmarks/results/ecosystem.json --threads 2

Each row: a network of torchvision or timm, or one of `benchmarks._ecosystem_networks`, with 90 % of
its weights removed or half of its filters, at batch 1 or 16. Dense is torch's fastest form of the
masked network. Every output is compared before it is timed. A row is written when it is done, and
kept by the next go; one that takes longer than `--row-s` is among the failed. `--only` takes the
rows whose text has that ("batch 1," is not batch 16); `--tiny` makes images so small that all of it
is a test. Weights are random: masks decide how fast a network is, not what it has learned.
"""

import argparse
import importlib
import json
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

import sparse_ops as so
from benchmarks import _ecosystem_networks as own
from benchmarks.networks import Masks, kept_rows, uniform
from sparse_ops._files import replacing
from sparse_ops.graph.capture import Uncaptured, capture
from sparse_ops.graph.ir import Graph
from sparse_ops.planning.measure import PAIRS_OF_WHOLE, compare, denormals_flushed
from sparse_ops.report.baseline import forms_of
from sparse_ops.report.machine import keep_freed_memory, machine

# What is left of images under --tiny; networks whose images have to be of one size keep theirs.
TINY = 64


def _define_operators() -> None:
    """torchvision's compiled operators may be for another torch: none is needed, all are asked."""
    for each in ("nms", "qnms"):
        if not hasattr(torch.ops.torchvision, each):
            schema = "(Tensor dets, Tensor scores, float t) -> Tensor"
            torch.library.define(f"torchvision::{each}", schema)


def vision(name: str) -> nn.Module:
    _define_operators()
    return importlib.import_module("torchvision").models.get_model(name, weights=None)


def timm(name: str) -> nn.Module:
    _define_operators()
    return importlib.import_module("timm").create_model(name)


_SHARED = ("resnet18", "resnet50", "mobilenetv3_large_100", "efficientnet_b0", "convnext_tiny")
# name -> (how it is made, the shape of its input, whether that is fixed)
NETWORKS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...], bool]] = {
    **{
        f"torchvision {n}": (partial(vision, n), (3, 224, 224), False)
        for n in (
            "resnet18",
            "resnet50",
            "mobilenet_v3_large",
            "efficientnet_b0",
            "convnext_tiny",
            "shufflenet_v2_x1_0",
        )
    },
    **{f"timm {n}": (partial(timm, n), (3, 224, 224), False) for n in _SHARED},
    "timm deit_tiny": (partial(timm, "deit_tiny_patch16_224"), (3, 224, 224), True),
    "U-Net": (own.UNet, (3, 128, 128), False),
    "YOLO-like": (own.Yolo, (3, 320, 320), False),
    "ESPCN": (own.ESPCN, (1, 128, 128), False),
    "EDSR": (own.EDSR, (3, 64, 64), False),
    "audio, 1-D": (own.Audio, (1, 16000), True),
}


def graph_of(model: nn.Module, x: torch.Tensor) -> Graph | None:
    try:
        return capture(model, (x,))
    except Uncaptured:
        return None


# What single weights are pruned of.
PACKED = (nn.Conv1d, nn.ConvTranspose2d, *so.masks.PRUNABLE)
# What has filters.
LAYERS = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose2d, nn.Linear)


def last_layers(model: nn.Module, graph: Graph) -> set[str]:
    """The layers whose outputs are the model's, so that none of their filters can be spared."""
    found, left, seen = set(), [value.producer for value in graph.outputs()], set()
    while left:
        node = left.pop()
        if node is None or node.name in seen:
            continue
        seen.add(node.name)
        if node.module is not None and isinstance(model.get_submodule(node.module), LAYERS):
            found.add(str(node.module))
        else:
            left += [value.producer for value in node.inputs]
    return found


@torch.no_grad()
def half_of_filters(model: nn.Module, x: torch.Tensor) -> Masks:
    """Every second filter of each layer but the last; BatchNorms after them are quiet, too."""
    graph = graph_of(model, x)
    layers = {name: m for name, m in model.named_modules() if isinstance(m, LAYERS)}
    last = {[*layers][-1]} if graph is None else last_layers(model, graph)
    masks: Masks = {}
    for name, layer in layers.items():
        if name not in last:
            mask = torch.ones(layer.weight.shape, dtype=torch.bool)
            filters = mask.transpose(0, 1) if isinstance(layer, nn.ConvTranspose2d) else mask
            filters[::2] = False
            masks[f"{name}.weight"] = mask
            if layer.bias is not None:
                layer.bias[::2] = 0
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d | nn.BatchNorm1d):
            module.weight[::2] = 0
            module.bias[::2] = 0
    return masks


KINDS: dict[str, Callable[[nn.Module, torch.Tensor], Masks]] = {
    "90%": lambda model, x: uniform(model, 0.9, PACKED),
    "50% of filters": half_of_filters,
}
ROWS = [(name, kind, batch) for name in NETWORKS for kind in KINDS for batch in (1, 16)]


@torch.no_grad()
def network(
    name: str, kind: str, batch: int, tiny: bool = False
) -> tuple[nn.Module, Masks, torch.Tensor]:
    """A masked network in eval mode whose BatchNorms have seen something, and its input."""
    make, shape, fixed = NETWORKS[name]
    torch.manual_seed(0)
    model = make().eval()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d | nn.BatchNorm1d):
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.5, 1.5)
    if tiny and not fixed:
        shape = (shape[0], *[min(TINY, size) for size in shape[1:]])
    x = torch.randn(batch, *shape)
    masks = KINDS[kind](model, x)
    so.masks.apply_(model, masks)
    return model, masks, x


def row(options: argparse.Namespace, name: str, kind: str, batch: int) -> dict[str, Any]:
    """One row of the results."""
    model, masks, x = network(name, kind, batch, options.tiny)
    begun = time.perf_counter()
    plan = so.plan(model, x, masks, budget_s=options.plan_s, progress=False, compile=False)
    plan_s = time.perf_counter() - begun
    fast = plan.apply(model)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    forms = forms_of(model, (x,), compile_s=options.compile_s, seconds=options.seconds / 8)
    ours = partial(fast, x)
    with torch.inference_mode(), denormals_flushed():
        expected = model(x)
        error = float((ours() - expected).abs().max() / expected.abs().max())
    if not error < 1e-4:
        raise ValueError(f"the converted network is off by {error:.2g}")
    measured = compare(forms.calls[forms.fastest], ours, options.seconds, PAIRS_OF_WHOLE)
    rows = plan.rows
    return {
        "network": name,
        "masks": kind,
        "batch": batch,
        "tiny": options.tiny,
        "threads": torch.get_num_threads(),
        "kept": 1 - so.masks.sparsity(masks),
        "dense_form": forms.fastest,
        "forms_ms": forms.milliseconds,
        **asdict(measured),
        "layers": len(rows),
        "packed": len(plan.packed) if plan.whole is not None else 0,
        "narrower": sum(each.left is not None or each.constant for each in rows),
        "programs": plan.memory().programs,
        "plan_s": plan_s,
        "peak_bytes": peak,
        "model_bytes": sum(p.numel() * p.element_size() for p in model.parameters()),
        "notes": [*plan.failed, *plan.notes],
        "error": error,
    }


def in_a_process(options: argparse.Namespace, case: tuple[str, str, int]) -> dict[str, Any]:
    """A row, or what has become of it in words, under "failed"."""
    command = [sys.executable, "-m", "benchmarks.ecosystem", "--row", json.dumps(case)]
    for name in ("threads", "plan_s", "seconds", "compile_s"):
        command += [f"--{name.replace('_', '-')}", str(getattr(options, name))]
    command += ["--tiny"] if options.tiny else []
    about = dict(zip(("network", "masks", "batch"), case, strict=True))
    about["threads"] = options.threads
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=options.row_s)
    except subprocess.TimeoutExpired:
        return {**about, "failed": f"it took longer than {options.row_s:g} s"}
    if done.returncode:
        last = (done.stderr.strip().splitlines() or [f"it ended with {done.returncode}"])[-1]
        return {**about, "failed": last[:300]}
    found: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    return found


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--results", type=Path, help="write the rows there as JSON")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--only", default="", help="rows whose text has this")
    parser.add_argument("--plan-s", type=float, default=30.0)
    parser.add_argument("--compile-s", type=float, default=60.0, help="0: not under torch.compile")
    parser.add_argument("--seconds", type=float, default=5.0, help="of the comparison")
    parser.add_argument("--row-s", type=float, default=300.0, help="seconds that a row may take")
    parser.add_argument("--tiny", action="store_true", help="small images: nothing is to be told")
    parser.add_argument("--row", help=argparse.SUPPRESS)
    return parser.parse_args()


def main() -> None:
    options = parsed()
    torch.set_num_threads(options.threads)
    if options.row:
        keep_freed_memory()
        print(json.dumps(row(options, *json.loads(options.row))))
        return
    rows = kept_rows(options.results, options.threads)
    rows = [r for r in rows if r["tiny"] == options.tiny]
    failed: list[dict[str, Any]] = []
    for case in ROWS:
        known = [(r["network"], r["masks"], r["batch"]) for r in rows]
        text = ", ".join([case[0], case[1], f"batch {case[2]}"])
        if options.only not in f"{text}," or case in known:
            continue
        found = in_a_process(options, case)
        if "failed" in found:
            failed.append(found)
            print(f"{text}: {found['failed']}", flush=True)
        else:
            rows.append(found)
            print(
                f"{text}: {found['dense_ms']:.2f} ms ({found['dense_form']}) → "
                f"{found['packed_ms']:.2f} ms, {found['speedup']:.2f}× ({found['low']:.2f} to "
                f"{found['high']:.2f}); {found['packed']} packed, {found['narrower']} narrower of "
                f"{found['layers']}; planned in {found['plan_s']:.0f} s",
                flush=True,
            )
        if options.results and rows:
            command = " ".join(["python -m benchmarks.ecosystem", *sys.argv[1:]])
            rows.sort(key=lambda r: ROWS.index((r["network"], r["masks"], r["batch"])))
            data = {"command": command, "machine": asdict(machine()), "rows": rows}
            with replacing(options.results) as temporary:
                temporary.write_text(json.dumps({**data, "failed": failed}, indent=1) + "\n")


if __name__ == "__main__":
    main()
