"""How words and tables reach a person. Text from outside is never markup, and nothing a reader needs is cut.

Every console is made here, with markup off: `[b]` in a class name, a path or a label is printed as it is. What is bold
or red is a rich `Text` that says so. A control character is printed as its escape, `\\x1b`: no name moves the cursor,
renames the window or turns the line around.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from rich.console import Console, ConsoleOptions, JustifyMethod, RenderableType
from rich.segment import Segment
from rich.table import Table
from rich.text import Text

WIDEST = 100_000  # columns; no table is measured beyond

Cell = str | Text

# all but line feed and tab: C0, DEL and C1, and what changes the direction of text
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")


def plain(text: str) -> str:
    """Text whose control characters are written as escapes: `\\x1b`."""
    return _CONTROL.sub(lambda found: found[0].encode("unicode_escape").decode(), text)


class _Console(Console):
    """A console whose own control codes alone reach the terminal. `told` is how it tells what is printed."""

    def __init__(self, told: Callable[[str], str], **how: Any) -> None:
        super().__init__(**how)
        self._told = told

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        """Segments of what is printed, each of plain text."""
        for segment in super().render(renderable, options):
            yield segment if segment.control else Segment(self._told(plain(segment.text)), segment.style)


def make_console(told: Callable[[str], str] = str, **how: Any) -> Console:
    """A console that prints text as it is, or as `told` has it, and long lines whole. `how` is passed on to rich."""
    return _Console(told, soft_wrap=True, highlight=False, markup=False, emoji=False, **how)


@dataclass(frozen=True)
class Column:
    """A column of a table."""

    name: str
    right: bool = False  # numbers stand to the right
    spare: bool = False  # left out where there is no room for all
    widest: int | None = None  # letters in a line; what is longer goes on in the next one
    once: bool = False  # a value is left out below the same one, where those of the `once` columns before it are too


def show_table(console: Console, columns: Sequence[Column], rows: Sequence[Sequence[Cell]], title: str = "") -> None:
    """Print a table that fits the console.

    Where it is too wide the spare columns go, from the last; where it still is, every row becomes a block of lines with
    all it has. Nothing is shortened.
    """
    if title:
        console.print(Text(title, style="italic"))
    shown = list(range(len(columns)))
    spare = [at for at in shown if columns[at].spare]
    while True:
        table = _table([columns[at] for at in shown], [[row[at] for at in shown] for row in rows])
        if _fits(console, table):
            console.print(table, soft_wrap=False)
            return
        if not spare:
            break
        shown.remove(spare.pop())
    for row in rows:
        show_pairs(console, [(column.name, cell) for column, cell in zip(columns, row, strict=True)])
        console.print()


def show_pairs(console: Console, pairs: Sequence[tuple[str, Cell]]) -> None:
    """Print names with their values, one below the other; a long value goes on in the next line."""
    table = Table(show_header=False, box=None, pad_edge=False)
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in pairs:
        table.add_row(_plain_cell(name), _plain_cell(value))
    console.print(table, soft_wrap=False)


def _table(columns: Sequence[Column], rows: Sequence[Sequence[Cell]]) -> Table:
    table = Table()
    for column in columns:
        justify: JustifyMethod = "right" if column.right else "left"
        table.add_column(plain(column.name), justify=justify, no_wrap=not column.widest, max_width=column.widest)
    for row, above in zip(rows, [None, *rows], strict=False):
        table.add_row(*map(_plain_cell, _without_repeats(columns, row, above) if above else row))
    return table


def _without_repeats(columns: Sequence[Column], row: Sequence[Cell], above: Sequence[Cell]) -> list[Cell]:
    """A row of a table as it stands below another."""
    found, same = [], True
    for column, cell, before in zip(columns, row, above, strict=True):
        same = same and (cell == before or not column.once)
        found.append("" if same and column.once else cell)
    return found


def _plain_cell(cell: Cell) -> Cell:
    """A cell as it will be printed, so that columns are as wide as that."""
    if isinstance(cell, str):
        return plain(cell)
    return Text(plain(cell.plain), style=cell.style) if _CONTROL.search(cell.plain) else cell


def _fits(console: Console, table: Table) -> bool:
    options = console.options.update(max_width=WIDEST)
    return console.measure(table, options=options).maximum <= console.width
