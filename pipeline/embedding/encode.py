"""The inner loop of stage one: chunks of a data set in, embeddings out; decoding runs ahead of the model in threads,
and on a processor several batches are in the model at once.

Failures of a row are a file that is missing or out of reach, whatever decoding or a view raises, and values that are
not finite: the row keeps its place, with a status. Errors of the disk and a lack of memory are no row's failure: they
end the run, so that they are never stored as a bad image.
"""

from __future__ import annotations

import errno
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mma.cache import Chunk, FailedRow, Status
from mma.pipeline.datasets.base import Dataset, Split, Stamp
from mma.pipeline.datasets.contents import ROW_FAULTS, UNKNOWN, content_hash, unreadable
from mma.pipeline.embedding.chunk import rows_in_batch
from mma.pipeline.embedding.clip import FrozenClip
from mma.pipeline.embedding.images import BadImage, decode, decoded, own_bound
from mma.pipeline.embedding.threads import side_by_side
from mma.pipeline.embedding.views import Views
from mma.pipeline.errors import WorkError

AHEAD = 2  # batches decoded ahead of the model


@dataclass(frozen=True)
class Encoding:
    """How images are encoded."""

    views: Views
    batch: int  # pictures the model sees at once
    workers: int  # threads that decode
    max_pixels: int
    dtype: str
    side: int = 0  # of the model's input, in pixels
    at_once: int = 1  # batches that are in the model side by side


@dataclass(frozen=True)
class Encoded:
    """One chunk: what is stored of it, and what its files were like."""

    chunk: Chunk
    embedding: NDArray[np.floating]  # [rows, V, D]
    penultimate: NDArray[np.floating] | None  # [rows, V, W], where the model gives such
    failures: list[FailedRow]
    content: NDArray[np.uint8]  # [rows, 32] SHA-256 of each row's bytes; zeros where they were not read
    stamps: NDArray[np.int64]  # [rows, 3] of each row's file, taken before it was read


@dataclass(frozen=True)
class _Prepared:
    """One row on its way to the model."""

    image: Tensor | BadImage  # its views [V, 3, H, W]
    content: bytes
    stamp: Stamp


_Batch = tuple[Chunk, range, list[_Prepared]]


def encode_chunks(
    clip: FrozenClip,
    dataset: Dataset,
    chunks: Iterable[Chunk],
    how: Encoding,
    advance: Callable[[int], None] = lambda _: None,
) -> Iterator[Encoded]:
    """Encode each chunk, in order; `advance` hears of every batch.

    Batches start afresh with every chunk, and a bad row is replaced by zeros on its way through the model: neither an
    interruption nor a bad neighbour changes a bit of any other row. Raises WorkError where the disk, the memory or the
    data set fails, and not one file.
    """
    blank = torch.zeros_like(clip.preprocess(decode(np.zeros((8, 8, 3), np.uint8))))  # [3, H, W]
    parts: list[list[NDArray[np.floating]]] = []
    content: list[bytes] = []
    stamps: list[Stamp] = []
    failures: list[FailedRow] = []

    def see(prepared: _Batch) -> tuple[_Batch, list[NDArray[np.floating]]]:
        chunk, rows, batch = prepared
        views = how.views.of(chunk.split)
        blanks = blank.expand(views, *blank.shape)
        pixels = torch.cat([blanks if isinstance(p.image, BadImage) else p.image for p in batch])  # [B * V, 3, H, W]
        with np.errstate(over="ignore"):  # what float16 cannot hold becomes infinity, and is caught below
            seen = clip.see(pixels)
            arrays = [
                found.astype(how.dtype).reshape(len(rows), views, -1)  # [B, V, D], [B, V, W]
                for found in (seen.embedding, seen.penultimate)
                if found is not None
            ]
        return prepared, arrays

    at_once = how.at_once if clip.device.type == "cpu" else 1
    with own_bound():
        for (chunk, rows, batch), arrays in side_by_side(see, _prepared(dataset, chunks, how), at_once, clip.model):
            bad = {row: p.image for row, p in zip(rows, batch, strict=True) if isinstance(p.image, BadImage)}
            failures += [(row, int(image.status), image.reason) for row, image in bad.items()]
            finite = np.logical_and.reduce([np.isfinite(found).all(axis=(1, 2)) for found in arrays])  # [B]
            for row in np.flatnonzero(~finite) + rows.start:
                if row not in bad:
                    failures.append((int(row), int(Status.NON_FINITE), "the model returned NaN or infinity"))
            parts.append(arrays)
            content += [p.content for p in batch]
            stamps += [p.stamp for p in batch]
            advance(len(rows))
            if rows.stop == chunk.stop:
                hashes = np.frombuffer(b"".join(content), np.uint8).reshape(len(content), -1)
                embedding, *others = map(np.concatenate, zip(*parts, strict=True))
                penultimate = others[0] if others else None
                stamped = np.array(stamps, np.int64)
                yield Encoded(chunk, embedding, penultimate, sorted(failures), hashes, stamped)
                parts, content, stamps, failures = [], [], [], []


def row_fault(error: OSError) -> BadImage | None:
    """What is wrong with a row whose reading raised this; None where it is no fault of the row."""
    if error.errno in ROW_FAULTS:
        return BadImage(Status.MISSING, error.strerror or "missing")
    if error.errno == errno.EFBIG:
        return BadImage(Status.TOO_LARGE, error.strerror or "too large")
    return None


def _prepare(split: Split, name: str, row: int, how: Encoding) -> _Prepared:
    """A row, ready for the model, or what is wrong with it."""
    stamp = split.stamp(row)  # before its bytes: what is changed in between is noticed by the next run
    try:
        data = split.read(row)
    except OSError as error:
        bad = row_fault(error)
        if bad is None:
            raise unreadable(split.paths[row], error) from error
        return _Prepared(bad, UNKNOWN, stamp)
    content = content_hash(data)
    try:
        with decoded(data, how.max_pixels, how.side) as image:
            return _Prepared(how.views(image, name, row), content, stamp)
    except BadImage as bad:
        return _Prepared(bad, content, stamp)
    except MemoryError as error:
        raise WorkError(
            f"there is not enough memory for {split.paths[row]}; what is done is kept: fewer threads (`workers=N`) "
            "take less, and so does a smaller `max_pixels=N` with another cache"
        ) from error
    except Exception as error:  # a view may raise anything
        reason = (str(error).splitlines() or [""])[0]
        return _Prepared(BadImage(Status.UNREADABLE, f"{type(error).__name__}: {reason}"[:200]), content, stamp)


def _prepared(dataset: Dataset, chunks: Iterable[Chunk], how: Encoding) -> Iterator[_Batch]:
    """Batches of prepared rows, in order, with `AHEAD` more in the making. A row's views stay together."""
    pool = ThreadPoolExecutor(how.workers, thread_name_prefix="decode")
    queue: deque[tuple[Chunk, range, list[Future[_Prepared]]]] = deque()
    try:
        for chunk in chunks:
            step = rows_in_batch(how.batch, how.views.of(chunk.split))
            for start in range(chunk.start, chunk.stop, step):
                rows = range(start, min(start + step, chunk.stop))
                split = dataset.splits[chunk.split]
                queue.append((chunk, rows, [pool.submit(_prepare, split, chunk.split, row, how) for row in rows]))
                if len(queue) > AHEAD:
                    yield _finished(queue.popleft())
        while queue:
            yield _finished(queue.popleft())
    finally:
        pool.shutdown(cancel_futures=True)


def _finished(step: tuple[Chunk, range, list[Future[_Prepared]]]) -> _Batch:
    chunk, rows, futures = step
    return chunk, rows, [future.result() for future in futures]
