"""Which rows a run of stage one is about: a data set, or some of each of its splits."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from rich.console import Console

from mma.pipeline.datasets import Dataset, Source, Split, find_dataset
from mma.pipeline.embedding.settings import EmbedSettings
from mma.pipeline.errors import UsageError


def load_dataset(settings: EmbedSettings, console: Console | None = None) -> Dataset:
    """The data set that the settings name, limited as they say; what is downloaded is shown on `console`."""
    if settings.dataset is None:
        raise UsageError("--dataset is missing: a data set's name, or a path to images")
    source = Source(settings.root, settings.download, settings.split_seed)
    return limit(find_dataset(settings.dataset, source, console), settings.limit)


@dataclass(frozen=True)
class Limited:
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

    def size(self, row: int) -> int:
        """Bytes of a chosen row."""
        return self.split.size(int(self.rows[row]))

    def read(self, row: int) -> bytes | NDArray[np.uint8]:
        """A chosen row."""
        return self.split.read(int(self.rows[row]))


def limit(dataset: Dataset, count: int | None) -> Dataset:
    """At most `count` images a split, spread evenly over the classes; its cache is named after the limit."""
    if count is None:
        return dataset
    splits = {}
    for name, split in dataset.splits.items():
        nth = np.zeros(len(split.labels), np.int64)  # how many of its class come before a row
        for label in np.unique(split.labels):
            of_class = np.flatnonzero(split.labels == label)
            nth[of_class] = np.arange(len(of_class))
        splits[name] = Limited(split, np.sort(np.argsort(nth, kind="stable")[:count]))
    note = f"limited to {count} images a split, spread over the classes"
    return replace(dataset, name=f"{dataset.name}-limit{count}", splits=splits, notes=(*dataset.notes, note))
