"""What `--help` and the docs say of the options is what the settings objects say."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer

from mma.pipeline.cli.commands import options_table
from mma.pipeline.cli.groups import DAY
from mma.pipeline.cli.main import app
from mma.pipeline.embedding.settings import EmbedSettings
from mma.pipeline.fitting.settings import FitSettings

from ...conftest import Run

DOCS = Path(__file__).resolve().parents[3] / "docs"
SCREENS = 2 * 40  # lines


def commands() -> Iterator[list[str]]:
    """The words of every command and group."""

    def below(command: Any, words: list[str]) -> Iterator[list[str]]:
        yield words
        for name, sub in getattr(command, "commands", {}).items():
            yield from below(sub, [*words, name])

    return below(typer.main.get_command(app), [])


@pytest.fixture
def help_of(mma_here: Run, monkeypatch: pytest.MonkeyPatch) -> Run:
    """`mma WORDS -h` as a terminal of 80 columns shows it."""
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setattr("typer.rich_utils.MAX_WIDTH", 80)

    def run(*words: object, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
        return mma_here(*words, "-h", cwd=cwd)

    return run


@pytest.mark.parametrize(("page", "settings"), [("embed", EmbedSettings), ("fit", FitSettings)])
def test_the_table_of_options_in_the_docs_is_that_of_the_fields(page: str, settings: type) -> None:
    text = (DOCS / f"{page}.md").read_text(encoding="utf-8")
    (table,) = re.findall(rf"<!-- options of mma {page} -->\n(.*?)<!-- end -->", text, re.DOTALL)
    assert table == options_table(settings)


@pytest.mark.parametrize("words", list(commands()), ids=" ".join)
def test_every_command_says_what_it_does_and_no_flag_looks_as_if_it_took_a_value(
    help_of: Run, words: list[str]
) -> None:
    done = help_of(*words)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split("\n")[1].split()[:2] == ["Usage:", "mma"]
    assert "<bool>" not in done.stdout
    assert not done.stderr


def test_the_help_of_fit_is_grouped_and_fits_two_screens(help_of: Run) -> None:
    lines = help_of("fit").stdout.splitlines()
    titles = [line.split()[1] for line in lines if line.startswith("╭")]
    assert titles == ["Options", "Data", "Protocol", "Recipe", "Adapter", "Output"]
    assert len(lines) <= SCREENS
    assert "…" not in "".join(lines)


def test_commands_are_in_the_order_of_a_users_day(help_of: Run) -> None:
    shown = re.findall(r"^│ ([a-z]+) ", help_of().stdout, re.MULTILINE)
    assert tuple(name for name in shown if name in DAY) == DAY


def test_mma_alone_is_its_help_and_nothing_else(mma_here: Run, help_of: Run) -> None:
    done = mma_here()
    assert done.stdout.rstrip() == help_of().stdout.rstrip()
    assert not done.stderr
    assert done.returncode == 2


def test_completion_of_the_shell_is_on(help_of: Run) -> None:
    assert "--install-completion" in help_of().stdout
