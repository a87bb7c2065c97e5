"""Evidence as figures: what is drawn, and the sentence with the numbers that goes with it."""

from collections.abc import Iterator, Sequence
from itertools import pairwise
from statistics import mean, stdev

from sparse_ops.report.chart import Bars, Chart, Figure, Point, Series, format_colour, number
from sparse_ops.report.evidence import Evidence, Timing
from sparse_ops.report.histories import history_charts
from sparse_ops.report.rooflines import rooflines

# A layer's bar says nothing beside two hundred others.
MOST_BARS = 60


def figures(found: Evidence) -> list[Figure]:
    """All figures that there is evidence for, in the order of the page."""
    return [
        *_accuracy(found),
        *_latency(found),
        *_layers(found),
        *rooflines(found),
        *(figure for history in found.histories for figure in history_charts(history)),
    ]


def _accuracy(found: Evidence) -> Iterator[Chart]:
    """Accuracy against sparsity, a line a method; one figure for each network, data and group."""
    groups: dict[tuple[str, ...], dict[str, dict[float, list[float]]]] = {}
    sources: dict[tuple[str, ...], list[str]] = {}
    for run in found.trainings:
        key = run.model, run.data, *([run.group] if run.group else [])
        level = round(run.sparsity, 4)
        values = groups.setdefault(key, {}).setdefault(run.method, {}).setdefault(level, [])
        values.append(100 * run.accuracy)
        sources.setdefault(key, []).append(run.source)
    for key, methods in groups.items():
        series = [
            Series(name, tuple(_mean_point(100 * level, v) for level, v in sorted(levels.items())))
            for name, levels in methods.items()
        ]
        best = max((p[1], s.name, p[0]) for s in series for p in s.points)
        sparsest = max((p[0], p[1], s.name) for s in series for p in s.points)
        title = ", ".join([" on ".join(key[:2]), *key[2:]])
        yield Chart(
            f"accuracy-{'-'.join(key)}",
            f"Accuracy against sparsity: {title}",
            f"Best: {best[0]:.2f} % ({best[1]}, sparsity {best[2]:.1f} %). "
            f"Sparsest: {sparsest[0]:.2f} % removed leaves {sparsest[1]:.2f} % ({sparsest[2]}). "
            "Bars are standard deviations over seeds, where there is more than one.",
            "sparsity, %",
            "top-1, %",
            tuple(series),
            tuple(dict.fromkeys(sources[key])),
        )


def _mean_point(x: float, values: list[float]) -> Point:
    middle = mean(values)
    spread = stdev(values) if len(values) > 1 else None
    if spread is None:
        return x, middle, None, None
    return x, middle, middle - spread, middle + spread


def _latency(found: Evidence) -> Iterator[Chart]:
    """Time against sparsity, a line a format, dense = 1; where a line crosses it is marked."""
    groups: dict[str, dict[str, list[Timing]]] = {}
    for timing in found.timings:
        groups.setdefault(timing.group, {}).setdefault(timing.format, []).append(timing)
    for group, formats in groups.items():
        whole = all(t.whole for timings in formats.values() for t in timings)
        series, marks, words = [], [], []
        for name, timings in formats.items():
            points = tuple(
                (100 * (1 - t.kept), 1 / t.speedup, 1 / t.high, 1 / t.low) for t in timings
            )
            series.append(Series(name, points, whole, format_colour(name)))
            words.append(f"{name} {_range(timings)}")
            crossing = _crossing(points) if whole else None
            if crossing is not None:
                marks.append((crossing, 1.0, f"as fast as dense at {crossing:.0f} %"))
                words[-1] += f", as fast as dense at {crossing:.0f} % sparsity"
        yield Chart(
            f"latency-{group}",
            f"Time against sparsity: {group}",
            f"Speed-up over the fastest dense form: {'; '.join(words)}.",
            "sparsity, %",
            "time, dense = 1",
            tuple(series),
            tuple(dict.fromkeys(t.source for ts in formats.values() for t in ts)),
            tuple(marks),
            (1.0, "dense"),
            y_log=True,
        )


def _range(timings: Sequence[Timing]) -> str:
    low, high = (f(t.speedup for t in timings) for f in (min, max))
    return f"{low:.2f}×" if len(timings) == 1 else f"{low:.2f} to {high:.2f}×"


def _crossing(points: Sequence[Point]) -> float | None:
    """The sparsity at which the time of a line falls to that of dense; None if it does not."""
    ordered = sorted(points)
    for (x, y, *_), (u, v, *_) in pairwise(ordered):
        if y > 1 >= v and u > x:
            return x + (u - x) * (y - 1) / (y - v)
    return None


def _layers(found: Evidence) -> Iterator[Bars]:
    """Sparsity, layer by layer, and the operations that it saves."""
    for network in found.layers:
        shown = network.layers[:MOST_BARS]
        bars = []
        for layer in shown:
            words = f"{layer.sparsity:.1%}"
            if layer.macs and layer.kept_macs is not None:
                words += f" of {number(layer.macs)}"
            bars.append((layer.name, layer.sparsity, words))
        dense = sum(layer.macs or 0 for layer in network.layers)
        kept = sum(layer.kept_macs or 0 for layer in network.layers)
        least, most = (f(network.layers, key=lambda l: l.sparsity) for f in (min, max))
        said = (
            f"Most is removed from {most.name} ({most.sparsity:.1%}), "
            f"least from {least.name} ({least.sparsity:.1%})."
        )
        if dense:
            said += (
                f" Of {number(dense)} multiply-accumulates {number(kept)} are kept: "
                f"{1 - kept / dense:.2%} saved, {dense / max(kept, 1):.1f}× fewer."
            )
        if len(shown) < len(network.layers):
            said += f" The first {MOST_BARS} of {len(network.layers)} layers are drawn."
        label = "zeros, of so many operations" if dense else "zeros of each weight"
        yield Bars(
            f"layers-{network.title}",
            f"Sparsity by layer: {network.title}",
            said,
            label,
            tuple(bars),
            (network.source,),
        )
