"""What a cache needs of the place where it is: few things, and the same of a disk and of an object store.

    read, read_many, sizes      files as bytes, by their path inside the cache
    write, keep, append, delete whole files; what returns is kept
    lay_out                     a new cache: it appears whole or not at all
    sweep                       away with what a crash left

disk.py and objects.py are such places, web.py is one that is only read; where.py tells which a location is.
"""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Collection, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import ClassVar

from mma.cache.errors import CacheError
from mma.cache.journal import JOURNAL, SPARE
from mma.cache.root import ROOT

UNITS = ("image/", "text/", "projection/")  # where the files of units are


class Place(ABC):
    """Where one cache is, or is to be."""

    location: str  # as messages name it
    readers: ClassVar[int] = 8  # files that are worth reading at a time
    appends: ClassVar[bool] = True  # whether to append to a file costs no more than what is appended

    @abstractmethod
    def read(self, name: str) -> bytes | None:
        """A file's bytes; None where it is missing. CacheError where it is there and cannot be read."""

    async def fetch(self, name: str) -> bytes | None:
        """As `read`."""
        return await asyncio.to_thread(self.read, name)

    def read_many(self, names: Iterable[str]) -> dict[str, bytes | None]:
        """As `read`, of several files at a time."""
        names = list(names)
        with ThreadPoolExecutor(self.readers) as pool:
            return dict(zip(names, pool.map(self.read, names), strict=True))

    @abstractmethod
    def sizes(self, below: str = "") -> dict[str, int]:
        """Every file with its bytes, by path inside the cache; or those of one folder of it."""

    @abstractmethod
    def exists(self) -> bool:
        """Whether something is there, a cache or what is left of one."""

    def strange_folder(self, name: str) -> str | None:
        """The first part of a file's path inside the cache that is there and is no folder, or is a link to one."""
        return None

    def set_aside(self, name: str) -> None:  # noqa: B027 (nothing stands there in most places)
        """Rename what stands in the place of a folder to `<name>.was`."""

    def write(self, files: Mapping[str, bytes]) -> None:
        """Write files: at any moment each is the old one or the new one. CacheError; OSError where the place fails."""
        raise self._read_only()

    def sync(self, names: Iterable[str]) -> None:  # noqa: B027 (what a store has put is kept)
        """Make sure that files, and the folders above them, survive a power cut. OSError."""

    def keep(self, name: str, data: bytes) -> bytes:
        """Write a file where there is none, and return what is there then. Errors as of `write`."""
        raise self._read_only()

    def append(self, name: str, data: bytes) -> None:
        """Add to the end of a file. What returns is kept. Errors as of `write`."""
        raise self._read_only()

    def delete(self, names: Collection[str]) -> None:
        """Remove files; those that are gone are no error."""
        raise self._read_only()

    def sweep(self, known: Collection[str]) -> None:
        """Remove files of units that are not among the known ones, and other leftovers of a crash."""
        raise self._read_only()

    def lay_out(self, files: Mapping[str, bytes]) -> None:
        """Write a new cache. It appears whole or not at all. Errors as of `write`."""
        raise self._read_only()

    def root_and_journal(self) -> tuple[bytes, bytes]:
        """zarr.json and the journal; CacheError where the place holds no cache, or they cannot be read."""
        root = self.read(ROOT)
        journal = self.read(JOURNAL)
        if root is None and journal is None:
            lost = self.read(SPARE) is not None
            what = "is a damaged cache: run `mma cache verify` on it" if lost else "is not an mma cache"
            raise CacheError(f"{self.location} {what}")
        return root or b"", journal or b""

    def holds(self, name: str, data: bytes) -> bool:
        """Whether a file of these bytes is there."""
        try:
            return self.read(name) == data
        except CacheError:
            return False

    def _read_only(self) -> CacheError:
        return CacheError(f"{self.location} is only read: a cache is written to a folder, or to s3://, gs:// or az://")
