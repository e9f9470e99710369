"""Read a cache: open it, check it, load a split or a prompt set whole. Folder, object store or fsspec URL.

cache = open_cache("cache/food101.zarr")
train = cache.split("train")        # SplitData
text = cache.text("default")        # TextData

Every byte that is read is checked against the journal first, and the journal against the root: see checked.py.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import zarr
from numpy.typing import NDArray

from mma.cache.checked import CheckedStore
from mma.cache.durable import sha256
from mma.cache.errors import CacheError
from mma.cache.journal import FailedRow, JournalEntry, read_journal
from mma.cache.layout import ManifestSplit
from mma.cache.projection import PROJECTION, Projection
from mma.cache.receipts import with_receipts
from mma.cache.root import TEXT, Root
from mma.cache.schema import CONTENT, SIDES, Header, Status, label_fault, text_fault
from mma.cache.where import Location, open_place


@dataclass(frozen=True)
class SplitData:
    """One split, whole, in memory."""

    embedding: NDArray[np.floating]  # [N, V, D] as stored; NaN where status is not OK
    label: NDArray[np.int32]  # [N]
    status: NDArray[np.uint8]  # [N] Status
    path: Sequence[str]  # [N]

    @property
    def ok(self) -> NDArray[np.bool_]:
        """[N] whether the row has an embedding."""
        return np.equal(self.status, Status.OK)


@dataclass(frozen=True)
class TextData:
    """One prompt set, whole, in memory."""

    templates: list[str]  # [P]
    embedding: NDArray[np.float32]  # [C, P, D] as the model gives it


@dataclass(frozen=True)
class Cache:
    """A cache opened for reading."""

    location: str
    header: Header
    prompts: tuple[str, ...]
    complete: bool
    journal: Mapping[str, JournalEntry]  # units done, by name
    _root: zarr.Group
    _readers: int  # files that are worth reading at a time

    def split(self, name: str) -> SplitData:
        """Load a split. CacheError where the cache has no such split, or any of its bytes are damaged or missing.

        Of a cache opened as `partial`, rows not yet done have `Status.PENDING` and NaN.
        """
        if name not in self.header.rows:
            raise self._no_split(name)
        embedding, label, status, path = (
            self._load(f"image/{name}/{array}") for array in ("embedding", "label", "status", "path")
        )
        if self.complete and (status == Status.PENDING).any():
            raise CacheError(f"{self.location}: split {name!r} lacks chunks: run `mma cache verify` on it")
        if fault := label_fault(label, len(self.header.classnames)):
            raise CacheError(f"{self.location}: split {name!r} has {fault}")
        ok = status == Status.OK
        if not np.isfinite(embedding.sum(axis=(1, 2), dtype=np.float64)[ok]).all():
            raise CacheError(f"{self.location}: split {name!r} has non-finite embeddings: run `mma cache verify` on it")
        return SplitData(embedding, label, status, [str(p) for p in path])

    def manifest(self, name: str) -> ManifestSplit:
        """Labels and paths of a split, without its embeddings. CacheError as for `split`."""
        if name not in self.header.rows:
            raise self._no_split(name)
        return ManifestSplit(self._load(f"image/{name}/label"), [str(p) for p in self._load(f"image/{name}/path")])

    def content(self, name: str) -> NDArray[np.uint8]:
        """SHA-256 of the encoded bytes of each row of a split, as they were read [N, 32]; zeros where not known.

        A cache of schema version 1, and an imported one, knows none. CacheError as for `split`.
        """
        if name not in self.header.rows:
            raise self._no_split(name)
        if not self.header.has_content:
            return np.zeros((self.header.rows[name], CONTENT), np.uint8)
        content: NDArray[np.uint8] = self._load(f"image/{name}/content")
        return content

    def text(self, prompts: str) -> TextData:
        """Load a prompt set. CacheError where the cache has none of that name, or its bytes are damaged."""
        if prompts not in self.prompts:
            raise self._no_prompts(prompts)
        embedding = self._load(f"{TEXT}{prompts}/embedding")
        fault = text_fault(embedding)
        if fault:
            raise CacheError(f"{self.location}: prompt set {prompts!r}: texts {fault}: run `mma cache verify` on it")
        return TextData([str(t) for t in self.journal[TEXT + prompts].about["templates"]], embedding)

    def sentences(self, prompts: str) -> list[list[str]] | None:
        """The texts [C][up to P] of a prompt set; None where its templates and the class names tell them."""
        if prompts not in self.prompts:
            raise self._no_prompts(prompts)
        return self.journal[TEXT + prompts].about.get("texts")

    def penultimate(self, split: str) -> NDArray[np.floating]:
        """The features of a split before the projection [N, V, W], as stored. CacheError as for `split`, and where the
        cache has none.
        """
        self._check_penultimate()
        if split not in self.header.rows:
            raise self._no_split(split)
        found: NDArray[np.floating] = self._load(f"image/{split}/penultimate")
        return found

    def text_penultimate(self, prompts: str) -> NDArray[np.float32]:
        """The features of a prompt set before the projection [C, P, W]. CacheError as for `penultimate`."""
        self._check_penultimate()
        if prompts not in self.prompts:
            raise self._no_prompts(prompts)
        found: NDArray[np.float32] = self._load(f"{TEXT}{prompts}/penultimate")
        return found

    def projections(self) -> dict[str, Projection]:
        """The last layers of the towers, `image` and `text`. CacheError as for `penultimate`."""
        self._check_penultimate()
        return {
            side: Projection(*(self._load(f"{PROJECTION}/{side}/{part}") for part in ("weight", "bias")))
            for side in SIDES
        }

    def _check_penultimate(self) -> None:
        if self.header.penultimate is None:
            raise CacheError(f"{self.location} has no features before the projection: make a cache with them")

    def digest(self, splits: Iterable[str], prompts: str | None) -> str:
        """Twelve hexadecimal digits that identify the numbers of these splits and this prompt set.

        A hash of the journal's SHA-256 of every stored file of embeddings, penultimate features, projections, labels,
        statuses and texts, of the class names and of the logit scale. Copies of a cache have the same digest; where any
        of these bytes differ, they have another, whatever the fingerprints say. That of an unfinished cache covers what
        is done, and changes as more is. CacheError where the cache has no such split or prompt set.
        """
        folders = [f"{PROJECTION}/"]
        for split in sorted(set(splits)):
            if split not in self.header.rows:
                raise self._no_split(split)
            folders += [f"image/{split}/{array}/" for array in ("embedding", "penultimate", "label", "status")]
        if prompts is not None:
            if prompts not in self.prompts:
                raise self._no_prompts(prompts)
            folders.append(f"{TEXT}{prompts}/")
        used = {
            file: checksum
            for entry in self.journal.values()
            for file, checksum in entry.files.items()
            if file.startswith(tuple(folders))
        }
        known = [sorted(used.items()), self.header.classnames, self.header.logit_scale]
        return sha256(json.dumps(known).encode())[:12]

    def failures(self) -> dict[str, list[FailedRow]]:
        """Rows without an embedding: split -> [(row, Status, reason)]."""
        found: dict[str, list[FailedRow]] = {split: [] for split in self.header.rows}
        for chunk in self.header.chunks():
            if chunk.unit in self.journal:
                found[chunk.split] += self.journal[chunk.unit].failures
        return found

    def progress(self) -> tuple[int, int]:
        """Chunks done, and chunks in all."""
        chunks = list(self.header.chunks())
        return sum(chunk.unit in self.journal for chunk in chunks), len(chunks)

    def _no_split(self, name: str) -> CacheError:
        return CacheError(f"{self.location} has no split {name!r}; it has {', '.join(self.header.rows)}")

    def _no_prompts(self, name: str) -> CacheError:
        return CacheError(f"{self.location} has no prompt set {name!r}; it has {', '.join(self.prompts) or 'none'}")

    def _load(self, name: str) -> Any:
        try:
            with zarr.config.set({"async.concurrency": self._readers}):
                return self._root[name][:]  # type: ignore[index]
        except CacheError:
            raise
        except (KeyError, ValueError, OSError) as error:
            raise CacheError(f"{self.location}: {name} is damaged ({error}): run `mma cache verify` on it") from error


def open_cache(location: Location, *, partial: bool = False) -> Cache:
    """Open a cache on a disk, in an object store or behind any fsspec URL.

    Raises CacheError where there is none, where it is not an mma cache or one of a newer schema, where its root or
    journal is damaged, and, unless `partial`, where it is not complete.
    """
    place = open_place(location)
    data, log = place.root_and_journal()
    root = Root.parse(data, place.location)
    if not root.vouches_for(log):
        raise CacheError(f"{location}: the journal is damaged: run `mma cache verify` on it")
    counted = log[: root.journal["bytes"]] if root.journal else log
    entries = {unit: entry for unit, entry in read_journal(counted, place.location)[0].items() if entry.done}
    if not root.complete:
        entries = with_receipts(entries, place, root.header)
    implied = Root.of(entries, counted, complete=root.complete)
    if implied.header != root.header or (root.complete and implied != root):
        raise CacheError(f"{location}: zarr.json and the journal disagree: run `mma cache verify` on it")
    known = {file: checksum for entry in entries.values() for file, checksum in entry.files.items()}
    store = CheckedStore(place, known, data)
    group = zarr.open_group(store, mode="r", zarr_format=3)
    cache = Cache(place.location, root.header, implied.prompts, root.complete, entries, group, place.readers)
    done, total = cache.progress()
    if done < total and root.complete:
        raise CacheError(f"{location} lacks {total - done} chunks: run `mma cache verify` on it")
    if not root.complete and not partial:
        raise CacheError(
            f"{location} is not complete ({done} of {total} chunks): run the same `mma embed` to finish it"
        )
    return cache
