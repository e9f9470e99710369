"""Published data sets by name: found below the root in the layouts people have, or downloaded; and what was found."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from rich.console import Console

from mma.pipeline.datasets.base import Dataset, Split
from mma.pipeline.datasets.catalog import CatalogEntry
from mma.pipeline.datasets.contents import Contents
from mma.pipeline.datasets.draw import draw_splits, drawn_note
from mma.pipeline.datasets.folder import FileSplit, some_rows
from mma.pipeline.datasets.readers import ClassedPaths, DatasetPlace, read_annotations
from mma.pipeline.datasets.split_file import read_split_file
from mma.pipeline.errors import UsageError, WorkError
from mma.pipeline.regular_files import read_text

NO_VAL = "; no val split is published"


def published(
    entry: CatalogEntry, root: Path, seed: int, contents: Contents, follow_links: bool, console: Console | None
) -> Dataset:
    """A published data set below `root`; `seed` draws splits where none are published.

    What is not there is downloaded, and shown on `console`; without one it is refused.
    UsageError where it is not complete, WorkError where a download fails.
    """
    dataset = _found(entry, _find_or_download(entry, root, console), seed, contents, follow_links)
    if not follow_links:
        return dataset
    linked = {n: replace(s, follow_links=True) if isinstance(s, FileSplit) else s for n, s in dataset.splits.items()}
    return replace(dataset, splits=linked)


def _found(entry: CatalogEntry, place: DatasetPlace, seed: int, contents: Contents, follow_links: bool) -> Dataset:
    if entry.reader == "cifar":
        from mma.pipeline.datasets.cifar import cifar_splits

        batches = cifar_splits(entry, place.base.parent)
        return _dataset(entry, entry.classnames, batches, [f"splits: the official ones{NO_VAL}"], entry.counts)
    split_file = coop_file(place)
    if split_file is not None and entry.coop is not None:
        read = read_split_file(split_file, place.images)
        notes = [f"splits: {split_file.name}, as in CoOp's tables", *_other_names(entry, read.classnames)]
        return _dataset(entry, read.classnames, read.splits, notes, entry.coop.counts)
    rows = read_annotations(place)
    classnames, notes = _classnames(place)
    if "all" in rows:
        files = replace(_files(place, rows["all"], "images"), follow_links=follow_links)
        drawn = draw_splits(files, seed, contents, place.base)
        splits = {split: some_rows(files, chosen) for split, chosen in drawn.items()}
        notes.append(f"splits: {drawn_note(seed)}{_coop_hint(place)}")
        if len(files.labels) != entry.files:
            notes.append(f"counts differ: {len(files.labels):,} images here, {entry.files:,} published")
        return _dataset(entry, classnames, splits, notes, {})
    splits = {split: _files(place, found, split) for split, found in rows.items()}
    missing = "" if "val" in splits or "train" not in splits else NO_VAL
    notes.append(f"splits: the official ones{missing}{_coop_hint(place)}")
    return _dataset(entry, classnames, splits, notes, entry.counts)


def find_place(entry: CatalogEntry, root: Path) -> DatasetPlace | None:
    """Where a data set lies below `root`, or in it; None where it does not. The first complete one is taken."""
    found = [
        DatasetPlace(entry, base, base / images)
        for base in (*(root / folder for folder in entry.folders), root)
        for images in entry.images
        if (base / images / entry.proof).exists()
    ]
    whole = [place for place in found if not lacking(place)]
    named = [place for place in found if place.base != root]
    return next(iter(whole or named), None)


def coop_file(place: DatasetPlace) -> Path | None:
    """CoOp's split file, where it is there."""
    file = place.base / place.entry.coop.file if place.entry.coop else None
    return file if file is not None and file.is_file() else None


def lacking(place: DatasetPlace) -> list[str]:
    """Annotation files that are not there; none are needed beside CoOp's split file."""
    return [] if coop_file(place) else [need for need in place.entry.needs if not (place.base / need).exists()]


def count_notes(found: Mapping[str, int], published: Mapping[str, int]) -> list[str]:
    """Where counts differ from the published ones, in words."""
    differ = [s for s in published if found.get(s, 0) != published[s]]
    if not differ:
        return []
    told = ", ".join(f"{split} {found.get(split, 0):,} here, {published[split]:,} published" for split in differ)
    return [f"counts differ: {told}"]


def _find_or_download(entry: CatalogEntry, root: Path, console: Console | None) -> DatasetPlace:
    check = f"`mma datasets check {entry.name} --root {root}` says what is wanted"
    place = find_place(entry, root)
    begun = any((root / archive.gives).exists() for archive in entry.archives)
    if console is not None and entry.archives and (place is None or (lacking(place) and begun)):
        from mma.pipeline.datasets.download import fetch_archives

        try:
            fetch_archives(entry.archives, root, console)
        except WorkError as error:
            raise WorkError(f"{error}; to get it by hand, {check}") from error
        place = find_place(entry, root)
    if place is None:
        raise UsageError(f"{entry.name} is not in {root}: {check}")
    if lacking(place):
        raise UsageError(f"{entry.name} in {place.base} lacks {', '.join(lacking(place))}: {check}")
    return place


def _files(place: DatasetPlace, rows: ClassedPaths, split: str) -> FileSplit:
    """A split from its rows. UsageError for a class that the data set does not have."""
    label = {key: number for number, key in enumerate(place.entry.classes)}
    labels = np.empty(len(rows), np.int32)
    for number, (path, key) in enumerate(rows):
        if key not in label:
            raise UsageError(
                f"{place.base}: {path} of {split} has class {key!r}, which {place.entry.title} does not have"
            )
        labels[number] = label[key]
    return FileSplit(place.images, [path for path, _ in rows], labels)


def _classnames(place: DatasetPlace) -> tuple[tuple[str, ...], list[str]]:
    """The names known, or those of a classnames.txt (`n01440764 tench`), as CoOp's ImageNet has one."""
    file = place.base / "classnames.txt"
    if not file.is_file() or not all(key[:1] == "n" and key[1:].isdigit() for key in place.entry.classes):
        return place.entry.classnames, []
    lines = [line.partition(" ") for line in read_text(file).splitlines()]
    given = {wnid: name.strip() for wnid, _, name in lines}
    absent = [wnid for wnid in place.entry.classes if not given.get(wnid)]
    if absent:
        raise UsageError(f"{file} has no name for {absent[0]} (and {len(absent) - 1} more): get it again, or remove it")
    return tuple(given[wnid] for wnid in place.entry.classes), [f"class names: {file.name}"]


def _other_names(entry: CatalogEntry, names: tuple[str, ...]) -> list[str]:
    known = entry.classnames
    if len(names) != len(known):
        return [f"class names: the split file has {len(names)} classes, {entry.title} {len(known)}"]
    other = [(a, b) for a, b in zip(names, known, strict=True) if a != b]
    return [f"class names: the split file's; {len(other)} differ, {other[0][0]!r} for {other[0][1]!r}"] if other else []


def _coop_hint(place: DatasetPlace) -> str:
    coop = place.entry.coop
    return f" (CoOp's tables use {coop.file}, to be put in {place.base}: {coop.url})" if coop else ""


def _dataset(
    entry: CatalogEntry,
    classnames: tuple[str, ...],
    splits: Mapping[str, Split],
    notes: list[str],
    counts: Mapping[str, int],
) -> Dataset:
    if not all(len(split.labels) for split in splits.values()):
        empty = next(name for name, split in splits.items() if not len(split.labels))
        raise UsageError(
            f"{entry.name}: no images of split {empty!r} are found; `mma datasets check {entry.name}` helps"
        )
    notes += count_notes({name: len(split.labels) for name, split in splits.items()}, counts)
    labels: NDArray[np.int32] = np.concatenate([split.labels for split in splits.values()])
    absent = np.flatnonzero(np.bincount(labels, minlength=len(classnames)) == 0)
    if len(absent):
        notes.append(f"{len(absent)} classes have no image, such as {classnames[absent[0]]!r}")
    return Dataset(entry.name, classnames, tuple(entry.templates), splits, tuple(notes))
