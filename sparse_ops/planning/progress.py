"""Progress on the standard error stream, where it does not mix with results.

On a terminal it is a bar of the time that is spent, with what is being done; anywhere else a line
for what begins, or still runs, when nothing has been said for a while.
"""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

# Is told what begins now.
Step = Callable[[str], None]

# Seconds between two lines.
PAUSE = 3.0


@contextmanager
def steps(title: str, budget_s: float, show: bool = True) -> Iterator[Step]:
    """Gives a function that says what begins now.

    Args:
        title: of all of it.
        budget_s: seconds that it may take, about.
    """
    if not show:
        yield lambda doing: None
        return
    from rich.console import Console
    from rich.progress import Progress, ProgressColumn, Task, TextColumn, TimeElapsedColumn
    from rich.progress_bar import ProgressBar

    class Spent(ProgressColumn):
        """How much of the time is spent."""

        def render(self, task: Task) -> ProgressBar:
            return ProgressBar(budget_s, min(budget_s, task.elapsed or 0.0), width=20)

    console = Console(stderr=True)
    if not console.is_terminal:
        lines = _Lines(console.out, title)
        try:
            yield lines
        finally:
            lines.close()
        return
    columns = (
        Spent(),
        TimeElapsedColumn(),
        TextColumn(f"of {budget_s:.0f} s"),
        TextColumn("{task.description}", markup=False),
    )
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task(title, total=None)
        yield lambda doing: bar.update(task, description=f"{title}: {doing}")


class _Lines:
    """Says what is being done, but not oftener than every `PAUSE` seconds."""

    def __init__(self, say: Callable[[str], object], title: str) -> None:
        self.say, self.title = say, title
        self.begun = self.said = time.monotonic()
        self.later: threading.Timer | None = None

    def __call__(self, doing: str) -> None:
        self.close()
        wait = self.said + PAUSE - time.monotonic()
        if wait <= 0:
            self._line(doing)
        else:
            # What takes long is named, however early it began.
            self.later = threading.Timer(min(wait, threading.TIMEOUT_MAX), self._line, (doing,))
            self.later.daemon = True
            self.later.start()

    def _line(self, doing: str) -> None:
        self.said = time.monotonic()
        self.say(f"{self.title}, {self.said - self.begun:.0f} s: {doing}")

    def close(self) -> None:
        """Says no more."""
        if self.later is not None:
            self.later.cancel()
            self.later = None
