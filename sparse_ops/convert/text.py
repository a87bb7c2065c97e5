"""A plan as plain text."""

import io
from collections.abc import Sequence

from rich.console import Console
from rich.table import Table

from sparse_ops.convert.assemble import LayerPlan
from sparse_ops.convert.measure import Comparison

WIDTH = 140


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


def plan_text(layers: Sequence[LayerPlan], whole: Comparison | None, notes: Sequence[str]) -> str:
    """The plan's table, its verdict on the whole model, and its notes."""
    table = Table(box=None, pad_edge=False)
    table.add_column("layer", overflow="fold")
    table.add_column("weight")
    table.add_column("zeros", overflow="fold")
    for title in ("sparsity", "MMACs", "kept", "dense ms", "packed ms", "speed-up"):
        table.add_column(title, justify="right", no_wrap=True)
    table.add_column("becomes")
    table.add_column("why", overflow="fold", min_width=24)
    for layer in layers:
        becomes = f"{layer.becomes} ({layer.backend})" if layer.becomes else "dense"
        becomes = "constant" if layer.constant else becomes
        if layer.activation:
            becomes += f" + {layer.activation}"
        times = (layer.dense_ms, layer.packed_ms)
        table.add_row(
            layer.name or layer.kind,
            _shape(layer),
            layer.zeros or "-",
            f"{layer.sparsity:.1%}",
            f"{layer.macs / 1e6:.3f}",
            f"{layer.kept_macs / 1e6:.3f}",
            *("-" if ms is None else f"{ms:.3f}" for ms in times),
            speed(layer.measured),
            becomes,
            _why(layer),
        )
    lines: list[Table | str] = [table, ""]
    if whole is not None:
        lines.append(
            f"whole model: {whole.dense_ms:.3f} ms dense, {whole.packed_ms:.3f} ms packed, "
            f"speed-up {speed(whole)}, {whole.pairs} pairs"
            + (f", {whole.dropped} dropped" if whole.dropped else "")
        )
    return plain(*lines, *(f"note: {note}" for note in notes))
