"""What the images of a cache were like when they were read: `.photos.zarr.seen`, beside the cache on a disk.

Sizes and times of files, so that a run need not read again what has not changed. It is a hint and no part of the cache:
a line counts only with the content hashes it was written with, and where there is none the images are read again. A
cache in an object store has none.

    {"unit": "image/train/3", "content": SHA-256 of the chunk's content hashes, "stamps": base64 of int64 [rows, 3]}
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mma.cache import Location
from mma.pipeline.regular_files import MOST_LINE, open_regular

_APPEND = os.O_WRONLY | os.O_APPEND | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)


class Seen:
    """The stamps of the rows of one cache, by unit of work."""

    def __init__(self, cache: Location) -> None:
        self._file = cache.with_name(f".{cache.name}.seen") if isinstance(cache, Path) else None

    def read(self) -> dict[tuple[str, str], NDArray[np.int64]]:
        """Stamps [rows, 3] by unit and by `of_content`; nothing where the file is not there or is damaged."""
        found: dict[tuple[str, str], NDArray[np.int64]] = {}
        if self._file is None:
            return found
        try:
            with open_regular(self._file) as stream:
                while line := stream.readline(MOST_LINE):
                    try:
                        record = json.loads(line)
                        data = base64.b64decode(record["stamps"], validate=True)
                        stamps = np.frombuffer(data, "<i8").reshape(-1, 3).astype(np.int64)
                        found[str(record["unit"]), str(record["content"])] = stamps
                    except (ValueError, KeyError, TypeError, RecursionError):
                        continue  # torn by a crash
        except OSError:
            pass
        return found

    def write(self, unit: str, content: NDArray[np.uint8], stamps: NDArray[np.int64]) -> None:
        """Add a unit: its content hashes [rows, 32] and stamps [rows, 3]. Raises OSError."""
        if self._file is None:
            return
        data = base64.b64encode(stamps.astype("<i8").tobytes()).decode()
        line = json.dumps({"unit": unit, "content": of_content(content), "stamps": data}) + "\n"
        handle = os.open(self._file, _APPEND, 0o666)
        try:
            os.write(handle, line.encode())
        finally:
            os.close(handle)

    def clear(self) -> None:
        """Forget everything, before another cache is made in this place. Raises OSError."""
        if self._file:
            self._file.unlink(missing_ok=True)


def of_content(content: NDArray[np.uint8]) -> str:
    """What binds the stamps of a unit to the bytes that were read."""
    return hashlib.sha256(content.tobytes()).hexdigest()
