"""Whether the images that a cache was made from are still what they were.

Size and times of a file first; where they differ, or are not known, its bytes, whose SHA-256 the cache keeps. An image
of other bytes has changed. One that could not be read and now can is back. One that is gone has not changed: its
embedding is that of the bytes that were there.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from rich.console import Console

from mma.cache import Chunk, Location, Status, open_cache
from mma.pipeline.datasets.base import ABSENT, Dataset, Split
from mma.pipeline.datasets.contents import UNKNOWN, row_content
from mma.pipeline.embedding.seen import Seen, of_content
from mma.pipeline.progress import track

MANY = 1000  # images that are read without saying so

RowContent = Callable[[Split, int], bytes]  # a row -> its content hash as it is now; UNKNOWN where it cannot be read


@dataclass(frozen=True)
class Changes:
    """What is no longer as it was when it was embedded."""

    changed: tuple[str, ...] = ()  # paths of images with other bytes
    changed_units: frozenset[str] = frozenset()  # the chunks they are in
    back: tuple[str, ...] = ()  # paths of images that could not be read, and now can
    back_units: frozenset[str] = frozenset()


@dataclass(frozen=True)
class _Suspect:
    """A row of a chunk that is done, whose bytes are to be looked at."""

    chunk: Chunk
    row: int
    missing: bool  # whether it could not be read when the chunk was done


def find_changes(
    path: Location, dataset: Dataset, workers: int, console: Console, content_of: RowContent = row_content
) -> Changes:
    """Compare the rows that a cache has with what the data set has now, by the hashes that `content_of` gives.

    WorkError where a disk fails, CacheError where the cache is damaged. What was found unchanged is
    written down (seen.py), so the caller must hold the cache's lock.
    """
    cache, seen = open_cache(path, partial=True), Seen(path)
    known = seen.read()
    content = {split: cache.content(split) for split in cache.header.rows}  # [N, 32]
    stamps = {name: split.stamps() for name, split in dataset.splits.items()}  # [N, 3]
    missing = {s: {r for r, code, _ in failures if code == Status.MISSING} for s, failures in cache.failures().items()}
    done = [chunk for chunk in cache.header.chunks() if chunk.unit in cache.journal]
    suspects: list[_Suspect] = []
    unknown: list[Chunk] = []
    for chunk in done:
        rows = slice(chunk.start, chunk.stop)
        now, then = stamps[chunk.split][rows], known.get((chunk.unit, of_content(content[chunk.split][rows])))
        fresh = then is not None and then.shape == now.shape
        differs = (now != then).any(axis=1) if fresh else np.ones(len(now), bool)
        if differs.any():
            unknown.append(chunk)
        lost = np.isin(np.arange(chunk.start, chunk.stop), list(missing[chunk.split]))  # tried again by every run
        for at in np.flatnonzero((differs | lost) & (now != ABSENT).any(axis=1)):
            suspects.append(_Suspect(chunk, chunk.start + int(at), bool(lost[at])))
    faults = _compare(suspects, dataset, content, workers, console, content_of)
    for chunk in unknown:
        if not any(chunk == suspect.chunk for suspect in faults):
            rows = slice(chunk.start, chunk.stop)
            seen.write(chunk.unit, content[chunk.split][rows], stamps[chunk.split][rows])
    return _told(faults, dataset)


def _compare(
    suspects: Sequence[_Suspect],
    dataset: Dataset,
    content: dict[str, NDArray[np.uint8]],
    workers: int,
    console: Console,
    content_of: RowContent,
) -> list[_Suspect]:
    """The suspects that are not what they were."""

    def differs(suspect: _Suspect) -> bool:
        split, row = suspect.chunk.split, suspect.row
        return content_of(dataset.splits[split], row) not in (UNKNOWN, content[split][row].tobytes())

    quiet = Console(quiet=True)
    shown = console if len(suspects) > MANY else quiet
    found = []
    with (
        track(shown, "images that may have changed", len(suspects), "images") as advance,
        ThreadPoolExecutor(workers, thread_name_prefix="compare") as pool,
    ):
        for suspect, other in zip(suspects, pool.map(differs, suspects), strict=True):
            found += [suspect] if other else []
            advance(1)
    return found


def _told(faults: Sequence[_Suspect], dataset: Dataset) -> Changes:
    def paths(missing: bool) -> tuple[str, ...]:
        return tuple(dataset.splits[s.chunk.split].paths[s.row] for s in faults if s.missing == missing)

    def units(missing: bool) -> frozenset[str]:
        return frozenset(s.chunk.unit for s in faults if s.missing == missing)

    return Changes(paths(False), units(False), paths(True), units(True))
