"""Split files in the form of CoOp's authors, `split_zhou_<data set>.json`: the splits most few-shot tables are made on.

{"train": [["images/a.jpg", 0, "class name"], ...], "val": [...], "test": [...]}, paths below the images' folder.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mma.pipeline.datasets.folder import FileSplit
from mma.pipeline.datasets.names import shown_name, shown_path
from mma.pipeline.datasets.paths import refuse_outside
from mma.pipeline.errors import UsageError
from mma.pipeline.regular_files import read_json


@dataclass(frozen=True)
class SplitFile:
    """What a split file says."""

    classnames: tuple[str, ...]  # in label order, "_" as a space, as CoOp's trainers write them
    splits: Mapping[str, FileSplit]  # rows in the order of the file, which CoOp's few-shot draws depend on


def read_split_file(file: Path, images: Path) -> SplitFile:
    """Read a split file. UsageError, in one line, for anything in it that is not as it should be."""
    try:
        given = read_json(file)
    except (OSError, ValueError) as error:
        raise UsageError(f"{file} cannot be read ({error}): get it again") from error
    if not isinstance(given, dict) or not {"train", "test"} <= given.keys():
        raise UsageError(f'{file} is not a split file: expected {{"train": [...], "val": [...], "test": [...]}}')
    names: dict[int, str] = {}
    splits = {
        split: _rows(file, split, given[split], images, names) for split in ("train", "val", "test") if given.get(split)
    }
    for split in ("train", "test"):
        if split not in splits:
            raise UsageError(f"{file}: the split {split!r} is empty")
    if sorted(names) != list(range(len(names))):
        missing = next(label for label in range(len(names)) if label not in names)
        raise UsageError(f"{file}: no image has label {missing}, but labels go up to {max(names)}")
    return SplitFile(tuple(names[label] for label in range(len(names))), splits)


def _rows(file: Path, split: str, items: Any, images: Path, names: dict[int, str]) -> FileSplit:
    """The rows of one split; `names` learns the class name of every label."""
    if not isinstance(items, list):
        raise UsageError(f"{file}: {split!r} is not a list")
    paths, labels = [], []
    for number, item in enumerate(items):
        where = f"{file}: {split}[{number}]"
        if not (isinstance(item, list) and len(item) == 3 and isinstance(item[0], str) and isinstance(item[2], str)):
            raise UsageError(f"{where} is {str(item)[:80]}, not [path, label, class name]")
        path, label, name = item[0], item[1], shown_name(item[2]).replace("_", " ")
        if isinstance(label, bool) or not isinstance(label, int) or label < 0:
            raise UsageError(f"{where} has label {label!r}, not a number from 0")
        if names.setdefault(label, name) != name:
            raise UsageError(f"{where} calls label {label} {name!r}, other rows {names[label]!r}")
        refuse_outside(path, where)
        paths.append(shown_path(path))
        labels.append(label)
    return FileSplit(images, paths, np.array(labels, np.int32))
