"""Episodes: which rows are support, validation and test, and which classes are candidates, all fixed by a seed.

- few-shot: all classes; K support rows a class from `train`.
- base-to-new (Zhou et al., CoCoOp, 2022): classes in label order, base = the first ceil(C/2); the support is of base
  classes, and base and new test rows each have only their own classes as candidates.

A class's rows are put in one seeded order and the support is the first K of it, so draws are nested: the 4-shot support
is inside the 8-shot support. A class's draw depends on no other class. The support alone can be made harder: classes
with fewer shots than others (`imbalance`), and wrong labels (`label_noise`).
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mma.pipeline.errors import UsageError, nearest
from mma.pipeline.fitting.coop import coop_draw

PROTOCOLS = ("base-to-new", "few-shot")
BASE_RULES = ("ceil", "floor")
SPLITS = ("nested", "coop")
NO_NOISE = "none"
VALIDATION_SHOTS = 4  # rows a class at most, as CoOp draws them
DEFAULT_SHOTS = 16
LEAST = 2  # candidate classes of a test: of one, every answer is right
IMBALANCE_STREAM, NOISE_STREAM = 2**32 - 1, 2**32 - 2  # seeds apart from those of the classes

Rows = NDArray[np.int64]


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
class Protocol:
    """What an episode is drawn by, but for the seed."""

    name: str = "base-to-new"
    shots: int = DEFAULT_SHOTS  # support rows a class; 0 for a method that looks at none
    base_rule: str = "ceil"  # of an odd number of classes; "floor" is what the authors of the MMA do
    base_ratio: float = 1.0  # base : new classes
    label_noise: float = 0.0  # share of support rows whose label is replaced by another class
    imbalance: float = 1.0  # shots of the largest class over those of the smallest
    splits: str = "nested"  # how rows are drawn; "coop" is what the published sampler draws with the same seed
    train_noise: str = NO_NOISE  # which noisy view of the support images is trained on
    test_noise: str = NO_NOISE  # which noisy view of the test images is scored

    def __post_init__(self) -> None:
        for name, value, known in (
            ("protocol", self.name, PROTOCOLS),
            ("base rule", self.base_rule, BASE_RULES),
            ("splits", self.splits, SPLITS),
        ):
            if value not in known:
                raise UsageError(f"unknown {name} {value!r}: {nearest(value, known)}")
        if self.shots < 0:
            raise UsageError(f"shots = {self.shots} is below 0")
        if not 0 <= self.label_noise <= 1:
            raise UsageError(f"label_noise = {self.label_noise} is outside [0, 1]")
        if not (1 <= self.imbalance < math.inf and 0 < self.base_ratio < math.inf):
            raise UsageError(f"imbalance = {self.imbalance} must be 1 or more, base_ratio = {self.base_ratio} above 0")
        if self.splits == "coop" and self.imbalance != 1:
            raise UsageError("splits = coop draws as many shots of every class: leave imbalance at 1")


@dataclass(frozen=True)
class Draw:
    """Rows of one split, and their labels within the data set."""

    split: str
    rows: Rows
    label: Rows


@dataclass(frozen=True)
class Test:
    """One column of the table: test rows, and the classes that are candidates for them."""

    name: str  # "base", "new", or "all"
    classes: Rows
    rows: Rows


@dataclass(frozen=True)
class Episode:
    """All rows of one fit. `classes` are those trained on; labels count within them."""

    classes: Rows
    support: Draw
    validation: Draw | None
    tests: tuple[Test, ...]


def split_classes(count: int, protocol: Protocol) -> dict[str, Rows]:
    """Candidates of each test, by its name; the first are the classes trained on."""
    classes = np.arange(count)
    if protocol.name == "few-shot":
        return {"all": classes}
    share = count * protocol.base_ratio / (1 + protocol.base_ratio)
    base = math.ceil(round(share, 9)) if protocol.base_rule == "ceil" else math.floor(round(share, 9))
    if not LEAST <= base <= count - LEAST:
        raise UsageError(
            f"{count} classes cannot be split {protocol.base_ratio:g} to 1 into base and new, two or more of each: use "
            "--protocol few-shot"
        )
    return {"base": classes[:base], "new": classes[base:]}


def usual_protocol(classnames: Sequence[str]) -> str:
    """The protocol of `mma fit` where none is given: of few classes none can be left out as new ones."""
    return "base-to-new" if len(classnames) >= 2 * LEAST else "few-shot"


def most_shots(labels: Mapping[str, Labels], protocol: Protocol) -> int:
    """The default number of shots: 16, or as many as every class trained on can give."""
    if "train" not in labels:
        return DEFAULT_SHOTS
    classes = next(iter(split_classes(len(labels["train"].rows), protocol).values()))
    fewest = min(len(labels["train"].rows[c]) for c in classes)
    spare = 0 if "val" in labels else min(VALIDATION_SHOTS, fewest // 2)
    return max(1, min(DEFAULT_SHOTS, fewest - spare))


def draw_episode(
    labels: Mapping[str, Labels],
    classnames: Sequence[str],
    protocol: Protocol,
    seed: int,
    *,
    validate: bool = True,
) -> Episode:
    """Draw one episode. Raises UsageError where a class has too few rows, naming it and the way out."""
    tests = split_classes(len(classnames), protocol)
    shots = protocol.shots
    classes = next(iter(tests.values()))
    if shots:
        _check_shots(labels, classnames, classes, shots)
    found = []
    for name, candidates in tests.items():
        rows = labels["test"].all(candidates)
        if not len(rows):
            raise UsageError(f"the {name} classes have no usable test images")
        found.append(Test(name, candidates, rows))
    if shots and protocol.splits == "coop":
        support, validation = _draw_coop(labels, classes, protocol, seed)
        if validate and validation is None:
            raise UsageError("splits = coop draws validation from a val split, and there is none: use --select last")
        return Episode(classes, support, validation if validate else None, tuple(found))
    if not shots:
        nothing = np.array([], np.int64)
        return Episode(classes, Draw("train", nothing, nothing), None, tuple(found))
    counts, train = _shots_of(len(classes), protocol, seed), labels["train"]
    rows = np.concatenate([train.order(c, seed)[:count] for c, count in zip(classes, counts, strict=True)])
    label = _noisy(np.repeat(classes, counts), classes, protocol.label_noise, seed)
    validation = _draw_validation(labels, classnames, classes, shots, seed) if validate else None
    return Episode(classes, Draw("train", rows, label), validation, tuple(found))


def _check_shots(labels: Mapping[str, Labels], classnames: Sequence[str], classes: Rows, shots: int) -> None:
    """Refuse a class with too few rows, naming it and the way out."""
    if "train" not in labels:
        raise UsageError(
            "the cache has no train split to draw shots from: only --adapter zero-shot, and those that learn from test "
            "rows, can be scored on it"
        )
    counts = {c: len(labels["train"].rows[c]) for c in classes}
    for c, count in counts.items():
        if count < shots:
            fewest = min(counts.values())
            most = fewest if "val" in labels or fewest < 2 else fewest - 1  # one is left to select with
            mend = f", fewer than {shots} shots: use --shots {most}" if most else ""
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
            raise UsageError(
                f"splits = coop draws row {lost[0]} of {split}, which has no embedding: see mma cache info"
            )
        found.append(Draw(split, rows, label))
    support, validation = found
    if support is None:
        raise UsageError("splits = coop found no support")
    noisy = _noisy(support.label, classes, protocol.label_noise, seed)
    return Draw("train", support.rows, noisy), validation


def _shots_of(classes: int, protocol: Protocol, seed: int) -> Rows:
    """Support rows of each class: K, or exponentially from K down to K / imbalance (Cui et al., 2019, section 5.1), in
    a seeded order of the classes; at least one.
    """
    if protocol.imbalance == 1 or protocol.shots == 0:
        return np.full(classes, protocol.shots)
    rank = np.random.default_rng([seed, IMBALANCE_STREAM]).permutation(classes) / max(classes - 1, 1)
    return np.maximum(1, np.round(protocol.shots * protocol.imbalance**-rank)).astype(np.int64)


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
    labels: Mapping[str, Labels], classnames: Sequence[str], classes: Rows, shots: int, seed: int
) -> Draw:
    """min(K, 4) rows a class, from `val`, else from the train rows that the support leaves."""
    count = min(shots, VALIDATION_SHOTS)
    split, skip = ("val", 0) if "val" in labels else ("train", shots)
    drawn = [labels[split].order(c, seed)[skip : skip + count] for c in classes]
    for c, rows in zip(classes, drawn, strict=True):
        if not len(rows):
            where = "the val split" if split == "val" else f"the training images that {shots} shots leave"
            fewest = min(len(labels["train"].rows[k]) for k in classes)
            fewer = f"--shots {fewest - 1} or fewer, or " if split == "train" and fewest > 1 else ""
            raise UsageError(
                f"class {classnames[c]!r} has no image for validation in {where}: use {fewer}--select last"
            )
    return Draw(split, np.concatenate(drawn), np.repeat(classes, [len(rows) for rows in drawn]))
