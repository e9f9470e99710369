"""The journal: what is done. One JSON object per line, appended and fsynced after the files it speaks of are.

    {"unit": "image/train/3", "files": {"image/train/embedding/c/3/0/0": "1f0c..."}, "failures": [], "sha256": "..."}

`files` maps each file of the unit to the SHA-256 of its bytes; `failures` lists [row, status, reason]; `about` is what
else is needed to make the unit again: the header (unit `manifest`), or the templates (`text/<prompt set>`); `sha256` is
that of the line itself without this field. A later line of a unit stands for an earlier one; a line without files says
that what was done is lost, and `about.was` which files it had. A unit without a line is not done, whatever files exist.
A torn last line is what a crash leaves, and is cut off; a bad line anywhere else is damage.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from mma.cache.durable import sha256
from mma.cache.errors import CacheError
from mma.cache.killpoint import step

if TYPE_CHECKING:
    from mma.cache.place import Place

JOURNAL = "journal.jsonl"
SPARE = "journal.copy.jsonl"  # of a complete cache: journal and spare are each other's, and the root's, backup
MANIFEST = "manifest"  # the unit of everything but chunks and text

FailedRow = tuple[int, int, str]  # row, Status, reason


@dataclass(frozen=True)
class JournalEntry:
    """One unit: done, or lost again."""

    unit: str
    files: Mapping[str, str]  # path inside the cache -> SHA-256 of its bytes
    failures: Sequence[FailedRow] = field(default=())
    about: Mapping[str, Any] = field(default_factory=dict)

    @property
    def done(self) -> bool:
        """Whether the unit's files are there."""
        return bool(self.files)

    def to_line(self) -> bytes:
        """The entry as one line of the journal."""
        record: dict[str, Any] = {
            "unit": self.unit,
            "files": dict(self.files),
            "failures": [list(f) for f in self.failures],
        }
        if self.about:
            record["about"] = dict(self.about)
        record["sha256"] = sha256(json.dumps(record).encode())
        return json.dumps(record).encode() + b"\n"

    @classmethod
    def from_line(cls, line: bytes) -> JournalEntry | None:
        """The entry, or None where the line is torn or damaged."""
        try:
            record = json.loads(line)
            failures = [(int(row), int(status), str(reason)) for row, status, reason in record["failures"]]
            entry = cls(str(record["unit"]), dict(record["files"]), failures, dict(record.get("about", {})))
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
            return None
        return entry if entry.to_line() == line else None


def parse_journal(data: bytes) -> tuple[dict[str, JournalEntry], int]:
    """Entries by unit, in order of first appearance, up to the first bad line; and how many bytes they fill."""
    entries: dict[str, JournalEntry] = {}
    length = 0
    for line in data.splitlines(keepends=True):
        entry = JournalEntry.from_line(line)
        if entry is None:
            break
        entries[entry.unit] = entry
        length += len(line)
    return entries, length


def read_journal(data: bytes, where: str) -> tuple[dict[str, JournalEntry], int]:
    """As `parse_journal`; CacheError where more than a torn last line is bad."""
    entries, length = parse_journal(data)
    if b"\n" in data[length:-1] or MANIFEST not in entries:
        raise CacheError(f"{where}: the journal is damaged: run `mma cache verify` on it")
    return entries, length


class Journal:
    """The journal of a cache that is being written."""

    def __init__(self, place: Place) -> None:
        self._place = place
        self.entries: dict[str, JournalEntry] = {}
        if data := place.read(JOURNAL):
            self.entries, _ = read_journal(data, place.location)

    def cut_torn_line(self) -> None:
        """Shorten the file to its whole lines."""
        data = self.read()
        _, length = parse_journal(data)
        if length < len(data):
            self._place.write({JOURNAL: data[:length]})

    def append(self, *entries: JournalEntry) -> None:
        """Record units. On return the record is on the disk."""
        with step("journal.append"):
            self._place.append(JOURNAL, b"".join(entry.to_line() for entry in entries))
        self.entries |= {entry.unit: entry for entry in entries}

    def compact(self, units: Iterable[str]) -> None:
        """Rewrite the journal with one line per unit, in the order of `units`, whatever order the work was done in."""
        entries = {unit: self.entries[unit] for unit in units}
        data = b"".join(entry.to_line() for entry in entries.values())
        if data != self.read():
            with step("journal.compact"):
                self._place.write({JOURNAL: data})
        self.entries = entries

    def read(self) -> bytes:
        """The journal as it is."""
        return self._place.read(JOURNAL) or b""
