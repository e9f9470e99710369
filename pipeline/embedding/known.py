"""The content hash of every row of a data set, with as few bytes read as can be.

A file whose size and times are those it had when a cache was made of it has the bytes it had then (seen.py), and its
hash is the cache's. All others are read.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np
from numpy.typing import NDArray
from rich.console import Console

from mma.cache import CacheError, Location, open_cache
from mma.pipeline.datasets.base import ABSENT, Split, Stamp
from mma.pipeline.datasets.contents import UNKNOWN, as_array, row_content
from mma.pipeline.embedding.seen import Seen, of_content
from mma.pipeline.progress import track

MANY = 1000  # images that are read without saying so


class KnownContents:
    """Content hashes of rows, each read once. Calling it with a split gives them [N, 32]; WorkError where a disk fails.

    It begins with what the cache at `path` has, if there is one.
    """

    def __init__(self, path: Location, workers: int, console: Console) -> None:
        self._known = _of_cache(path)
        self._workers, self._console = workers, console

    def __call__(self, split: Split) -> NDArray[np.uint8]:
        """[N, 32] of a split; UNKNOWN of rows that cannot be read."""
        paths, stamps = split.paths, [(int(a), int(b), int(c)) for a, b, c in split.stamps()]
        todo = [row for row, path in enumerate(paths) if self._lacks(path, stamps[row])]
        shown = self._console if len(todo) > MANY else Console(quiet=True)
        with (
            track(shown, "reading images, to know them by their bytes", len(todo), "images") as advance,
            ThreadPoolExecutor(self._workers, thread_name_prefix="hash") as pool,
        ):
            for row, found in zip(todo, pool.map(lambda row: row_content(split, row), todo), strict=True):
                self._known[paths[row]] = stamps[row], found
                advance(1)
        return as_array([self._of(path, stamp) for path, stamp in zip(paths, stamps, strict=True)])

    def of_row(self, split: Split, row: int) -> bytes:
        """The hash of one row as it is now; UNKNOWN where it cannot be read. WorkError where a disk fails."""
        path, stamp = split.paths[row], split.stamp(row)
        if self._lacks(path, stamp):
            self._known[path] = stamp, row_content(split, row)
        return self._of(path, stamp)

    def _lacks(self, path: str, stamp: Stamp) -> bool:
        return stamp != ABSENT and self._of(path, stamp) == UNKNOWN

    def _of(self, path: str, stamp: Stamp) -> bytes:
        then, content = self._known.get(path, (ABSENT, UNKNOWN))
        return content if then == stamp else UNKNOWN


def _of_cache(path: Location) -> dict[str, tuple[Stamp, bytes]]:
    """Path -> stamp and content hash, of finished rows of a cache; nothing where there is none, or it is damaged."""
    known: dict[str, tuple[Stamp, bytes]] = {}
    try:
        cache = open_cache(path, partial=True)
        content = {split: cache.content(split) for split in cache.header.rows}  # [N, 32]
        paths = {split: cache.manifest(split).paths for split in cache.header.rows}
    except CacheError:
        return known  # whoever opens it next says why
    seen = Seen(path).read()
    for chunk in cache.header.chunks():
        rows = slice(chunk.start, chunk.stop)
        of_chunk = content[chunk.split][rows]
        stamps = seen.get((chunk.unit, of_content(of_chunk)))
        if stamps is None or len(stamps) != len(of_chunk):
            continue
        for where, stamp, found in zip(paths[chunk.split][rows], stamps.tolist(), of_chunk, strict=True):
            known[where] = (stamp[0], stamp[1], stamp[2]), found.tobytes()
    return known
