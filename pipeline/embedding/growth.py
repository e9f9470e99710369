"""What has happened to a data set since its cache was made, and which rows of the cache are still of use.

A row is known by the hash of its bytes: the same bytes have the same embedding, whatever the image is called, wherever
it lies and whichever class it is of. So only images of new bytes are embedded. A cache of several views cannot grow so:
a view depends on the number of its row.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from mma.cache import Cache, CacheError, Chunk, Header, Location, ManifestSplit, open_cache, replacement_place
from mma.pipeline.datasets import Contents, Dataset, Split
from mma.pipeline.datasets.contents import UNKNOWN
from mma.pipeline.datasets.draw import UNSPLIT
from mma.pipeline.embedding.header import read_manifest
from mma.pipeline.embedding.rows import LimitedSplit
from mma.pipeline.embedding.threads import THREADS
from mma.pipeline.errors import UsageError

OF_ROWS = {"manifest_sha256", "classnames"}  # of a fingerprint: which rows there are, and not how they are embedded
NOT_THERE = -1


@dataclass(frozen=True)
class Growth:
    """What is new of a data set, and where the rest is in the cache that is there."""

    old: Cache
    header: Header  # what the cache is to be
    content: dict[str, NDArray[np.uint8]]  # split -> [N, 32] of the data set as it is now
    source: dict[str, NDArray[np.int64]]  # split -> [N] the row of the old cache, counted over its splits; or NOT_THERE
    added: list[str] = field(default_factory=list)  # paths
    moved: list[str] = field(default_factory=list)  # to another class
    split: list[str] = field(default_factory=list)  # in another split than before
    renamed: list[str] = field(default_factory=list)
    overwritten: list[str] = field(default_factory=list)
    gone: list[str] = field(default_factory=list)
    back: list[str] = field(default_factory=list)  # could not be read then, and can be now

    def told(self) -> str:
        """ "30 images added, 2 moved to another class, 0 gone", and what else there is to say."""
        words = [
            f"{len(self.added):,} image{'s' * (len(self.added) != 1)} added",
            f"{len(self.moved):,} moved to another class",
            f"{len(self.gone):,} gone",
        ]
        if self.back:
            words.append(f"{len(self.back):,} that could not be read before (such as {self.back[0]})")
        if self.overwritten:
            words.append(f"{len(self.overwritten):,} overwritten (such as {self.overwritten[0]})")
        if self.renamed:
            words.append(f"{len(self.renamed):,} renamed")
        if self.split:
            words.append(
                f"{len(self.split):,} moved to another split (such as {self.split[0]}){self._drawn_otherwise()}"
            )
        return ", ".join(words)

    def _drawn_otherwise(self) -> str:
        """Why images are in another split, where the draw is another: an earlier version's, or another seed's."""
        then, now = (
            next((note.partition(UNSPLIT)[2].strip() for note in header.notes if UNSPLIT in note), "")
            for header in (self.old.header, self.header)
        )
        return f", because splits were drawn in another way then ({then})" if then and now != then else ""

    def new_rows(self, chunk: Chunk) -> NDArray[np.int64]:
        """Rows of a chunk that the old cache does not have."""
        return chunk.start + np.flatnonzero(self.source[chunk.split][chunk.start : chunk.stop] == NOT_THERE)


def find_growth(cache: Cache, wanted: Header, dataset: Dataset, contents: Contents) -> Growth | None:
    """What a cache lacks of a data set; None where it is of another, or was made in another way, or has these rows.

    UsageError where its rows have changed and it cannot grow. Raises CacheError for a damaged cache, and as `contents`.
    """
    stored = cache.header
    one, other = stored.fingerprint, wanted.fingerprint
    differs = {key for key in one.keys() | other.keys() if one.get(key) != other.get(key)}
    if not differs or not differs <= OF_ROWS or stored.dataset != wanted.dataset or not stored.has_content:
        return None
    content = {name: contents(split) for name, split in dataset.splits.items()}
    header = replace(
        wanted,
        chunk=stored.chunk,
        batch=stored.batch,
        source={**wanted.source, THREADS: stored.source.get(THREADS, wanted.source[THREADS])},
    )
    growth = _compared(cache, header, dataset, content)
    if len(growth.added) == sum(wanted.rows.values()):
        return None  # not one image of it is there: another data set of the same name
    if max((*stored.views.values(), *wanted.views.values())) > 1:
        raise UsageError(
            f"{dataset.name} is not what {cache.location} was made from ({growth.told()}), and a cache of several "
            "views cannot grow, since views depend on the number of their row: make another, `cache=PATH`"
        )
    return growth


def new_rows(growth: Growth, dataset: Dataset, chunks: Sequence[Chunk]) -> tuple[Dataset, list[Chunk]]:
    """The rows of some chunks that are to be embedded, as a data set of their own; and its chunks, as far as there are
    any in each of those given.
    """
    found: list[Chunk] = []
    splits: dict[str, Split] = {}
    for name, split in dataset.splits.items():
        parts = [(chunk, growth.new_rows(chunk)) for chunk in chunks if chunk.split == name]
        start = 0
        for chunk, rows in parts:
            if len(rows):
                found.append(Chunk(name, chunk.index, start, start + len(rows)))
                start += len(rows)
        splits[name] = LimitedSplit(split, np.concatenate([np.zeros(0, np.int64), *(rows for _, rows in parts)]))
    return replace(dataset, splits=splits), found


def pending_chunks(growth: Growth, path: Location) -> list[Chunk]:
    """The chunks of the cache that is to be, that no earlier run has made from the same bytes."""
    stale, done = set(stale_chunks(growth, path)), _begun(growth, path)
    return [c for c in growth.header.chunks() if c in stale or done is None or c.unit not in done.journal]


def stale_chunks(growth: Growth, path: Location) -> list[Chunk]:
    """The chunks that an earlier run has made, of images that have been overwritten since."""
    begun = _begun(growth, path)
    if begun is None:
        return []
    content = {split: begun.content(split) for split in begun.header.rows}

    def same(chunk: Chunk) -> bool:
        rows = slice(chunk.start, chunk.stop)
        return bool((content[chunk.split][rows] == growth.content[chunk.split][rows]).all())

    return [chunk for chunk in growth.header.chunks() if chunk.unit in begun.journal and not same(chunk)]


def _begun(growth: Growth, path: Location) -> Cache | None:
    """What an earlier run has made of the cache that is to be."""
    try:
        cache = open_cache(replacement_place(path), partial=True)
    except CacheError:
        return None
    same = replace(cache.header, notes=growth.header.notes, source=growth.header.source) == growth.header
    return cache if same else None


@dataclass(frozen=True)
class _Rows:
    """Rows of all splits, one after the other."""

    content: list[bytes] = field(default_factory=list)
    path: list[str] = field(default_factory=list)
    classname: list[str] = field(default_factory=list)
    split: list[str] = field(default_factory=list)

    def add(self, split: str, content: NDArray[np.uint8], manifest: ManifestSplit, classnames: Sequence[str]) -> None:
        called = [*classnames, ""]  # label -1
        self.content.extend(found.tobytes() for found in content)
        self.path.extend(manifest.paths)
        self.classname.extend(called[label] for label in manifest.labels)
        self.split.extend([split] * len(content))


def _compared(cache: Cache, header: Header, dataset: Dataset, content: dict[str, NDArray[np.uint8]]) -> Growth:
    old, new = _Rows(), _Rows()
    for name in cache.header.rows:
        old.add(name, cache.content(name), cache.manifest(name), cache.header.classnames)
    for name, manifest in read_manifest(dataset).items():
        new.add(name, content[name], manifest, dataset.classnames)
    has = {found: row for row, found in reversed(list(enumerate(old.content))) if found != UNKNOWN}
    at = np.array([has.get(found, NOT_THERE) for found in new.content], np.int64)
    bounds = np.cumsum([len(content[name]) for name in dataset.splits])[:-1]
    growth = Growth(cache, header, content, dict(zip(dataset.splits, np.split(at, bounds), strict=True)))
    done = _done_rows(cache)
    then, rest = _matched(old, new)
    for row, path in enumerate(new.path):
        was = then[row]
        if was is None:
            growth.added.append(path)
        elif new.content[row] != old.content[was]:
            if new.content[row] == UNKNOWN:
                growth.gone.append(path)
            elif old.content[was] != UNKNOWN:
                growth.overwritten.append(path)
            elif done[was]:
                growth.back.append(path)
        else:
            if new.classname[row] != old.classname[was]:
                growth.moved.append(path)
            elif path != old.path[was]:
                growth.renamed.append(path)
            if new.split[row] != old.split[was]:
                growth.split.append(path)
    growth.gone.extend(old.path[row] for row in rest)
    return growth


def _done_rows(cache: Cache) -> NDArray[np.bool_]:
    """[N] whether a row of a cache, counted over its splits, is in a chunk that is done."""
    done = {split: np.zeros(count, bool) for split, count in cache.header.rows.items()}
    for chunk in cache.header.chunks():
        done[chunk.split][chunk.start : chunk.stop] = chunk.unit in cache.journal
    return np.concatenate(list(done.values()))


_KEYS: tuple[Callable[[_Rows, int], Hashable], ...] = (
    lambda rows, row: (rows.content[row], rows.path[row]),
    lambda rows, row: (rows.content[row], rows.classname[row]),
    lambda rows, row: rows.content[row],
    lambda rows, row: rows.path[row],
)


def _matched(old: _Rows, new: _Rows) -> tuple[list[int | None], list[int]]:
    """Which of the old rows each new one was, and the old ones that are none of the new.

    First the same bytes at the same place, then the same bytes in the same class, then the same bytes; at last, the
    same place.
    """
    then: list[int | None] = [None] * len(new.path)
    left = set(range(len(old.path)))
    for key in _KEYS:
        by_bytes = key is not _KEYS[-1]
        found: dict[Hashable, list[int]] = defaultdict(list)
        for row in sorted(left, reverse=True):
            if not by_bytes or old.content[row] != UNKNOWN:
                found[key(old, row)].append(row)
        for row, was in enumerate(then):
            if was is None and (same := found.get(key(new, row))):
                then[row] = chosen = same.pop()
                left.discard(chosen)
    return then, sorted(left)
