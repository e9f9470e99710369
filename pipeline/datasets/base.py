"""What a data set is to stage one: class names, templates, and splits whose rows can be read one by one.

A row is read as bytes (an encoded file, decoded and checked in one place, `embedding/images.py`) or as pixels (data
sets that are arrays, or rendered). Everything else about a row is known before the first image is read.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol as Interface

import numpy as np
from numpy.typing import NDArray

Pixels = NDArray[np.uint8]  # [height, width, 3], RGB

Stamp = tuple[int, int, int]  # of a file: bytes, time of the last change of its bytes and of its entry, in ns
NO_FILE: Stamp = (0, 0, 0)  # of a row that is no file of its own
ABSENT: Stamp = (-1, -1, -1)  # of a row that is not there


class Split(Interface):
    """The rows of one split, in an order that never changes."""

    @property
    def paths(self) -> Sequence[str]:
        """[N] where each row comes from, relative to the data set's root, "/" between parts; see names.py."""

    @property
    def labels(self) -> NDArray[np.int32]:
        """[N] index into the class names."""

    def stamp(self, row: int) -> Stamp:
        """Size and times of the row's file as they are now; ABSENT where it is not there. Reads no byte of it."""

    def stamps(self) -> NDArray[np.int64]:
        """[N, 3] the stamps of all rows."""

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
    made_by: str = ""  # what decides rows that are no files, beside their paths: "seed 1"


def stamp_of(about: os.stat_result) -> Stamp:
    """The stamp of a file."""
    return about.st_size, about.st_mtime_ns, about.st_ctime_ns


def no_stamps(count: int) -> NDArray[np.int64]:
    """[N, 3] the stamps of rows that are no files."""
    return np.zeros((count, 3), np.int64)
