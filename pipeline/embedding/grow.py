"""`mma embed --update` of a data set that has changed: rows of known bytes are copied, the others are embedded.

The cache is made anew beside the old one and takes its place when it is whole (cache/replace.py), with its rows in the
order of the data set. Chunk by chunk, so that a run that is killed loses one of them.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from rich.console import Console

from mma.cache import Cache, CacheWriter, Chunk, FailedRow, replacement_place, replacing
from mma.pipeline.embedding.encode import Encoded, encode_chunks
from mma.pipeline.embedding.grown_texts import embed_grown_text
from mma.pipeline.embedding.growth import NOT_THERE, Growth, new_rows, stale_chunks
from mma.pipeline.embedding.header import read_manifest
from mma.pipeline.embedding.place import check_space
from mma.pipeline.embedding.plan import EmbedPlan
from mma.pipeline.embedding.run import disk_error, refuse_failures
from mma.pipeline.embedding.seen import Seen
from mma.pipeline.embedding.threads import computing_with, threads_of
from mma.pipeline.progress import track


def grow(plan: EmbedPlan, growth: Growth, console: Console) -> None:
    """Do what the plan of a data set that has changed says, to a complete cache in the place of the old one.

    Raises as `run_plan`. Before the last step the old cache is what it was, and what is done is kept beside it.
    """
    try:
        check_space(replacement_place(plan.path), plan.header, sum(len(p.templates) for p in plan.prompts))
        with (
            replacing(plan.path, plan.header, read_manifest(plan.dataset)) as writer,
            computing_with(threads_of(writer.header)) as at_once,
        ):
            writer.forget([chunk.unit for chunk in stale_chunks(growth, plan.path)])
            if writer.pending_projections():
                writer.write_projections(plan.clip.projections())
            for prompts in plan.prompts:
                if prompts.name not in writer.prompts:
                    embed_grown_text(console, plan.clip, growth.old, writer, prompts, at_once)
            _embed_rows(plan, growth, writer, console, at_once)
            if not writer.complete:
                writer.finish()
    except OSError as error:
        raise disk_error(plan.path, error) from error


def _embed_rows(plan: EmbedPlan, growth: Growth, writer: CacheWriter, console: Console, at_once: int) -> None:
    pending, old, seen = writer.pending(), _OldRows.of(growth.old), Seen(plan.path)
    dataset, chunks = new_rows(growth, plan.dataset, pending)
    failed = sum(map(len, writer.failures().values()))
    with track(console, "images", sum(chunk.stop - chunk.start for chunk in chunks), "images") as advance:
        encoded = encode_chunks(plan.clip, dataset, chunks, replace(plan.encoding, at_once=at_once), advance)
        for chunk in pending:
            part = _copied(chunk, growth, old)
            part.stamps[:] = plan.dataset.splits[chunk.split].stamps()[chunk.start : chunk.stop]
            rows = growth.new_rows(chunk)
            if len(rows):
                _put(part, next(encoded), rows)
            failed += len(part.failures)
            refuse_failures(failed, plan.most_failures, plan.dataset, chunk, part.failures)
            seen.write(chunk.unit, part.content, part.stamps)
            writer.write(chunk, part.embedding, part.failures, part.content, part.penultimate)
        next(encoded, None)  # it ends, and its threads with it


@dataclass(frozen=True)
class _OldRows:
    """All rows of a cache, split after split."""

    embedding: NDArray[np.floating]  # [N, V, D]
    penultimate: NDArray[np.floating] | None  # [N, V, W], where the cache has such
    failures: dict[int, tuple[int, str]]  # row -> status and reason

    @classmethod
    def of(cls, cache: Cache) -> _OldRows:
        failures: dict[int, tuple[int, str]] = {}
        start = 0
        for split, found in cache.failures().items():
            failures |= {start + row: (status, reason) for row, status, reason in found}
            start += cache.header.rows[split]
        splits = list(cache.header.rows)
        embedding = np.concatenate([cache.split(split).embedding for split in splits])
        before = [cache.penultimate(split) for split in splits] if cache.header.penultimate else None
        return cls(embedding, np.concatenate(before) if before else None, failures)


def _copied(chunk: Chunk, growth: Growth, old: _OldRows) -> Encoded:
    """A chunk with the rows that the old cache has; the others are NaN, and are put in later."""
    rows = slice(chunk.start, chunk.stop)
    source = growth.source[chunk.split][rows]  # [rows]
    there = source != NOT_THERE

    def taken(stored: NDArray[np.floating]) -> NDArray[np.floating]:
        found = np.full((len(source), *stored.shape[1:]), np.nan, stored.dtype)
        found[there] = stored[source[there]]
        return found

    failures: list[FailedRow] = [
        (chunk.start + at, *old.failures[int(row)]) for at, row in enumerate(source) if int(row) in old.failures
    ]
    content = growth.content[chunk.split][rows].copy()
    before = None if old.penultimate is None else taken(old.penultimate)
    return Encoded(chunk, taken(old.embedding), before, failures, content, np.zeros((len(source), 3), np.int64))


def _put(part: Encoded, encoded: Encoded, rows: NDArray[np.int64]) -> None:
    """Put rows that were encoded into the places [rows] where they belong."""
    at = rows - part.chunk.start
    part.embedding[at], part.content[at], part.stamps[at] = encoded.embedding, encoded.content, encoded.stamps
    if part.penultimate is not None and encoded.penultimate is not None:
        part.penultimate[at] = encoded.penultimate
    failures = [(int(rows[row - encoded.chunk.start]), status, reason) for row, status, reason in encoded.failures]
    part.failures[:] = sorted([*part.failures, *failures])
