"""The inner loop of stage one: chunks of a data set in, embeddings out; decoding runs ahead of the model in threads."""

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

from mma.cache import Chunk, Failure, Status
from mma.pipeline.datasets.base import Dataset, Split
from mma.pipeline.embedding.chunk import rows_in_batch
from mma.pipeline.embedding.clip import FrozenClip
from mma.pipeline.embedding.images import BadImage, decode, decoded
from mma.pipeline.embedding.views import Views
from mma.pipeline.errors import WorkError

AHEAD = 2  # batches decoded ahead of the model
ROW_FAULTS = (errno.ENOENT, errno.EACCES, errno.EPERM, errno.ELOOP, errno.ENAMETOOLONG, errno.EISDIR, errno.ENOTDIR)

Encoded = tuple[Chunk, NDArray[np.floating], list[Failure]]
Prepare = Callable[[Split, str, int], Tensor | BadImage]


@dataclass(frozen=True)
class Encoding:
    """How images are encoded."""

    views: Views
    batch: int  # pictures the model sees at once
    workers: int  # threads that decode
    max_pixels: int
    dtype: str


def encode_chunks(
    clip: FrozenClip,
    dataset: Dataset,
    chunks: Iterable[Chunk],
    how: Encoding,
    advance: Callable[[int], None] = lambda _: None,
) -> Iterator[Encoded]:
    """Embeddings [rows, V, D] and failed rows of each chunk, in order; `advance` hears of every batch.

    Batches start afresh with every chunk, and a bad row is replaced by zeros on its way through the model: neither an
    interruption nor a bad neighbour changes a bit of any other row. Raises WorkError where the disk or the data set
    fails, and not one file.
    """
    blank = torch.zeros_like(clip.preprocess(decode(np.zeros((8, 8, 3), np.uint8))))  # [3, H, W]

    def prepare(split: Split, name: str, row: int) -> Tensor | BadImage:
        return _prepare(split, name, row, how)

    parts: list[NDArray[np.floating]] = []
    failures: list[Failure] = []
    for chunk, rows, images in _decoded(dataset, chunks, how, prepare):
        views = how.views.of(chunk.split)
        bad = {row: image for row, image in zip(rows, images, strict=True) if isinstance(image, BadImage)}
        blanks = blank.expand(views, *blank.shape)
        pixels = torch.cat([blanks if isinstance(image, BadImage) else image for image in images])  # [B * V, 3, H, W]
        with np.errstate(over="ignore"):  # what float16 cannot hold becomes infinity, and is caught below
            embedding = clip.encode_image(pixels).astype(how.dtype).reshape(len(rows), views, -1)  # [B, V, D]
        failures += [(row, int(image.status), image.reason) for row, image in bad.items()]
        for row in np.flatnonzero(~np.isfinite(embedding).all(axis=(1, 2))) + rows.start:
            if row not in bad:
                failures.append((int(row), int(Status.NON_FINITE), "the model returned NaN or infinity"))
        parts.append(embedding)
        advance(len(rows))
        if rows.stop == chunk.stop:
            yield chunk, np.concatenate(parts), sorted(failures)
            parts, failures = [], []


def _prepare(split: Split, name: str, row: int, how: Encoding) -> Tensor | BadImage:
    """The views [V, 3, H, W] of a row, or what is wrong with it."""
    try:
        with decoded(split.read(row), how.max_pixels) as image:
            return how.views(image, name, row)
    except BadImage as bad:
        return bad
    except OSError as error:
        if error.errno in ROW_FAULTS:
            return BadImage(Status.MISSING, error.strerror or "missing")
        if error.errno == errno.EFBIG:
            return BadImage(Status.TOO_LARGE, error.strerror or "too large")
        raise WorkError(
            f"{split.paths[row]} could not be read ({error.strerror or error}); what is done is kept: "
            "see to the disk, and run the same command again"
        ) from error


def _decoded(
    dataset: Dataset, chunks: Iterable[Chunk], how: Encoding, prepare: Prepare
) -> Iterator[tuple[Chunk, range, list[Tensor | BadImage]]]:
    """Batches of prepared rows, in order, with `AHEAD` more in the making. A row's views stay together."""
    pool = ThreadPoolExecutor(how.workers, thread_name_prefix="decode")
    queue: deque[tuple[Chunk, range, list[Future[Tensor | BadImage]]]] = deque()
    try:
        for chunk in chunks:
            step = rows_in_batch(how.batch, how.views.of(chunk.split))
            for start in range(chunk.start, chunk.stop, step):
                rows = range(start, min(start + step, chunk.stop))
                split = dataset.splits[chunk.split]
                queue.append((chunk, rows, [pool.submit(prepare, split, chunk.split, row) for row in rows]))
                if len(queue) > AHEAD:
                    yield _finished(queue.popleft())
        while queue:
            yield _finished(queue.popleft())
    finally:
        pool.shutdown(cancel_futures=True)


def _finished(
    step: tuple[Chunk, range, list[Future[Tensor | BadImage]]],
) -> tuple[Chunk, range, list[Tensor | BadImage]]:
    chunk, rows, futures = step
    return chunk, rows, [future.result() for future in futures]
