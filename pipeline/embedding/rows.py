"""Which rows a run of stage one is about: a data set, or some of each of its splits; and whether they are still there.

A data set that goes away during a run (a disk that is unmounted, a folder that is emptied) must not become rows that
are missing. So every row is looked at when the run begins. A row that is gone when it is read ends the run where most
of its neighbours that were there have gone too; alone, it is one missing file.
"""

from __future__ import annotations

import errno
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from rich.console import Console

from mma.pipeline.datasets import Contents, Dataset, Lookup, Pixels, Split, find_dataset, read_contents
from mma.pipeline.datasets.base import ABSENT, Stamp
from mma.pipeline.datasets.folder import FileSplit, dataset_name
from mma.pipeline.datasets.names import shown_path
from mma.pipeline.datasets.unlabelled import find_unlabelled, is_image
from mma.pipeline.embedding.settings import EmbedSettings
from mma.pipeline.errors import UsageError, WorkError
from mma.pipeline.regular_files import expanded

UNLABELLED = "all"  # the one split of images without classes
NEIGHBOURS = 10  # rows to either side that tell a file that is gone from a folder that is
ABSENT_RUN = 20  # rows in a row that are not there to begin with: too many to be single files


def load_dataset(
    settings: EmbedSettings, console: Console | None = None, contents: Contents = read_contents
) -> Dataset:
    """The data set that the settings name, limited as they say; what is downloaded is shown on `console`.

    `contents` gives the hashes that splits are drawn by, where there are none.
    """
    if settings.dataset is None:
        raise UsageError("`dataset=NAME` is missing: a data set's name, or a path to images")
    lookup = Lookup(settings.root, settings.download, settings.split_seed, settings.follow_links, contents)
    found = _unlabelled(settings) if settings.unlabelled else find_dataset(settings.dataset, lookup, console)
    dataset = limit(found, settings.limit)
    return replace(dataset, splits={name: Watched(split, split.stamps()) for name, split in dataset.splits.items()})


def _unlabelled(settings: EmbedSettings) -> Dataset:
    """Images without classes as a data set of one split. UsageError where there are none."""
    path = expanded(settings.dataset or "")
    if is_image(path) and path.is_file():
        split: Split = FileSplit(path.parent, [shown_path(path.name)], np.full(1, -1, np.int32), settings.follow_links)
    else:
        split = find_unlabelled(path, settings.root, settings.follow_links).split
    return Dataset(dataset_name(path), (), (), {UNLABELLED: split})


def absent_notes(dataset: Dataset) -> list[str]:
    """What to say of rows that are not there to begin with. UsageError where they are too many for single files."""
    notes = []
    for name, split in dataset.splits.items():
        absent = (split.stamps() == ABSENT).all(axis=1)  # [N]
        if not absent.any():
            continue
        count, first = int(absent.sum()), split.paths[int(absent.argmax())]
        what = f"{count:,} of {len(absent):,} images of {name} are not there, such as {first}"
        if count > len(absent) / 2 or _longest(absent) >= ABSENT_RUN:
            raise UsageError(f"{what}: bring the rest of the data set, or take these rows out of it")
        notes.append(f"{what}: a later run embeds them once they are")
    return notes


@dataclass(frozen=True)
class Watched:
    """A split whose rows were looked at when the run began."""

    split: Split
    at_start: NDArray[np.int64]  # [N, 3] stamps

    @property
    def paths(self) -> Sequence[str]:
        """Where the rows come from."""
        return self.split.paths

    @property
    def labels(self) -> NDArray[np.int32]:
        """The rows' labels."""
        return self.split.labels

    def stamp(self, row: int) -> Stamp:
        """A row's stamp as it is now."""
        return self.split.stamp(row)

    def stamps(self) -> NDArray[np.int64]:
        """[N, 3] as they were when the run began."""
        return self.at_start

    def read(self, row: int) -> bytes | Pixels:
        """A row. WorkError where it has gone since the run began, and most of its neighbours with it."""
        try:
            return self.split.read(row)
        except OSError as error:
            if error.errno in (errno.ENOENT, errno.ENOTDIR) and self._was_there(row):
                self._refuse_vanishing(row)
            raise

    def _was_there(self, row: int) -> bool:
        return bool((self.at_start[row] != ABSENT).any())

    def _refuse_vanishing(self, row: int) -> None:
        near = range(max(0, row - NEIGHBOURS), min(len(self.at_start), row + NEIGHBOURS + 1))
        neighbours = [other for other in near if other != row and self._was_there(other)]
        gone = sum(self.stamp(other) == ABSENT for other in neighbours)
        if gone > len(neighbours) / 2:
            raise WorkError(
                f"{self.paths[row]} is gone, and so are {gone} of the {len(neighbours)} images next to it: the data "
                "set's folder is gone or was emptied; what is done is kept: bring it back and run again"
            )


@dataclass(frozen=True)
class LimitedSplit:
    """Some rows of a split."""

    split: Split
    rows: NDArray[np.int64]

    @property
    def paths(self) -> Sequence[str]:
        """Where the chosen rows come from."""
        return [self.split.paths[row] for row in self.rows]

    @property
    def labels(self) -> NDArray[np.int32]:
        """The chosen rows' labels."""
        return self.split.labels[self.rows]

    def stamp(self, row: int) -> Stamp:
        """A chosen row's stamp."""
        return self.split.stamp(int(self.rows[row]))

    def stamps(self) -> NDArray[np.int64]:
        """[N, 3] of the chosen rows."""
        return np.array([self.stamp(row) for row in range(len(self.rows))], np.int64).reshape(-1, 3)

    def read(self, row: int) -> bytes | Pixels:
        """A chosen row."""
        return self.split.read(int(self.rows[row]))


@dataclass(frozen=True)
class GatheredSplit:
    """Rows of several splits."""

    rows: Sequence[tuple[Split, int]]  # where each is
    paths: Sequence[str]  # [N]
    labels: NDArray[np.int32]  # [N]

    def stamp(self, row: int) -> Stamp:
        """A row's stamp."""
        split, at = self.rows[row]
        return split.stamp(at)

    def stamps(self) -> NDArray[np.int64]:
        """[N, 3] of the rows."""
        return np.array([self.stamp(row) for row in range(len(self.rows))], np.int64).reshape(-1, 3)

    def read(self, row: int) -> bytes | Pixels:
        """A row."""
        split, at = self.rows[row]
        return split.read(at)


def arranged(dataset: Dataset, paths: Mapping[str, Sequence[str]]) -> Dataset:
    """A data set with its rows in the splits, and the order, of these paths; as it is where it has other rows.

    Splits that are drawn by the bytes of images are others when an image is.
    """
    where = {path: (split, row) for split in dataset.splits.values() for row, path in enumerate(split.paths)}
    label = {p: c for split in dataset.splits.values() for p, c in zip(split.paths, split.labels, strict=True)}
    if sorted(where) != sorted(path for found in paths.values() for path in found):
        return dataset
    splits = {
        name: GatheredSplit([where[p] for p in found], found, np.array([label[p] for p in found], np.int32))
        for name, found in paths.items()
    }
    return replace(dataset, splits=splits)


def limit(dataset: Dataset, count: int | None) -> Dataset:
    """At most `count` images per split, spread evenly over the classes; its cache is named after the limit."""
    if count is None:
        return dataset
    splits = {}
    for name, split in dataset.splits.items():
        nth = np.zeros(len(split.labels), np.int64)  # how many of its class come before a row
        for label in np.unique(split.labels):
            of_class = np.flatnonzero(split.labels == label)
            nth[of_class] = np.arange(len(of_class))
        splits[name] = LimitedSplit(split, np.sort(np.argsort(nth, kind="stable")[:count]))
    note = f"limited to {count} images per split, spread over the classes"
    return replace(dataset, name=f"{dataset.name}-limit{count}", splits=splits, notes=(*dataset.notes, note))


def _longest(true: NDArray[np.bool_]) -> int:
    """The length of the longest run of True."""
    edges = np.flatnonzero(np.diff(np.concatenate([[False], true, [False]])))
    return int((edges[1::2] - edges[::2]).max(initial=0))
