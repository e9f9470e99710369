"""What a run of stage one will do: all is decided here, and no embedding is written."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace

from rich.console import Console

from mma.cache import (
    CacheWriter,
    Chunk,
    Header,
    Location,
    Shard,
    cache_exists,
    discard_replacement,
    mend_replacement,
    must_match,
    open_cache,
    refuse_if_locked,
)
from mma.pipeline.datasets import Dataset
from mma.pipeline.embedding.changes import Changes, find_changes
from mma.pipeline.embedding.checks import cache_path, check_settings
from mma.pipeline.embedding.chunk import rows_in_batch, rows_in_chunk
from mma.pipeline.embedding.clip import FrozenClip
from mma.pipeline.embedding.encode import Encoding, encode_chunks
from mma.pipeline.embedding.grown_texts import grown_prompts
from mma.pipeline.embedding.growth import Growth, find_growth, new_rows, pending_chunks
from mma.pipeline.embedding.header import load_chosen_clip, make_encoding, make_header, workers_of
from mma.pipeline.embedding.known import KnownContents
from mma.pipeline.embedding.prompts import PromptSet, read_prompts
from mma.pipeline.embedding.rows import absent_notes, load_dataset
from mma.pipeline.embedding.settings import EmbedSettings, failure_limit
from mma.pipeline.embedding.threads import computing_with, threads_of
from mma.pipeline.errors import UsageError
from mma.pipeline.options import written

PROBE = 16  # images timed, for the estimate
SHOWN = 3  # images named that have changed


@dataclass(frozen=True)
class EmbedPlan:
    """What is to be done, to which cache, with what."""

    path: Location
    dataset: Dataset
    clip: FrozenClip
    header: Header  # the cache's own where it is there
    encoding: Encoding
    prompts: tuple[PromptSet, ...]  # that were asked for
    pending: tuple[Chunk, ...]  # chunks still to do
    redo: tuple[str, ...]  # units of the cache that are to be done again: their images have changed, or are back
    notes: tuple[str, ...]  # what the user should know, beside the data set's own notes
    exists: bool  # whether there is a cache to continue
    complete: bool  # whether nothing is to be done
    most_failures: int  # rows that may fail
    seconds: float  # that a picture takes, by the probe; 0 where no image is to be encoded
    growth: Growth | None = None  # of a cache whose data set has other rows now
    shard: Shard | None = None  # of the chunks, to which this run keeps


NONE = Changes()


@dataclass(frozen=True)
class _Stored:
    """How far a cache is."""

    header: Header
    prompts: tuple[str, ...] = ()
    complete: bool = False
    done: frozenset[str] = frozenset()  # units
    changes: Changes = NONE

    def pending(self, shard: Shard | None) -> tuple[Chunk, ...]:
        """The chunks still to do, in order."""
        chunks = shard.chunks(self.header) if shard else self.header.chunks()
        return tuple(c for c in chunks if c.unit not in self.done or c.unit in self.redo)

    @property
    def redo(self) -> frozenset[str]:
        """Units that are done and to be done again."""
        return self.changes.changed_units | self.changes.back_units


def make_plan(settings: EmbedSettings, console: Console) -> EmbedPlan:
    """Decide what a run will do; a download is shown on `console`.

    Raises UsageError or CacheError, in one line, for what cannot be done, WorkError where a download fails.
    """
    path, shard = cache_path(settings), shard_of(settings)
    mend_replacement(path)
    check_settings(settings)
    refuse_if_locked(path, shard)
    contents = KnownContents(path, workers_of(settings), console)
    dataset = load_dataset(settings, console, contents)
    prompts: tuple[PromptSet, ...] = ()
    if dataset.classnames and (shard is None or shard.index == 1):  # one shard does the texts
        prompts = read_prompts(settings.prompts, settings.templates, dataset.classnames, dataset.templates)
    notes = absent_notes(dataset)
    clip = load_chosen_clip(settings)
    wanted = make_header(dataset, clip, settings)
    exists = cache_exists(path)
    growth = find_growth(open_cache(path, partial=True), wanted, dataset, contents) if exists else None
    if growth:
        return _grown_plan(settings, path, dataset, clip, growth, prompts, notes)
    stored = _read_stored(path, wanted, dataset, settings, contents, console) if exists else _Stored(wanted)
    check_templates(path, prompts, stored.prompts)
    encoding = make_encoding(clip, settings, stored.header)
    complete = stored.complete and not stored.redo and {p.name for p in prompts} <= set(stored.prompts)
    pending = stored.pending(shard)
    seconds = _probe(clip, dataset, pending[0], encoding, threads_of(stored.header)) if pending else 0.0
    if not exists:
        stored = _Stored(replace(wanted, chunk=rows_in_chunk(wanted.batch, wanted.views, seconds)))
    return EmbedPlan(
        path=path,
        dataset=dataset,
        clip=clip,
        header=stored.header,
        encoding=encoding,
        prompts=prompts,
        pending=stored.pending(shard),
        redo=tuple(sorted(stored.redo)),
        notes=(*notes, *_change_notes(stored.changes)),
        exists=exists,
        complete=complete,
        most_failures=failure_limit(settings.max_failures, _rows(stored.header, shard)),
        seconds=seconds,
        shard=shard,
    )


def _grown_plan(
    settings: EmbedSettings,
    path: Location,
    dataset: Dataset,
    clip: FrozenClip,
    growth: Growth,
    asked: tuple[PromptSet, ...],
    notes: Sequence[str],
) -> EmbedPlan:
    """What is to be done where the data set has other rows than its cache. UsageError where that was not asked for."""
    if not settings.update:
        alone = f", without {written('shard', settings.shard)}," if settings.shard else ""
        raise UsageError(
            f"{dataset.name} is not what {path} was made from: {growth.told()}; `update=True`{alone} embeds what is "
            "new into the same cache, another cache keeps both"
        )
    encoding = make_encoding(clip, settings, growth.header)
    fresh, pending = new_rows(growth, dataset, pending_chunks(growth, path))
    return EmbedPlan(
        path=path,
        dataset=dataset,
        clip=clip,
        header=growth.header,
        encoding=encoding,
        prompts=grown_prompts(growth.old, asked, dataset.classnames),
        pending=tuple(pending),
        redo=(),
        notes=(*notes, f"since the cache was made: {growth.told()}"),
        exists=True,
        complete=False,
        most_failures=failure_limit(settings.max_failures, sum(growth.header.rows.values())),
        seconds=_probe(clip, fresh, pending[0], encoding, threads_of(growth.header)) if pending else 0.0,
        growth=growth,
    )


def shard_of(settings: EmbedSettings) -> Shard | None:
    """The shard that a run keeps to."""
    return Shard(*map(int, settings.shard.split("/"))) if settings.shard else None


def _rows(header: Header, shard: Shard | None) -> int:
    """Rows of a cache, or of a shard of it."""
    return sum(chunk.stop - chunk.start for chunk in (shard.chunks(header) if shard else header.chunks()))


def check_templates(path: Location, prompts: Sequence[PromptSet], stored: Sequence[str]) -> None:
    """UsageError where a cache has a prompt set of one of these names with other templates."""
    for prompt_set in prompts:
        if prompt_set.name in stored:
            templates = open_cache(path, partial=True).text(prompt_set.name).templates
            if templates != list(prompt_set.templates):
                raise UsageError(
                    f"prompt set {prompt_set.name!r} of {path} has other templates (the first is {templates[0]!r}): "
                    "name another with `prompts=NAME`"
                )


def _read_stored(
    path: Location, wanted: Header, dataset: Dataset, settings: EmbedSettings, contents: KnownContents, console: Console
) -> _Stored:
    """How far the cache at a path is; CacheError where it is another than `wanted`, UsageError where images changed."""
    if settings.shard:
        return _read_shared(path, wanted, dataset, settings, contents, console)
    with CacheWriter.resume(path, wanted) as writer:
        discard_replacement(path)
        pending = {chunk.unit for chunk in writer.pending()}
        done = frozenset(chunk.unit for chunk in writer.header.chunks() if chunk.unit not in pending)
        changes = find_changes(path, dataset, workers_of(settings), console, contents.of_row)
        if changes.changed and not settings.update:
            raise _changed(changes, path)
        return _Stored(writer.header, tuple(writer.prompts), writer.complete, done, changes)


def _read_shared(
    path: Location, wanted: Header, dataset: Dataset, settings: EmbedSettings, contents: KnownContents, console: Console
) -> _Stored:
    """How far a cache is that other shards may be writing: it is read alone. Errors as of `_read_stored`.

    Rows that were missing and are back are left to a run of the whole.
    """
    cache = open_cache(path, partial=True)
    must_match(path, cache.header, wanted)
    changes = find_changes(path, dataset, workers_of(settings), console, contents.of_row)
    if changes.changed:
        raise _changed(changes, path)
    return _Stored(cache.header, cache.prompts, cache.complete, frozenset(cache.journal))


def _changed(changes: Changes, path: Location) -> UsageError:
    return UsageError(
        f"{_some(changes.changed)} not what {path} was made from: `update=True` embeds anew what has changed, "
        "another cache keeps both"
    )


def _change_notes(changes: Changes) -> list[str]:
    notes = [f"{_some(changes.changed)} embedded anew: other bytes than before"] if changes.changed else []
    return notes + ([f"{_some(changes.back)} there now, and embedded"] if changes.back else [])


def _some(paths: Sequence[str]) -> str:
    """ "3 images (cat/0.jpg, cat/1.jpg, ...) are", or "1 image (cat/0.jpg) is" """
    shown = ", ".join(paths[:SHOWN]) + (", ..." if len(paths) > SHOWN else "")
    return f"{len(paths):,} images ({shown}) are" if len(paths) > 1 else f"1 image ({shown}) is"


def _probe(clip: FrozenClip, dataset: Dataset, chunk: Chunk, how: Encoding, threads: int | None) -> float:
    """Seconds per picture, from a few images encoded twice: the first time warms up. Cores share them evenly."""
    views = how.views.of(chunk.split)
    few = replace(chunk, stop=min(chunk.stop, chunk.start + rows_in_batch(min(how.batch, PROBE), views)))
    seconds = 0.0
    with computing_with(threads) as at_once:
        for _ in range(2):
            start = time.perf_counter()
            for _ in encode_chunks(clip, dataset, [few], how):
                seconds = time.perf_counter() - start
    return seconds / at_once / ((few.stop - few.start) * views)
