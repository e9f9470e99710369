"""How long work is shown to a person: a bar with rate and time left; in a log, a line now and then."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, Task, TextColumn, TimeRemainingColumn
from rich.text import Text

LOG_EVERY = 15.0  # seconds between lines where no bar can be drawn


class Rate(ProgressColumn):
    """Units a second."""

    def __init__(self, unit: str) -> None:
        super().__init__()
        self.unit = unit

    def render(self, task: Task) -> Text:
        """`12.3 images/s`."""
        speed = task.finished_speed or task.speed
        return Text(f"{speed:,.1f} {self.unit}/s" if speed else f"- {self.unit}/s", style="progress.data.speed")


Remaining = Callable[[], float | None]  # seconds; None where they are not known


class Left(ProgressColumn):
    """The time that is left, as someone knows who knows that units are not alike."""

    max_refresh = 0.5

    def __init__(self, left: Remaining) -> None:
        super().__init__()
        self.left = left

    def render(self, task: Task) -> Text:
        """`3 min left`."""
        seconds = self.left()
        return Text("" if seconds is None else f"{span(seconds)} left", style="progress.remaining")


@contextmanager
def track(
    console: Console, label: str, total: int, unit: str, left: Remaining | None = None
) -> Iterator[Callable[[int], None]]:
    """Show progress through `total` units; call what it yields with the number of units just done.

    `left` says how long the rest takes where units are not alike.
    """
    if console.is_terminal:
        columns = (
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            MofNCompleteColumn(),
            Rate(unit),
            Left(left) if left else TimeRemainingColumn(),
        )
        with Progress(*columns, console=console) as progress:
            task = progress.add_task(label, total=total)
            yield lambda n: progress.advance(task, n)
        return
    start = shown = time.monotonic()
    done = 0

    def log(n: int) -> None:
        nonlocal done, shown
        done += n
        now = time.monotonic()
        if now - shown > LOG_EVERY or done >= total:
            shown = now
            rate = done / max(now - start, 1e-9)
            rest = left() if left else (total - done) / rate
            told = "" if rest is None else f", {span(rest)} left"
            console.print(f"{label}: {done:,}/{total:,}, {rate:,.1f} {unit}/s{told}")

    yield log


def span(seconds: float) -> str:
    """A length of time as a person says it: "41 s", "3 min", "2 h 10 min"."""
    if seconds < 100:
        return f"{seconds:.0f} s" if seconds >= 10 else f"{seconds:.1f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 100 else f"{minutes // 60} h {minutes % 60} min"


def size(count: float) -> str:
    """Bytes as a person says them: "4.2 MB"."""
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} TB"
