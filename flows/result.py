"""What a flow returns: readable for people, JSON for programs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from io import StringIO
from typing import Any

from rich.console import Console
from rich.table import Table


@dataclass(frozen=True)
class Grid:
    """A small table."""

    columns: Sequence[str]
    rows: Sequence[Sequence[Any]]


@dataclass(frozen=True)
class Result:
    """Facts and tables of one finished flow.

    Attributes:
        title: one line.
        facts: JSON-able; shown as `name  value` lines unless in `hidden`.
        grids: tables for people, made from the facts.
        hidden: facts that only `--json` prints.
    """

    title: str
    facts: Mapping[str, Any]
    grids: Sequence[Grid] = ()
    hidden: frozenset[str] = frozenset()
    hints: Sequence[str] = ()
    exit_code: int = 0
    parts: Sequence[Result] = field(default=())

    def as_dict(self) -> dict[str, Any]:
        return dict(self.facts)

    def as_text(self) -> str:
        buffer = StringIO()
        console = Console(file=buffer, width=120, highlight=False, markup=False)
        for part in self.parts:
            buffer.write(part.as_text() + "\n\n")
        if self.title:
            console.print(self.title)
        shown = {name: value for name, value in self.facts.items() if name not in self.hidden}
        width = max((len(name) for name in shown), default=0)
        for name, value in shown.items():
            console.print(f"  {name:<{width}}  {_plain(value)}", soft_wrap=True)
        for grid in self.grids:
            console.print(_table(grid))
        for hint in self.hints:
            console.print(hint, soft_wrap=True)
        return buffer.getvalue().rstrip("\n")


def with_interval(value: float | None, bounds: tuple[float, float] | None, digits: int) -> str:
    """`41.5 [38.2, 44.9]`; without brackets where there is no interval, a dash where there is no value."""
    if value is None:
        return "-"
    shown = f"{value:.{digits}f}"
    return shown if bounds is None else f"{shown} [{bounds[0]:.{digits}f}, {bounds[1]:.{digits}f}]"


def _table(grid: Grid) -> Table:
    table = Table(show_edge=False, pad_edge=False)
    for position, column in enumerate(grid.columns):
        is_number = bool(grid.rows) and all(isinstance(row[position], int | float) for row in grid.rows)
        table.add_column(column, justify="right" if is_number else "left", overflow="fold")
    for row in grid.rows:
        table.add_row(*(_plain(value) for value in row))
    return table


def _plain(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.4g}" if abs(value) < 1000 else f"{value:,.0f}"
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {_plain(item)}" for key, item in value.items()) or "none"
    if isinstance(value, list | tuple):
        return ", ".join(map(_plain, value)) or "none"
    return str(value)
