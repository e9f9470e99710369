"""The root's zarr.json: what readers see first, and the one file of a cache that changes.

Its attributes are the header and

    prompts     names of the prompt sets, in the order they were added
    complete    whether every chunk is there
    journal     of a complete cache, {"bytes", "sha256"}: how much of the journal counts, and its SHA-256, else null
    sha256      of the JSON of all other attributes

So the root vouches for the journal, the journal for every other file, and the root can be made again from the journal.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from mma.cache.durable import sha256
from mma.cache.errors import CacheError
from mma.cache.journal import MANIFEST, JournalEntry
from mma.cache.schema import SCHEMA, Header

ROOT = "zarr.json"
TEXT = "text/"  # prompt sets are units of this prefix


@dataclass(frozen=True)
class Root:
    """The root of a cache, as its zarr.json says."""

    header: Header
    prompts: tuple[str, ...]
    complete: bool
    journal: dict[str, Any] | None

    @classmethod
    def of(cls, entries: dict[str, JournalEntry], journal: bytes, *, complete: bool) -> Root:
        """The root that a journal implies. CacheError where the journal has no header."""
        if MANIFEST not in entries:
            raise CacheError("the journal has no header")
        header = Header.from_attributes(entries[MANIFEST].about, "the journal")
        prompts = tuple(unit.removeprefix(TEXT) for unit, e in entries.items() if unit.startswith(TEXT) and e.done)
        return cls(header, prompts, complete, seal(journal) if complete else None)

    @classmethod
    def parse(cls, data: bytes, where: str) -> Root:
        """The root from the bytes of zarr.json. CacheError where they are not exactly what was written."""
        try:
            attributes = json.loads(data)["attributes"]
            known = attributes["schema"] == SCHEMA
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            damaged = SCHEMA.encode() in data or not data
            what = "is a damaged cache: run `mma cache verify` on it" if damaged else "is not an mma cache"
            raise CacheError(f"{where} {what}") from error
        if not known:
            raise CacheError(f"{where} is not an mma cache")
        header = Header.from_attributes(attributes, where)
        if _document({key: value for key, value in attributes.items() if key != "sha256"}) != data:
            raise CacheError(f"{where}: {ROOT} is damaged: run `mma cache verify` on it")
        return cls(header, tuple(attributes["prompts"]), bool(attributes["complete"]), attributes["journal"])

    def to_bytes(self) -> bytes:
        """zarr.json."""
        state = {"prompts": list(self.prompts), "complete": self.complete, "journal": self.journal}
        return _document({**self.header.to_attributes(), **state})

    def vouches_for(self, journal: bytes) -> bool:
        """Whether this is the journal of this cache, whatever has been appended since."""
        return self.journal is None or seal(journal[: int(self.journal["bytes"])]) == self.journal


def seal(journal: bytes) -> dict[str, Any]:
    """What the root stores about a journal: its length in bytes and its SHA-256."""
    return {"bytes": len(journal), "sha256": sha256(journal)}


def _document(attributes: dict[str, Any]) -> bytes:
    checksum = sha256(json.dumps(attributes).encode())
    group = {"zarr_format": 3, "node_type": "group", "attributes": {**attributes, "sha256": checksum}}
    return json.dumps(group, indent=2).encode() + b"\n"
