"""Splits of data that has none: where an image goes follows from its own bytes and a seed, and from nothing else.

So an image stays where it is whatever is added, taken away, renamed or given another class: what was test is never
train later, and the same image twice is never in two splits. Shares hold on average: each image is drawn by itself, and
of a class of ten, five are train, give or take 1.6. A rank within the class would give even shares, and would move
images to and fro whenever one is added.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mma.pipeline.datasets.base import Split
from mma.pipeline.datasets.contents import UNKNOWN, Contents
from mma.pipeline.errors import UsageError

UNSPLIT = "no splits are given:"  # what a note on drawn splits says first, in every version
SHARES = {"train": 0.5, "val": 0.2, "test": 0.3}  # what CoOp uses where none are published

Drawn = dict[str, NDArray[np.int64]]  # split -> rows, in the order given


def draw_splits(everything: Split, seed: int, contents: Contents, where: Path | str) -> Drawn:
    """Rows of train, val and test. A row that cannot be read is drawn by its path. A val without rows is left out.

    Reads every row whose content is not known. UsageError, naming `where`, where train or test would have no rows.
    """
    known = contents(everything)
    paths = everything.paths
    at = np.array([_place(seed, found.tobytes(), path) for found, path in zip(known, paths, strict=True)])  # [N]
    bounds = np.cumsum([*SHARES.values()])[:-1]
    which = np.searchsorted(bounds, at, side="right")
    drawn = {split: np.flatnonzero(which == number) for number, split in enumerate(SHARES)}
    for split in ("train", "test"):
        if not len(drawn[split]):
            raise UsageError(
                f"{where} has no splits, and drawn by their bytes none of its {len(at):,} images is {split}: add "
                "images, give another `split_seed`, or make folders train and test"
            )
    return {split: rows for split, rows in drawn.items() if len(rows)}


def drawn_note(seed: int) -> str:
    """How `draw_splits` made the splits, in words."""
    shares = " / ".join(f"{share:.0%}" for share in SHARES.values())
    return f"{UNSPLIT} each image is drawn by its own bytes, {shares} train / val / test, seed {seed}"


def _place(seed: int, content: bytes, path: str) -> float:
    """A number in [0, 1) that follows from an image's bytes and the seed."""
    key = content if content != UNKNOWN else hashlib.sha256(path.encode()).digest()
    drawn = hashlib.sha256(f"split {seed}\n".encode() + key).digest()
    return int.from_bytes(drawn[:6], "big") / 2**48
