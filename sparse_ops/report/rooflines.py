"""The roofline: how fast layers run, against what the machine could do with their work.

Williams et al., Communications of the ACM 52(4), 2009: at most the peak, and at most as much as
the bytes moved allow.
"""

from collections.abc import Iterator

from sparse_ops.report.chart import Chart, Series, format_colour, number
from sparse_ops.report.evidence import Evidence, Roofs, Timing


def rooflines(found: Evidence) -> Iterator[Chart]:
    """A figure for each file with layers whose work is known; each layer is a point."""
    sources: dict[str, list[Timing]] = {}
    for timing in found.timings:
        if timing.macs and timing.bytes and timing.packed_ms > 0:
            sources.setdefault(timing.source, []).append(timing)
    for source, timings in sources.items():
        roofs = next((r for r in found.roofs if r.source == source), None)
        formats: dict[str, list[tuple[float, float, None, None]]] = {}
        for t in timings:
            assert t.macs is not None and t.bytes is not None
            point = (t.macs / t.bytes, t.macs / t.packed_ms / 1e6, None, None)
            formats.setdefault(t.format, []).append(point)
        series = tuple(
            Series(name, tuple(points), False, format_colour(name))
            for name, points in formats.items()
        )
        best = max(p[1] for s in series for p in s.points)
        said = (
            f"{len(timings)} layers; the fastest does {number(best)} G kept multiply-accumulates/s"
        )
        if roofs is not None:
            peak = roofs.macs / 1e9
            said += (
                f", {best / peak:.0%} of the {number(peak)} G/s that dense products and "
                f"convolutions reach here; {number(roofs.bytes / 1e9)} GB/s are moved"
            )
        yield Chart(
            f"roofline-{source}",
            f"Roofline: {source}",
            f"{said}.",
            "kept multiply-accumulates a byte",
            "G multiply-accumulates/s",
            series,
            (source,),
            roof=_roof(roofs, [p[0] for s in series for p in s.points]),
            x_log=True,
            y_log=True,
        )


def _roof(roofs: Roofs | None, intensities: list[float]) -> tuple[tuple[float, float], ...]:
    """The corners of what the machine can do, over the points' range."""
    if roofs is None:
        return ()
    low, high = min(intensities) / 1.5, max(intensities) * 1.5
    ridge = roofs.macs / roofs.bytes
    corners = [low, *([ridge] if low < ridge < high else []), high]
    return tuple((x, min(roofs.macs, x * roofs.bytes) / 1e9) for x in corners)
