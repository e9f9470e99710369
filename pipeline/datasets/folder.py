"""Any folder of images as a data set: `<split>/<class>/*.jpg`, or `<class>/*.jpg`, then split as draw.py does.

A class is a folder; its name, with "_" for a space, is the class name. Files count as images by their suffix; whether
they are is found out when they are read.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mma.pipeline.datasets.base import Dataset, Split, Stamp
from mma.pipeline.datasets.contents import Contents
from mma.pipeline.datasets.draw import draw_splits, drawn_note
from mma.pipeline.datasets.image_files import read_image_file, stamp_image_file
from mma.pipeline.datasets.names import shown_name, shown_path
from mma.pipeline.errors import UsageError

SUFFIXES = {".jpg", ".jpeg", ".png", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm"}
SPLITS = {"train": "train", "training": "train", "val": "val", "valid": "val", "validation": "val", "test": "test"}
TEMPLATES = ("a photo of a {}.",)


@dataclass(frozen=True)
class FileSplit:
    """A split whose rows are files below one folder."""

    root: Path
    paths: Sequence[str]  # [N]
    labels: NDArray[np.int32]  # [N]
    follow_links: bool = False  # to files outside of `root` too

    def stamp(self, row: int) -> Stamp:
        """Size and times of the file; ABSENT where it is gone."""
        return stamp_image_file(self.root, self.paths[row])

    def stamps(self) -> NDArray[np.int64]:
        """[N, 3] the stamps of all rows."""
        return np.array([self.stamp(row) for row in range(len(self.paths))], np.int64).reshape(-1, 3)

    def read(self, row: int) -> bytes:
        """The file's bytes; pipes and the like are refused, and so are links that leave the folder if not followed."""
        return read_image_file(self.root, self.paths[row], self.follow_links)


def folder(path: Path, seed: int, contents: Contents, follow_links: bool = False) -> Dataset:
    """The data set in a folder; raises UsageError where it is empty or has no classes."""
    tops = subfolders(path)
    if not tops:
        raise UsageError(f"{path} has no folders: expected <split>/<class>/*.jpg or <class>/*.jpg")
    if all(top.lower() in SPLITS for top in tops):
        return _published_splits(path, tops, follow_links)
    return _drawn_splits(path, tops, seed, contents, follow_links)


def dataset_name(path: Path) -> str:
    """A name for one's own data, in [a-z0-9-]: that of the folder, file or link at the path."""
    own = Path(os.path.abspath(path))  # noqa: PTH100 (`resolve` would follow links)
    return re.sub(r"[^a-z0-9]+", "-", (own.name if own.is_dir() else own.stem).lower()).strip("-") or "own"


def clean_name(entry: str) -> str:
    """A class name as prompts say it: "_" is a space, and spaces are single."""
    return " ".join(shown_name(entry).replace("_", " ").split())


def clean_names(where: Path, entries: Sequence[str]) -> tuple[str, ...]:
    """Clean class names. UsageError where there are fewer than two, or two that are the same."""
    names = tuple(clean_name(entry) for entry in entries)
    if len(names) < 2:
        raise UsageError(f"{where} has {len(names)} class: at least two are needed")
    if len(set(names)) < len(names):
        twin = next(name for name in names if names.count(name) > 1)
        raise UsageError(f"{where} has two classes called {twin!r} ('_' counts as a space): rename one")
    return names


def subfolders(path: Path) -> list[str]:
    """Names of the folders in a folder, sorted; hidden ones are not seen."""
    try:
        with os.scandir(path) as found:
            return sorted(entry.name for entry in found if entry.is_dir() and not entry.name.startswith("."))
    except OSError as error:
        raise UsageError(f"{path} cannot be read ({error.strerror})") from error


def image_paths(root: Path, entry: str) -> list[str]:
    """Images below root/entry, as paths relative to `root`, "/" between parts, sorted; as names.py shows them."""
    found = []
    base = str(root)
    for at, _, files in os.walk(root / entry):
        relative = os.path.relpath(at, base).replace(os.sep, "/")
        prefix = "" if relative == "." else f"{relative}/"
        found += [prefix + f for f in files if os.path.splitext(f)[1].lower() in SUFFIXES and f[0] != "."]  # noqa: PTH122
    return sorted(map(shown_path, found))


def files_by_class(root: Path, images: Sequence[Sequence[str]], follow_links: bool) -> FileSplit:
    """One split, from the paths of the images of each class."""
    labels = np.repeat(np.arange(len(images), dtype=np.int32), [len(rows) for rows in images])
    return FileSplit(root, [path for rows in images for path in rows], labels, follow_links)


def some_rows(files: FileSplit, rows: NDArray[np.int64]) -> FileSplit:
    """A split of those rows of another."""
    return replace(files, paths=[files.paths[row] for row in rows], labels=files.labels[rows])


def refuse_empty(where: Path, classes: Sequence[str], counts: NDArray[np.signedinteger]) -> None:
    """UsageError where a class has no image."""
    empty = [entry for entry, count in zip(classes, counts, strict=True) if count == 0]
    if empty:
        more = f" (and {len(empty) - 1} more)" if len(empty) > 1 else ""
        raise UsageError(f"class {empty[0]!r} of {where} holds no images{more}: fill it or remove it")


def untrained_notes(classnames: Sequence[str], splits: Mapping[str, Split]) -> list[str]:
    """What to say of classes that have no image to train on, or none to test on."""
    notes = []
    for split in ("train", "test"):
        counts = np.bincount(splits[split].labels, minlength=len(classnames))
        absent = [name for name, count in zip(classnames, counts, strict=True) if count == 0]
        if absent:
            notes.append(f"{len(absent)} classes have no {split} image, such as {absent[0]!r}")
    return notes


def refuse_single(where: Path, classes: Sequence[str], counts: NDArray[np.signedinteger]) -> None:
    """UsageError where a class has one image only, too few to draw splits from."""
    for entry, count in zip(classes, counts, strict=True):
        if count == 1:
            raise UsageError(
                f"class {entry!r} of {where} holds one image; a class needs two to be split into train/test"
            )


def _published_splits(path: Path, tops: Sequence[str], follow_links: bool) -> Dataset:
    found = {SPLITS[top.lower()]: top for top in tops}
    if len(found) < len(tops):
        twins = [top for top in tops if top not in found.values()]
        raise UsageError(f"{path} has the split of {twins[0]!r} twice: keep one folder of {', '.join(tops)}")
    if not {"train", "test"} <= found.keys():
        missing = " and ".join(sorted({"train", "test"} - found.keys()))
        raise UsageError(
            f"{path} has no folder {missing}: a data set with splits needs train and test (val is welcome)"
        )
    classes = sorted({entry for top in tops for entry in subfolders(path / top)})
    classnames = clean_names(path, classes)
    splits: dict[str, FileSplit] = {}
    for split in ("train", "val", "test"):
        if split in found:
            images = [image_paths(path, f"{found[split]}/{entry}") for entry in classes]
            splits[split] = files_by_class(path, images, follow_links)
            if not splits[split].paths:
                raise UsageError(f"{path / found[split]} holds no images ({', '.join(sorted(SUFFIXES))})")
    labels = np.concatenate([split.labels for split in splits.values()])
    refuse_empty(path, classes, np.bincount(labels, minlength=len(classes)))
    notes = ("the folder's own splits", *untrained_notes(classnames, splits))
    return Dataset(dataset_name(path), classnames, TEMPLATES, splits, notes)


def _drawn_splits(path: Path, classes: Sequence[str], seed: int, contents: Contents, follow_links: bool) -> Dataset:
    classnames = clean_names(path, classes)
    files = files_by_class(path, [image_paths(path, entry) for entry in classes], follow_links)
    counts = np.bincount(files.labels, minlength=len(classes))
    refuse_empty(path, classes, counts)
    refuse_single(path, classes, counts)
    splits = {split: some_rows(files, rows) for split, rows in draw_splits(files, seed, contents, path).items()}
    notes = (drawn_note(seed), *untrained_notes(classnames, splits))
    return Dataset(dataset_name(path), classnames, TEMPLATES, splits, notes)
