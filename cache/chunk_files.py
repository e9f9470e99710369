"""Units of work as files: what Zarr makes of their arrays, in memory, then put in their place and read back."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import zarr
from numpy.typing import NDArray
from zarr.core.buffer import Buffer
from zarr.storage import MemoryStore

from mma.cache.durable import sha256
from mma.cache.errors import CacheError
from mma.cache.journal import FailedRow, JournalEntry
from mma.cache.killpoint import step
from mma.cache.layout import array, lay_out_arrays
from mma.cache.place import Place
from mma.cache.projection import check_given
from mma.cache.schema import CONTENT, Chunk, Header, Status

Values = dict[str, NDArray[Any]]  # array of a chunk -> its rows


def chunk_values(
    header: Header,
    chunk: Chunk,
    embedding: NDArray[np.floating],
    failures: Sequence[FailedRow] = (),
    content: NDArray[np.uint8] | None = None,
    penultimate: NDArray[np.floating] | None = None,
) -> Values:
    """What is stored of a chunk. CacheError for values that cannot be.

    `embedding` is [rows, V, D], `penultimate` [rows, V, W]; rows named in `failures` become NaN. `content` [rows, 32]
    is the SHA-256 of each row's encoded bytes, as they were read; zeros, or None, where that is not known.
    """
    shape = (chunk.stop - chunk.start, CONTENT)
    content = np.zeros(shape, np.uint8) if content is None else content
    if content.shape != shape or content.dtype != np.uint8:
        raise CacheError(f"{chunk.unit}: content is {content.dtype} {content.shape}, not uint8 {shape}")
    check_given(penultimate, header, chunk.unit)
    status = np.full(chunk.stop - chunk.start, Status.OK, np.uint8)
    for row, code, _ in failures:
        status[row - chunk.start] = code
    numbers = {"embedding": embedding} | ({} if penultimate is None else {"penultimate": penultimate})
    with np.errstate(over="ignore"):  # what float16 cannot hold becomes infinity, and is refused below
        numbers = {name: found.astype(header.dtype) for name, found in numbers.items()}
    for found in numbers.values():
        found[status != Status.OK] = np.nan
        if not np.isfinite(found[status == Status.OK]).all():
            raise CacheError(f"{chunk.unit}: embeddings that are not finite, in rows that are no failures")
    return {**numbers, "status": status, "content": content}


def write_chunk(
    place: Place, arrays: Arrays, header: Header, chunk: Chunk, values: Values, failures: Sequence[FailedRow] = ()
) -> JournalEntry:
    """Write the files of a chunk, and return the entry that says it is done. `arrays` are those of the header.
    CacheError where they do not read back as written.
    """
    rows, names = slice(chunk.start, chunk.stop), chunk.files(header)
    for name in names:
        array(arrays.root, f"image/{chunk.split}/{name}")[rows] = values[name]
    files = arrays.take(names.values())
    with step("chunk.write"):
        place.write(files)
    with step("chunk.sync"):
        place.sync(files)
    must_hold(place, files)
    return JournalEntry(chunk.unit, checksums(files), failures)


def must_hold(place: Place, files: Mapping[str, bytes]) -> None:
    """CacheError where files are not what was written."""
    for name, data in place.read_many(files).items():
        if data != files[name]:
            raise CacheError(f"{place.location}: {name} does not read back as written: check the disk and the memory")


def checksums(files: Mapping[str, bytes]) -> dict[str, str]:
    """SHA-256 of files."""
    return {name: sha256(data) for name, data in files.items()}


class Arrays:
    """Arrays in memory, and the files that Zarr makes of them."""

    def __init__(self, header: Header | None = None) -> None:
        """Those of a header, without any values, or none at all."""
        self._files: dict[str, Buffer] = {}
        self.root = zarr.open_group(MemoryStore(self._files), mode="w")
        if header:
            lay_out_arrays(self.root, header, None)

    def names(self) -> list[str]:
        """Every file, the root's zarr.json among them."""
        return sorted(self._files)

    def take(self, names: Iterable[str]) -> dict[str, bytes]:
        """The bytes of files, which are then no longer in memory."""
        return {name: self._files.pop(name).to_bytes() for name in names}
