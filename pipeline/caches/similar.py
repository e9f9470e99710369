"""`mma cache info --similar`: which classes of a cache are most alike, by their texts and by their images."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.console import Console

from mma.cache import Cache, open_cache
from mma.pipeline.console import Column, show_table
from mma.pipeline.errors import UsageError

MOST = 10  # pairs of each kind
BLOCK = 1024  # classes that are compared with all others at a time


@dataclass(frozen=True)
class Pair:
    """Two classes and the cosine of what stands for them."""

    cosine: float
    first: str
    second: str


def similar_classes(location: str) -> dict[str, list[Pair]]:
    """The pairs of classes with the highest cosines, by prompt set (the mean of a class's unit texts) and "images" (the
    mean of its unit images over all splits). Raises CacheError, or UsageError for a cache without classes.
    """
    cache = open_cache(location)
    if cache.header.unlabelled:
        raise UsageError(f"{location} is unlabelled: it has no classes to compare")
    found = {f"texts ({name})": _text_means(cache, name) for name in cache.prompts}
    found["images"] = _image_means(cache)
    return {kind: most_similar(means, cache.header.classnames) for kind, means in found.items()}


def most_similar(means: NDArray[np.float64], names: list[str]) -> list[Pair]:
    """The pairs of unit rows [C, D] with the highest cosines, in order; a class without any has NaN and no pair."""
    best: list[tuple[float, int, int]] = []
    for first in range(0, len(means), BLOCK):
        cosine = means[first : first + BLOCK] @ means.T  # [B, C]
        rows = np.arange(first, first + len(cosine))[:, None]
        cosine[(np.arange(len(means)) <= rows) | ~np.isfinite(cosine)] = -np.inf  # each pair once
        count = min(MOST, cosine.size)
        top = np.argpartition(-cosine, count - 1, axis=None)[:count]
        best += [(float(cosine.flat[at]), first + int(at) // len(means), int(at) % len(means)) for at in top]
    ordered = sorted(best, key=lambda pair: (-pair[0], *pair[1:]))[:MOST]
    return [Pair(cosine, names[a], names[b]) for cosine, a, b in ordered if np.isfinite(cosine)]


def show_similar(location: str, console: Console) -> None:
    """One table for each kind."""
    for kind, pairs in similar_classes(location).items():
        lines = [[f"{pair.cosine:.4f}", pair.first, pair.second] for pair in pairs]
        columns = [Column("cosine", right=True), Column("class"), Column("and")]
        show_table(console, columns, lines, f"most similar classes by {kind}")


def similar_plain(location: str) -> dict[str, Any]:
    """The same as plain data."""
    return {kind: [asdict(pair) for pair in pairs] for kind, pairs in similar_classes(location).items()}


def _text_means(cache: Cache, prompts: str) -> NDArray[np.float64]:
    text = _unit(cache.text(prompts).embedding.astype(np.float64))  # [C, P, D]; NaN where a class has fewer templates
    return _unit(np.nanmean(text, axis=1))


def _image_means(cache: Cache) -> NDArray[np.float64]:
    """[C, D]; NaN for a class without a usable image."""
    total = np.zeros((len(cache.header.classnames), cache.header.dim))
    there = np.zeros(len(total), bool)
    for split in cache.header.rows:
        data = cache.split(split)
        ok = np.flatnonzero(data.ok)
        np.add.at(total, data.label[ok], _unit(data.embedding[ok, 0].astype(np.float64)))
        there[data.label[ok]] = True
    total[~there] = np.nan
    return _unit(total)


def _unit(rows: NDArray[np.float64]) -> NDArray[np.float64]:
    unit: NDArray[np.float64] = rows / np.linalg.norm(rows, axis=-1, keepdims=True)
    return unit
