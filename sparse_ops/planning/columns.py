"""Text for people: tables and lines of `WIDTH` characters at most, nothing cut but long names."""

import re
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass

WIDTH = 100
BETWEEN = "  "
# Names keep at least so much.
SHORTEST = 12
# Of several layers that something is said of, so many are named.
NAMED = 3


@dataclass(frozen=True)
class Column:
    """A column of a table.

    Attributes:
        title: one line, or several.
        cells: one for each row.
        right: whether they stand at the right.
        optional: whether it is left out where there is no room.
    """

    title: str
    cells: Sequence[str]
    right: bool = True
    optional: bool = False

    @property
    def lines(self) -> list[str]:
        return self.title.split("\n")

    @property
    def width(self) -> int:
        return max(len(text) for text in (*self.lines, *self.cells))


def table(names: Column, columns: Sequence[Column], width: int = WIDTH) -> list[str]:
    """The lines of a table.

    Args:
        names: the first column, which is shortened where there is no room.
        columns: the others; those without anything in them are left out.
    """
    columns = [column for column in columns if any(column.cells)]
    full = _taken(columns) + names.width
    while full > width and any(column.optional for column in columns):
        last = [column for column in columns if column.optional][-1]
        columns = [column for column in columns if column is not last]
        full = _taken(columns) + names.width
    room = max(SHORTEST, width - _taken(columns))
    names = Column(names.title, shortened(names.cells, room), names.right)
    all_columns = [names, *columns]
    height = max(len(column.lines) for column in all_columns)
    titles = [[""] * (height - len(column.lines)) + column.lines for column in all_columns]
    rows = [*zip(*titles, strict=True), *zip(*(c.cells for c in all_columns), strict=True)]
    return [_line(all_columns, row) for row in rows]


def _taken(columns: Sequence[Column]) -> int:
    return sum(len(BETWEEN) + column.width for column in columns)


def _line(columns: Sequence[Column], row: Sequence[str]) -> str:
    cells = [
        cell.rjust(column.width) if column.right else cell.ljust(column.width)
        for column, cell in zip(columns, row, strict=True)
    ]
    return BETWEEN.join(cells).rstrip()


def shortened(names: Sequence[str], width: int) -> list[str]:
    """The names, long ones without their middle; those that differ still do.

    Where no place to cut leaves them different, the parts between dots are shortened each; then
    they are numbered.
    """
    if all(len(name) <= width for name in names):
        return list(names)
    different = len(set(names))
    liked = (width - 1) // 3
    for head in sorted(range(1, width - 1), key=lambda head: abs(head - liked)):
        found = [_cut(name, head, width) for name in names]
        if len(set(found)) == different:
            return found
    found = [_by_parts(name, width) for name in names]
    if len(set(found)) == different and all(len(name) <= width for name in found):
        return found
    numbers = {name: f"…{number}" for number, name in enumerate(dict.fromkeys(names), 1)}
    return [
        name if len(name) <= width else name[: width - len(numbers[name])] + numbers[name]
        for name in names
    ]


def _cut(name: str, head: int, width: int) -> str:
    return name if len(name) <= width else f"{name[:head]}…{name[head + 1 - width :]}"


def _by_parts(name: str, width: int) -> str:
    """features.denselayer12.conv2 → f….d…12.conv2"""
    parts = name.split(".")
    for place, part in enumerate(parts):
        if len(".".join(parts)) <= width:
            break
        parts[place] = re.sub(r"^(.).{2,}?(\d*)$", r"\1…\2", part)
    return ".".join(parts)


def wrapped(text: str, indent: int = 2) -> list[str]:
    """A line as several, the later ones further in."""
    return textwrap.wrap(
        text,
        WIDTH,
        subsequent_indent=" " * indent,
        break_long_words=False,
        break_on_hyphens=False,
    )


def some(names: Sequence[str]) -> str:
    """The first names, and how many there are beside."""
    rest = len(names) - NAMED
    if rest <= 1:
        return ", ".join(names)
    return f"{', '.join(names[:NAMED])} and {rest} more"


def milliseconds(number: float | None) -> str:
    """ "0.0042", "0.480", "11.4" or "895"; "" for None."""
    if number is None:
        return ""
    return f"{number:.{0 if number >= 100 else 1 if number >= 10 else 3 if number >= 0.01 else 4}f}"


def times(number: float | None) -> str:
    """ "2.31×"; "" for None."""
    return "" if number is None else f"{number:.2f}×"


def percent(part: float | None) -> str:
    """ "12.5%"; "100%" of all only, "0%" of nothing only; "" for None."""
    if part is None:
        return ""
    if part in (0, 1):
        return f"{part:.0%}"
    return f"{min(part, 0.999):.1%}" if 5e-4 <= part < 1 else f"{part:.1%}" if part > 1 else "<0.1%"


def size(number: int) -> str:
    """Bytes: "512 B", "4.0 kB", "44.7 MB"."""
    for unit, name in ((1e9, "GB"), (1e6, "MB"), (1e3, "kB")):
        if number >= unit:
            return f"{number / unit:.1f} {name}"
    return f"{number} B"
