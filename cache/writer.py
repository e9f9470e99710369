"""Write a cache: create it, do its units of work in any order and over any number of runs, finish it.

    with CacheWriter.create(path, header, manifest) as writer:     # or CacheWriter.resume(path, header)
        writer.write_projections(projections)                      # of a cache with penultimate features, first
        for chunk in writer.pending():
            writer.write(chunk, embedding, failures, content)
        writer.write_text("default", templates, embedding)
        writer.finish()

A unit is done when the journal says so, which it does only after the unit's files are on the disk and were read back.
One process at a time writes a cache: see lock.py. A finished cache has the same bytes whatever happened on the way.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Self

import numpy as np
from numpy.typing import NDArray

from mma.cache.chunk_files import Arrays, checksums, chunk_values, must_hold, write_chunk
from mma.cache.claim import Claim
from mma.cache.durable import sha256
from mma.cache.errors import CacheError
from mma.cache.journal import JOURNAL, MANIFEST, SPARE, FailedRow, Journal, JournalEntry
from mma.cache.killpoint import step
from mma.cache.layout import ManifestSplit, array, lay_out_arrays, lay_out_projections, lay_out_text
from mma.cache.lock import CacheLock, LockHolder, only_writer
from mma.cache.place import Place
from mma.cache.projection import (
    PROJECTION,
    Projection,
    check_given,
    product_fault,
    projection_fault,
    projection_files,
    stored_projection,
)
from mma.cache.receipts import read_receipts, remove_receipts, write_receipt
from mma.cache.root import ROOT, TEXT, Root
from mma.cache.schema import SIDES, Chunk, Header, check_name, fingerprint_diff, text_fault
from mma.cache.where import Location, place_of


class CacheWriter(LockHolder):
    """The one writer of one cache. Close it, or use it as a context manager."""

    def __init__(self, path: Location, header: Header, lock: CacheLock | Claim) -> None:
        self.path = path
        self.header = header
        self._place = place_of(path)
        self._lock = lock
        self.changed: dict[str, list[str]] = {}  # units done again: the files that are other than those that were lost
        self._journal = Journal(self._place)
        self._published = stored_root(self._place)
        self._arrays = Arrays(header)
        self._layers: dict[str, Projection] = {}

    @classmethod
    def create(cls, path: Location, header: Header, manifest: Mapping[str, ManifestSplit]) -> CacheWriter:
        """Lay out a new cache, with labels and paths. It appears at `path` whole or not at all."""
        lock = only_writer(path)
        try:
            place = place_of(path)
            if place.exists():
                raise CacheError(f"{path} exists already")
            lay_out(place, header, manifest)
            return cls(path, header, lock)
        except BaseException:
            lock.release()
            raise

    @classmethod
    def resume(cls, path: Location, header: Header) -> CacheWriter:
        """Continue a cache. Its own chunk and batch sizes hold; another fingerprint is refused with the differences.

        It is recovered first: see `recover`.
        """
        lock = only_writer(path)
        try:
            stored = stored_root(place_of(path)).header
            must_match(path, stored, header)
            return cls(path, stored, lock).recover()
        except BaseException:
            lock.release()
            raise

    @classmethod
    def reopen(cls, path: Location) -> CacheWriter:
        """Continue a cache as it is, to add text to it or to finish a repair. It is recovered first: see `recover`."""
        lock = only_writer(path)
        try:
            return cls(path, stored_root(place_of(path)).header, lock).recover()
        except BaseException:
            lock.release()
            raise

    @property
    def complete(self) -> bool:
        """Whether every unit is done and the cache is published."""
        return self._published.complete

    @property
    def prompts(self) -> list[str]:
        """The prompt sets stored so far."""
        return [name for name, entry in self._texts().items() if entry.done]

    def pending(self) -> list[Chunk]:
        """The image chunks still to do, in order."""
        return [chunk for chunk in self.header.chunks() if not self._done(chunk.unit)]

    def pending_text(self) -> dict[str, tuple[list[str], list[list[str]]]]:
        """Prompt sets that were stored and are lost: name -> templates [P] and texts [C][up to P]."""
        lost = {name: entry.about for name, entry in self._texts().items() if not entry.done}
        filled = {
            name: [[t.replace("{}", c) for t in a["templates"]] for c in self.header.classnames]
            for name, a in lost.items()
        }
        return {name: (list(a["templates"]), a.get("texts", filled[name])) for name, a in lost.items()}

    def pending_projections(self) -> bool:
        """Whether the towers' last layers are still to be stored."""
        return self.header.penultimate is not None and not self._done(PROJECTION)

    def failures(self) -> dict[str, list[FailedRow]]:
        """The rows that have no embedding, by split."""
        found: dict[str, list[FailedRow]] = {split: [] for split in self.header.rows}
        for chunk in self.header.chunks():
            entry = self._journal.entries.get(chunk.unit)
            found[chunk.split] += entry.failures if entry else []
        return found

    def write(
        self,
        chunk: Chunk,
        embedding: NDArray[np.floating],
        failures: Sequence[FailedRow] = (),
        content: NDArray[np.uint8] | None = None,
        penultimate: NDArray[np.floating] | None = None,
    ) -> None:
        """Store the embeddings [rows, V, D] of one chunk; rows named in `failures` become NaN.

        `content` [rows, 32] is the SHA-256 of each row's encoded bytes, as they were read; zeros, or None, where that
        is not known. A cache of schema version 1 has no place for it. `penultimate` [rows, V, W] are the features
        before the projection, of a cache that keeps them; the embeddings have to be what the projection makes of them.
        """
        values = chunk_values(self.header, chunk, embedding, failures, content, penultimate)
        self._check_product(chunk.unit, "image", values)
        if self._place.appends:
            self._record(write_chunk(self._place, self._arrays, self.header, chunk, values, failures))
        else:
            self._lock.check()
            entry = write_chunk(self._place, self._arrays, self.header, chunk, values, failures)
            self._note(entry)
            write_receipt(self._place, self.header, chunk, entry)
            self._journal.entries[entry.unit] = entry

    def write_text(
        self,
        name: str,
        templates: Sequence[str],
        embedding: NDArray[np.float32],
        texts: Sequence[Sequence[str]] | None = None,
        penultimate: NDArray[np.float32] | None = None,
    ) -> None:
        """Store a prompt set: `embedding` [C, P, D] of the P `templates`, for every class.

        `texts` [C][up to P] are the texts themselves, where the templates alone do not tell them; repair needs them.
        `penultimate` [C, P, W] is as for `write`.
        """
        classes, dim = len(self.header.classnames), self.header.dim
        unit = TEXT + check_name("prompt set", name)
        if embedding.shape != (classes, len(templates), dim):
            raise CacheError(f"text embeddings are {embedding.shape}, not {(classes, len(templates), dim)}")
        fault = text_fault(embedding)
        if fault:
            raise CacheError(f"text embeddings {fault}")
        if self._done(unit):
            raise CacheError(f"{self.path} has a prompt set {name!r} already")
        check_given(penultimate, self.header, unit)
        values = {"embedding": embedding.astype(np.float32)}
        if penultimate is not None:
            values["penultimate"] = penultimate.astype(np.float32)
        self._check_product(unit, "text", values)
        files = [f"{unit}/zarr.json"]
        files += [f"{unit}/{part}/{file}" for part in values for file in ("zarr.json", "c/0/0/0")]
        arrays = Arrays()
        lay_out_text(arrays.root, name, self.header, templates)
        for part, found in values.items():
            array(arrays.root, f"{unit}/{part}")[:] = found
        written = self._write(arrays.take(files))
        about: dict[str, object] = {"templates": list(templates)}
        if texts is not None and [list(of_class) for of_class in texts] != self._filled(templates):
            about["texts"] = [list(of_class) for of_class in texts]
        self._record(JournalEntry(unit, written, about=about))
        self._publish(complete=self.complete)

    def write_projections(self, projections: Mapping[str, Projection]) -> None:
        """Store the last layers of the towers, `image` and `text`; chunks and texts are checked by them, and follow."""
        check_given(projections, self.header, PROJECTION)
        for side in SIDES:
            if fault := projection_fault(projections[side], self.header, side):
                raise CacheError(f"the projection of {side} {fault}")
        if self._done(PROJECTION):
            raise CacheError(f"{self.path} has its projections already")
        values = {
            f"{PROJECTION}/{side}/{part}": np.asarray(getattr(projections[side], part), np.float32)
            for side in SIDES
            for part in ("weight", "bias")
        }
        arrays = Arrays()
        lay_out_projections(arrays.root, self.header)
        for name, found in values.items():
            array(arrays.root, name)[:] = found
        self._record(JournalEntry(PROJECTION, self._write(arrays.take(projection_files()))))

    def _write(self, files: Mapping[str, bytes]) -> dict[str, str]:
        """Write the files of a text or of the projections, and return the SHA-256 of each."""
        with step("text.write"):
            self._place.write(files)
        with step("text.sync"):
            self._place.sync(files)
        must_hold(self._place, files)
        return checksums(files)

    def _check_product(self, unit: str, side: str, values: Mapping[str, NDArray[np.floating]]) -> None:
        if "penultimate" not in values:
            return
        width = (self.header.penultimate or {})[side]
        if values["penultimate"].shape != (*values["embedding"].shape[:-1], width):
            raise CacheError(f"{unit}: penultimate features are {values['penultimate'].shape}, with W = {width}")
        if not self._done(PROJECTION):
            raise CacheError(f"{self.path} has no projections yet: they are written first")
        if side not in self._layers:
            self._layers[side] = stored_projection(self._place.read, self.header, side)
        if fault := product_fault(values["embedding"], values["penultimate"], self._layers[side]):
            raise CacheError(f"{self.path}: {unit} {fault}")

    def finish(self) -> None:
        """Publish the cache as complete, in one atomic step."""
        lost = [chunk.unit for chunk in self.pending()] + list(self.pending_text())
        lost += [PROJECTION] if self.pending_projections() else []
        if lost:
            raise CacheError(f"{self.path} still has {len(lost)} units to do, the first is {lost[0]}")
        first = [MANIFEST, *([PROJECTION] if self.header.penultimate else [])]
        order = [*first, *(chunk.unit for chunk in self.header.chunks()), *(TEXT + name for name in self.prompts)]
        self._journal.compact(order)
        remove_receipts(self._place)
        self._publish(complete=True)

    def forget(self, units: Sequence[str]) -> None:
        """Take back that these units are done, and with it that the cache is complete: they are to be done again."""
        for unit in units:
            if self._done(unit):
                entry = self._journal.entries[unit]
                self._record(JournalEntry(unit, {}, about={**entry.about, "was": dict(entry.files)}))
        self.recover()

    def restore(self, file: str, data: bytes) -> None:
        """Replace a damaged file by what it was. CacheError where `data` has not the checksum that the journal has."""
        if not any(entry.files.get(file) == sha256(data) for entry in self._journal.entries.values()):
            raise CacheError(f"{self.path}: {file} would not come out as it was: the journal has another checksum")
        self._lock.check()
        with step("repair.restore"):
            self._place.write({file: data})

    def _texts(self) -> dict[str, JournalEntry]:
        return {
            unit.removeprefix(TEXT): entry for unit, entry in self._journal.entries.items() if unit.startswith(TEXT)
        }

    def _filled(self, templates: Sequence[str]) -> list[list[str]]:
        return [[template.replace("{}", name) for template in templates] for name in self.header.classnames]

    def _done(self, unit: str) -> bool:
        return unit in self._journal.entries and self._journal.entries[unit].done

    def _lost(self) -> bool:
        return bool(self.pending() or self.pending_text() or self.pending_projections())

    def _record(self, entry: JournalEntry) -> None:
        self._note(entry)
        self._journal.append(entry)

    def _note(self, entry: JournalEntry) -> None:
        """Before a unit is recorded: the right to do so, and whether it came out otherwise than it was."""
        self._lock.check()
        if entry.done and entry.unit in self._journal.entries:
            was = self._journal.entries[entry.unit].about.get("was")
            if was not in (None, entry.files):
                self.changed[entry.unit] = [file for file in entry.files if entry.files[file] != was.get(file)]

    def _publish(self, *, complete: bool) -> None:
        """Bring the spare journal and the root in line with the journal."""
        place, journal = self._place, self._journal.read()
        root = Root.of(self._journal.entries, journal, complete=complete)
        if complete and not place.holds(SPARE, journal):
            with step("journal.copy"):
                place.write({SPARE: journal})
        if not place.holds(ROOT, root.to_bytes()):
            with step("root.publish"):
                place.write({ROOT: root.to_bytes()})
        if not complete and place.read(SPARE) is not None:
            place.delete([SPARE])
        self._published = root

    def recover(self) -> Self:
        """Take up what a crash or a shard left: cut off a torn last line of the journal, take what receipts say into
        it, publish what is journalled, and delete the files of `image/`, `text/` and `projection/` that no unit has.

        `resume` and `reopen` call it. Opening a writer by itself changes nothing on the disk.
        """
        self._journal.cut_torn_line()
        receipts = read_receipts(self._place, self.header)
        if new := [entry for unit, entry in receipts.items() if not self._done(unit)]:
            self._lock.check()
            self._journal.append(*new)
        remove_receipts(self._place)
        self._publish(complete=self.complete and not self._lost())
        self._place.sweep({file for entry in self._journal.entries.values() for file in entry.files})
        return self


def lay_out(place: Place, header: Header, manifest: Mapping[str, ManifestSplit]) -> None:
    """Lay out a new cache, with labels and paths. It appears whole or not at all."""
    arrays = Arrays()
    lay_out_arrays(arrays.root, header, manifest)
    files = arrays.take(arrays.names())
    del files[ROOT]  # it changes as the cache grows, and vouches for itself
    entry = JournalEntry(MANIFEST, checksums(files), about=header.to_attributes())
    root = Root.of({MANIFEST: entry}, entry.to_line(), complete=False)
    place.lay_out({**files, JOURNAL: entry.to_line(), ROOT: root.to_bytes()})


def must_match(path: Location, stored: Header, wanted: Header) -> None:
    """CacheError where a cache is another than the wanted one. Its own chunk and batch sizes hold."""
    if differences := fingerprint_diff(stored.fingerprint, wanted.fingerprint):
        raise CacheError(
            f"{path} was made differently; choose another place, or delete it:\n  " + "\n  ".join(differences)
        )
    free = ("chunk", "batch", "notes", "source", "version")
    if replace(stored, **{name: getattr(wanted, name) for name in free}) != wanted:
        raise CacheError(f"{path} has the same fingerprint but another layout: delete it, or choose another place")


def stored_root(place: Place) -> Root:
    """The root of a cache whose journal it vouches for."""
    data, journal = place.root_and_journal()
    root = Root.parse(data, place.location)
    if not root.vouches_for(journal):
        raise CacheError(f"{place.location}: the journal is damaged: run `mma cache verify` on it")
    return root
