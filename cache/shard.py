"""Write a cache from several machines at once, each a shard of its chunks; the last to finish publishes it.

    with ShardWriter.join(path, header, Shard(2, 4), manifest) as writer:
        for chunk in writer.pending():
            writer.write(chunk, embedding, failures, content)
        complete = writer.finish()

Shards need one file system, or one object store, and nothing else: they may come in any order, at any time, and be
killed and started again. Who comes first lays the cache out. Every shard has a lock (lock.py, claim.py), and a receipt
for each unit that it has done (receipts.py). The finished cache has the bytes of one that was written by a
`CacheWriter` alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager

import numpy as np
from numpy.typing import NDArray

from mma.cache.chunk_files import Arrays, chunk_values, write_chunk
from mma.cache.claim import Claim
from mma.cache.errors import CacheError
from mma.cache.journal import FailedRow, Journal, JournalEntry
from mma.cache.layout import ManifestSplit
from mma.cache.lock import CacheLock, LockHolder, shard_writer, wait_for_lock
from mma.cache.place import Place
from mma.cache.receipts import read_receipts, write_receipt
from mma.cache.root import TEXT
from mma.cache.schema import Chunk, Header, Shard
from mma.cache.where import Location, place_of
from mma.cache.writer import CacheWriter, lay_out, must_match, stored_root


class ShardWriter(LockHolder):
    """The one writer of one shard of a cache. Close it, or use it as a context manager."""

    def __init__(self, path: Location, header: Header, shard: Shard, lock: CacheLock | Claim) -> None:
        self.path = path
        self.header = header
        self.shard = shard
        self._lock = lock
        self._place, self._arrays = place_of(path), Arrays(header)
        self._done = _entries(self._place, header)

    @classmethod
    def join(
        cls, path: Location, header: Header, shard: Shard, manifest: Callable[[], Mapping[str, ManifestSplit]]
    ) -> ShardWriter:
        """Take a shard of the cache at `path`; where there is no cache, lay it out with the labels and paths of
        `manifest()`.

        The cache's own chunk and batch sizes hold. CacheError where another process has this shard or writes the whole
        cache, where the cache is being written in another number of shards, or where it is of another fingerprint.
        """
        if header.penultimate:
            raise CacheError(f"{path}: a cache with penultimate features is written by one run: leave out the shard")
        with wait_for_lock(path):
            lock = shard_writer(path, shard)
            try:
                place = place_of(path)
                if not place.exists():
                    lay_out(place, header, manifest())
                stored = stored_root(place).header
                must_match(path, stored, header)
                return cls(path, stored, shard, lock)
            except BaseException:
                lock.release()
                raise

    @property
    def prompts(self) -> list[str]:
        """The prompt sets that the cache has."""
        return [unit.removeprefix(TEXT) for unit in _entries(self._place, self.header) if unit.startswith(TEXT)]

    def pending(self) -> list[Chunk]:
        """The chunks of this shard that are still to do, in order."""
        return [chunk for chunk in self.shard.chunks(self.header) if chunk.unit not in self._done]

    def failures(self) -> dict[str, list[FailedRow]]:
        """The rows of this shard that have no embedding, by split."""
        found: dict[str, list[FailedRow]] = {split: [] for split in self.header.rows}
        for chunk in self.shard.chunks(self.header):
            found[chunk.split] += self._done[chunk.unit].failures if chunk.unit in self._done else []
        return found

    def write(
        self,
        chunk: Chunk,
        embedding: NDArray[np.floating],
        failures: Sequence[FailedRow] = (),
        content: NDArray[np.uint8] | None = None,
        penultimate: NDArray[np.floating] | None = None,
    ) -> None:
        """Store a chunk, as `CacheWriter.write` does."""
        values = chunk_values(self.header, chunk, embedding, failures, content, penultimate)
        entry = write_chunk(self._place, self._arrays, self.header, chunk, values, failures)
        self._lock.check()
        write_receipt(self._place, self.header, chunk, entry)
        self._done[entry.unit] = entry

    def write_text(
        self,
        name: str,
        templates: Sequence[str],
        embedding: NDArray[np.float32],
        texts: Sequence[Sequence[str]] | None = None,
        penultimate: NDArray[np.floating] | None = None,
    ) -> None:
        """Store a prompt set, as `CacheWriter.write_text` does. One shard alone does this."""
        with _own_lock(self.path, self.header) as writer:
            writer.write_text(name, templates, embedding, texts, penultimate)

    def finish(self) -> bool:
        """Publish the cache where this shard was the last to finish; whether it is complete."""
        done = _entries(self._place, self.header)
        if any(chunk.unit not in done for chunk in self.header.chunks()):
            return False
        with _own_lock(self.path, self.header) as writer:
            if not writer.complete:
                writer.recover().finish()
        return True


def merge_shards(path: Location) -> None:
    """Publish a cache whose shards are all done. CacheError where one is not, or is being written."""
    header = stored_root(place_of(path)).header
    with CacheWriter.reopen(path) as writer:
        pending, chunks = writer.pending(), list(header.chunks())
        if pending:
            raise CacheError(
                f"{path} lacks {len(pending)} of {len(chunks)} chunks, the first is {pending[0].unit}: run the shards "
                "that have not ended, or one embed of the whole, which does the rest"
            )
        if not writer.complete:
            writer.finish()


def _entries(place: Place, header: Header) -> dict[str, JournalEntry]:
    """What is done. Receipts are read before the journal, into which they may move."""
    receipts = read_receipts(place, header)
    return receipts | {unit: entry for unit, entry in Journal(place).entries.items() if entry.done}


@contextmanager
def _own_lock(path: Location, header: Header) -> Iterator[CacheWriter]:
    """A writer for a moment, beside other shards: it sweeps nothing."""
    with wait_for_lock(path) as lock:
        Journal(place_of(path)).cut_torn_line()
        yield CacheWriter(path, header, lock)
