"""The roofline: how fast layers run, against what the machine could do with their work.

Williams et al., Communications of the ACM 52(4), 2009: at most the peak, and at most as much as
the bytes moved allow. Where the nearest cache was measured, it has a roof of its own above that of
memory: Ilic, Pratas and Sousa, IEEE Computer Architecture Letters 13(1), 2014.
"""

from collections.abc import Iterator

from sparse_ops.report.chart import Chart, Series, format_colour, number
from sparse_ops.report.evidence import Evidence, Roofs, Work

Line = tuple[tuple[float, float], ...]


def rooflines(found: Evidence) -> Iterator[Chart]:
    """A figure for each network, or file of single layers, whose work is known."""
    groups: dict[tuple[str, str], list[Work]] = {}
    for work in found.works:
        groups.setdefault((work.source, work.group), []).append(work)
    for (source, group), works in groups.items():
        roofs = next((r for r in found.roofs if r.source == source), None)
        kinds: dict[str, list[Work]] = {}
        for work in works:
            kinds.setdefault(work.kind, []).append(work)
        series = tuple(_series(kind, mine) for kind, mine in kinds.items())
        points = [p for each in series for p in each.points]
        title = ", ".join(words for words in (source, group) if words)
        yield Chart(
            f"roofline-{title}",
            f"Roofline: {title}",
            _said(len(works), max(p[1] for p in points), roofs),
            "kept multiply-accumulates a byte",
            "G multiply-accumulates/s",
            series,
            (source,),
            roofs=_lines(roofs, [p[0] for p in points]),
            x_log=True,
            y_log=True,
        )


def _series(kind: str, works: list[Work]) -> Series:
    points = tuple((w.macs / w.bytes, w.macs / w.ms / 1e6, None, None) for w in works)
    return Series(kind, points, False, format_colour(kind), tuple(w.name for w in works))


def _said(count: int, best: float, roofs: Roofs | None) -> str:
    said = f"{count} layers; the fastest does {number(best)} G kept multiply-accumulates/s"
    if roofs is None:
        return f"{said}."
    peak = roofs.macs / 1e9
    said += (
        f", {best / peak:.0%} of the {number(peak)} G/s that dense products reach here; "
        f"memory moves {number(roofs.bytes / 1e9)} GB/s"
    )
    if roofs.cached is not None:
        said += f", and the nearest cache {number(roofs.cached / 1e9)}, which is the upper roof"
    return f"{said}."


def _lines(roofs: Roofs | None, intensities: list[float]) -> tuple[Line, ...]:
    """The corners of what the machine can do, over the points' range: from memory, from cache."""
    if roofs is None:
        return ()
    low, high = min(intensities) / 1.5, max(intensities) * 1.5
    lines = []
    for moved in (roofs.bytes, roofs.cached):
        if moved is not None:
            ridge = roofs.macs / moved
            corners = [low, *([ridge] if low < ridge < high else []), high]
            lines.append(tuple((x, min(roofs.macs, x * moved) / 1e9) for x in corners))
    return tuple(lines)
