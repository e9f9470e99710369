"""Receipts: what shards have done. One file per unit, `receipts/image/train/3.json`, which is its line of the journal.

A receipt is written whole, after the unit's files are on the disk, and does not change. A unit is done when the journal
or a receipt says so. Who next writes the cache alone takes the receipts into the journal: a finished cache has none.
"""

from __future__ import annotations

from collections.abc import Mapping

from mma.cache.errors import CacheError
from mma.cache.journal import JournalEntry
from mma.cache.killpoint import step
from mma.cache.place import Place
from mma.cache.schema import Chunk, Header

FOLDER = "receipts/"


def write_receipt(place: Place, header: Header, chunk: Chunk, entry: JournalEntry) -> None:
    """Record a unit. On return the record is kept. CacheError where another process has recorded other bytes of it."""
    name, line = _name(entry.unit), entry.to_line()
    with step("receipt.write"):
        there = place.keep(name, line)
        if there != line and _receipt(there, header, chunk):
            raise CacheError(f"{place.location}: {entry.unit} was done by another process: this one stops writing")
        if there != line:
            place.write({name: line})
        place.sync([name])


def read_receipts(place: Place, header: Header) -> dict[str, JournalEntry]:
    """The receipts of a cache by unit. What is no receipt of one of its chunks is none: that unit is done again."""
    there = place.sizes(FOLDER)
    chunks = {_name(chunk.unit): chunk for chunk in header.chunks()} if there else {}
    read = place.read_many(name for name in chunks if name in there)
    found = (_receipt(data, header, chunks[name]) for name, data in read.items())
    return {entry.unit: entry for entry in found if entry}


def with_receipts(entries: Mapping[str, JournalEntry], place: Place, header: Header) -> dict[str, JournalEntry]:
    """The entries of a journal that are done, and those that are done by a receipt."""
    return read_receipts(place, header) | {unit: entry for unit, entry in entries.items() if entry.done}


def remove_receipts(place: Place) -> None:
    """Remove every receipt, once the journal has them."""
    if there := place.sizes(FOLDER):
        with step("receipts.remove"):
            place.delete(there)


def _receipt(data: bytes | None, header: Header, chunk: Chunk) -> JournalEntry | None:
    entry = JournalEntry.from_line(data or b"")
    right = entry and entry.unit == chunk.unit and entry.files.keys() == set(chunk.files(header).values())
    return entry if right else None


def _name(unit: str) -> str:
    return f"{FOLDER}{unit}.json"
