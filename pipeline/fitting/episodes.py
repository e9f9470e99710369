"""Episodes: which rows are support, validation and test, and which classes are candidates, all fixed by a seed.

- few-shot: all classes; K support rows per class from `train`.
- base-to-new (Zhou et al., CoCoOp, 2022): classes in label order, base = the first ceil(C/2); the support is of base
  classes, and base and new test rows each have only their own classes as candidates.
- cross-dataset, domain-shift: as few-shot, and the test rows of other data beside.

A class's rows are put in one seeded order and the support is the first K of it, so draws are nested: the 4-shot support
is inside the 8-shot support. A class's draw depends on no other class. The support alone can be made harder: classes
with fewer shots than others (`imbalance`), and wrong labels (`label_noise`).
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mma.pipeline.errors import UsageError
from mma.pipeline.fitting.coop import coop_draw
from mma.pipeline.fitting.protocols import DEFAULT_SHOTS, Candidates, Classes, Protocol, Rows

VALIDATION_SHOTS = 4  # rows per class at most, as CoOp draws them
IMBALANCE_STREAM, NOISE_STREAM = 2**32 - 1, 2**32 - 2  # seeds apart from those of the classes


@dataclass(frozen=True)
class Labels:
    """Usable rows of one split by class: rows[c] are those of class c, in stored order; and the label of every row."""

    rows: tuple[Rows, ...]
    label: NDArray[np.int32]  # [N]

    @classmethod
    def of(cls, label: NDArray[np.int32], ok: NDArray[np.bool_], classes: int) -> Labels:
        """From labels [N] and which rows have an embedding [N]."""
        usable = np.flatnonzero(ok)
        usable = usable[np.argsort(label[usable], kind="stable")]
        ends = np.searchsorted(label[usable], np.arange(classes + 1))
        return cls(tuple(usable[a:b] for a, b in itertools.pairwise(ends)), label)

    def all(self, classes: Rows) -> Rows:
        """Every usable row of some classes, in stored order."""
        return np.sort(np.concatenate([self.rows[c] for c in classes]))

    def order(self, c: int, seed: int) -> Rows:
        """The rows of class c in the order that a seed draws them."""
        return self.rows[c][np.random.default_rng([seed, c]).permutation(len(self.rows[c]))]


@dataclass(frozen=True)
class Draw:
    """Rows of one split, and their labels within the data set."""

    split: str
    rows: Rows
    label: Rows


@dataclass(frozen=True)
class Test:
    """One column of the table: test rows, and the classes that are candidates for them."""

    candidates: Candidates
    rows: Rows  # of the test split

    @property
    def name(self) -> str:
        """As the protocol calls it."""
        return self.candidates.name


@dataclass(frozen=True)
class Episode:
    """All rows of one fit. `classes` are those trained on; labels count within them."""

    classes: Rows
    support: Draw
    validation: Draw | None
    tests: tuple[Test, ...]


def most_shots(labels: Mapping[str, Labels], protocol: Protocol, *, validate: bool = True) -> int:
    """The default number of shots: 16, or as many as every class trained on can give (of natural supports, as many as a
    class has on average), less the rows to validate on.
    """
    if "train" not in labels:
        return DEFAULT_SHOTS
    classes = protocol.trained(len(labels["train"].rows))
    counts = [len(labels["train"].rows[c]) for c in classes]
    fewest = sum(counts) // len(counts) if protocol.supports == "natural" else min(counts)
    spare = 0 if "val" in labels or not validate else min(VALIDATION_SHOTS, fewest // 2)
    return max(1, min(DEFAULT_SHOTS, fewest - spare))


def draw_episode(
    labels: Sequence[Mapping[str, Labels]],
    data: Sequence[Classes],
    protocol: Protocol,
    seed: int,
    *,
    validate: bool = True,
) -> Episode:
    """Draw one episode from the labels by split, and the classes, of the fitted data and of each target.

    Raises UsageError where a class has too few rows, naming it and the way out.
    """
    own, classnames, shots = labels[0], data[0].names, protocol.shots
    tests = tuple(_test(candidates, labels) for candidates in protocol.tests(data))
    classes = tests[0].candidates.classes
    if not shots:
        nothing = np.array([], np.int64)
        return Episode(classes, Draw("train", nothing, nothing), None, tests)
    _check_shots(own, classnames, classes, protocol)
    if protocol.draws == "coop":
        support, validation = _draw_coop(own, classes, protocol, seed)
        if validate and validation is None:
            raise UsageError("`draws=coop` draws validation from a val split, and there is none: use `select=last`")
        return Episode(classes, support, validation if validate else None, tests)
    train = own["train"]
    counts = _shots_of(np.array([len(train.rows[c]) for c in classes]), protocol, seed)
    rows = np.concatenate([train.order(c, seed)[:count] for c, count in zip(classes, counts, strict=True)])
    label = _noisy(np.repeat(classes, counts), classes, protocol.label_noise, seed)
    validation = _draw_validation(own, classnames, classes, counts, protocol, seed) if validate else None
    return Episode(classes, Draw("train", rows, label), validation, tests)


def _test(candidates: Candidates, labels: Sequence[Mapping[str, Labels]]) -> Test:
    rows = labels[candidates.data]["test"].all(candidates.classes)
    if not len(rows):
        raise UsageError(f"the {candidates.name} classes have no usable test images")
    return Test(candidates, rows)


def _check_shots(labels: Mapping[str, Labels], classnames: Sequence[str], classes: Rows, protocol: Protocol) -> None:
    """Refuse a class with too few rows, naming it and the way out."""
    if "train" not in labels:
        raise UsageError(
            "the cache has no train split to draw shots from: only zero-shot, and the adapters that learn from test "
            "rows, can be scored on it"
        )
    counts = {c: len(labels["train"].rows[c]) for c in classes}
    shots = 1 if protocol.supports == "natural" else protocol.shots
    if protocol.supports == "natural" and sum(counts.values()) < protocol.shots * len(classes):
        raise UsageError(
            f"there are {sum(counts.values()):,} usable training images, fewer than {protocol.shots} x {len(classes)} "
            f"classes: use `shots={max(1, sum(counts.values()) // len(classes))}`"
        )
    for c, count in counts.items():
        if count < shots:
            fewest = min(counts.values())
            most = fewest if "val" in labels or fewest < 2 else fewest - 1  # one is left to select with
            mend = f", fewer than {shots} shots: use `shots={most}`" if most else ""
            raise UsageError(f"class {classnames[c]!r} has {count or 'no'} usable training images{mend}")


def _draw_coop(labels: Mapping[str, Labels], classes: Rows, protocol: Protocol, seed: int) -> tuple[Draw, Draw | None]:
    """The published draws: from all classes, then the rows of those trained on."""
    val = labels["val"].label if "val" in labels else None
    drawn = coop_draw(labels["train"].label, val, protocol.shots, seed)
    found: list[Draw | None] = []
    for split, rows in zip(("train", "val"), drawn, strict=True):
        if rows is None:
            found.append(None)
            continue
        label = labels[split].label[rows].astype(np.int64)
        kept = np.isin(label, classes)
        rows, label = rows[kept], label[kept]
        lost = np.setdiff1d(rows, labels[split].all(classes))
        if len(lost):
            raise UsageError(f"`draws=coop` draws row {lost[0]} of {split}, which has no embedding: see mma cache info")
        found.append(Draw(split, rows, label))
    support, validation = found
    if support is None:
        raise UsageError("`draws=coop` found no support")
    noisy = _noisy(support.label, classes, protocol.label_noise, seed)
    return Draw("train", support.rows, noisy), validation


def _shots_of(counts: Rows, protocol: Protocol, seed: int) -> Rows:
    """Support rows of each class, of which there are `counts`: K; or as `natural_shots`; or exponentially from K down
    to K / imbalance (Cui et al., 2019, section 5.1), in a seeded order of the classes; at least one.
    """
    classes = len(counts)
    if protocol.supports == "natural":
        return natural_shots(counts, protocol.shots * classes)
    if protocol.imbalance == 1 or protocol.shots == 0:
        return np.full(classes, protocol.shots)
    rank = np.random.default_rng([seed, IMBALANCE_STREAM]).permutation(classes) / max(classes - 1, 1)
    return np.maximum(1, np.round(protocol.shots * protocol.imbalance**-rank)).astype(np.int64)


def natural_shots(counts: Rows, total: int) -> Rows:
    """`total` rows over classes that have `counts` [C] of them: one each, then in proportion, by Webster's method: the
    next row is the class's with the largest counts / (2 n + 1), n being what it has. Each total contains every smaller
    one, so supports stay nested; no class gets more than it has.
    """
    n = np.concatenate([np.arange(1, count) for count in counts])
    owner = np.repeat(np.arange(len(counts)), counts - 1)
    first = np.argsort(-counts[owner] / (2 * n + 1), kind="stable")[: total - len(counts)]
    return 1 + np.bincount(owner[first], minlength=len(counts))


def _noisy(label: Rows, classes: Rows, share: float, seed: int) -> Rows:
    """Labels of which a seeded share is replaced, each by another class; a larger share contains a smaller."""
    if share == 0 or len(classes) < 2:
        return label
    rng = np.random.default_rng([seed, NOISE_STREAM])
    order = rng.permutation(len(label))
    step = rng.integers(1, len(classes), len(label))  # never 0: a replaced label is a wrong one
    wrong = classes[(np.searchsorted(classes, label) + step) % len(classes)]
    replaced = order[: round(share * len(label))]
    noisy = label.copy()
    noisy[replaced] = wrong[replaced]
    return noisy


def _draw_validation(
    labels: Mapping[str, Labels],
    classnames: Sequence[str],
    classes: Rows,
    counts: Rows,
    protocol: Protocol,
    seed: int,
) -> Draw:
    """min(K, 4) rows per class, from `val`, else from the train rows that the support leaves. Of natural supports K is
    what the class has there, and a class of which nothing is left has none.
    """
    shots = protocol.shots
    natural = protocol.supports == "natural"
    has = counts if natural else np.full(len(classes), shots)
    split = "val" if "val" in labels else "train"
    drawn = []
    for c, count in zip(classes, has, strict=True):
        skip = 0 if split == "val" else count
        drawn.append(labels[split].order(c, seed)[skip : skip + min(count, VALIDATION_SHOTS)])
    if natural and any(len(rows) for rows in drawn):
        return Draw(split, np.concatenate(drawn), np.repeat(classes, [len(rows) for rows in drawn]))
    for c, rows in zip(classes, drawn, strict=True):
        if not len(rows):
            where = "the val split" if split == "val" else f"the training images that {shots} shots leave"
            fewest = min(len(labels["train"].rows[k]) for k in classes)
            fewer = f"`shots={fewest - 1}` or fewer, or " if split == "train" and fewest > 1 else ""
            raise UsageError(
                f"class {classnames[c]!r} has no image for validation in {where}: use {fewer}`select=last`"
            )
    return Draw(split, np.concatenate(drawn), np.repeat(classes, [len(rows) for rows in drawn]))
