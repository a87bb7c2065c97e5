"""How far a run has come, on the error stream: a bar with the time that is left, or lines."""

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from sparse_ops.training.figures import of_one_tensor
from sparse_ops.training.history import Row


class Bar:
    """One task of a progress display; without a terminal, a line after each epoch."""

    def __init__(
        self, display: Progress, title: str, total: int | None, done: int, lines: bool
    ) -> None:
        self.display, self.title, self.lines = display, title, lines
        self.begin, self.epochs = time.monotonic(), 0
        self.task = display.add_task(title, total=total, completed=done)

    def step(self) -> None:
        self.display.advance(self.task)

    def end_epoch(self, row: Row, epochs: int) -> None:
        """Says what came of an epoch.

        Args:
            row: of that epoch.
            epochs: how many there will be, unless the method wants fewer.
        """
        words = f"{self.title} {row.epoch}/{epochs}, loss {row.loss:.4f}"
        if row.top1 is not None:
            words += f", {row.top1:.2%} right on held-out data"
        else:
            words += f", {row.accuracy:.2%} right"
        self.display.update(self.task, description=words)
        self.epochs += 1
        if not self.lines:
            return
        told = {name: value for name, value in row.figures.items() if not of_one_tensor(name)}
        figures = "".join(f", {_said(name, value)}" for name, value in told.items())
        left = (time.monotonic() - self.begin) / self.epochs * (epochs - row.epoch)
        rest = f", {_time(left)} left" if left else ""
        print(f"{words}, {row.seconds:.1f} s{figures}{rest}", file=sys.stderr, flush=True)


@contextmanager
def bar(shown: bool, title: str, total: int | None, done: int = 0) -> Iterator[Bar]:
    """A bar over `total` steps, of which some are done."""
    console = Console(stderr=True)
    display = Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        console=console,
        disable=not (shown and console.is_terminal),
        transient=True,
    )
    with display:
        yield Bar(display, title, total, done, shown and not console.is_terminal)


def _said(name: str, value: float | str) -> str:
    return f"{name} {value}" if isinstance(value, str) else f"{name} {value:.4g}"


def _time(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02}:{rest:02}"
