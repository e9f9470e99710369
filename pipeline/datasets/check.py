"""Whether a data set is complete, and if not, what is missing and where people get it. Opens no image."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from mma.pipeline.datasets.base import Dataset
from mma.pipeline.datasets.catalog import CatalogEntry
from mma.pipeline.datasets.folder import SUFFIXES, FileSplit
from mma.pipeline.datasets.image_files import MAX_BYTES
from mma.pipeline.datasets.names import real_path
from mma.pipeline.datasets.published import coop_file, find_place, lacking
from mma.pipeline.datasets.readers import DatasetPlace
from mma.pipeline.datasets.split_file import read_split_file
from mma.pipeline.regular_files import open_regular

SHOWN = 5  # of what is missing, by name


@dataclass
class CheckReport:
    """What a check found."""

    name: str
    where: str  # the folder it lies in, or was looked for below
    found: list[str] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)  # empty where it is complete
    get: str = ""  # how to get what is missing

    @property
    def complete(self) -> bool:
        """Whether nothing is missing."""
        return not self.missing


def check_published(entry: CatalogEntry, root: Path) -> CheckReport:
    """Look for a published data set below `root`. UsageError where its split file is damaged."""
    place = find_place(entry, root)
    if place is None:
        wanted = " or ".join(
            str(root / folder / images) for folder in entry.folders[:2] for images in entry.images[:1] or ["."]
        )
        return CheckReport(entry.name, str(root), missing=[f"the images: looked for {wanted}"], get=entry.how_to_get)
    report = CheckReport(entry.name, str(place.base), missing=lacking(place), get=entry.how_to_get)
    files = coop_file(place)
    if files is not None:
        read = read_split_file(files, place.images)
        counts = ", ".join(f"{split} {len(rows.paths):,}" for split, rows in read.splits.items())
        report.found.append(f"{files.name}: {counts}")
        _add_missing(report, "images of the split file", _absent(read.splits.values()))
    elif entry.coop:
        report.found.append(f"no {entry.coop.file}, so the {'official' if entry.counts else 'drawn'} splits are used")
        report.found.append(f"CoOp's split file is at {entry.coop.url}")
    _count_images(place, report)
    return report


def check_own(name: str, dataset: Dataset, content: bool) -> CheckReport:
    """Check one's own data: whether every file is there and, with `content`, whether two files have the same bytes."""
    report = CheckReport(name, name)
    for split, rows in dataset.splits.items():
        counts = np.bincount(rows.labels, minlength=len(dataset.classnames))
        report.found.append(f"{split}: {len(rows.labels):,} images, {counts.min():,} to {counts.max():,} a class")
    report.found += dataset.notes
    files = {split: rows for split, rows in dataset.splits.items() if isinstance(rows, FileSplit)}
    _add_missing(report, "files", _absent(files.values()))
    if content:
        report.found += _twins(files)
    return report


def _count_images(place: DatasetPlace, report: CheckReport) -> None:
    entry = place.entry
    if entry.class_folders:
        tops = [place.images / folder for folder in (entry.split_folders or {"": "."}).values()]
        folders = [top / key for top in tops for key in entry.classes]
        _add_missing(report, "class folders", [str(folder) for folder in folders if not folder.is_dir()])
    else:
        folders = [place.images]
    if not entry.files:  # images that are no files of their own
        return
    count = sum(_images_below(str(folder)) for folder in folders)
    report.found.append(f"{count:,} images of {entry.files:,}")
    if count < entry.files:
        report.missing.append(f"{entry.files - count:,} of {entry.files:,} images")


def _add_missing(report: CheckReport, what: str, absent: list[str]) -> None:
    if absent:
        more = ", ..." if len(absent) > SHOWN else ""
        report.missing.append(f"{len(absent):,} {what}: {', '.join(absent[:SHOWN])}{more}")


def _absent(splits: Iterable[FileSplit]) -> list[str]:
    """Paths of rows that are not on the disk; every folder is listed once."""
    listed: dict[str, set[str]] = {}
    absent = []
    for files in splits:
        for path in files.paths:
            folder, name = os.path.split(real_path(path))
            if folder not in listed:
                listed[folder] = _names(files.root / folder)
            if name not in listed[folder]:
                absent.append(path)
    return absent


def _names(folder: Path) -> set[str]:
    try:
        return set(os.listdir(folder))  # noqa: PTH208 (names alone: a tenth of the time)
    except OSError:
        return set()


def _images_below(folder: str) -> int:
    try:
        with os.scandir(folder) as found:
            return sum(
                _images_below(entry.path) if entry.is_dir() else os.path.splitext(entry.name)[1].lower() in SUFFIXES  # noqa: PTH122
                for entry in found
            )
    except OSError:
        return 0


def _twins(files: dict[str, FileSplit]) -> list[str]:
    """Files of the same bytes, within splits and across them. Only files of the same length are read."""
    by_size: dict[int, list[tuple[str, Path]]] = {}
    for split, rows in files.items():
        for row, path in enumerate(rows.paths):
            by_size.setdefault(rows.stamp(row)[0], []).append((split, rows.root / real_path(path)))
    alike: dict[bytes, list[tuple[str, Path]]] = {}
    for length, same in by_size.items():
        for split, file in same if len(same) > 1 and length <= MAX_BYTES else ():
            alike.setdefault(_digest(file), []).append((split, file))
    twice = [copies for digest, copies in alike.items() if digest and len(copies) > 1]
    across = [copies for copies in twice if len({split for split, _ in copies}) > 1]
    notes = [f"{len(twice):,} images are there more than once"] if twice else ["no image is there twice"]
    if across:
        (one, first), (other, second) = across[0][0], across[0][-1]
        notes.append(f"{len(across):,} images are in two splits, such as {first} ({one}) and {second} ({other})")
    return notes


def _digest(path: Path) -> bytes:
    try:
        with open_regular(path) as file:
            return hashlib.file_digest(file, "sha256").digest()
    except OSError:
        return b""
