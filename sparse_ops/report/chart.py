"""Figures as data: charts of points, and bars; a page and a plot are drawn from the same."""

import math
from dataclasses import dataclass

# x, y, and the ends of its spread or None.
Point = tuple[float, float, float | None, float | None]


@dataclass(frozen=True)
class Series:
    """Points that belong together.

    Attributes:
        line: whether they are joined in the order of x.
        colour: which of the colours; None: by its place in the figure.
        names: of the points, where they have such.
    """

    name: str
    points: tuple[Point, ...]
    line: bool = True
    colour: int | None = None
    names: tuple[str, ...] = ()

    def named(self) -> tuple[str, ...]:
        """What each point is called: by the series, and by its own name."""
        if not self.names:
            return (self.name,) * len(self.points)
        return tuple(f"{self.name}, {name}" for name in self.names)


@dataclass(frozen=True)
class Chart:
    """A figure with two axes.

    Attributes:
        key: a short name for its file.
        said: what it shows, in a sentence with numbers.
        marks: (x, y, words) of single places, such as where a line crosses another.
        level: y of a line across, and its words; None for none.
        roofs: corners of lines that are not data, such as what a machine can do.
        sources: the files that its numbers are from.
    """

    key: str
    title: str
    said: str
    x_label: str
    y_label: str
    series: tuple[Series, ...]
    sources: tuple[str, ...]
    marks: tuple[tuple[float, float, str], ...] = ()
    level: tuple[float, str] | None = None
    roofs: tuple[tuple[tuple[float, float], ...], ...] = ()
    x_log: bool = False
    y_log: bool = False


@dataclass(frozen=True)
class Bars:
    """A figure of bars, one below the other, each a share of something.

    Attributes:
        bars: (name, share in [0, 1], the number beside it).
    """

    key: str
    title: str
    said: str
    label: str
    bars: tuple[tuple[str, float, str], ...]
    sources: tuple[str, ...]


Figure = Chart | Bars


def extent(values: list[float], log: bool) -> tuple[float, float]:
    """From where to where an axis goes: a little beyond the values."""
    low, high = min(values), max(values)
    if log:
        low, high = math.log10(low), math.log10(high)
    room = 0.06 * (high - low) or 0.1 * abs(high) or 0.1
    low, high = low - room, high + room
    return (10**low, 10**high) if log else (low, high)


def ticks(low: float, high: float, log: bool, whole: bool = False) -> list[float]:
    """Some round numbers between low and high; of whole numbers, where those are meant."""
    if log:
        first, last = math.ceil(math.log10(low) - 1e-9), math.floor(math.log10(high) + 1e-9)
        decades = [10.0**power for power in range(first, last + 1)]
        if len(decades) >= 4:
            return decades[:: max(1, len(decades) // 6)]
        fine = [m * 10.0**p for p in range(first - 1, last + 2) for m in (1, 2, 5)]
        inside = [value for value in fine if low <= value <= high]
        if len(inside) >= 2:
            return inside if len(inside) <= 8 else decades
    step = 10.0 ** math.floor(math.log10((high - low) / 4))
    step *= next(m for m in (1, 2, 5, 10) if (high - low) / (step * m) <= 6)
    step = max(step, 1.0) if whole else step
    first = math.ceil(low / step - 1e-9)
    return [round(n * step, 12) for n in range(first, math.floor(high / step + 1e-9) + 1)]


# Formats have the same colour in every figure.
FORMAT_COLOURS = ("PeriodicConv2d", "CSRConv2d", "ChannelPrunedConv2d", "CSRLinear")


def format_colour(name: str) -> int | None:
    return FORMAT_COLOURS.index(name) if name in FORMAT_COLOURS else None


def number(value: float) -> str:
    """In few characters: 0.125, 12.3, 1,234, 1.2e-06, 12M."""
    size = abs(value)
    if value == 0:
        return "0"
    if size >= 1e6:
        unit = next(u for u in ((1e12, "T"), (1e9, "G"), (1e6, "M")) if size >= u[0])
        return f"{value / unit[0]:.3g}{unit[1]}"
    if size >= 1000:
        return f"{value:,.0f}"
    return f"{value:.1e}" if size < 1e-3 else f"{value:.3g}"
