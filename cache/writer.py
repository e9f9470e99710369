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

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Self

import numpy as np
import zarr
from numpy.typing import NDArray

from mma.cache.chunk_files import checksums, chunk_values, must_read, write_chunk
from mma.cache.durable import PARTIAL, holds, sha256, sync, sync_files, sync_tree, write_whole
from mma.cache.errors import CacheError
from mma.cache.files import CacheFiles
from mma.cache.journal import JOURNAL, MANIFEST, SPARE, FailedRow, Journal, JournalEntry
from mma.cache.killpoint import step
from mma.cache.layout import ManifestSplit, array, lay_out_arrays, lay_out_projections, lay_out_text
from mma.cache.lock import CacheLock, LockHolder, only_writer
from mma.cache.projection import (
    PROJECTION,
    Projection,
    check_given,
    product_fault,
    projection_fault,
    projection_files,
)
from mma.cache.receipts import read_receipts, remove_receipts
from mma.cache.root import ROOT, TEXT, Root
from mma.cache.schema import SIDES, Chunk, Header, check_name, fingerprint_diff, text_fault


class CacheWriter(LockHolder):
    """The one writer of one cache on a local disk. Close it, or use it as a context manager."""

    def __init__(self, path: Path, header: Header, lock: CacheLock) -> None:
        self.path = path
        self.header = header
        self._lock = lock
        self.changed: dict[str, list[str]] = {}  # units done again: the files that are other than those that were lost
        self._journal = Journal(path)
        self._published = stored_root(path)
        self._root = zarr.open_group(path, mode="r+", zarr_format=3)

    @classmethod
    def create(cls, path: Path, header: Header, manifest: Mapping[str, ManifestSplit]) -> CacheWriter:
        """Lay out a new cache, with labels and paths. It appears at `path` whole or not at all."""
        lock = only_writer(path)
        try:
            if path.exists():
                raise CacheError(f"{path} exists already")
            lay_out(path, header, manifest)
            return cls(path, header, lock)
        except BaseException:
            lock.release()
            raise

    @classmethod
    def resume(cls, path: Path, header: Header) -> CacheWriter:
        """Continue a cache. Its own chunk and batch sizes hold; another fingerprint is refused with the differences.

        It is recovered first: see `recover`.
        """
        lock = only_writer(path)
        try:
            stored = stored_root(path).header
            must_match(path, stored, header)
            return cls(path, stored, lock).recover()
        except BaseException:
            lock.release()
            raise

    @classmethod
    def reopen(cls, path: Path) -> CacheWriter:
        """Continue a cache as it is, to add text to it or to finish a repair. It is recovered first: see `recover`."""
        lock = only_writer(path)
        try:
            return cls(path, stored_root(path).header, lock).recover()
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
        self._record(write_chunk(self.path, self._root, self.header, chunk, values, failures))

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
        with step("text.write"):
            lay_out_text(self._root, name, self.header, templates)
            for part, found in values.items():
                array(self._root, f"{unit}/{part}")[:] = found
        with step("text.sync"):
            sync_files(self.path, files)
        for part, found in values.items():
            must_read(self.path, self._root, f"{unit}/{part}", slice(None), found)
        about: dict[str, object] = {"templates": list(templates)}
        if texts is not None and [list(of_class) for of_class in texts] != self._filled(templates):
            about["texts"] = [list(of_class) for of_class in texts]
        self._record(JournalEntry(unit, checksums(self.path, files), about=about))
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
        with step("text.write"):
            lay_out_projections(self._root, self.header)
            for name, found in values.items():
                array(self._root, name)[:] = found
        with step("text.sync"):
            sync_files(self.path, projection_files())
        for name, found in values.items():
            must_read(self.path, self._root, name, slice(None), found)
        self._record(JournalEntry(PROJECTION, checksums(self.path, projection_files())))

    def _check_product(self, unit: str, side: str, values: Mapping[str, NDArray[np.floating]]) -> None:
        if "penultimate" not in values:
            return
        width = (self.header.penultimate or {})[side]
        if values["penultimate"].shape != (*values["embedding"].shape[:-1], width):
            raise CacheError(f"{unit}: penultimate features are {values['penultimate'].shape}, with W = {width}")
        if not self._done(PROJECTION):
            raise CacheError(f"{self.path} has no projections yet: they are written first")
        parts = (np.asarray(array(self._root, f"{PROJECTION}/{side}/{part}")[:]) for part in ("weight", "bias"))
        if fault := product_fault(values["embedding"], values["penultimate"], Projection(*parts)):
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
            write_whole(self.path / file, data)

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
        self._lock.check()
        if entry.done and entry.unit in self._journal.entries:
            was = self._journal.entries[entry.unit].about.get("was")
            if was not in (None, entry.files):
                self.changed[entry.unit] = [file for file in entry.files if entry.files[file] != was.get(file)]
        self._journal.append(entry)

    def _publish(self, *, complete: bool) -> None:
        """Bring the spare journal and the root in line with the journal."""
        journal = self._journal.read()
        root = Root.of(self._journal.entries, journal, complete=complete)
        spare = self.path / SPARE
        if complete and not holds(spare, journal):
            with step("journal.copy"):
                write_whole(spare, journal)
        if not holds(self.path / ROOT, root.to_bytes()):
            with step("root.publish"):
                write_whole(self.path / ROOT, root.to_bytes())
        if not complete and spare.exists():
            spare.unlink()
            sync(self.path)
        self._published = root

    def recover(self) -> Self:
        """Take up what a crash or a shard left: cut off a torn last line of the journal, take what receipts say into
        it, publish what is journalled, and delete the files of `image/`, `text/` and `projection/` that no unit has.

        `resume` and `reopen` call it. Opening a writer by itself changes nothing on the disk.
        """
        self._journal.cut_torn_line()
        receipts = read_receipts(CacheFiles(self.path), self.header)
        if new := [entry for unit, entry in receipts.items() if not self._done(unit)]:
            self._lock.check()
            self._journal.append(*new)
        remove_receipts(self.path)
        self._publish(complete=self.complete and not self._lost())
        known = {ROOT, JOURNAL, SPARE, *(f for entry in self._journal.entries.values() for f in entry.files)}
        folders_of_units = [
            file for folder in ("image", "text", PROJECTION) for file in self.path.glob(f"{folder}/**/*")
        ]
        for file in [*folders_of_units, *self.path.glob(f"*{PARTIAL}")]:
            is_folder = file.is_dir() and not file.is_symlink()
            if not is_folder and file.relative_to(self.path).as_posix() not in known:
                file.unlink()
        folders = [folder for folder in self.path.rglob("*") if folder.is_dir() and not folder.is_symlink()]
        for folder in sorted(folders, reverse=True):
            if not any(folder.iterdir()):
                folder.rmdir()
        return self


def lay_out(path: Path, header: Header, manifest: Mapping[str, ManifestSplit]) -> None:
    """Lay out a new cache, with labels and paths. It appears at `path` whole or not at all."""
    draft = draft_folder(path)
    with step("create.draft"):
        lay_out_arrays(zarr.open_group(draft, mode="w"), header, manifest)
        files = [f.relative_to(draft).as_posix() for f in sorted(draft.rglob("*")) if f.is_file()]
        files.remove(ROOT)  # it changes as the cache grows, and vouches for itself
        journal = Journal(draft)
        journal.append(JournalEntry(MANIFEST, checksums(draft, files), about=header.to_attributes()))
        root = Root.of(journal.entries, journal.read(), complete=False)
        (draft / ROOT).write_bytes(root.to_bytes())
        sync_tree(draft)
    with step("create.rename"):
        draft.rename(path)
        sync(path.parent)


def must_match(path: Path, stored: Header, wanted: Header) -> None:
    """CacheError where a cache is another than the wanted one. Its own chunk and batch sizes hold."""
    if differences := fingerprint_diff(stored.fingerprint, wanted.fingerprint):
        raise CacheError(
            f"{path} was made differently; choose another place, or delete it:\n  " + "\n  ".join(differences)
        )
    free = ("chunk", "batch", "notes", "source", "version")
    if replace(stored, **{name: getattr(wanted, name) for name in free}) != wanted:
        raise CacheError(f"{path} has the same fingerprint but another layout: delete it, or choose another place")


def draft_folder(path: Path) -> Path:
    """An empty place beside a cache, for what becomes it, or a part of it, by a rename."""
    draft = path.with_name(f".{path.name}.creating")
    shutil.rmtree(draft, ignore_errors=True)
    return draft


def stored_root(path: Path) -> Root:
    """The root of a cache whose journal it vouches for."""
    data, journal = CacheFiles(path).root_and_journal()
    root = Root.parse(data, str(path))
    if not root.vouches_for(journal):
        raise CacheError(f"{path}: the journal is damaged: run `mma cache verify` on it")
    return root
