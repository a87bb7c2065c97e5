"""Whole networks, planned and applied as a user would, against the strongest dense forms here.

python -m benchmarks.networks --results benchmarks/results/networks.json --threads 1

Each row: a network, its masks, a batch. Dense is what the plan found to be torch's fastest form of
the masked network, BatchNorm folded; beside it the engines of `benchmarks.engines` that are
installed, on the same network, of channel-pruned ones on the smaller network that is left. By
turns, torch in the same process, each engine in its own, on the same number of threads; every
output is compared before it is timed. Torch's forms are made once for a network and a batch. Rows
that the file has already, of this machine, are kept: take the file away to measure afresh. Weights
are random: masks decide how fast a network is, not what it has learned.
"""

import argparse
import copy
import json
from collections.abc import Callable, Mapping
from dataclasses import asdict
from fnmatch import fnmatchcase
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import sparse_ops as so
from benchmarks import engines
from sparse_ops._files import replacing
from sparse_ops.graph.capture import capture
from sparse_ops.passes.winograd import LARGE, SMALL
from sparse_ops.planning.measure import compare, denormals_flushed
from sparse_ops.planning.ways import again
from sparse_ops.report.baseline import forms_of
from sparse_ops.report.machine import keep_freed_memory, machine

Masks = dict[str, Tensor]


def uniform(
    model: nn.Module, sparsity: float, kinds: tuple[type[nn.Module], ...] = so.masks.PRUNABLE
) -> Masks:
    """Random masks, every layer but the first convolution and the last linear as sparse."""
    names = list(so.masks.weights(model, kinds))
    generator = torch.Generator().manual_seed(0)
    return {
        name: torch.rand(weight.shape, generator=generator) >= sparsity
        for name, weight in so.masks.weights(model, kinds).items()
        if name not in (names[0], names[-1]) or len(names) <= 3
    }


def erk(model: nn.Module, sparsity: float) -> Masks:
    """Random masks of Erdős-Rényi-kernel densities: Evci et al., ICML 2020, arXiv:1911.11134."""
    weights = so.masks.weights(model)
    generator = torch.Generator().manual_seed(0)
    scale = {name: sum(w.shape) / w.numel() for name, w in weights.items()}
    total = sum(w.numel() for w in weights.values())
    full: set[str] = set()
    while True:
        left = (1 - sparsity) * total - sum(weights[name].numel() for name in full)
        rest = sum(scale[name] * weights[name].numel() for name in weights if name not in full)
        factor = left / rest
        new = {n for n in weights if n not in full and factor * scale[n] >= 1}
        if not new:
            break
        full |= new
    return {
        name: torch.rand(w.shape, generator=generator) < factor * scale[name]
        for name, w in weights.items()
        if name not in full
    }


def periodic(model: nn.Module, name: str) -> Masks:
    """A named pattern on every 3×3 convolution but the first."""
    pattern = so.patterns.NAMED[name]
    weights = list(so.masks.weights(model).items())[1:]
    return {n: pattern.mask(tuple(w.shape)) for n, w in weights if tuple(w.shape[2:]) == (3, 3)}


def filters(model: nn.Module, part: float) -> Masks:
    """A part of the filters of every convolution."""
    masks: Masks = {}
    for name, weight in so.masks.weights(model).items():
        if weight.dim() == 4:
            masks[name] = torch.ones(weight.shape, dtype=torch.bool)
            masks[name][torch.arange(len(weight)) % 20 < 20 * part] = False
    return masks


def quiet_norms_(model: nn.Module, masks: Masks) -> None:
    """Gives masked filters a BatchNorm without a shift, as the methods that prune them do."""
    modules = dict(model.named_modules())
    for name in masks:
        norm = modules.get(name.removesuffix(".weight").replace("conv", "bn"))
        if isinstance(norm, nn.BatchNorm2d) and masks[name].dim() == 4:
            dead = ~masks[name].flatten(1).any(1)
            for tensor in (norm.weight.data, norm.bias.data):
                tensor[dead] = 0


NETWORKS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "lenet300": (so.models.lenet300, (1, 28, 28)),
    "small_vgg": (so.models.small_vgg, (1, 28, 28)),
    "resnet18": (lambda: so.models.resnet18(num_classes=10), (3, 32, 32)),
    "vgg16": (lambda: so.models.vgg16(num_classes=10), (3, 32, 32)),
}
KINDS: dict[str, Callable[[nn.Module], Masks]] = {
    "60× fewer weights": partial(uniform, sparsity=1 - 1 / 60),
    "PSD2_P8": partial(periodic, name="PSD2_P8"),
    **{f"{s:.0%}": partial(uniform, sparsity=s) for s in (0.9, 0.95, 0.98)},
    **{f"ERK {s:.0%}": partial(erk, sparsity=s) for s in (0.9, 0.95, 0.98)},
    **{f"{p:.0%} of filters": partial(filters, part=p) for p in (0.5, 0.75, 0.8)},
}
ROWS = [
    *(("lenet300", "60× fewer weights", batch) for batch in (1, 64)),
    *(("small_vgg", "PSD2_P8", batch) for batch in (1, 64)),
    *(("resnet18", f"{p}% of filters", batch) for p in (50, 75, 80) for batch in (1, 16)),
    *(("resnet18", f"{p}% of filters, F(4×4)", 16) for p in (50, 75)),
    *(("resnet18", kind, batch) for kind in ("90%", "95%", "98%") for batch in (1, 16, 64)),
    *(("resnet18", f"ERK {p}%", batch) for p in (90, 95, 98) for batch in (1, 16, 64)),
    *(("resnet18", f"ERK {p}%, F(4×4)", batch) for p in (90, 95) for batch in (1, 16)),
    ("resnet18", "PSD2_P8", 16),
    *(("vgg16", f"{p}%", batch) for p in (90, 95, 98) for batch in (1, 16, 64)),
    *(("vgg16", f"ERK {p}%", batch) for p in (90, 95, 98) for batch in (1, 16, 64)),
    *(("vgg16", f"ERK {p}%, F(4×4)", batch) for p in (90, 95) for batch in (1, 16)),
    ("vgg16", "PSD2_P8", 16),
]


def network(name: str, kind: str) -> tuple[nn.Module, Masks]:
    """A masked network in eval mode whose BatchNorms have seen something."""
    torch.manual_seed(0)
    model = NETWORKS[name][0]().eval()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.5, 1.5)
    masks = KINDS[kind](model)
    if "filters" in kind:
        quiet_norms_(model, masks)
    so.masks.apply_(model, masks)
    return model, masks


def row(
    case: tuple[str, str, int],
    plan_s: float,
    seconds: float,
    pythons: Mapping[str, str],
    dense: dict[tuple[str, int], Any],
) -> dict[str, Any]:
    """One row of the results.

    Args:
        dense: (network, batch) -> its forms in torch, kept from row to row.
    """
    name, kind, batch = case
    masks_of, _, tiles = kind.partition(", F(")
    model, masks = network(name, masks_of)
    torch.manual_seed(1)
    x = torch.randn(batch, *NETWORKS[name][1])
    winograd = LARGE if tiles else SMALL
    plan = so.plan(
        model, x, masks, budget_s=plan_s, progress=False, compile=False, winograd=winograd
    )
    fast = plan.apply(model)
    # How long they take does not depend on which weights are zeros.
    if (name, batch) not in dense:
        dense[name, batch] = forms_of(model, (x,), compile_s=60.0, seconds=seconds / 4)
    forms = dense[name, batch]
    ours = partial(fast, x)
    with torch.inference_mode(), denormals_flushed():
        exact = copy.deepcopy(model).double()(x.double())
        error = float((ours().double() - exact).abs().max() / exact.abs().max())
        assert error < 1e-4, f"{name} {kind}: wrong before it is fast, by {error:.2g}"
    measured = compare(forms.calls[forms.fastest], ours, seconds)
    found: dict[str, Any] = {
        "network": name,
        "masks": kind,
        "batch": batch,
        "threads": torch.get_num_threads(),
        "kept": float(
            sum(m.sum() for m in masks.values()) / sum(m.numel() for m in masks.values())
        ),
        "dense_form": forms.fastest,
        "forms_ms": forms.milliseconds,
        **asdict(measured),
        "packed_layers": len(plan.packed),
        "program": plan.decisions is not None,
        "error": error,
    }
    smaller = model
    if plan.shrinking.changes:
        graph = capture(model, (x,))
        smaller = again(model, graph, masks, (x,), True, plan.shrinking, False).model
    found["engines_run"] = "the smaller network" if smaller is not model else "the masked network"
    found["engines"] = {}
    for engine, running in engines.running(smaller, x, torch.get_num_threads(), pythons):
        error = float((running.output - exact.flatten()).abs().max() / exact.abs().max())
        assert error < 1e-3, f"{engine} on {name} {kind}: off by {error:.2g}"
        against = engines.beside(running, ours, seconds)
        if engine in engines.LOCAL:
            print(f"{engine}: {against}")
        else:
            found["engines"][engines.NAMES[engine]] = against
    return found


def kept_rows(results: Path | None, threads: int) -> list[dict[str, Any]]:
    """The rows that a file has already, if it is of this machine; others are measured."""
    if results is None or not results.is_file():
        return []
    data = json.loads(results.read_text(encoding="utf-8"))
    here = json.loads(json.dumps(asdict(machine())))
    same = {**data["machine"], "commit": ""} == {**here, "commit": ""}
    return [r for r in data["rows"] if same and r["threads"] == threads]


def _command(options: argparse.Namespace) -> str:
    """What measures rows so; which ones is up to `--only`, and to be seen in the file."""
    told = {"results": options.results, "threads": options.threads}
    told |= {"plan-s": options.plan_s, "seconds": options.seconds}
    return "python -m benchmarks.networks " + " ".join(f"--{k} {v}" for k, v in told.items())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--results", type=Path, help="write the rows there as JSON")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument(
        "--only", action="append", default=[], help='rows like "resnet18 95%% 16"; with * and ?'
    )
    parser.add_argument("--plan-s", type=float, default=12.0)
    parser.add_argument("--seconds", type=float, default=3.0)
    parser.add_argument("--python", action="append", default=[], help="engine=its python")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    pythons = engines.pythons(options.python)
    keep_freed_memory()
    rows = kept_rows(options.results, options.threads)
    dense: dict[tuple[str, int], Any] = {}
    for case in ROWS:
        known = [(r["network"], r["masks"], r["batch"]) for r in rows]
        text = " ".join(map(str, case))
        wanted = not options.only or any(fnmatchcase(text, each) for each in options.only)
        if not wanted or case in known:
            continue
        found = row(case, options.plan_s, options.seconds, pythons, dense)
        rows.append(found)
        beside = "".join(
            f", {engine} {r['ms']:.3f} ms ({r['speedup']:.2f}×)"
            for engine, r in found["engines"].items()
        )
        print(
            f"{case[0]}, {case[1]}, batch {case[2]}: {found['dense_ms']:.3f} ms "
            f"({found['dense_form']}) → {found['packed_ms']:.3f} ms, {found['speedup']:.2f}× "
            f"({found['low']:.2f} to {found['high']:.2f}){beside}",
            flush=True,
        )
        if options.results:
            command = _command(options)
            rows.sort(key=lambda r: ROWS.index((r["network"], r["masks"], r["batch"])))
            data = {"command": command, "machine": asdict(machine()), "rows": rows}
            with replacing(options.results) as temporary:
                temporary.write_text(json.dumps(data, indent=1) + "\n")


if __name__ == "__main__":
    main()
