"""Histories: what changed in a training run from epoch to epoch, columns of one kind together."""

from collections.abc import Iterator, Mapping
from statistics import median

from sparse_ops.report.chart import Chart, Point, Series, number
from sparse_ops.report.evidence import History

# Columns of a log that belong in one figure; a method's own get one each, or one for each kind.
TOGETHER = {
    "loss": ("loss", "validation_loss"),
    "accuracy": ("accuracy", "top1", "top5"),
    "zeros": ("sparsity",),
    "learning rate": ("lr",),
}
APART = {"epoch", "seconds", "examples_per_second"}
# Twice as many lines as there are colours can be told apart; the 57 tensors of a ResNet-56 cannot.
# Which tensors differ most from the rest is what one looks for, so those at both ends are drawn.
MOST_LINES, AT_EACH_END = 12, 5
# In words, the rest is in the table of the figure.
MOST_SAID = 8

Values = list[float | None]


def history_charts(history: History) -> Iterator[Chart]:
    """A figure for each kind of column: what belongs together, and "kept:fc1.weight" as "kept"."""
    epochs = history.columns["epoch"]
    for title, columns in _kinds(history.columns).items():
        lines = {name: _points(epochs, values) for name, values in columns.items()}
        lines = {name: points for name, points in lines.items() if points}
        if not lines:
            continue
        drawn, said = _chosen(lines)
        values = [p[1] for points in drawn.values() for p in points]
        yield Chart(
            f"history-{history.name}-{title}",
            f"{history.name}: {title}",
            said,
            "epoch",
            title,
            tuple(Series(name, points) for name, points in drawn.items()),
            (history.source,),
            y_log=min(values) > 0 and max(values) > 100 * min(values),
        )


def _kinds(columns: Mapping[str, Values]) -> dict[str, dict[str, Values]]:
    """Title of a figure -> its columns, by the name of their line."""
    known = {name: title for title, names in TOGETHER.items() for name in names}
    found: dict[str, dict[str, Values]] = {title: {} for title in TOGETHER}
    for name, values in columns.items():
        if name not in APART:
            kind, _, tensor = name.partition(":")
            found.setdefault(known.get(name, kind), {})[tensor or name] = values
    return found


def _points(epochs: Values, values: Values) -> tuple[Point, ...]:
    pairs = zip(epochs, values, strict=True)
    return tuple((x, y, None, None) for x, y in pairs if x is not None and y is not None)


def _chosen(lines: dict[str, tuple[Point, ...]]) -> tuple[dict[str, tuple[Point, ...]], str]:
    """The lines that are drawn, and the sentence with their last values."""
    if len(lines) <= MOST_LINES:
        last = [f"{name} {number(points[-1][1])}" for name, points in lines.items()]
        more = ", …" if len(last) > MOST_SAID else ""
        return lines, f"After the last epoch: {', '.join(last[:MOST_SAID])}{more}."
    order = sorted(lines, key=lambda name: lines[name][-1][1])
    lowest, highest = order[:AT_EACH_END], order[-AT_EACH_END:]
    ends = {name: lines[name] for name in lines if name in {*lowest, *highest}}
    middle = _median(lines)
    name = f"median of {len(lines)}"
    said = (
        f"After the last epoch {_last(lines, lowest[0])} is least and "
        f"{_last(lines, highest[-1])} most, {number(middle[-1][1])} the median. Of {len(lines)} "
        f"tensors the {AT_EACH_END} that end lowest and the {AT_EACH_END} that end highest are "
        "drawn; all are in the log."
    )
    return {name: middle, **ends}, said


def _last(lines: Mapping[str, tuple[Point, ...]], name: str) -> str:
    return f"{name} ({number(lines[name][-1][1])})"


def _median(lines: Mapping[str, tuple[Point, ...]]) -> tuple[Point, ...]:
    """The median of all lines in each epoch."""
    values: dict[float, list[float]] = {}
    for points in lines.values():
        for x, y, *_ in points:
            values.setdefault(x, []).append(y)
    return tuple((x, median(ys), None, None) for x, ys in sorted(values.items()))
