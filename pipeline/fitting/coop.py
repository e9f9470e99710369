"""The few-shot draws of CoOp (Zhou et al., 2022), row for row: the published sampler on labels in file order.

Dassl's `generate_fewshot_dataset` groups the rows of a split by label, in order of first appearance, and takes
`random.sample(rows, K)` of each from Python's global generator, which CoOp seeds once with the run's seed; the
validation rows, min(K, 4) a class, come after them from the same stream. A class with fewer than K rows gives all of
them and draws nothing. Draws for different K are not nested. Base and new classes are parted after the draw.

The order of rows decides the draw, so only a split file (or FGVC-Aircraft's own lists) reproduces a published one: for
ImageNet the published code takes files in the order that the disk lists them.
"""

from __future__ import annotations

import random
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

VALIDATION_SHOTS = 4  # rows per class at most

Rows = NDArray[np.int64]


def coop_draw(
    train: Sequence[int] | NDArray[np.integer],
    val: Sequence[int] | NDArray[np.integer] | None,
    shots: int,
    seed: int,
) -> tuple[Rows, Rows | None]:
    """Support and validation rows, in the order in which the published code lists them.

    `train` [N] and `val` [M] are labels in the order of the split file; `val` is None where the data set has none
    (ImageNet). Rows count from 0 within their split, over all classes: keep those of the base classes afterwards.
    """
    rng = random.Random(seed)
    support = _draw(train, shots, rng)
    return support, None if val is None else _draw(val, min(shots, VALIDATION_SHOTS), rng)


def _draw(labels: Sequence[int] | NDArray[np.integer], shots: int, rng: random.Random) -> Rows:
    by_class: dict[int, list[int]] = {}
    for row, label in enumerate(np.asarray(labels).tolist()):
        by_class.setdefault(label, []).append(row)
    drawn = [row for rows in by_class.values() for row in (rng.sample(rows, shots) if len(rows) >= shots else rows)]
    return np.array(drawn, np.int64)
