"""Progress: a bar on a terminal, a line now and then in a log, and the time left by what this run itself has seen."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from rich.console import Console
from rich.progress import BarColumn, Progress, Task, TaskProgressColumn, TextColumn, TimeElapsedColumn

console = Console(stderr=True)

_SILENT_SECONDS = 30.0

_name = ""


@dataclass
class Estimate:
    """Time left of some work, from the work done since the start: what earlier runs did tells nothing about this one.

    Attributes:
        total: units of work, in whatever unit takes the same time everywhere.
        completed: units done so far, by earlier runs too.
        clock: seconds.
    """

    total: float
    completed: float
    clock: Callable[[], float] = time.monotonic
    _before: float = field(init=False)
    _started: float = field(init=False)

    def __post_init__(self) -> None:
        self._before, self._started = self.completed, self.clock()

    @property
    def elapsed(self) -> float:
        """Seconds since the start."""
        return self.clock() - self._started

    @property
    def left(self) -> float | None:
        """Seconds left; None until some work was done."""
        done = self.completed - self._before
        return (self.total - self.completed) * self.elapsed / done if done > 0 else None

    def as_text(self) -> str:
        """`42 %, 3 min gone, about 4 min left`."""
        share = 100 * self.completed / self.total if self.total else 100.0
        left = "time left not known yet" if self.left is None else f"about {_duration(self.left)} left"
        return f"{share:.0f} %, {_duration(self.elapsed)} gone, {left}"


def speak_as(name: str) -> None:
    """From now on this process is one of several that share a terminal or a log: lines alone, each with its name."""
    global _name
    _name = name


def say(line: str) -> None:
    """A line for whoever watches."""
    console.print(f"{_name}: {line}" if _name else line, highlight=False, markup=False, soft_wrap=True)


def _duration(seconds: float) -> str:
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"


class _LeftColumn(TextColumn):
    """The estimate's time left; rich's own would count what was done before."""

    def __init__(self, estimate: Estimate) -> None:
        super().__init__("")
        self._estimate = estimate

    def render(self, task: Task) -> object:  # type: ignore[override]  # noqa: ARG002 - rich's signature
        left = self._estimate.left
        return "left ?" if left is None else f"left {_duration(left)}"


@contextmanager
def progress_bar(what: str, *, total: int, completed: int = 0) -> Iterator[Callable[[int], None]]:
    """Yields `advance(units)`. A bar where somebody watches, which vanishes when the work is done; else a line in at
    least 30 seconds, so that short work is silent."""
    estimate = Estimate(total, completed)
    if _name or not console.is_terminal:
        yield _in_lines(what, estimate)
        return
    columns = (
        TextColumn("{task.description:<28}"),
        BarColumn(),
        TaskProgressColumn(),
        TimeElapsedColumn(),
        _LeftColumn(estimate),
    )
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task(what, total=total, completed=completed)

        def advance(units: int) -> None:
            estimate.completed += units
            bar.advance(task, units)

        yield advance


def _in_lines(what: str, estimate: Estimate) -> Callable[[int], None]:
    said = estimate.elapsed

    def advance(units: int) -> None:
        nonlocal said
        estimate.completed += units
        if estimate.elapsed - said >= _SILENT_SECONDS and estimate.completed < estimate.total:
            said = estimate.elapsed
            say(f"{what}: {estimate.as_text()}")

    return advance
