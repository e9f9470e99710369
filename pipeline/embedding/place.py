"""Where a cache is to be: whether one can be there, and whether the disk has room for it."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np

from mma.cache import Header, Location, cache_exists, in_object_store, open_cache
from mma.pipeline.errors import UsageError
from mma.pipeline.options import written
from mma.pipeline.progress import size


def check_cache_place(path: Location) -> None:
    """Raise UsageError for a place where no cache can be, CacheError for one where something else is."""
    if not isinstance(path, Path):
        if not in_object_store(path):
            raise UsageError(
                f"{written('cache', path)} is only read: a cache is written to a folder, or to s3://, gs:// or az://"
            )
        if cache_exists(path):
            open_cache(path, partial=True)  # raises where it is something else
        return
    if path.is_file():
        raise UsageError(f"{written('cache', path)} is a file: a cache is a folder, such as cache/{path.stem}.zarr")
    blocked = next((parent for parent in path.absolute().parents if parent.exists()), None)
    if blocked is not None and not blocked.is_dir():
        raise UsageError(f"{written('cache', path)}: {blocked} is a file, not a folder")
    if path.exists():
        open_cache(path, partial=True)  # raises where it is something else


def check_space(path: Location, header: Header, templates: int) -> None:
    """Raise UsageError for a disk on which the cache does not fit. An object store has no end that is known."""
    if not isinstance(path, Path):
        return
    wanted = image_bytes(header) + sum(header.rows.values()) * 128
    widths = header.penultimate or {}
    wanted += len(header.classnames) * templates * (header.dim + widths.get("text", 0)) * 4 + 1_000_000
    wanted += sum((width + 1) * header.dim * 4 for width in widths.values())
    at = next(parent for parent in path.absolute().parents if parent.exists())
    free = shutil.disk_usage(at).free
    if free < wanted:
        raise UsageError(f"no disk space for {path}: it needs {size(wanted)}, {at} has {size(free)} free")


def image_bytes(header: Header) -> int:
    """Bytes of all image embeddings, and of the features before the projection."""
    pictures = sum(rows * header.views[split] for split, rows in header.rows.items())
    numbers = header.dim + (header.penultimate or {}).get("image", 0)
    return pictures * numbers * np.dtype(header.dtype).itemsize
