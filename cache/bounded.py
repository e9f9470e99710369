"""Read what others exported, in bounds: no more memory than an honest file of that size has in it.

Embeddings do not compress. A file that would unpack to much more than its own size is no file of embeddings, and is
refused by its headers, or at the first rows that show it.
"""

from __future__ import annotations

import math
import os
import stat
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mma.cache.errors import CacheError

SMALL = 64 * 2**20  # bytes that any file may unpack to
UNPACKED = 20  # bytes for each of the file, beyond that
ROWS = 1024  # of Parquet, read at a time at most


def most_bytes(file: Path) -> int:
    """Bytes that a file may unpack to. CacheError where it is no regular file: a pipe is not waited for."""
    try:
        about = os.stat(file)  # noqa: PTH116 (links are followed)
    except (OSError, ValueError) as error:
        raise CacheError(f"there is no file {file}") from error
    if not stat.S_ISREG(about.st_mode):
        raise CacheError(f"{file} is not a regular file")
    return SMALL + UNPACKED * about.st_size


def read_npy(file: Path) -> NDArray[Any]:
    """The array of an .npy. CacheError where it is none, holds Python objects, or has another size than it says."""
    most_bytes(file)
    try:
        with file.open("rb") as stream:
            version = np.lib.format.read_magic(stream)
            read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
            shape, _, dtype = read(stream)
            if dtype.hasobject:
                raise CacheError(f"{file} holds Python objects, not numbers")
            if stream.tell() + math.prod(shape) * dtype.itemsize != file.stat().st_size:
                raise CacheError(f"{file} has another size than its header {shape} {dtype} says")
        return np.asarray(np.load(file, allow_pickle=False))
    except CacheError:
        raise
    except (OSError, ValueError, MemoryError) as error:
        raise CacheError(f"{file} is not a readable .npy file ({str(error) or type(error).__name__})") from error


def read_parquet(file: Path, columns: Sequence[str] | None = None) -> Any:
    """A Parquet file as a pyarrow Table, of some columns or all. CacheError where it is none, or unpacks too far."""
    import pyarrow
    from pyarrow import parquet

    most = most_bytes(file)
    try:
        with parquet.ParquetFile(file) as source:
            wanted = [name for name in source.schema_arrow.names if columns is None or name in columns]
            groups = [source.metadata.row_group(number) for number in range(source.metadata.num_row_groups)]
            chunks = [group.column(at) for group in groups for at in range(group.num_columns)]
            chunks = [chunk for chunk in chunks if chunk.path_in_schema.split(".")[0] in wanted]
            claimed = sum(max(chunk.total_uncompressed_size, chunk.num_values) for chunk in chunks)
            # a text that a dictionary has once may stand in every row
            texts = [chunk.total_uncompressed_size for chunk in chunks if chunk.physical_type == "BYTE_ARRAY"]
            at_once = max(1, min(ROWS, most // max([1, *texts])))
            size, batches = 0, []
            if claimed <= most:
                for batch in source.iter_batches(batch_size=at_once, columns=wanted, use_threads=False):
                    decoded = [c.dictionary_decode() if pyarrow.types.is_dictionary(c.type) else c for c in batch]
                    batches.append(pyarrow.RecordBatch.from_arrays(decoded, names=batch.schema.names))
                    size += batches[-1].nbytes
                    if size > most:
                        break
            if max(size, claimed) > most:
                raise CacheError(f"{file} unpacks to more than {most:,} bytes: it is no file of embeddings")
            if not batches:
                return source.schema_arrow.empty_table().select(wanted)
            return pyarrow.Table.from_batches(batches).replace_schema_metadata(source.schema_arrow.metadata)
    except CacheError:
        raise
    except (pyarrow.ArrowException, OSError, ValueError, MemoryError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0][:200]
        raise CacheError(f"{file} is not a readable Parquet file ({reason})") from error
