"""CIFAR-10 and CIFAR-100 (Krizhevsky, 2009), python version, read by torchvision.

Their files are Python pickles; torchvision opens them only after their published MD5 sums are found right.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from torchvision import datasets as torchvision_datasets

from mma.pipeline.datasets.base import NO_FILE, Pixels, Stamp, no_stamps
from mma.pipeline.datasets.catalog import CatalogEntry
from mma.pipeline.errors import UsageError
from mma.pipeline.regular_files import open_regular


@dataclass(frozen=True)
class ArraySplit:
    """A split that is one array of pixels."""

    pixels: NDArray[np.uint8]  # [N, H, W, 3]
    labels: NDArray[np.int32]  # [N]
    paths: Sequence[str]  # [N]

    def stamp(self, row: int) -> Stamp:
        """Rows are no files; those that hold them are checked when they are opened."""
        return NO_FILE

    def stamps(self) -> NDArray[np.int64]:
        """[N, 3] the stamps of all rows."""
        return no_stamps(len(self.paths))

    def read(self, row: int) -> Pixels:
        """The row's pixels."""
        pixels: Pixels = self.pixels[row]
        return pixels


def cifar_splits(entry: CatalogEntry, root: Path) -> dict[str, ArraySplit]:
    """50,000 train and 10,000 test images of 32 x 32, from the folder of batches below `root`. Raises UsageError."""
    kind = {"cifar10": torchvision_datasets.CIFAR10, "cifar100": torchvision_datasets.CIFAR100}[entry.name]
    where = root / entry.folders[0]
    splits = {}
    for split in ("train", "test"):
        try:
            for file in where.iterdir():
                open_regular(file).close()  # what is no regular file would be waited for
            data = kind(str(root), train=split == "train", download=False)
        except Exception as error:  # RuntimeError of a wrong sum; a pickle that passes it may still raise anything
            raise UsageError(f"{entry.name} in {where} is not complete or damaged ({error})") from error
        if list(data.classes) != list(entry.classes):
            raise UsageError(f"{entry.name} in {where} names other classes: {', '.join(data.classes[:3])}, ...")
        paths = [f"{split}/{row:05d}" for row in range(len(data.targets))]
        splits[split] = ArraySplit(data.data, np.array(data.targets, np.int32), paths)
    return splits
