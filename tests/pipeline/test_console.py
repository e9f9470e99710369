"""Tables at any width: nothing is cut, and text from outside is printed as it is."""

from __future__ import annotations

import io

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from rich.text import Text

from mma.pipeline.console import Column, make_console, show_pairs, show_table

WORDS = st.text("abcdefghij0123456789=.,±-[]/:", min_size=1, max_size=30)


def printed(width: int, columns: list[Column], rows: list[list[str]]) -> str:
    stream = io.StringIO()
    show_table(make_console(file=stream, width=width), columns, rows)
    return stream.getvalue()


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    table=st.integers(1, 6).flatmap(
        lambda n: st.lists(st.lists(WORDS, min_size=n, max_size=n), min_size=1, max_size=4)
    ),
    width=st.sampled_from((60, 80, 120)),
)
def test_every_cell_is_whole_at_every_width_and_no_line_is_too_long(table: list[list[str]], width: int) -> None:
    said = printed(width, [Column(f"column {n}") for n in range(len(table[0]))], table)
    assert all(cell in said for row in table for cell in row)
    assert all(len(line) <= width for line in said.splitlines())


def test_spare_columns_go_first_from_the_last_and_then_rows_become_blocks() -> None:
    columns = [Column("name"), Column("value"), Column("seeds", spare=True), Column("time", spare=True)]
    row = ["n" * 20, "v" * 20, "s" * 10, "t" * 10]
    shown = {width: printed(width, columns, [row]) for width in (80, 65, 50, 40)}
    assert [all(cell in shown[80] for cell in row), row[3] in shown[65], row[2] in shown[65]] == [True, False, True]
    assert (row[2] in shown[50], row[1] in shown[50]) == (False, True)
    assert shown[40].split() == ["name", row[0], "value", row[1], "seeds", row[2], "time", row[3]]


def test_a_value_that_stands_once_in_a_table_stands_in_every_block() -> None:
    columns = [Column("data", once=True), Column("method", once=True), Column("metric")]
    rows = [["A", "m", "base"], ["A", "m", "new"], ["A", "n", "base"], ["B", "n", "base"]]
    said = printed(60, columns, rows)
    assert [line.split() for line in said.replace("│", " ").splitlines()[3:7]] == [
        ["A", "m", "base"],
        ["new"],
        ["n", "base"],
        ["B", "n", "base"],
    ]
    words = [word for row in rows for pair in zip(("data", "method", "metric"), row, strict=True) for word in pair]
    assert printed(20, columns, rows).split() == words


def test_a_long_value_goes_on_in_the_next_line() -> None:
    stream = io.StringIO()
    show_pairs(make_console(file=stream, width=60), [("path", "x" * 150)])
    assert stream.getvalue().count("x") == 150


@pytest.mark.parametrize("text", ["[/b]", "[bold]x", "[red", "\\[b]", ":dog:", "[link=file:///x]y[/link]"])
def test_text_from_outside_is_never_markup(text: str) -> None:
    stream = io.StringIO()
    console = make_console(file=stream, width=80)
    console.print(f"a {text} b")
    show_table(console, [Column(text)], [[f"cell {text}"]], f"title {text}")
    show_pairs(console, [(f"name {text}", f"value {text}")])
    for where in ("a", "cell", "title", "name", "value"):
        assert f"{where} {text}" in stream.getvalue()


HOSTILE = "cat\x1b[2J\x1b]0;title\x9b1A\u202egpj"
ESCAPED = r"cat\x1b[2J\x1b]0;title\x9b1A\u202egpj"


def test_control_characters_from_outside_are_printed_as_escapes() -> None:
    said = io.StringIO()
    console = make_console(file=said, width=200, force_terminal=True, color_system=None)
    console.print(HOSTILE, Text(HOSTILE))
    show_table(console, [Column(HOSTILE), Column("b")], [[HOSTILE, Text(HOSTILE)]], title=HOSTILE)
    show_pairs(console, [(HOSTILE, HOSTILE)])
    assert said.getvalue().count(ESCAPED) == 8
    assert not any(character in said.getvalue() for character in "\x1b\x9b\u202e")


def test_styles_of_our_own_are_kept() -> None:
    said = io.StringIO()
    make_console(file=said, force_terminal=True, color_system="standard").print(Text("a", style="bold"))
    assert said.getvalue() == "\x1b[1ma\x1b[0m\n"
