"""Tables that a person understands."""

from collections.abc import Iterable

from rich.box import SIMPLE_HEAD
from rich.table import Table

from sparse_ops.report.results import Network, Row


def spread(row: Row) -> str:
    """The speed-up and what lies between its 10th and 90th percentile."""
    if row.measured is None:
        return "stays dense"
    m = row.measured
    return f"{m.speedup:.2f}× ({m.low:.2f}-{m.high:.2f})"


def count(number: float) -> str:
    """A large number in few characters: 266,610 -> 267k."""
    for size, unit in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if number >= size:
            return f"{number / size:.3g}{unit}"
    return f"{number:.0f}"


def network_table(networks: Iterable[Network]) -> Table:
    """One line a network and batch size: what sparsity costs, and what it brings."""
    table = Table(title="dense against packed, measured by turns in one process", box=SIMPLE_HEAD)
    table.add_column("network")
    for title in (
        "accuracy",
        "sparsity",
        "parameters",
        "MACs of\nan image",
        "batch",
        "dense\nms",
        "packed\nms",
        "speed-up\n(10 to 90 %)",
    ):
        table.add_column(title, justify="right", overflow="fold")
    for network in networks:
        rows = network.rows
        table.add_row(
            f"{network.name}\n{network.method}",
            f"{network.accuracy_dense:.1%}\n→ {network.accuracy_sparse:.1%}",
            f"{network.sparsity:.1%}",
            f"{count(network.parameters)}\n→ {count(network.kept_parameters)}",
            f"{count(network.macs)}\n→ {count(network.kept_macs)}",
            "\n".join(str(row.batch) for row in rows),
            "\n".join(milliseconds(row)[0] for row in rows),
            "\n".join(milliseconds(row)[1] for row in rows),
            "\n".join(spread(row) for row in rows),
            end_section=True,
        )
    table.caption = "→ leads from the dense network to the sparse one"
    return table


def milliseconds(row: Row) -> tuple[str, str]:
    """(dense, packed) milliseconds of a row; the same twice where the model stays dense."""
    if row.measured is None:
        dense = f"{row.forms[row.dense_form]:.3f}"
        return dense, dense
    return f"{row.measured.dense_ms:.3f}", f"{row.measured.packed_ms:.3f}"


def bench_table(name: str, rows: Iterable[Row]) -> Table:
    """One line a batch size."""
    table = Table(title=f"{name}: dense against packed", box=SIMPLE_HEAD)
    for title in ("batch", "threads", "dense\nform", "packed\nform", "dense\nms", "packed\nms"):
        table.add_column(title, justify="right")
    for title in ("speed-up\n(10 to 90 %)", "ideal", "pairs"):
        table.add_column(title, justify="right", overflow="fold")
    for row in rows:
        pairs = "-" if row.measured is None else str(row.measured.pairs)
        table.add_row(
            str(row.batch),
            str(row.threads),
            row.dense_form,
            row.packed_form,
            *milliseconds(row),
            spread(row),
            f"{row.ideal:.2f}×",
            pairs,
        )
    return table
