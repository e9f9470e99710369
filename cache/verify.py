"""Is a cache what was written? Every file against the journal, the journal against the root, values against the schema.

A cache vouches for itself from the top: zarr.json carries its own SHA-256 and, once complete, that of the journal; the
journal has that of every other file. So any change of any byte of any file is found, and named.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from mma.cache.durable import PARTIAL, digest
from mma.cache.errors import CacheError
from mma.cache.files import CacheFiles
from mma.cache.journal import JOURNAL, MANIFEST, SPARE, Entry, parse_journal
from mma.cache.root import ROOT, TEXT, Root
from mma.cache.schema import CONTENT, Chunk, Header, Status

READERS = 8  # files read and hashed at a time
CRC = 4  # bytes behind every chunk


@dataclass(frozen=True)
class Fault:
    """One damaged file."""

    unit: str  # of the journal; "" for the root and the journals themselves
    file: str
    what: str
    rows: tuple[int, int] | None = None  # of a chunk: first, and one past the last

    def __str__(self) -> str:
        place = self.file
        if self.rows:
            array, _, index = self.file.partition("/c/")
            place = f"{array}, chunk {index.split('/')[0]} (rows {self.rows[0]} to {self.rows[1] - 1})"
        return f"{place}: {self.what}"


@dataclass(frozen=True)
class Checked:
    """What `verify` found."""

    faults: list[Fault]
    strangers: list[str]  # files that no unit has: harmless
    complete: bool
    done: int  # chunks
    total: int  # chunks
    files: int
    size: int  # bytes
    root: Root | None = field(default=None, repr=False)  # what the root is, or must have been
    journal: bytes = field(default=b"", repr=False)  # what the journal is, or must have been


def verify(location: str | Path, advance: Callable[[int], None] = lambda _: None) -> Checked:
    """Read every file of a cache, on a disk or behind a URL; `advance` hears of every file's bytes.

    CacheError only where there is no cache, or where root and journal are both lost.
    """
    files = CacheFiles(location)
    sizes = files.sizes()
    root, journal, faults = _top(files)
    entries, _ = parse_journal(journal)
    chunks = {chunk.unit: chunk for chunk in root.header.chunks()}
    done = {unit: entry for unit, entry in entries.items() if entry.done}
    if root.complete:
        faults += [Fault(unit, unit, "is not in the journal") for unit in chunks if unit not in done]

    def check(entry: Entry) -> list[Fault]:
        found = list(_unit_faults(files, entry, root.header, chunks.get(entry.unit)))
        advance(sum(sizes.get(file, 0) for file in entry.files))
        return found

    with ThreadPoolExecutor(READERS) as pool:
        for found in pool.map(check, done.values()):
            faults += found
    known = {ROOT, JOURNAL, SPARE, *(file for entry in entries.values() for file in entry.files)}
    leftover = ("image/", TEXT) if not root.complete else ()  # of a crash: written again, or swept
    strangers = [f for f in sizes if f not in known and not f.endswith(PARTIAL) and not f.startswith(leftover)]
    return Checked(
        faults=faults,
        strangers=strangers,
        complete=root.complete,
        done=sum(unit in done for unit in chunks),
        total=len(chunks),
        files=len(sizes),
        size=sum(sizes.values()),
        root=root,
        journal=journal,
    )


def _top(files: CacheFiles) -> tuple[Root, bytes, list[Fault]]:
    """Root and journal as they must have been, and what is wrong with those on the disk."""
    data, log = files.root_and_journal()
    reason = f"{files.location}: zarr.json and the journal are of different caches, or damaged both"
    spare = files.read(SPARE)
    try:
        root: Root | None = Root.parse(data, files.location)
    except CacheError as error:
        root, reason = None, str(error)
    logs = [text for text in (log, spare) if text and MANIFEST in parse_journal(text)[0]]
    if root and root.complete:
        good = [text for text in logs if root.vouches_for(text)]
        if good:
            return root, good[0][: int((root.journal or {})["bytes"])], _journal_faults(root, log, spare)
        if len(logs) == 2 and logs[0] == logs[1]:  # the copies agree: it is the root that is another cache's
            return _implied(logs[0], spare=True), logs[0], [_root_fault("is of another cache")]
    elif root:
        if log in logs and _implied(log, spare=False).header == root.header:
            whole = log[: parse_journal(log)[1]]
            torn = b"\n" in log[len(whole) : -1]
            return root, whole, [Fault("", JOURNAL, "is damaged")] if torn else []
        if len(logs) == 2 and logs[0] == logs[1]:
            return _implied(logs[0], spare=True), logs[0], [_root_fault("is of another cache")]
    elif logs and ((len(logs) == 1 and spare is None) or len(set(logs)) == 1):
        what = "is missing" if files.read(ROOT) is None else "is damaged"
        return _implied(logs[0], spare=spare is not None), logs[0], [_root_fault(what)]
    raise CacheError(f"{reason}; its journal does not help: make it again")


def _implied(journal: bytes, *, spare: bool) -> Root:
    return Root.of(parse_journal(journal)[0], journal, complete=spare)


def _root_fault(what: str) -> Fault:
    return Fault("", ROOT, what)


def _journal_faults(root: Root, log: bytes, spare: bytes | None) -> list[Fault]:
    faults = []
    for name, text in ((JOURNAL, log), (SPARE, spare)):
        if not text:
            faults.append(Fault("", name, "is missing or empty"))
        elif not root.vouches_for(text):
            faults.append(Fault("", name, "is damaged, or of another cache"))
        elif name == SPARE and parse_journal(text)[1] < len(text):  # never appended to, so never torn
            faults.append(Fault("", name, "is damaged"))
    return faults


def _unit_faults(files: CacheFiles, entry: Entry, header: Header, chunk: Chunk | None) -> Iterator[Fault]:
    rows = (chunk.start, chunk.stop) if chunk else None
    found: dict[str, bytes] = {}
    for name, checksum in entry.files.items():
        try:
            data = files.read(name)
        except CacheError as error:
            yield Fault(entry.unit, name, str(error).removeprefix(f"{files.location}: {name} "), rows)
            continue
        if data is None:
            yield Fault(entry.unit, name, "is missing", rows)
        elif digest(data) != checksum:
            yield Fault(entry.unit, name, "is not what was written", rows)
        else:
            found[name] = data
    if len(found) == len(entry.files):
        by_array = {name: found.get(file, b"") for name, file in chunk.files(header).items()} if chunk else {}
        what = _chunk_fault(header, chunk, entry, by_array) if chunk else _layout_fault(header, entry, found)
        if what:
            yield Fault(entry.unit, next(iter(entry.files)), what, rows)


def _chunk_fault(header: Header, chunk: Chunk, entry: Entry, data: Mapping[str, bytes]) -> str | None:
    """Whether values, status and journal agree row by row; `data` is the file of each array."""
    count = chunk.stop - chunk.start
    rows = min(header.chunk, header.rows[chunk.split])  # of a whole chunk; the last one is padded
    width = header.views[chunk.split] * header.dim
    wanted = {"embedding": width * np.dtype(header.dtype).itemsize, "status": 1, "content": CONTENT}
    if any(len(bytes_) != rows * wanted[name] + CRC for name, bytes_ in data.items()):
        return "has another shape than the header says"
    embedding = np.frombuffer(data["embedding"][:-CRC], header.dtype).reshape(rows, width)
    status = np.frombuffer(data["status"][:-CRC], np.uint8)
    finite = np.isfinite(embedding[:count]).all(axis=1)
    failed = {row - chunk.start: code for row, code, _ in entry.failures}
    expected = np.array([failed.get(row, Status.OK) for row in range(count)], np.uint8)
    if not np.array_equal(status[:count], expected) or not np.array_equal(finite, expected == Status.OK):
        return "has values, status and journal that disagree"
    return None


def _layout_fault(header: Header, entry: Entry, found: Mapping[str, bytes]) -> str | None:
    """Whether the arrays are those of the header."""
    shapes: dict[str, tuple[list[int], str]] = {}
    for split, rows in header.rows.items():
        shapes[f"image/{split}/embedding"] = [rows, header.views[split], header.dim], header.dtype
        shapes[f"image/{split}/label"] = [rows], "int32"
        shapes[f"image/{split}/status"] = [rows], "uint8"
        shapes[f"image/{split}/path"] = [rows], "string"
        if header.has_content:
            shapes[f"image/{split}/content"] = [rows, CONTENT], "uint8"
    if entry.unit != MANIFEST:
        templates = len(entry.about["templates"])
        shapes = {f"{entry.unit}/embedding": ([len(header.classnames), templates, header.dim], "float32")}
    for name, (shape, kind) in shapes.items():
        about: dict[str, Any] = json.loads(found.get(f"{name}/zarr.json", b"{}"))
        if about.get("shape") != shape or about.get("data_type") != kind:
            return f"describes {name} as {about.get('data_type')} {about.get('shape')}, not {kind} {shape}"
    return None
