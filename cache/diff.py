"""How two caches differ."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mma.cache.reader import Cache, SplitData
from mma.cache.schema import fingerprint_diff, names_of

PLAIN = ("dataset", "dim", "dtype", "logit_scale", "penultimate")  # of the header


@dataclass(frozen=True)
class Gap:
    """The largest difference between embeddings that both caches have."""

    compared: int  # rows that both have, with the same shape
    differ: int  # of them, how many are not the same bits
    largest: float  # absolute, over all elements
    cosine: float  # smallest cosine between the two of a row, view by view
    where: str  # the row of the largest difference


@dataclass(frozen=True)
class CacheDiff:
    """What `diff_caches` found; empty lists and no gap with `differ` where the caches say the same."""

    fingerprint: list[str] = field(default_factory=list)
    header: list[str] = field(default_factory=list)
    classes: list[str] = field(default_factory=list)
    rows: list[str] = field(default_factory=list)
    embeddings: dict[str, Gap] = field(default_factory=dict)  # "image/<split>" or "text/<prompt set>"

    @property
    def same(self) -> bool:
        """Whether the caches hold the same."""
        lists = (self.fingerprint, self.header, self.classes, self.rows)
        return not any(lists) and not any(gap.differ for gap in self.embeddings.values())


def diff_caches(a: Cache, b: Cache) -> CacheDiff:
    """Compare two caches: by path within a split, and by class name and template within a prompt set."""
    found = CacheDiff(
        fingerprint=[
            line.replace("(stored)", "(A)").replace("(asked for)", "(B)")
            for line in fingerprint_diff(a.header.fingerprint, b.header.fingerprint)
        ],
        header=[
            f"{name.replace('_', ' ')}: {getattr(a.header, name)} (A), {getattr(b.header, name)} (B)"
            for name in PLAIN
            if getattr(a.header, name) != getattr(b.header, name)
        ],
        classes=_sets("class", a.header.classnames, b.header.classnames),
    )
    found.rows.extend(_sets("split", list(a.header.rows), list(b.header.rows)))
    for split in a.header.rows:
        if split in b.header.rows:
            _diff_split(split, a, b, found)
    if a.header.penultimate and a.header.penultimate == b.header.penultimate:
        _diff_projections(a, b, found)
    found.rows.extend(_sets("prompt set", a.prompts, b.prompts))
    for name in a.prompts:
        if name in b.prompts:
            _diff_text(name, a, b, found)
    return found


def _diff_split(split: str, a: Cache, b: Cache, found: CacheDiff) -> None:
    one, two = a.split(split), b.split(split)
    at = {path: row for row, path in enumerate(two.path)}
    pairs = [(row, at[path]) for row, path in enumerate(one.path) if path in at]
    only_a, only_b = len(one.path) - len(pairs), len(two.path) - len(pairs)
    if only_a or only_b:
        found.rows.append(f"{split}: {only_a} rows only in A, {only_b} only in B")
    if any(row != other for row, other in pairs):
        found.rows.append(f"{split}: rows stand in another order")
    rows, others = np.array(pairs, dtype=np.int64).reshape(-1, 2).T
    for what, left, right in (
        ("class", _names(a, one)[rows], _names(b, two)[others]),
        ("status", one.status[rows], two.status[others]),
    ):
        changed = np.flatnonzero(left != right)
        if len(changed):
            first = changed[0]
            such = f"{one.path[rows[first]]}: {left[first]} (A), {right[first]} (B)"
            found.rows.append(f"{split}: {len(changed)} rows of another {what}, the first is {such}")
    names = [one.path[row] for row in rows]
    left, right = a.content(split)[rows], b.content(split)[others]  # [N, 32]
    changed = np.flatnonzero((left != right).any(axis=1) & left.any(axis=1) & right.any(axis=1))
    if len(changed):
        found.rows.append(f"{split}: {len(changed)} rows are of other image bytes, the first is {names[changed[0]]}")
    _compare(f"image/{split}", one.embedding[rows], two.embedding[others], names, found)
    if a.header.penultimate and b.header.penultimate:
        left, right = a.penultimate(split)[rows], b.penultimate(split)[others]
        _compare(f"image/{split}, penultimate", left, right, names, found)


def _diff_projections(a: Cache, b: Cache, found: CacheDiff) -> None:
    others = b.projections()
    for side, one in a.projections().items():
        two = others[side]
        if not np.array_equal(one.weight, two.weight) or not np.array_equal(one.bias, two.bias):
            found.header.append(f"projection of {side}: other weights in A than in B")


def _diff_text(name: str, a: Cache, b: Cache, found: CacheDiff) -> None:
    one, two = a.text(name), b.text(name)
    if one.templates != two.templates:
        such = f"{one.templates[0]!r} (A), {two.templates[0]!r} (B)"
        found.rows.append(f"prompt set {name}: other templates, such as {such}")
    at = {called: row for row, called in enumerate(b.header.classnames)}
    rows = [row for row, called in enumerate(a.header.classnames) if called in at]
    others = [at[a.header.classnames[row]] for row in rows]
    names = [a.header.classnames[row] for row in rows]
    _compare(f"text/{name}", one.embedding[rows], two.embedding[others], names, found)
    if a.header.penultimate and b.header.penultimate:
        left, right = a.text_penultimate(name)[rows], b.text_penultimate(name)[others]
        _compare(f"text/{name}, penultimate", left, right, names, found)


def _compare(what: str, left: NDArray[Any], right: NDArray[Any], names: Sequence[str], found: CacheDiff) -> None:
    """Add the gap between embeddings [N, V, D] of the same things."""
    if left.shape != right.shape:
        found.rows.append(f"{what}: {left.shape[1]} x {left.shape[2]} (A), {right.shape[1]} x {right.shape[2]} (B)")
        return
    left, right = left.astype(np.float32), right.astype(np.float32)
    gap = np.abs(left - right)
    same = (left == right) | (np.isnan(left) & np.isnan(right))
    gap = np.where(same, 0, np.nan_to_num(gap, nan=np.inf))  # a value on one side only is an infinite difference
    of_row = gap.max(axis=(1, 2), initial=0)
    norms = np.linalg.norm(left, axis=2) * np.linalg.norm(right, axis=2)
    with np.errstate(invalid="ignore", divide="ignore"):
        cosine = (left * right).sum(axis=2) / norms
    worst = int(of_row.argmax()) if len(of_row) else 0
    found.embeddings[what] = Gap(
        compared=len(left),
        differ=int((of_row > 0).sum()),
        largest=float(of_row.max(initial=0)),
        cosine=float(np.nanmin(cosine)) if np.isfinite(cosine).any() else 1.0,
        where=names[worst] if names else "",
    )


def _names(cache: Cache, data: SplitData) -> NDArray[Any]:
    return names_of(cache.header.classnames, data.label)


def _sets(kind: str, a: Sequence[str], b: Sequence[str]) -> list[str]:
    lines = []
    for where, here, there in (("A", a, b), ("B", b, a)):
        only = [name for name in here if name not in set(there)]
        if only:
            more = f" and {len(only) - 5} more" if len(only) > 5 else ""
            lines.append(f"{kind} only in {where}: {', '.join(map(repr, only[:5]))}{more}")
    if not lines and list(a) != list(b) and kind == "class":
        lines.append("classes stand in another order")
    return lines
