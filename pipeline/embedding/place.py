"""Where a cache is to be: whether one can be there, and whether the disk has room for it."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import numpy as np

from mma.cache import Header, open_cache
from mma.pipeline.errors import UsageError
from mma.pipeline.options import written
from mma.pipeline.progress import size


def check_cache_place(path: Path) -> None:
    """Raise UsageError for a place where no cache can be, CacheError for one where something else is."""
    address = re.match(r"([A-Za-z][A-Za-z0-9+.-]+):/+(.*)", str(path))  # one letter would be a drive
    if address:
        raise UsageError(
            f"{written('cache', f'{address[1]}://{address[2]}')} is an address: a cache is written to a folder on "
            f"a disk, such as cache/{path.name}, and copied from there"
        )
    if path.is_file():
        raise UsageError(f"{written('cache', path)} is a file: a cache is a folder, such as cache/{path.stem}.zarr")
    blocked = next((parent for parent in path.absolute().parents if parent.exists()), None)
    if blocked is not None and not blocked.is_dir():
        raise UsageError(f"{written('cache', path)}: {blocked} is a file, not a folder")
    if path.exists():
        open_cache(path, partial=True)  # raises where it is something else


def check_space(path: Path, header: Header, templates: int) -> None:
    """Raise UsageError for a disk on which the cache does not fit."""
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
