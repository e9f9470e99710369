"""Receipts: what shards have done. One file per unit, `receipts/image/train/3.json`, which is its line of the journal.

A receipt is written whole, after the unit's files are on the disk, and does not change. A unit is done when the journal
or a receipt says so. Who next writes the cache alone takes the receipts into the journal: a finished cache has none.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path

from mma.cache.durable import sync, sync_files, write_whole
from mma.cache.files import CacheFiles
from mma.cache.journal import JournalEntry
from mma.cache.killpoint import step
from mma.cache.schema import Header

RECEIPTS = "receipts"


def write_receipt(cache: Path, entry: JournalEntry) -> None:
    """Record a unit. On return the record is on the disk."""
    name = _name(entry.unit)
    with step("receipt.write"):
        write_whole(cache / name, entry.to_line())
        sync_files(cache, [name])


def read_receipts(files: CacheFiles, header: Header) -> dict[str, JournalEntry]:
    """The receipts of a cache by unit. What is no receipt of one of its chunks is none: that unit is done again."""
    there = files.sizes(RECEIPTS)
    found = {}
    for chunk in header.chunks() if there else ():
        name = _name(chunk.unit)
        entry = JournalEntry.from_line(files.read(name) or b"") if name in there else None
        if entry and entry.unit == chunk.unit and entry.files.keys() == set(chunk.files(header).values()):
            found[entry.unit] = entry
    return found


def with_receipts(entries: Mapping[str, JournalEntry], files: CacheFiles, header: Header) -> dict[str, JournalEntry]:
    """The entries of a journal that are done, and those that are done by a receipt."""
    return read_receipts(files, header) | {unit: entry for unit, entry in entries.items() if entry.done}


def remove_receipts(cache: Path) -> None:
    """Remove every receipt, once the journal has them."""
    if (cache / RECEIPTS).exists():
        with step("receipts.remove"):
            shutil.rmtree(cache / RECEIPTS)
            sync(cache)


def _name(unit: str) -> str:
    return f"{RECEIPTS}/{unit}.json"
