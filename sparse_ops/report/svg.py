"""Figures as SVG: text stays text, colours come from the page or, in a file, from the file."""

import math
from collections.abc import Callable
from html import escape

from sparse_ops.report.chart import Bars, Chart, Figure, Series, extent, number, ticks

WIDTH, HEIGHT = 440.0, 300.0
# On the left there is room for "9.0e-04" beside the label.
LEFT, RIGHT, TOP, BOTTOM = 76.0, 14.0, 12.0, 44.0
BAR, LINE = 18.0, 16.0
COLOURS = 6
Place = Callable[[float], float]
# Of a colour in turn, on white and on black.
LIGHT = ("#0b6e99", "#c2374a", "#2a7d4f", "#7a48c4", "#a86400", "#56657a")
DARK = ("#62bfe6", "#ff8796", "#74d49d", "#c4a6ff", "#f2b950", "#aab7c6")

STYLE = """
.ink{fill:var(--ink)}.quiet{fill:var(--quiet)}.grid{stroke:var(--grid);stroke-width:1}
.axis,.level,.roof{stroke:var(--quiet);stroke-width:1.2;fill:none}.level{stroke-dasharray:5 4}
text{font:12px system-ui,sans-serif}.small{font-size:11px}.track{fill:var(--grid)}
""" + "".join(
    f".f{n}{{fill:var(--s{n})}}.l{n}{{stroke:var(--s{n});stroke-width:2;fill:none}}"
    for n in range(COLOURS)
)


def variables(dark: bool) -> str:
    """The colours that STYLE names, as CSS."""
    ink, quiet, grid = (
        ("#e8edf2", "#9fb0c0", "#2c3947") if dark else ("#18222d", "#586675", "#dde4ea")
    )
    series = "".join(f"--s{n}:{c};" for n, c in enumerate(DARK if dark else LIGHT))
    return f"--ink:{ink};--quiet:{quiet};--grid:{grid};{series}"


def svg(figure: Figure, *, alone: bool = False) -> str:
    """A figure; `alone`: with its own colours on white, for a file."""
    body, height = _bars(figure) if isinstance(figure, Bars) else _chart(figure)
    style = f"<style>svg{{{variables(False)}background:#fff}}{STYLE}</style>" if alone else ""
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH:g} {height:g}" role="img" '
        f'aria-label="{escape(figure.title)}">{style}{body}</svg>'
    )


def _text(x: float, y: float, words: str, kind: str = "ink", anchor: str = "start") -> str:
    place = f'x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}"'
    return f'<text class="{kind}" {place}>{escape(words)}</text>'


def _line(kind: str, x1: float, x2: float, y1: float, y2: float) -> str:
    return f'<line class="{kind}" x1="{x1:.1f}" x2="{x2:.1f}" y1="{y1:.1f}" y2="{y2:.1f}"/>'


def _cut(words: str, width: float) -> str:
    """As much of the words as fits; on a phone, where they are larger, a character is 7.2 wide."""
    most = max(4, int(width / 7.2))
    return words if len(words) <= most else words[: most - 1] + "…"


def _scale(
    low: float, high: float, log: bool, begin: float, end: float
) -> Callable[[float], float]:
    if log:
        low, high = math.log10(low), math.log10(high)

    def place(value: float) -> float:
        value = math.log10(value) if log else value
        return begin + (value - low) / (high - low) * (end - begin)

    return place


def look(series: int) -> tuple[int, int, bool]:
    """(colour, shape of three, whether it is hollow); no two of 36 series are alike."""
    turns = series // COLOURS
    return series % COLOURS, (series + turns) % 3, turns // 3 % 2 == 1


def _marker(series: int, x: float, y: float, words: str) -> str:
    """A dot with its numbers as a tooltip."""
    colour, shape, hollow = look(series)
    kind = f'class="{"l" if hollow else "f"}{colour}"'
    title = f"<title>{escape(words)}</title>"
    if shape == 0:
        return f'<circle {kind} cx="{x:.1f}" cy="{y:.1f}" r="3.6">{title}</circle>'
    if shape == 1:
        side = 6.4
        return (
            f'<rect {kind} x="{x - side / 2:.1f}" y="{y - side / 2:.1f}" '
            f'width="{side}" height="{side}">{title}</rect>'
        )
    corners = f"{x:.1f},{y - 4.4:.1f} {x - 4.2:.1f},{y + 3.4:.1f} {x + 4.2:.1f},{y + 3.4:.1f}"
    return f'<polygon {kind} points="{corners}">{title}</polygon>'


def _chart(chart: Chart) -> tuple[str, float]:
    every = [point for series in chart.series for point in series.points]
    corners = [corner for roof in chart.roofs for corner in roof]
    xs = [p[0] for p in every] + [corner[0] for corner in corners]
    ys = [v for p in every for v in p[1:] if v is not None] + [c[1] for c in corners]
    ys += [] if chart.level is None else [chart.level[0]]
    (x_low, x_high), (y_low, y_high) = extent(xs, chart.x_log), extent(ys, chart.y_log)
    right, bottom = WIDTH - RIGHT, HEIGHT - BOTTOM
    x_of = _scale(x_low, x_high, chart.x_log, LEFT, right)
    y_of = _scale(y_low, y_high, chart.y_log, bottom, TOP)
    parts = []
    whole = all(x == int(x) for x in xs)
    for tick in ticks(x_low, x_high, chart.x_log, whole):
        parts.append(_line("grid", x_of(tick), x_of(tick), TOP, bottom))
        parts.append(_text(x_of(tick), bottom + 16, number(tick), "quiet", "middle"))
    for tick in ticks(y_low, y_high, chart.y_log):
        parts.append(_line("grid", LEFT, right, y_of(tick), y_of(tick)))
        parts.append(_text(LEFT - 6, y_of(tick) + 4, number(tick), "quiet", "end"))
    parts.append(_text((LEFT + right) / 2, HEIGHT - 10, chart.x_label, "quiet", "middle"))
    turned = f'transform="translate(13 {(TOP + bottom) / 2:.1f}) rotate(-90)"'
    label = escape(chart.y_label)
    parts.append(f'<text class="quiet" {turned} text-anchor="middle">{label}</text>')
    if chart.level is not None:
        y = y_of(chart.level[0])
        parts.append(_line("level", LEFT, right, y, y))
        parts.append(_text(right, y - 4, chart.level[1], "quiet small", "end"))
    for roof in chart.roofs:
        way = " ".join(f"{x_of(x):.1f},{y_of(y):.1f}" for x, y in roof)
        parts.append(f'<polyline class="roof" points="{way}"/>')
    for n, series in enumerate(chart.series):
        parts += _series(_colour(n, series), series, x_of, y_of)
    for x, y, words in chart.marks:
        # Words stand on the side on which there is room.
        shift, anchor = (-10, "end") if x_of(x) > (LEFT + WIDTH) / 2 else (10, "start")
        parts.append(f'<circle class="axis" cx="{x_of(x):.1f}" cy="{y_of(y):.1f}" r="6.5"/>')
        parts.append(_text(x_of(x) + shift, y_of(y) + 18, words, "ink small", anchor))
    legend, height = _legend(chart)
    return "".join(parts) + legend, HEIGHT + height


def _colour(n: int, series: Series) -> int:
    return n if series.colour is None else series.colour


def _series(n: int, series: Series, x_of: Place, y_of: Place) -> list[str]:
    """The line of a series, the spreads of its points, and a dot for each, if they are not many."""
    parts = []
    points = list(zip(series.points, series.named(), strict=True))
    if series.line and len(points) > 1:
        way = " ".join(f"{x_of(p[0]):.1f},{y_of(p[1]):.1f}" for p in sorted(series.points))
        parts.append(f'<polyline class="l{n % COLOURS}" points="{way}"/>')
    for (x, y, low, high), name in points:
        if low is not None and high is not None:
            parts.append(_line(f"l{n % COLOURS}", x_of(x), x_of(x), y_of(low), y_of(high)))
        if not series.line or len(points) <= 60:
            words = f"{name}: {number(x)}, {number(y)}"
            parts.append(_marker(n, x_of(x), y_of(y), words))
    return parts


def _legend(chart: Chart) -> tuple[str, float]:
    """A line for each series below the chart, and how high they are together."""
    if len(chart.series) == 1 and not chart.series[0].name:
        return "", 0.0
    parts = []
    for n, series in enumerate(chart.series):
        y = HEIGHT + 4 + LINE * n
        parts.append(_marker(_colour(n, series), LEFT, y - 4, series.name))
        parts.append(_text(LEFT + 12, y, _cut(series.name, WIDTH - LEFT - 20), "ink small"))
    return "".join(parts), LINE * len(chart.series)


def _bars(bars: Bars) -> tuple[str, float]:
    names, numbers = 122.0, 142.0
    width = WIDTH - names - numbers
    parts = []
    for row, (name, share, words) in enumerate(bars.bars):
        y = TOP + BAR * row
        parts.append(_text(names - 8, y + 11, _cut(name, names - 12), "ink small", "end"))
        parts.append(
            f'<rect class="track" x="{names}" y="{y}" width="{width}" height="{BAR - 5}"/>'
        )
        parts.append(
            f'<rect class="f0" x="{names}" y="{y}" width="{width * share:.1f}" height="{BAR - 5}">'
            f"<title>{escape(name)}: {escape(words)}</title></rect>"
        )
        parts.append(_text(names + width + 6, y + 11, words, "ink small"))
    height = TOP + BAR * len(bars.bars) + 20
    parts.append(_text(names, height - 6, bars.label, "quiet small"))
    return "".join(parts), height
