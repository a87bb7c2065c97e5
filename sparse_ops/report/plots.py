"""Figures as files: SVG by our own hand, PNG by matplotlib."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from sparse_ops._files import replacing
from sparse_ops.report.chart import Bars, Chart, Figure
from sparse_ops.report.svg import LIGHT, look, svg


def write_plots(figures: Sequence[Figure], folder: Path) -> list[Path]:
    """Writes each figure as SVG and PNG, named by what it shows; gives the files.

    Raises:
        ImportError: matplotlib is not installed; nothing is written then.
        OSError: a file cannot be written.
    """
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg  # noqa: F401
    except ImportError as error:
        raise ImportError(f'plots need matplotlib ("sparse-ops[plot]"): {error}') from error
    folder.mkdir(parents=True, exist_ok=True)
    written = []
    for n, figure in enumerate(figures, start=1):
        slug = re.sub(r"[^a-z0-9.]+", "-", figure.key.lower()).strip("-.")[:80]
        base = folder / f"{n:02d}-{slug}"
        with replacing(base.with_name(f"{base.name}.svg")) as temporary:
            temporary.write_text(svg(figure, alone=True), encoding="utf-8")
        with replacing(base.with_name(f"{base.name}.png")) as temporary:
            _png(figure, temporary)
        written += [base.with_name(f"{base.name}{kind}") for kind in (".svg", ".png")]
    return written


def _png(figure: Figure, path: Path) -> None:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure as Canvas

    height = 1.2 + 0.22 * len(figure.bars) if isinstance(figure, Bars) else 5.0
    canvas = Canvas(figsize=(8, height), dpi=150, layout="constrained")
    FigureCanvasAgg(canvas)
    axis = canvas.subplots()
    axis.set_title(figure.title, loc="left", fontsize=11)
    axis.spines[["top", "right"]].set_visible(False)
    if isinstance(figure, Bars):
        _draw_bars(axis, figure)
    else:
        _draw_chart(axis, figure)
    canvas.savefig(path, format="png")


def _draw_bars(axis: Any, bars: Bars) -> None:
    names = [f"{name}  {words}" for name, _, words in bars.bars]
    places = list(range(len(names)))[::-1]
    axis.barh(places, [share for _, share, _ in bars.bars], color=LIGHT[0], height=0.7)
    axis.set_yticks(places, names, fontsize=7)
    axis.set_xlim(0, 1)
    axis.set_xlabel(bars.label)


def _draw_chart(axis: Any, chart: Chart) -> None:
    axis.set_xscale("log" if chart.x_log else "linear")
    axis.set_yscale("log" if chart.y_log else "linear")
    for n, series in enumerate(chart.series):
        points = sorted(series.points) if series.line else list(series.points)
        number, shape, hollow = look(n if series.colour is None else series.colour)
        colour, marker, fill = LIGHT[number], "os^"[shape], "none" if hollow else "full"
        xs, ys = [p[0] for p in points], [p[1] for p in points]
        style = "-" if series.line else "none"
        dots = {"marker": marker, "fillstyle": fill, "markersize": 4}
        axis.plot(xs, ys, linestyle=style, color=colour, label=series.name, **dots)
        for x, _, low, high in points:
            if low is not None and high is not None:
                axis.plot([x, x], [low, high], color=colour, linewidth=1)
    if chart.level is not None:
        axis.axhline(chart.level[0], color="grey", linestyle="--", linewidth=1)
    for roof in chart.roofs:
        axis.plot([x for x, _ in roof], [y for _, y in roof], color="grey")
    for x, y, words in chart.marks:
        axis.annotate(words, (x, y), textcoords="offset points", xytext=(6, -14), fontsize=8)
    axis.set_xlabel(chart.x_label)
    axis.set_ylabel(chart.y_label)
    if any(series.name for series in chart.series):
        axis.legend(fontsize=7, frameon=False)
