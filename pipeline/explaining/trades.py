"""Which classes trade images? Where zero-shot and the adapter say different things of the same test rows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Trade:
    """Test images that zero-shot calls `before` and the adapter `after`: so many, of which mended and broken."""

    before: int
    after: int
    images: int
    mended: int  # of class `after`
    broken: int  # of class `before`


def trades_of(label: NDArray[np.integer], before: NDArray[np.integer], after: NDArray[np.integer]) -> Sequence[Trade]:
    """Every pair of classes that images moved between, the most first: labels and two predictions, [N] each."""
    moved = np.flatnonzero(before != after)
    pairs, of = np.unique(np.stack([before[moved], after[moved]], 1), axis=0, return_inverse=True)
    of = of.ravel()
    images = np.bincount(of, minlength=len(pairs))
    mended = np.bincount(of, weights=label[moved] == after[moved], minlength=len(pairs))
    broken = np.bincount(of, weights=label[moved] == before[moved], minlength=len(pairs))
    found = [
        Trade(int(a), int(b), int(n), int(m), int(k))
        for (a, b), n, m, k in zip(pairs, images, mended, broken, strict=True)
    ]
    return sorted(found, key=lambda trade: (-trade.images, trade.before, trade.after))
