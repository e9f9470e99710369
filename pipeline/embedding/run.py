"""The work of stage one: what a plan says is encoded, and written chunk by chunk."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from rich.console import Console

from mma.cache import CacheWriter, Chunk, FailedRow, Location, ManifestSplit, ShardWriter
from mma.pipeline.datasets import Dataset
from mma.pipeline.embedding.clip import FrozenClip
from mma.pipeline.embedding.encode import Encoding, encode_chunks
from mma.pipeline.embedding.header import read_manifest
from mma.pipeline.embedding.place import check_space
from mma.pipeline.embedding.plan import EmbedPlan
from mma.pipeline.embedding.prompts import PromptSet
from mma.pipeline.embedding.seen import Seen
from mma.pipeline.embedding.texts import encode_texts
from mma.pipeline.embedding.threads import computing_with, threads_of
from mma.pipeline.errors import WorkError
from mma.pipeline.progress import track


def run_plan(plan: EmbedPlan, console: Console) -> bool:
    """Do what the plan says, and tell whether the cache is complete then, which it is but for a shard that was not the
    last. What is done is kept whatever happens.

    Raises UsageError where the disk has no room, CacheError where another process writes the cache, WorkError where
    work cannot go on.
    """
    try:
        if plan.shard:
            with (
                ShardWriter.join(plan.path, plan.header, plan.shard, lambda: _new_manifest(plan)) as shard,
                computing_with(threads_of(shard.header)) as at_once,
            ):
                _encode(plan, shard, console, at_once)
                return shard.finish()
        with _writer(plan) as writer, computing_with(threads_of(writer.header)) as at_once:
            writer.forget(plan.redo)
            if writer.pending_projections():
                writer.write_projections(plan.clip.projections())
            _encode(plan, writer, console, at_once)
            if not writer.complete:
                writer.finish()
            return True
    except OSError as error:
        raise disk_error(plan.path, error) from error


def _encode(plan: EmbedPlan, writer: CacheWriter | ShardWriter, console: Console, at_once: int) -> None:
    """Encode what the writer's cache, or its shard, still lacks, so many batches at once."""
    for prompt_set in plan.prompts:
        if prompt_set.name not in writer.prompts:
            embed_text(console, plan.clip, writer, prompt_set, at_once)
    # another shard may have laid the cache out, with batches of its own
    how = replace(plan.encoding, batch=writer.header.batch, at_once=at_once)
    embed_images(console, plan.clip, plan.dataset, writer, how, plan.most_failures)


def embed_text(
    console: Console, clip: FrozenClip, writer: CacheWriter | ShardWriter, prompts: PromptSet, at_once: int = 1
) -> None:
    """Encode a prompt set, so many batches at once, and store it. WorkError where the model returns no numbers."""
    found = encode_texts(console, clip, prompts.name, prompts.flat(), at_once)
    before = None if found.penultimate is None else prompts.shaped(found.penultimate)
    writer.write_text(prompts.name, prompts.templates, prompts.shaped(found.embedding), prompts.texts, before)


def embed_images(
    console: Console,
    clip: FrozenClip,
    dataset: Dataset,
    writer: CacheWriter | ShardWriter,
    how: Encoding,
    most: int,
) -> None:
    """Encode the chunks still to do and store them. WorkError where more than `most` rows of the cache, or of the
    shard, have failed.
    """
    pending, seen = writer.pending(), Seen(writer.path)
    failed = sum(map(len, writer.failures().values()))
    with track(console, "images", sum(chunk.stop - chunk.start for chunk in pending), "images") as advance:
        for encoded in encode_chunks(clip, dataset, pending, how, advance):
            chunk, failures = encoded.chunk, encoded.failures
            failed += len(failures)
            refuse_failures(failed, most, dataset, chunk, failures)
            seen.write(chunk.unit, encoded.content, encoded.stamps)
            writer.write(chunk, encoded.embedding, failures, encoded.content, encoded.penultimate)


def refuse_failures(failed: int, most: int, dataset: Dataset, chunk: Chunk, failures: Sequence[FailedRow]) -> None:
    """WorkError where more than `most` rows of a cache have failed, the last `failures` among them in this chunk."""
    if failures and failed > most:
        row, _, reason = failures[-1]
        raise WorkError(
            f"{failed:,} images have failed, and {most:,} may (`max_failures=N`; the last is "
            f"{dataset.splits[chunk.split].paths[row]}: {reason}); what is done is kept: mend the data set, "
            "or allow more"
        )


def disk_error(path: Location, error: OSError) -> WorkError:
    """A cache that cannot be written, in one line."""
    return WorkError(f"{path}: {error.strerror or error}; what is done is kept: run the same command again")


def _writer(plan: EmbedPlan) -> CacheWriter:
    if plan.exists:
        return CacheWriter.resume(plan.path, plan.header)
    return CacheWriter.create(plan.path, plan.header, _new_manifest(plan))


def _new_manifest(plan: EmbedPlan) -> dict[str, ManifestSplit]:
    """Labels and paths for a cache that is about to be laid out, where there is room for it."""
    check_space(plan.path, plan.header, sum(len(p.templates) for p in plan.prompts))
    Seen(plan.path).clear()
    return read_manifest(plan.dataset)
