"""docs/datasets.md says what the entries say."""

from __future__ import annotations

from pathlib import Path

import pytest

from mma.pipeline.datasets import entries, known
from mma.pipeline.datasets.catalog import CatalogEntry

PAGE = Path(__file__).resolve().parents[3] / "docs" / "datasets.md"


def cells(name: str) -> list[str]:
    rows = [line for line in PAGE.read_text(encoding="utf-8").splitlines() if line.startswith(f"| `{name}` |")]
    assert len(rows) == 1
    return [cell.strip() for cell in rows[0].strip("|").split("|")]


def counts(entry: CatalogEntry, coop: bool) -> str:
    found = (entry.coop.counts if entry.coop else {}) if coop else entry.counts
    return " / ".join(f"{found[split]:,}" if split in found else "-" for split in ("train", "val", "test"))


@pytest.mark.parametrize("name", entries())
def test_a_row_has_the_counts_prompt_licence_and_command_of_its_entry(name: str) -> None:
    entry = entries()[name]
    _, classes, official, coop, prompt, licence, folders, command = cells(name)
    assert classes == str(len(entry.classes))
    assert official == (counts(entry, coop=False) if entry.counts else "drawn by a seed")
    assert coop in ((counts(entry, coop=True),) if entry.coop else ("-", "the same"))
    assert [prompt] == list(entry.templates)
    assert licence == entry.licence
    assert all(folder == "." or f"`{folder}/`" in folders for folder in entry.folders)
    assert command == f"`mma embed --dataset {name} {'--download' if entry.archives else '--root DIR'}`"


def test_every_data_set_that_is_known_has_a_row() -> None:
    assert all(cells(name) for name in known())
