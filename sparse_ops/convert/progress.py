"""Progress on the standard error stream, where it does not mix with results.

On a terminal it is a bar; anywhere else a line from time to time.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

Step = Callable[[], None]

# Seconds between two lines.
PAUSE = 10.0


@contextmanager
def steps(title: str, total: int, show: bool = True) -> Iterator[Step]:
    """Gives a function that moves the bar on by one."""
    if not show:
        yield lambda: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    console = Console(stderr=True)
    if not console.is_terminal:
        yield _lines(console.print, title, total)
        return
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task(title, total=total)
        yield lambda: bar.advance(task)


def _lines(say: Callable[[str], None], title: str, total: int) -> Step:
    """A step that says how far things are, if it has not done so for a while."""
    done, said = 0, time.monotonic()

    def step() -> None:
        nonlocal done, said
        done += 1
        if time.monotonic() - said >= PAUSE:
            said = time.monotonic()
            say(f"{title}: {done} of {total}")

    return step
