"""The bar of a run, on the error stream, with the time that is left."""

from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from sparse_ops.training.method import Epoch


class Bar:
    """One task of a progress display."""

    def __init__(self, display: Progress, title: str, total: int | None, done: int) -> None:
        self.display, self.title = display, title
        self.task = display.add_task(title, total=total, completed=done)

    def step(self) -> None:
        self.display.advance(self.task)

    def end_epoch(self, epoch: Epoch) -> None:
        words = f"{self.title} {epoch.number}/{epoch.epochs}, loss {epoch.loss:.4f}"
        if epoch.validation is not None:
            words += f", {epoch.validation.top1:.2%} right on held-out data"
        else:
            words += f", {epoch.accuracy:.2%} right"
        self.display.update(self.task, description=words)


@contextmanager
def bar(shown: bool, title: str, total: int | None, done: int = 0) -> Iterator[Bar]:
    """A bar over `total` steps, of which some are done."""
    display = Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        console=Console(stderr=True),
        disable=not shown,
        transient=True,
    )
    with display:
        yield Bar(display, title, total, done)
