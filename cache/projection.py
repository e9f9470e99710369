"""The last linear layer of a tower: embedding = penultimate @ weight + bias.

A cache that has penultimate features has the layers of both towers, and its embeddings are what these make of them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mma.cache.errors import CacheError
from mma.cache.schema import SIDES, Header

PROJECTION = "projection"  # the folder, and the unit of the journal
CRC = 4  # bytes behind every chunk
STORED = 2.0**-10  # rounding of a penultimate feature: half a unit of float16's last place, twice over for sums
SMALLEST = 2.0**-14  # below it float16 rounds by a constant, and no longer by a share
COMPUTED = 2.0**-8  # rounding of an embedding: a model in bfloat16 rounds by half of this


@dataclass(frozen=True)
class Projection:
    """The last linear layer of one tower."""

    weight: NDArray[np.float32]  # [W, D]
    bias: NDArray[np.float32]  # [D]; 0 where the layer has none


def stored_projection(read: Callable[[str], bytes | None], header: Header, side: str) -> Projection:
    """The layer of one side as a cache has it, whose files `read` gives."""
    width = (header.penultimate or {})[side]

    def values(name: str) -> NDArray[np.float32]:
        return np.frombuffer((read(f"{PROJECTION}/{side}/{name}") or b"")[:-CRC], "<f4")

    return Projection(values("weight/c/0/0").reshape(width, header.dim), values("bias/c/0"))


def product_fault(
    embedding: NDArray[np.floating], penultimate: NDArray[np.floating], projection: Projection
) -> str | None:
    """Whether embeddings [..., D] are what the layer makes of penultimate features [..., W], or how they are not.

    Rows of NaN agree with rows of NaN. The bound on the difference follows from how both are rounded, element by
    element; a row of something else is far outside it.
    """
    features = penultimate.astype(np.float32).reshape(-1, projection.weight.shape[0])
    found = embedding.astype(np.float32).reshape(len(features), -1)
    lost = np.isnan(features).any(axis=1)
    if not np.array_equal(lost, np.isnan(found).any(axis=1)):
        return "has penultimate features and embeddings of other rows"
    features, found = features[~lost], found[~lost]
    gap = np.abs(features @ projection.weight + projection.bias - found)
    size = (np.abs(features) + SMALLEST) @ np.abs(projection.weight) + np.abs(projection.bias)
    wrong = np.flatnonzero((gap > STORED * size + COMPUTED * np.abs(found)).any(axis=1))
    if not len(wrong):
        return None
    row = np.flatnonzero(~lost)[wrong[0]]
    return f"has {len(wrong)} rows that are not penultimate features times projection, the first is number {row}"


def projection_fault(projection: Projection, header: Header, side: str) -> str | None:
    """What is wrong with the layer of one side, or None."""
    width = (header.penultimate or {})[side]
    if projection.weight.shape != (width, header.dim) or projection.bias.shape != (header.dim,):
        return f"is {projection.weight.shape} with {projection.bias.shape}, not {(width, header.dim)}"
    if not np.isfinite(projection.weight).all() or not np.isfinite(projection.bias).all():
        return "has values that are not finite"
    return None


def projection_files() -> list[str]:
    """Every file of the projections."""
    parts = ("zarr.json", "weight/zarr.json", "weight/c/0/0", "bias/zarr.json", "bias/c/0")
    return [f"{PROJECTION}/zarr.json", *(f"{PROJECTION}/{side}/{part}" for side in SIDES for part in parts)]


def check_given(given: object, header: Header, what: str) -> None:
    """CacheError unless penultimate features are given exactly where the header has them."""
    if (given is None) == (header.penultimate is not None):
        lacking = "lacks penultimate features" if given is None else "has penultimate features, and the cache has none"
        raise CacheError(f"{what} {lacking}")
