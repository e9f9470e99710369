"""`mma cache repair`: mend what the cache can mend by itself, and compute the rest again from data set and model."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.text import Text

from mma.cache import (
    CacheError,
    CacheWriter,
    Header,
    Location,
    ManifestSplit,
    RepairReport,
    Status,
    fingerprint_diff,
    mend,
    open_cache,
)
from mma.pipeline.datasets import Dataset
from mma.pipeline.embedding.add_text import same_text_model
from mma.pipeline.embedding.changes import find_changes
from mma.pipeline.embedding.clip import FrozenClip
from mma.pipeline.embedding.header import (
    load_chosen_clip,
    make_encoding,
    make_header,
    manifest_hash,
    read_manifest,
    workers_of,
)
from mma.pipeline.embedding.prompts import PromptSet
from mma.pipeline.embedding.rows import arranged, load_dataset
from mma.pipeline.embedding.run import disk_error, embed_images, embed_text
from mma.pipeline.embedding.settings import FINAL, MAX_PIXELS, PENULTIMATE, EmbedSettings
from mma.pipeline.embedding.threads import THREADS, computing_with, threads_of
from mma.pipeline.errors import UsageError

EVERY = 2**63  # failures allowed: those that were there before


def repair_cache(path: Location, given: Mapping[str, Any], copy: Location | None, console: Console) -> RepairReport:
    """Repair a cache so that it ends with the bytes it had.

    `given` are settings of `mma embed` (dataset, root, model, ...) where those that made the cache no longer hold;
    None counts as not given. Raises CacheError or UsageError, in one line, where something is needed that is not there.
    """
    chosen = {name: value for name, value in given.items() if value is not None}
    found: list[_Means] = []

    def means(header: Header) -> _Means:
        if not found:
            found.append(_Means(path, header, chosen, console))
        return found[0]

    try:
        mended = mend(
            path,
            lambda header: means(header).manifest(),
            copy,
            lambda header, images: means(header).check(images=images),
        )
        if mended.to_compute:
            _compute(path, means(open_cache(path, partial=True).header), console)
        back = _retry_missing(path, means, console)
    except OSError as error:
        raise disk_error(path, error) from error
    return replace(mended, to_compute=[*mended.to_compute, *back])


def _retry_missing(path: Location, means: Callable[[Header], _Means], console: Console) -> list[str]:
    """Do units again that have rows whose images were missing and are there now; the units."""
    cache = open_cache(path)
    missing = sum(code == Status.MISSING for rows in cache.failures().values() for _, code, _ in rows)
    if not missing:
        return []
    by = means(cache.header)
    try:
        dataset = by.dataset
    except UsageError as error:
        console.print(Text(f"{missing:,} rows are missing, and were not tried again: {error}", style="yellow"))
        return []
    if manifest_hash(dataset) != cache.header.fingerprint.get("manifest_sha256"):
        why = f"{dataset.name} has other images now"
        console.print(Text(f"{missing:,} rows are missing, and were not tried again: {why}", style="yellow"))
        return []
    with CacheWriter.reopen(path) as writer:
        found = find_changes(path, dataset, workers_of(by.settings), console)
        units = sorted(found.back_units - found.changed_units)
        if units:
            by.check(images=True)
            writer.forget(units)
    if units:
        _compute(path, by, console)
    return units


@dataclass
class _Means:
    """What computes again: the data set and the model that made a cache, loaded when they are needed."""

    path: Location
    header: Header
    chosen: Mapping[str, Any]
    console: Console

    @cached_property
    def settings(self) -> EmbedSettings:
        return _settings(self.header, self.chosen)

    @cached_property
    def dataset(self) -> Dataset:
        """The data set, each row in the split where the cache has it."""
        found = _dataset(self.settings)
        try:
            cache = open_cache(self.path, partial=True)
            return arranged(found, {split: cache.manifest(split).paths for split in cache.header.rows})
        except CacheError:  # its paths are damaged: the splits are those of the data set as it is
            return found

    @cached_property
    def clip(self) -> FrozenClip:
        return load_chosen_clip(self.settings)

    @cached_property
    def wanted(self) -> Header:
        """The header that these would give the cache, whose name may have changed with its place."""
        return replace(make_header(self.dataset, self.clip, self.settings), dataset=self.header.dataset)

    def manifest(self) -> Mapping[str, ManifestSplit]:
        """Labels and paths, from the data set."""
        if manifest_hash(self.dataset) != self.header.fingerprint.get("manifest_sha256"):
            name = self.chosen.get("dataset") or self.dataset.name
            raise CacheError(f"{self.path} was made from other images than {name} has now")
        return read_manifest(self.dataset)

    def check(self, *, images: bool) -> None:
        """Refuse other images or another model than the cache was made with, before anything damaged is given up."""
        if not images:
            same_text_model(self.header.fingerprint, self.clip, str(self.path))
        elif differences := fingerprint_diff(self.header.fingerprint, self.wanted.fingerprint):
            raise CacheError(f"{self.path} was made differently:\n  " + "\n  ".join(differences))
        else:
            self._refuse_changed()

    def _refuse_changed(self) -> None:
        """CacheError where the data set has other bytes than the cache was made from, as far as that can be told."""
        try:
            changed = find_changes(self.path, self.dataset, workers_of(self.settings), self.console).changed
        except CacheError:  # the hashes are damaged: `_say_changed` tells what came out
            return
        if changed:
            raise CacheError(
                f"{self.path} was made from other images than {self.dataset.name} has now: {len(changed):,} have "
                f"changed, the first is {changed[0]}"
            )


def _compute(path: Location, means: _Means, console: Console) -> None:
    """Do what is pending: chunks need data set and model, prompt sets the model alone."""
    with CacheWriter.reopen(path) as writer:
        pending, texts = writer.pending(), writer.pending_text()
    means.check(images=bool(pending))
    with (
        CacheWriter.resume(path, means.wanted) if pending else CacheWriter.reopen(path) as writer,
        computing_with(threads_of(means.header)) as at_once,
    ):
        if writer.pending_projections():
            writer.write_projections(means.clip.projections())
        for name, (templates, of_class) in texts.items():
            prompts = PromptSet(name, tuple(templates), tuple(map(tuple, of_class)))
            embed_text(console, means.clip, writer, prompts, at_once)
        if pending:
            encoding = replace(make_encoding(means.clip, means.settings, means.header), at_once=at_once)
            embed_images(console, means.clip, means.dataset, writer, encoding, EVERY)
        writer.finish()
        _say_changed(writer.changed, console)


def _say_changed(changed: Mapping[str, Sequence[str]], console: Console) -> None:
    """Name the units that came out otherwise, by the reason: their images, or the arithmetic."""
    images = [unit for unit, files in changed.items() if any("/content/" in file for file in files)]
    for units, why in (
        (images, "their images have changed since the cache was made"),
        (
            [unit for unit in changed if unit not in images],
            "sums round otherwise with another number of threads, kind of processor or version of a library; "
            "no image of known hash has changed",
        ),
    ):
        if units:
            told = f"{', '.join(units)}: computed again, but not with the bytes that were lost"
            console.print(Text(told, style="yellow"), f"({why})")


def _settings(header: Header, chosen: Mapping[str, Any]) -> EmbedSettings:
    """The settings that the cache was made with, and what is said otherwise."""
    if not header.source and "dataset" not in chosen:
        raise UsageError(
            f"{header.dataset} was imported: import it again beside, and repair `from=THAT_COPY`; "
            "or give `dataset=NAME` and `model=NAME`"
        )
    stored_source = {name: value for name, value in header.source.items() if name != THREADS}
    source = {**stored_source, "root": Path(header.source["root"]) if header.source.get("root") else None}
    about = header.fingerprint
    noise = about.get("image_noise", {})  # split -> the same noises
    stored = EmbedSettings(
        quick_gelu=about.get("quick_gelu"),
        precision=about.get("precision", "fp32"),
        features=PENULTIMATE if header.penultimate else FINAL,
        dtype=header.dtype,
        views=about.get("views", 1),
        view_splits=tuple(about.get("view_splits", ["train"])),
        view_seed=about.get("view_seed") or 0,
        image_noise=tuple(next(iter(noise.values()), [])),
        noise_splits=tuple(noise) or ("test",),
        batch_size=header.batch,
        max_pixels=about.get("max_pixels", MAX_PIXELS),
        download=False,
        **source,
    )
    known = replace(stored, **chosen)
    return replace(known, quick_gelu=None) if "model" in chosen or str(known.model).startswith("local-dir:") else known


def _dataset(settings: EmbedSettings) -> Dataset:
    try:
        return load_dataset(settings)
    except UsageError as error:
        raise UsageError(f"the images are needed, and not where they were ({error}): give `dataset=NAME`") from error
