"""What a data set is to stage one: class names, templates, and splits whose rows can be read one by one.

A row is read as bytes (an encoded file, decoded and checked in one place, `embedding/images.py`) or as pixels (data
sets that are arrays, or rendered). Everything else about a row is known before the first image is read.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

Pixels = NDArray[np.uint8]  # [height, width, 3], RGB


class Split(Protocol):
    """The rows of one split, in an order that never changes."""

    @property
    def paths(self) -> Sequence[str]:
        """[N] where each row comes from, relative to the data set's root, "/" between parts."""

    @property
    def labels(self) -> NDArray[np.int32]:
        """[N] index into the class names."""

    def size(self, row: int) -> int:
        """Bytes of the row as stored, for the manifest; 0 where rows are not files."""

    def read(self, row: int) -> bytes | Pixels:
        """The row's encoded bytes, or its pixels. Raises OSError where it cannot be read."""


@dataclass(frozen=True)
class Dataset:
    """One data set as published: the manifest of stage one."""

    name: str
    classnames: tuple[str, ...]
    templates: tuple[str, ...]  # prompts with one "{}" for the class name
    splits: Mapping[str, Split]  # "train", "val", "test", in this order; not every data set has all
    notes: tuple[str, ...] = field(default=())  # what the user should know, e.g. how the splits were made
