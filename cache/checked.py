"""A Zarr store that hands out no byte that the journal does not vouch for."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Iterable, Mapping

from zarr.abc.store import ByteRequest, Store
from zarr.core.buffer import Buffer, BufferPrototype
from zarr.storage import MemoryStore, WrapperStore

from mma.cache.durable import sha256
from mma.cache.errors import CacheError
from mma.cache.place import Place
from mma.cache.root import ROOT


class CheckedStore(WrapperStore[Store]):
    """The files of `known` (path -> SHA-256), each checked as it is read, and the `root` document; nothing else.

    What is not in `known` does not exist: a chunk that is not journalled reads as never written.
    """

    def __init__(self, place: Place, known: Mapping[str, str], root: bytes) -> None:
        super().__init__(MemoryStore(read_only=True))  # every way to it is overridden below
        self._place = place
        self._known = known
        self._root = root

    def _with_store(self, store: Store) -> CheckedStore:
        return CheckedStore(self._place, self._known, self._root)

    async def get(self, key: str, prototype: BufferPrototype, byte_range: ByteRequest | None = None) -> Buffer | None:
        """The file, or None where it is not known. CacheError where it is missing or other bytes than journalled."""
        if byte_range is not None:
            raise NotImplementedError("a checked file is read whole")
        if key == ROOT:
            return prototype.buffer.from_bytes(self._root)
        if key not in self._known:
            return None
        data = await self._place.fetch(key)
        if data is None:
            raise CacheError(f"{self._place.location}: {key} is missing: run `mma cache verify` on it")
        if await asyncio.to_thread(sha256, data) != self._known[key]:
            raise CacheError(f"{self._place.location}: {key} is damaged: run `mma cache verify` on it")
        return prototype.buffer.from_bytes(data)

    async def get_partial_values(
        self, prototype: BufferPrototype, key_ranges: Iterable[tuple[str, ByteRequest | None]]
    ) -> list[Buffer | None]:
        """Each as `get` gives it."""
        return [await self.get(key, prototype, part) for key, part in key_ranges]

    async def _get_many(
        self, requests: Iterable[tuple[str, BufferPrototype, ByteRequest | None]]
    ) -> AsyncGenerator[tuple[str, Buffer | None], None]:
        for key, prototype, part in requests:
            yield key, await self.get(key, prototype, part)

    async def exists(self, key: str) -> bool:
        """Whether the file is known."""
        return key == ROOT or key in self._known

    async def list(self) -> AsyncIterator[str]:
        """The known files."""
        for key in (ROOT, *self._known):
            yield key

    async def list_prefix(self, prefix: str) -> AsyncIterator[str]:
        """The known files of a prefix."""
        for key in (ROOT, *self._known):
            if key.startswith(prefix):
                yield key

    async def list_dir(self, prefix: str) -> AsyncIterator[str]:
        """Names of the known files and folders right below `prefix`."""
        folder = f"{prefix.rstrip('/')}/" if prefix else ""
        names = {key[len(folder) :].split("/")[0] for key in (ROOT, *self._known) if key.startswith(folder)}
        for name in sorted(names):
            yield name
