"""Hugging Face `datasets`: a name on the hub, or a folder written by `save_to_disk`. The extra `mma[hf]`."""

from __future__ import annotations

import errno
import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mma.pipeline.datasets.base import Dataset, Stamp, stamp_of
from mma.pipeline.datasets.contents import Contents
from mma.pipeline.datasets.draw import draw_splits, drawn_note
from mma.pipeline.datasets.folder import SPLITS, TEMPLATES, clean_names, dataset_name, untrained_notes
from mma.pipeline.datasets.image_files import MAX_BYTES
from mma.pipeline.datasets.labels import NAMES_FILE, read_classes
from mma.pipeline.errors import UsageError, WorkError
from mma.pipeline.regular_files import read_regular

PREFIX = "hf:"
LABELS = ("label", "labels", "fine_label", "class")


@dataclass(frozen=True)
class TableSplit:
    """A split that is rows of a Hugging Face data set."""

    images: Any  # a datasets.Dataset with one column "image" of undecoded files
    rows: NDArray[np.int64]  # [N]
    labels: NDArray[np.int32]  # [N]
    name: str  # of the split it comes from

    @property
    def paths(self) -> Sequence[str]:
        """[N] split and row."""
        return [f"{self.name}/{row}" for row in self.rows]

    @cached_property
    def _files(self) -> Stamp:
        """All files that hold the split, as one: their bytes, and the latest times."""
        found = [stamp_of(os.stat(file["filename"])) for file in self.images.cache_files]  # noqa: PTH116
        size, modified, changed = zip(*found, strict=True) if found else ((0,), (0,), (0,))
        return sum(size), max(modified), max(changed)

    def stamp(self, row: int) -> Stamp:
        """The stamp of the files that hold the split, in which a row has none of its own."""
        return self._files

    def stamps(self) -> NDArray[np.int64]:
        """[N, 3] the stamps of all rows."""
        return np.tile(np.array(self._files, np.int64), (len(self.rows), 1))

    def read(self, row: int) -> bytes:
        """The image file's bytes."""
        found = self.images[int(self.rows[row])]["image"]
        if found is None:
            raise FileNotFoundError(errno.ENOENT, "the row has no image")
        data = found["bytes"]
        return data if data is not None else read_regular(found["path"], MAX_BYTES)


def is_saved(path: Path) -> bool:
    """Whether a folder was written by `save_to_disk`."""
    return (path / "dataset_dict.json").is_file() or (path / "state.json").is_file()


def hub(name: str, seed: int, contents: Contents) -> Dataset:
    """A data set of the hub, `name` or `name:configuration`, or a saved folder. UsageError for one without images."""
    found = _load(name)
    first = next(iter(found.values()))
    image, label = _columns(name, first.features)
    splits = {SPLITS[key]: (key, table) for key, table in found.items() if key in SPLITS}
    notes = ["the splits of Hugging Face"] if splits else []
    if "test" not in splits and "val" in splits:
        splits["test"] = splits.pop("val")
        notes = ["the splits of Hugging Face; it has no test split, and validation is used as test"]
    values = {key: table[label] for key, table in found.items()}
    classnames, labels, more = _classes(name, first.features[label], values)
    undecoded = {key: _undecoded(table, image) for key, table in found.items()}
    if not splits or splits.keys() == {"train"}:
        key = next(iter(found))
        everything = TableSplit(undecoded[key], np.arange(len(labels[key])), labels[key], key)
        drawn = draw_splits(everything, seed, contents, f"{PREFIX}{name}")
        chosen = {s: TableSplit(undecoded[key], rows, labels[key][rows], key) for s, rows in drawn.items()}
        notes = [drawn_note(seed), *untrained_notes(classnames, chosen)]
    elif {"train", "test"} <= splits.keys():
        chosen = {
            s: TableSplit(undecoded[splits[s][0]], np.arange(len(splits[s][1])), labels[splits[s][0]], splits[s][0])
            for s in ("train", "val", "test")
            if s in splits
        }
    else:
        raise UsageError(f"{PREFIX}{name} has the splits {', '.join(found)}: train and test are needed")
    return Dataset(dataset_name(Path(name)), classnames, TEMPLATES, chosen, (*notes, *more))


def _load(name: str) -> dict[str, Any]:
    try:
        import datasets
    except ImportError as error:
        raise UsageError(f"{PREFIX}{name} needs the package datasets: pip install 'mma[hf]'") from error
    try:
        if is_saved(Path(name)):
            found = datasets.load_from_disk(name)
        else:
            where, _, configuration = name.partition(":")
            found = datasets.load_dataset(where, configuration or None)
    except (
        ValueError,
        FileNotFoundError,
    ) as error:  # what `datasets` raises for what is not there, or not as it should be
        raise UsageError(f"{PREFIX}{name}: {str(error).splitlines()[0]}") from error
    except OSError as error:
        raise WorkError(f"{PREFIX}{name} cannot be fetched ({str(error).splitlines()[0]})") from error
    return dict(found) if isinstance(found, dict) else {"train": found}


def _columns(name: str, features: Any) -> tuple[str, str]:
    """The image and the label column."""
    from datasets import ClassLabel, Image

    images = [column for column, kind in features.items() if isinstance(kind, Image)]
    labels = [c for c, kind in features.items() if isinstance(kind, ClassLabel)]
    labels = [c for c in LABELS if c in features] or labels
    if not images or not labels:
        has = ", ".join(features)
        raise UsageError(f"{PREFIX}{name} has no {'image' if not images else 'label'} column (it has {has})")
    return images[0], labels[0]


def _classes(
    name: str, feature: Any, values: dict[str, list[Any]]
) -> tuple[tuple[str, ...], dict[str, NDArray[np.int32]], list[str]]:
    """Class names, and the labels of every split."""
    names = getattr(feature, "names", None)
    if names:
        unlabelled = [key for key, column in values.items() if len(column) and min(column) < 0]
        if unlabelled:
            raise UsageError(f"{PREFIX}{name}: the split {unlabelled[0]!r} has no labels")
        return clean_names(Path(name), names), {k: np.array(column, np.int32) for k, column in values.items()}, []
    everything = [value for column in values.values() for value in column]
    if not all(isinstance(value, str | int) and not isinstance(value, bool) for value in everything):
        raise UsageError(f"{PREFIX}{name}: labels are neither names nor numbers; every image needs one class")
    distinct = list(dict.fromkeys(everything))
    classnames, label_of, notes = read_classes(distinct, Path(name), Path(name) / NAMES_FILE)
    at = dict(zip(distinct, label_of, strict=True))
    return classnames, {k: np.array([at[v] for v in column], np.int32) for k, column in values.items()}, notes


def _undecoded(table: Any, image: str) -> Any:
    from datasets import Image

    only = table.select_columns([image]).cast_column(image, Image(decode=False))
    return only if image == "image" else only.rename_column(image, "image")
