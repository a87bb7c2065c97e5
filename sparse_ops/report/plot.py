"""The picture of a set of results: accuracy, and milliseconds dense and packed."""

import os
from typing import Any

from sparse_ops._files import replacing
from sparse_ops.report.results import Network, Results

DENSE, PACKED, INK, QUIET = "#9aa5b1", "#0b6e99", "#1f2933", "#616e7c"
# Of a bar or a whisker, dense = 1: what is longer is cut off, so that the others can be compared.
WIDEST = 1.6


def plot(results: Results, path: str | os.PathLike[str]) -> None:
    """Draws the results of every network to a PNG file, which is whole or not there.

    Raises:
        ImportError: matplotlib is not installed; the message says how to get it.
        OSError: the file cannot be written.
    """
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError(f'plots need matplotlib ("sparse-ops[plot]"): {error}') from error

    rows = max(1, len(results.networks))
    figure = Figure(figsize=(11, 1.2 + 2.7 * rows), dpi=150, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(rows, 2, width_ratios=(1, 2.4), squeeze=False)
    for network, (left, right) in zip(results.networks, axes, strict=False):
        _accuracy(left, network)
        _times(right, network)
    machine = results.machine
    where = f"{machine.cpu}, threads: {machine.threads}, {machine.isa}, torch {machine.torch}"
    figure.suptitle(f"{results.data}: dense against packed", color=INK, fontsize=13)
    figure.supxlabel(
        f"{where}\nwhisker: 10th to 90th percentile of the pairwise speed-up",
        color=QUIET,
        fontsize=8,
    )
    with replacing(path) as temporary:
        figure.savefig(temporary, format="png")


def _bare(axis: Any) -> None:
    axis.spines[["top", "right"]].set_visible(False)
    axis.tick_params(colors=INK, labelsize=9)


def _accuracy(axis: Any, network: Network) -> None:
    values = [100 * network.accuracy_dense, 100 * network.accuracy_sparse]
    bars = axis.bar(["dense", "sparse"], values, color=[DENSE, PACKED], width=0.6)
    axis.bar_label(bars, labels=[f"{v:.1f} %" for v in values], color=INK, fontsize=9, padding=2)
    axis.set_ylim(0, 115)
    axis.set_yticks([0, 50, 100])
    axis.set_ylabel("accuracy, %", color=INK, fontsize=9)
    axis.set_title(
        f"{network.name}: {network.method}, sparsity {network.sparsity:.1%}",
        loc="left",
        color=INK,
        fontsize=10,
    )
    _bare(axis)


def _times(axis: Any, network: Network) -> None:
    places, names, longest = [], [], 0.0
    for number, row in enumerate(reversed(network.rows)):
        base = 3.0 * number
        if row.measured is None:
            dense = packed = row.forms[row.dense_form]
            low = high = packed
            said = "stays dense"
        else:
            m = row.measured
            dense, packed = m.dense_ms, m.packed_ms
            low, high = dense / m.high, dense / m.low
            said = f"{m.speedup:.2f}× faster" if m.speedup > 1 else f"{m.speedup:.2f}×"
        # Each batch size on its own scale: the dense time is 1, the milliseconds stand beside.
        axis.barh(base + 1, 1, color=DENSE, height=0.8)
        axis.barh(base, packed / dense, color=PACKED, height=0.8)
        axis.plot([low / dense, min(high / dense, WIDEST)], [base, base], color=INK, linewidth=1.2)
        axis.text(1.02, base + 1, f"{dense:.3f} ms ({row.dense_form})", va="center", fontsize=9)
        edge = min(max(packed, high) / dense, WIDEST)
        axis.text(
            edge + 0.02,
            base,
            f"{packed:.3f} ms ({row.packed_form}), {said}",
            va="center",
            fontsize=9,
        )
        longest = max(longest, 1.0, edge)
        places += [base + 1, base]
        names += [f"batch {row.batch}: dense", "packed"]
    axis.set_yticks(places, names)
    axis.set_xlim(0, 1.7 * longest)
    axis.set_xticks([0, 0.5, 1.0])
    axis.set_xlabel("time, dense = 1", color=INK, fontsize=9)
    _bare(axis)
