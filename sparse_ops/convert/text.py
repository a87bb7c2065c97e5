"""A plan as plain text."""

import io
from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table

from sparse_ops.convert.assemble import LayerPlan
from sparse_ops.convert.measure import Comparison
from sparse_ops.convert.programmed import ORDER_NAMES

if TYPE_CHECKING:
    from sparse_ops.convert.plans import Plan

WIDTH = 160


def plain(*parts: Table | str) -> str:
    """Tables and lines as text without colours, as wide as needed up to `WIDTH`."""
    console = Console(
        file=io.StringIO(), width=WIDTH, no_color=True, force_terminal=False, highlight=False
    )
    for part in parts:
        console.print(part, markup=False, soft_wrap=isinstance(part, str))
    assert isinstance(console.file, io.StringIO)
    return "\n".join(line.rstrip() for line in console.file.getvalue().splitlines())


def speed(measured: Comparison | None) -> str:
    """ "2.31 (2.10 to 2.44)", or "-"."""
    if measured is None:
        return "-"
    return f"{measured.speedup:.2f} ({measured.low:.2f} to {measured.high:.2f})"


def _shape(layer: LayerPlan) -> str:
    shapes = [layer.shape] if layer.left is None else [layer.shape, layer.left]
    return "\n→ ".join("×".join(str(size) for size in shape) for shape in shapes)


def _why(layer: LayerPlan) -> str:
    if not layer.dead_kept:
        return layer.reason
    return f"{layer.reason}; {layer.dead_kept} dead outputs stay: {layer.dead_why}"


def plan_text(plan: "Plan") -> str:
    """The plan's table, its verdict on the whole model, its notes, and what was refused and why."""
    table = Table(box=None, pad_edge=False)
    table.add_column("layer", overflow="fold")
    table.add_column("weight")
    table.add_column("zeros", overflow="fold")
    for title in ("sparsity", "MMACs", "kept", "dense ms", "packed ms", "speed-up", "floor ms"):
        table.add_column(title, justify="right", no_wrap=True)
    table.add_column("of it", justify="right")
    table.add_column("becomes")
    table.add_column("why", overflow="fold", min_width=24)
    for layer in plan.layers:
        becomes = f"{layer.becomes} ({layer.backend})" if layer.becomes else "dense"
        becomes = "constant" if layer.constant else becomes
        if layer.activation:
            becomes += f" + {layer.activation}"
        for fusion in plan.fusions:
            if fusion.layer == layer.name:
                becomes += " + residual" if fusion.residual else ""
                becomes += f" + {fusion.activation}" if fusion.activation else ""
        if any(layer.name in each.layers for each in plan.concatenations):
            becomes += " + cat"
        times = (layer.dense_ms, layer.packed_ms)
        reached = layer.floor_reached
        table.add_row(
            layer.name or layer.kind,
            _shape(layer),
            layer.zeros or "-",
            f"{layer.sparsity:.1%}",
            f"{layer.macs / 1e6:.3f}",
            f"{layer.kept_macs / 1e6:.3f}",
            *("-" if ms is None else f"{ms:.3f}" for ms in times),
            speed(layer.measured),
            "-" if layer.floor_ms is None else f"{layer.floor_ms:.3f}",
            "-" if reached is None else f"{reached:.0%}",
            becomes,
            _why(layer),
        )
    return plain(
        table,
        "",
        *_verdict(plan),
        *_program(plan),
        *(f"note: {note}" for note in plan.notes),
        *_refusals(plan.layers),
    )


def _verdict(plan: "Plan") -> list[str]:
    """What was compared with what, and how it came out."""
    lines = []
    whole = plan.whole
    if whole is not None:
        lines.append(
            f"whole model: {whole.dense_ms:.3f} ms dense ({plan.dense_forms.fastest}), "
            f"{whole.packed_ms:.3f} ms packed ({plan.packed_forms.fastest}), "
            f"speed-up {speed(whole)}, {whole.pairs} pairs"
            + (f", {whole.dropped} dropped" if whole.dropped else "")
        )
    for name, forms in (("dense", plan.dense_forms), ("packed", plan.packed_forms)):
        times = [f"{form} {ms:.3f} ms" for form, ms in forms.milliseconds.items()]
        left_out = [f"{form} left out: {reason}" for form, reason in forms.skipped.items()]
        if times or left_out:
            lines.append(f"forms of the {name} model: {'; '.join(times + left_out)}")
    return lines


def _program(plan: "Plan") -> list[str]:
    """How the network runs as a program, and when."""
    if plan.decisions is None:
        return []
    counts = Counter(order for _, order in plan.decisions.orders)
    ways = ", ".join(f"{counts[order]} {ORDER_NAMES[order]}" for order in sorted(counts))
    lines = [
        f"program: {len(plan.decisions.orders)} operations are one call without gradients in eval "
        f"mode, their values {ways}; other calls run layer by layer"
    ]
    if plan.decisions.piece:
        lines.append(f"program: {plan.decisions.piece} images of a batch run at a time")
    return lines


def _refusals(layers: Sequence[LayerPlan]) -> list[str]:
    """Candidate -> the layers that refuse it, for each reason once."""
    refused: dict[str, list[str]] = {}
    for layer in layers:
        for words in layer.refused:
            refused.setdefault(words, []).append(layer.name or layer.kind)
    lines = [f"refused: {words} ({_some(names)})" for words, names in refused.items()]
    slower = sum(len(layer.slower) for layer in layers)
    return [*lines, f"slower: {slower} other candidates; to_json() has all"] if slower else lines


def _some(names: list[str]) -> str:
    """The first names, and how many there are beside."""
    rest = len(names) - 3
    return ", ".join(names[:3]) + (f" and {rest} more" if rest > 0 else "")
