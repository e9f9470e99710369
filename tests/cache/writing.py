"""A data set and a model to test the cache with: embeddings that follow from the row alone, written as stage one would.

    python writing.py serve        forks a child for every request on stdin (a JSON line): a kill then costs no start

A request is {"do": one of WORK or "2/4" (a shard), "path", "layout", "point", "times"}; the answer is two lines, the
child's process id and how it ended (0, or minus the signal).
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mma.cache import (
    CacheError,
    CacheWriter,
    Chunk,
    FailedRow,
    Header,
    Location,
    ManifestSplit,
    Projection,
    Shard,
    ShardWriter,
    Status,
    cache_exists,
    discard_replacement,
    killpoint,
    mend,
    mend_replacement,
    open_cache,
    replacing,
)
from mma.cache import replace as cache_replace
from mma.cache.where import place_of


@dataclass(frozen=True)
class Layout:
    rows: dict[str, int]
    chunk: int
    dim: int = 8
    views: int = 1
    dtype: str = "float16"
    classes: int = 3
    widths: dict[str, int] | None = None  # of penultimate features


LAYOUTS = {
    "small": Layout({"train": 7, "test": 3}, chunk=4, dim=3),
    "one chunk": Layout({"train": 7}, chunk=16),
    "even": Layout({"train": 24, "test": 8}, chunk=8),
    "ragged": Layout({"train": 23, "val": 1, "test": 9}, chunk=4),
    "row per chunk": Layout({"train": 6, "test": 5}, chunk=1, dim=3),
    "views": Layout({"train": 10, "test": 10}, chunk=4, views=3, dtype="float32"),
    "penultimate": Layout({"train": 9, "test": 3}, chunk=4, dim=3, views=2, widths={"image": 6, "text": 5}),
    "wide": Layout({"train": 600, "test": 200}, chunk=100, dim=512),
}
TEMPLATES = {"default": ["a photo of a {}.", "a drawing of a {}."], "added": ["{}"]}


def header(layout: Layout, **changes: object) -> Header:
    about: dict[str, Any] = {
        "dataset": "rows",
        "classnames": [f"class {c}" for c in range(layout.classes)],
        "rows": layout.rows,
        "dim": layout.dim,
        "views": {split: layout.views if split == "train" else 1 for split in layout.rows},
        "dtype": layout.dtype,
        "chunk": layout.chunk,
        "batch": 1,
        "logit_scale": 100.0,
        "fingerprint": {"model": "rows", "views": layout.views},
        "notes": ["made for a test"],
        "source": {},
        "penultimate": layout.widths,
        "version": 3 if layout.widths else 2,
    }
    return Header(**{**about, **changes})


def manifest(about: Header) -> dict[str, ManifestSplit]:
    classes = len(about.classnames)
    return {
        split: ManifestSplit(np.arange(rows, dtype=np.int32) % classes, [f"{split}/é {i}.jpg" for i in range(rows)])
        for split, rows in about.rows.items()
    }


def projections(about: Header) -> dict[str, Projection]:
    draw = np.random.default_rng(1)
    return {
        side: Projection(
            draw.standard_normal((width, about.dim)).astype(np.float32), draw.standard_normal(about.dim, np.float32)
        )
        for side, width in (about.penultimate or {}).items()
    }


def projected(about: Header, side: str, values: np.ndarray) -> np.ndarray:
    """What the projection makes of penultimate features; the values themselves in a cache without these."""
    if not about.penultimate:
        return values
    layer = projections(about)[side]
    return values @ layer.weight + layer.bias


def width(about: Header, side: str) -> int:
    return about.penultimate[side] if about.penultimate else about.dim


def drawn(about: Header, chunk: Chunk) -> np.ndarray:
    rows = [
        np.random.default_rng([len(chunk.split), row]).standard_normal(
            (about.views[chunk.split], width(about, "image"))
        )
        for row in range(chunk.start, chunk.stop)
    ]
    return np.array(rows)


def embed(about: Header, chunk: Chunk) -> tuple[np.ndarray, list[FailedRow]]:
    """Values of a chunk; every seventh row of an even chunk has failed."""
    failed = [row for row in range(chunk.start, chunk.stop) if row % 7 == 3]
    values = projected(about, "image", drawn(about, chunk))
    return values, [(row, int(Status.UNREADABLE), f"row {row}: böse") for row in failed]


def content(chunk: Chunk) -> np.ndarray:
    """What the hashes of a chunk's images are; of every fifth row it is not known."""
    rows = np.random.default_rng([len(chunk.split), 32]).integers(1, 256, (chunk.stop, 32), np.uint8)[chunk.start :]
    rows[np.arange(chunk.start, chunk.stop) % 5 == 4] = 0
    return rows


def drawn_text(about: Header, name: str) -> np.ndarray:
    shape = (len(about.classnames), len(TEMPLATES[name]), width(about, "text"))
    return np.random.default_rng(len(name)).standard_normal(shape).astype(np.float32)


def embed_text(about: Header, name: str) -> np.ndarray:
    return projected(about, "text", drawn_text(about, name))


def write_text(writer: CacheWriter, name: str) -> None:
    penultimate = drawn_text(writer.header, name) if writer.header.penultimate else None
    writer.write_text(name, TEMPLATES[name], embed_text(writer.header, name), penultimate=penultimate)


def open_writer(path: Location, layout: str) -> CacheWriter:
    about = header(LAYOUTS[layout])
    return CacheWriter.resume(path, about) if cache_exists(path) else CacheWriter.create(path, about, manifest(about))


def write_pending(writer: CacheWriter, chunks: Iterable[Chunk] | None = None) -> None:
    for chunk in writer.pending() if chunks is None else chunks:
        penultimate = drawn(writer.header, chunk) if writer.header.penultimate else None
        writer.write(chunk, *embed(writer.header, chunk), content(chunk), penultimate)


def write(path: Location, layout: str) -> None:
    """Stage one, from wherever it stands, to the end."""
    with open_writer(path, layout) as writer:
        if writer.pending_projections():
            writer.write_projections(projections(writer.header))
        for name in ["default", *writer.pending_text()]:
            if name not in writer.prompts:
                write_text(writer, name)
        write_pending(writer)
        writer.finish()


def add_text(path: Location, layout: str) -> None:
    with open_writer(path, layout) as writer:
        if "added" not in writer.prompts:
            write_text(writer, "added")


def write_shard(path: Location, layout: str, shard: Shard) -> bool:
    """One shard, from wherever it stands, to its end; whether the cache is complete."""
    about = header(LAYOUTS[layout])
    with ShardWriter.join(path, about, shard, lambda: manifest(about)) as writer:
        for name in ["default", "added"] if shard.index == 1 else []:
            if name not in writer.prompts:
                writer.write_text(name, TEMPLATES[name], embed_text(about, name))
        for chunk in writer.pending():
            writer.write(chunk, *embed(about, chunk), content(chunk))
        return writer.finish()


def repair(path: Location, layout: str) -> None:
    mend(path, manifest)
    write(path, layout)


def update(path: Path, layout: str) -> None:
    """Replace a cache by one of another layout, from wherever that stands."""
    about = header(LAYOUTS[layout])
    mend_replacement(path)
    if open_cache(path).header.rows == about.rows:
        with CacheWriter.resume(path, about):
            discard_replacement(path)
        return
    with replacing(path, about, manifest(about)) as writer:
        for name in TEMPLATES:
            if name not in writer.prompts:
                write_text(writer, name)
        write_pending(writer)
        if not writer.complete:
            writer.finish()


def update_in_two_steps(path: Path, layout: str) -> None:
    """The same where two names cannot be exchanged."""
    cache_replace.exchange_names = lambda one, other: False
    update(path, layout)


def snapshot(path: Location) -> dict[str, str]:
    """SHA-256 of every file of a cache."""
    if not isinstance(path, Path):
        place = place_of(path)
        return {name: hashlib.sha256(data or b"").hexdigest() for name, data in place.read_many(place.sizes()).items()}
    files = sorted(file for file in path.rglob("*") if file.is_file())
    return {file.relative_to(path).as_posix(): hashlib.sha256(file.read_bytes()).hexdigest() for file in files}


class Server:
    """The process that forks writers."""

    def __init__(self) -> None:
        command = [sys.executable, __file__, "serve"]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def start(self, do: str, path: Location, layout: str, point: str = "", times: int = 1) -> int:
        """Begin a request, and return the child's process id."""
        assert self._process.stdin
        request = {"do": do, "path": str(path), "layout": layout, "point": point, "times": times}
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()
        return int(self._line())

    def ended(self) -> int:
        """Wait for the child; 0, or minus the signal that ended it."""
        return int(self._line())

    def run(self, do: str, path: Location, layout: str, point: str = "", times: int = 1) -> int:
        self.start(do, path, layout, point, times)
        return self.ended()

    def kill_after(self, seconds: float, do: str, path: Location, layout: str) -> bool:
        """Begin a request and kill its child after some time; whether it had not ended before."""
        child = self.start(do, path, layout)
        time.sleep(seconds)
        with contextlib.suppress(ProcessLookupError):
            os.kill(child, signal.SIGKILL)
        return self.ended() == -signal.SIGKILL

    def close(self) -> None:
        self._process.communicate()

    def _line(self) -> str:
        assert self._process.stdout
        return self._process.stdout.readline()


WORK = {
    "write": write,
    "add": add_text,
    "repair": repair,
    "update": update,
    "update in two steps": update_in_two_steps,
}


def serve() -> None:
    for line in sys.stdin:
        request = json.loads(line)
        child = os.fork()
        if child == 0:
            killpoint.arm(request["point"], killpoint.die, request["times"])
            path, layout, work = Path(request["path"]), request["layout"], WORK.get(request["do"])
            try:
                if work:
                    work(path, layout)
                else:
                    write_shard(path, layout, Shard(*map(int, request["do"].split("/"))))
                os._exit(0)
            except CacheError as error:
                print(error, file=sys.stderr)
                os._exit(1)
        print(child, flush=True)
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)


if __name__ == "__main__":
    serve()
