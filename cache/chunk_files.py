"""One unit of work as files: a chunk of embeddings, statuses and content hashes, on the disk and read back."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from numpy.typing import NDArray

from mma.cache.durable import read_file, sha256, sync_files
from mma.cache.errors import CacheError
from mma.cache.journal import FailedRow, JournalEntry
from mma.cache.killpoint import step
from mma.cache.layout import array
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
    path: Path, root: zarr.Group, header: Header, chunk: Chunk, values: Values, failures: Sequence[FailedRow] = ()
) -> JournalEntry:
    """Write the files of a chunk to the cache at `path`, and return the entry that says it is done. CacheError where
    they do not read back as written.
    """
    rows, files = slice(chunk.start, chunk.stop), chunk.files(header)
    with step("chunk.write"):
        for name in files:
            array(root, f"image/{chunk.split}/{name}")[rows] = values[name]
    with step("chunk.sync"):
        sync_files(path, files.values())
    for name in files:
        must_read(path, root, f"image/{chunk.split}/{name}", rows, values[name])
    return JournalEntry(chunk.unit, checksums(path, files.values()), failures)


def must_read(path: Path, root: zarr.Group, name: str, rows: slice, written: NDArray) -> None:
    """CacheError where rows of an array are not what was written."""
    read = np.asarray(array(root, name)[rows])
    if read.tobytes() != np.ascontiguousarray(written).tobytes():
        raise CacheError(f"{path}: {name} does not read back as written: check the disk and the memory")


def checksums(cache: Path, files: Iterable[str]) -> dict[str, str]:
    """SHA-256 of files of a cache."""
    return {file: sha256(read_file(cache / file)) for file in files}
