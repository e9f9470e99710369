"""Is a cache what was written? Every file against the journal, the journal against the root, values against the schema.

A cache vouches for itself from the top: zarr.json carries its own SHA-256 and, once complete, that of the journal; the
journal has that of every other file. So any change of any byte of any file is found, and named.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from mma.cache.claim import CLAIMS
from mma.cache.durable import PARTIAL, sha256
from mma.cache.errors import CacheError
from mma.cache.journal import JOURNAL, MANIFEST, SPARE, JournalEntry, parse_journal
from mma.cache.place import Place
from mma.cache.projection import CRC, PROJECTION, Projection, product_fault, stored_projection
from mma.cache.receipts import FOLDER, with_receipts
from mma.cache.root import ROOT, TEXT, Root
from mma.cache.schema import CONTENT, SIDES, Chunk, Header, Status
from mma.cache.where import Location, open_place


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
class VerifyReport:
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


def verify(location: Location, advance: Callable[[int], None] = lambda _: None) -> VerifyReport:
    """Read every file of a cache, on a disk or behind a URL; `advance` hears of every file's bytes.

    CacheError only where there is no cache, or where root and journal are both lost.
    """
    files = open_place(location)
    sizes = files.sizes()
    root, journal, faults = _top(files)
    entries, _ = parse_journal(journal)
    chunks = {chunk.unit: chunk for chunk in root.header.chunks()}
    if not root.complete:
        entries |= with_receipts(entries, files, root.header)
    done = {unit: entry for unit, entry in entries.items() if entry.done}
    projections = _projections(files, done, root.header)
    if root.complete:
        needed = [*chunks, *([PROJECTION] if root.header.penultimate else [])]
        faults += [Fault(unit, unit, "is not in the journal") for unit in needed if unit not in done]

    def check(entry: JournalEntry) -> list[Fault]:
        found = list(_unit_faults(files, entry, root.header, chunks.get(entry.unit), projections))
        advance(sum(sizes.get(file, 0) for file in entry.files))
        return found

    with ThreadPoolExecutor(files.readers) as pool:
        for found in pool.map(check, done.values()):
            faults += found
    known = {ROOT, JOURNAL, SPARE, *(file for entry in entries.values() for file in entry.files)}
    unfinished = () if root.complete else ("image/", TEXT, f"{PROJECTION}/")
    leftover = (FOLDER, CLAIMS, *unfinished)  # of a crash: written again, or swept; or of who writes it now
    strangers = [f for f in sizes if f not in known and not f.endswith(PARTIAL) and not f.startswith(leftover)]
    return VerifyReport(
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


def _top(files: Place) -> tuple[Root, bytes, list[Fault]]:
    """Root and journal as they must have been, and what is wrong with those on the disk."""
    read, why = _read_top(files)
    data, log, spare = (read[name] for name in (ROOT, JOURNAL, SPARE))
    reason = f"{files.location}: zarr.json and the journal are of different caches, or damaged both"
    try:
        root: Root | None = Root.parse(data or b"", files.location)
    except CacheError as error:
        root, reason = None, str(error)
    logs = [text for text in (log, spare) if text and MANIFEST in parse_journal(text)[0]]
    whole = [text for text in logs if parse_journal(text)[1] == len(text)]
    if root and root.complete:
        good = [text for text in logs if root.vouches_for(text)]
        if good:
            journal = max((_with_additions(files, root, text) for text in good), key=len)
            return root, journal, _journal_faults(root, read, why, journal)
        if len(whole) == 2 and whole[0] == whole[1]:  # the copies agree: it is the root that is another cache's
            return _implied(whole[0], spare=True), whole[0], [Fault("", ROOT, "is of another cache")]
    elif root:
        if log in logs and log and _implied(log, spare=False).header == root.header:
            return root, log[: parse_journal(log)[1]], [Fault("", JOURNAL, "is damaged")] if _has_bad_lines(log) else []
        if len(whole) == 2 and whole[0] == whole[1]:
            return _implied(whole[0], spare=True), whole[0], [Fault("", ROOT, "is of another cache")]
    else:
        what = Fault("", ROOT, why.get(ROOT) or ("is missing" if data is None else "is damaged"))
        if spare is not None and len(set(whole)) == 1:  # one whole copy is enough
            implied = _implied(whole[0], spare=True)
            return implied, whole[0], [what, *_journal_faults(implied, read, why, whole[0])]
        if spare is None and logs:
            return _implied(logs[0], spare=False), logs[0], [what]
    raise CacheError(f"{reason}; its journal does not help: make it again")


def _read_top(files: Place) -> tuple[dict[str, bytes | None], dict[str, str]]:
    """Root, journal and spare: the bytes, None where it is missing and b"" where it cannot be read; and why not."""
    read: dict[str, bytes | None] = {}
    why: dict[str, str] = {}
    for name in (ROOT, JOURNAL, SPARE):
        try:
            read[name] = files.read(name)
        except CacheError as error:
            read[name], why[name] = b"", _reason(files, name, error)
    if all(data is None for data in read.values()):
        raise CacheError(f"{files.location} is not an mma cache")
    return read, why


def _reason(files: Place, name: str, error: CacheError) -> str:
    return str(error).removeprefix(f"{files.location}: {name} ")


def _implied(journal: bytes, *, spare: bool) -> Root:
    return Root.of(parse_journal(journal)[0], journal, complete=spare)


def _has_bad_lines(journal: bytes) -> bool:
    """Whether more than a torn last line, which a crash leaves, is no entry."""
    return b"\n" in journal[parse_journal(journal)[1] : -1]


def _with_additions(files: Place, root: Root, journal: bytes) -> bytes:
    """What the root vouches for, and the prompt sets behind it that were stored and not yet published.

    Nothing else is ever appended to the journal of a complete cache: other lines are nobody's.
    """
    end = int((root.journal or {})["bytes"])
    entries = parse_journal(journal[:end])[0]
    known, projections = set(entries), _projections(files, entries, root.header)
    for line in journal[end:].splitlines(keepends=True):
        entry = JournalEntry.from_line(line)
        if entry is None or entry.unit in known or not entry.unit.startswith(TEXT) or not entry.done:
            break
        if any(not file.startswith(f"{entry.unit}/") for file in entry.files) or "templates" not in entry.about:
            break
        if any(_unit_faults(files, entry, root.header, None, projections)):
            break
        known.add(entry.unit)
        end += len(line)
    return journal[:end]


def _journal_faults(
    root: Root, read: Mapping[str, bytes | None], why: Mapping[str, str], journal: bytes
) -> list[Fault]:
    """What is wrong with the two copies of `journal`."""
    faults = []
    for name in (JOURNAL, SPARE):
        text = read[name]
        if name in why:
            faults.append(Fault("", name, why[name]))
        elif not text:
            faults.append(Fault("", name, "is missing or empty"))
        elif not root.vouches_for(text):
            faults.append(Fault("", name, "is damaged, or of another cache"))
        elif name == SPARE and parse_journal(text)[1] < len(text):  # never appended to, so never torn
            faults.append(Fault("", name, "is damaged"))
        elif _has_bad_lines(text):
            faults.append(Fault("", name, "has lines behind its end that are no entries"))
        elif not journal.startswith(text[: parse_journal(text)[1]]):
            faults.append(Fault("", name, "has lines behind its end that no writer wrote"))
    return faults


def _projections(files: Place, entries: Mapping[str, JournalEntry], header: Header) -> dict[str, Projection]:
    """The last layers of the towers; none where the cache has none, or they are damaged, which is a fault of theirs."""
    entry = entries.get(PROJECTION)
    if header.penultimate is None or entry is None or any(_unit_faults(files, entry, header, None, {})):
        return {}
    return {side: stored_projection(files.read, header, side) for side in SIDES}


def _unit_faults(
    files: Place,
    entry: JournalEntry,
    header: Header,
    chunk: Chunk | None,
    projections: Mapping[str, Projection],
) -> Iterator[Fault]:
    rows = (chunk.start, chunk.stop) if chunk else None
    found: dict[str, bytes] = {}
    for name, checksum in entry.files.items():
        if above := files.strange_folder(name):
            yield Fault(entry.unit, name, f"lies behind {above}, which is no folder", rows)
            continue
        try:
            data = files.read(name)
        except CacheError as error:
            yield Fault(entry.unit, name, _reason(files, name, error), rows)
            continue
        if data is None:
            yield Fault(entry.unit, name, "is missing", rows)
        elif sha256(data) != checksum:
            yield Fault(entry.unit, name, "is not what was written", rows)
        else:
            found[name] = data
    if len(found) == len(entry.files):
        by_array = {name: found.get(file, b"") for name, file in chunk.files(header).items()} if chunk else {}
        what = _chunk_fault(header, chunk, entry, by_array) if chunk else _layout_fault(header, entry, found)
        if not what and projections and (chunk or entry.unit.startswith(TEXT)):
            what = _product_fault(header, chunk, entry, by_array if chunk else found, projections)
        if what:
            yield Fault(entry.unit, next(iter(entry.files)), what, rows)


def _chunk_fault(header: Header, chunk: Chunk, entry: JournalEntry, data: Mapping[str, bytes]) -> str | None:
    """Whether values, status and journal agree row by row; `data` is the file of each array."""
    count = chunk.stop - chunk.start
    rows = min(header.chunk, header.rows[chunk.split])  # of a whole chunk; the last one is padded
    width = header.views[chunk.split] * header.dim
    number = np.dtype(header.dtype).itemsize
    wanted = {"embedding": width * number, "status": 1, "content": CONTENT}
    if header.penultimate:
        wanted["penultimate"] = header.views[chunk.split] * header.penultimate["image"] * number
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


def _product_fault(
    header: Header,
    chunk: Chunk | None,
    entry: JournalEntry,
    data: Mapping[str, bytes],
    projections: Mapping[str, Projection],
) -> str | None:
    """Whether the embeddings of a chunk or a prompt set are what the projection makes of the features before it."""
    side, kind, places = "text", "<f4", [f"{entry.unit}/{part}/c/0/0/0" for part in ("embedding", "penultimate")]
    if chunk:
        side, kind, places = "image", np.dtype(header.dtype).newbyteorder("<").str, ["embedding", "penultimate"]
    widths = header.dim, (header.penultimate or {})[side]
    embedding, penultimate = (
        np.frombuffer(data[place][:-CRC], kind).reshape(-1, width) for place, width in zip(places, widths, strict=True)
    )
    return product_fault(embedding, penultimate, projections[side])


def _layout_fault(header: Header, entry: JournalEntry, found: Mapping[str, bytes]) -> str | None:
    """Whether the arrays are those of the header."""
    shapes: dict[str, tuple[list[int], str]] = {}
    for split, rows in header.rows.items():
        shapes[f"image/{split}/embedding"] = [rows, header.views[split], header.dim], header.dtype
        shapes[f"image/{split}/label"] = [rows], "int32"
        shapes[f"image/{split}/status"] = [rows], "uint8"
        shapes[f"image/{split}/path"] = [rows], "string"
        if header.has_content:
            shapes[f"image/{split}/content"] = [rows, CONTENT], "uint8"
        if header.penultimate:
            shapes[f"image/{split}/penultimate"] = (
                [rows, header.views[split], header.penultimate["image"]],
                header.dtype,
            )
    widths = header.penultimate or {}
    if entry.unit == PROJECTION:
        shapes = {f"{PROJECTION}/{side}/weight": ([width, header.dim], "float32") for side, width in widths.items()}
        shapes |= {f"{PROJECTION}/{side}/bias": ([header.dim], "float32") for side in widths}
    elif entry.unit != MANIFEST:
        head = [len(header.classnames), len(entry.about["templates"])]
        shapes = {f"{entry.unit}/embedding": ([*head, header.dim], "float32")}
        if widths:
            shapes[f"{entry.unit}/penultimate"] = [*head, widths["text"]], "float32"
    for name, (shape, kind) in shapes.items():
        about: dict[str, Any] = json.loads(found.get(f"{name}/zarr.json", b"{}"))
        if about.get("shape") != shape or about.get("data_type") != kind:
            return f"describes {name} as {about.get('data_type')} {about.get('shape')}, not {kind} {shape}"
    return None
