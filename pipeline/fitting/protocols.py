"""Protocols: which classes are candidates, which rows are tests, what is measured, and how the support is drawn.

| protocol | trained on | tests |
|---|---|---|
| `few-shot` | all classes | all classes |
| `base-to-new` (Zhou et al., CoCoOp, 2022) | base classes | base and new, each with its own classes as candidates |
| `cross-dataset` (the same) | all classes | all classes, and every target with its own classes as candidates |
| `domain-shift` (Zhou et al., CoOp, 2022) | all classes | all classes, and other images of all or some of them |

A protocol is a class: its fields are what can be varied, and a further protocol is one more class in `PROTOCOLS`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from mma.pipeline.errors import UsageError, nearest
from mma.pipeline.published_names import is_published

DRAWS = ("nested", "coop")
SUPPORTS = ("equal", "natural")
BASE_RULES = ("ceil", "floor")
NO_NOISE = "none"
DEFAULT_SHOTS = 16
LEAST = 2  # candidate classes of a test: of one, every answer is right

Rows = NDArray[np.int64]


@dataclass(frozen=True)
class Candidates:
    """One test of a protocol: which classes of which data its rows are scored among."""

    name: str  # "all", "base", "new", "source", or a target's
    classes: Rows
    data: int = 0  # 0: the data that is fitted; i: the i-th target
    same: Rows | None = None  # of a target with classes of the fitted data: which of those each of `classes` is


@dataclass(frozen=True)
class Classes:
    """The classes of one data set, in label order."""

    dataset: str
    names: Sequence[str]


@dataclass(frozen=True, kw_only=True)
class Protocol:
    """What an episode is drawn by, but for the seed. Raises UsageError for a value that cannot be."""

    name: ClassVar[str]
    main: ClassVar[str]  # the metric that is compared
    transfers: ClassVar[bool] = False  # whether other data, its targets, are scored

    shots: int = DEFAULT_SHOTS  # support rows per class; 0 for a method that looks at none
    supports: str = "equal"  # shots of each class; "natural": as the data set has them, shots x classes in all
    draws: str = "nested"  # how rows are drawn; "coop" is what the published sampler draws with the same seed
    label_noise: float = 0.0  # share of support rows whose label is replaced by another class
    imbalance: float = 1.0  # shots of the largest class over those of the smallest
    train_noise: str = NO_NOISE  # which noisy view of the support images is trained on
    test_noise: str = NO_NOISE  # which noisy view of the test images is scored

    def __post_init__(self) -> None:
        if self.draws not in DRAWS:
            raise UsageError(f"unknown draws {self.draws!r}: {nearest(self.draws, DRAWS)}")
        if self.supports not in SUPPORTS:
            raise UsageError(f"unknown supports {self.supports!r}: {nearest(self.supports, SUPPORTS)}")
        if self.shots < 0:
            raise UsageError(f"shots = {self.shots} is below 0")
        if not 0 <= self.label_noise <= 1:
            raise UsageError(f"label_noise = {self.label_noise} is outside [0, 1]")
        if not 1 <= self.imbalance < math.inf:
            raise UsageError(f"imbalance = {self.imbalance} must be 1 or more")
        if self.supports == "natural" and (self.draws == "coop" or self.imbalance != 1):
            raise UsageError("`supports=natural` has class sizes of its own: leave draws and imbalance as they are")
        if self.draws == "coop" and self.imbalance != 1:
            raise UsageError("`draws=coop` draws as many shots of every class: leave imbalance at 1")

    def trained(self, count: int) -> Rows:
        """The classes that are trained on, of so many. Raises UsageError where there are too few."""
        return np.arange(count)

    def tests(self, data: Sequence[Classes]) -> list[Candidates]:
        """The tests, from the classes of the fitted data and of each target. The first test's classes are those trained
        on. Raises UsageError where the classes do not allow it.
        """
        raise TypeError(f"{type(self).__name__} does not define tests")

    def metrics(self, targets: Sequence[str] = ()) -> tuple[str, ...]:
        """What is measured, in percent, in the order of a table; `targets` are the names of the targets."""
        raise TypeError(f"{type(self).__name__} does not define metrics")

    def score(self, accuracy: Mapping[str, float]) -> dict[str, float]:
        """The metrics, from the top-1 accuracy of each test in percent."""
        raise TypeError(f"{type(self).__name__} does not define score")

    def config(self) -> dict[str, Any]:
        """The protocol as plain data."""
        return {"name": self.name, **asdict(self)}


@dataclass(frozen=True, kw_only=True)
class FewShot(Protocol):
    """All classes are trained on, and all are candidates."""

    name: ClassVar[str] = "few-shot"
    main: ClassVar[str] = "accuracy"

    def tests(self, data: Sequence[Classes]) -> list[Candidates]:
        """One test, of all classes."""
        return [Candidates("all", self.trained(len(data[0].names)))]

    def metrics(self, targets: Sequence[str] = ()) -> tuple[str, ...]:
        """Top-1 accuracy."""
        return ("accuracy",)

    def score(self, accuracy: Mapping[str, float]) -> dict[str, float]:
        """Top-1 accuracy."""
        return {"accuracy": accuracy["all"]}


@dataclass(frozen=True, kw_only=True)
class BaseToNew(Protocol):
    """Classes in label order: the first, base, are trained on; base and new each have their own as candidates."""

    name: ClassVar[str] = "base-to-new"
    main: ClassVar[str] = "H"

    base_rule: str = "ceil"  # of an odd number of classes; "floor" is what the authors of the MMA do
    base_ratio: float = 1.0  # base classes to new classes

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.base_rule not in BASE_RULES:
            raise UsageError(f"unknown base rule {self.base_rule!r}: {nearest(self.base_rule, BASE_RULES)}")
        if not 0 < self.base_ratio < math.inf:
            raise UsageError(f"base_ratio = {self.base_ratio} must be above 0")

    def trained(self, count: int) -> Rows:
        """Base: the first half of the classes, or the share that `base_ratio` gives."""
        share = round(count * self.base_ratio / (1 + self.base_ratio), 9)
        base = math.ceil(share) if self.base_rule == "ceil" else math.floor(share)
        if not LEAST <= base <= count - LEAST:
            raise UsageError(
                f"{count} classes cannot be split {self.base_ratio:g} to 1 into base and new, two or more of each: use "
                "`protocol=few-shot`"
            )
        return np.arange(base)

    def tests(self, data: Sequence[Classes]) -> list[Candidates]:
        """Base and new."""
        count = len(data[0].names)
        base = self.trained(count)
        return [Candidates("base", base), Candidates("new", np.arange(len(base), count))]

    def metrics(self, targets: Sequence[str] = ()) -> tuple[str, ...]:
        """Accuracy on base, on new, and their harmonic mean."""
        return ("base", "new", "H")

    def score(self, accuracy: Mapping[str, float]) -> dict[str, float]:
        """Base, new and H."""
        base, new = accuracy["base"], accuracy["new"]
        return {"base": base, "new": new, "H": harmonic_mean(base, new)}


@dataclass(frozen=True, kw_only=True)
class Transfer(Protocol):
    """All classes are trained on; they are scored, and so are other data."""

    main: ClassVar[str] = "mean"
    transfers: ClassVar[bool] = True

    def metrics(self, targets: Sequence[str] = ()) -> tuple[str, ...]:
        """Accuracy on the fitted data and on each target, and the mean over targets."""
        return ("source", *targets, "mean")

    def score(self, accuracy: Mapping[str, float]) -> dict[str, float]:
        """Accuracies, and the mean over targets."""
        targets = [value for name, value in accuracy.items() if name != "source"]
        return {**accuracy, "mean": float(np.mean(targets))}


@dataclass(frozen=True, kw_only=True)
class CrossDataset(Transfer):
    """Targets have classes of their own, which had no shots."""

    name: ClassVar[str] = "cross-dataset"

    def tests(self, data: Sequence[Classes]) -> list[Candidates]:
        """The fitted data and each target, each with all of its own classes as candidates."""
        source, *targets = data
        own = Candidates("source", self.trained(len(source.names)))
        return [own, *(Candidates(t.dataset, np.arange(len(t.names)), i) for i, t in enumerate(targets, 1))]


@dataclass(frozen=True, kw_only=True)
class DomainShift(Transfer):
    """Targets have other images of the classes that are fitted, or of some of them; classes are matched by name."""

    name: ClassVar[str] = "domain-shift"

    def tests(self, data: Sequence[Classes]) -> list[Candidates]:
        """The fitted data, and each target with its classes as candidates. Raises UsageError where a target has a class
        that the fitted data lacks.
        """
        source, *targets = data
        number = {name: c for c, name in enumerate(source.names)}
        tests = [Candidates("source", self.trained(len(source.names)))]
        for i, target in enumerate(targets, 1):
            for name in target.names:
                if name not in number:
                    raise UsageError(
                        f"the target {target.dataset} has a class {name!r} that {source.dataset} lacks: a shift of "
                        "domain has the same class names; use `protocol=cross-dataset`"
                    )
            same = np.array([number[name] for name in target.names])
            tests.append(Candidates(target.dataset, np.arange(len(same)), i, same))
        return tests


PROTOCOLS: dict[str, type[Protocol]] = {kind.name: kind for kind in (BaseToNew, FewShot, CrossDataset, DomainShift)}
METRICS = tuple(dict.fromkeys(metric for kind in PROTOCOLS.values() for metric in kind().metrics()))
OPTIONS = tuple(dict.fromkeys(field.name for kind in PROTOCOLS.values() for field in fields(kind)))


def harmonic_mean(base: float, new: float) -> float:
    """H = 2 base new / (base + new); 0 where both are."""
    return 2 * base * new / (base + new) if base + new else 0.0


def protocol_class(name: str) -> type[Protocol]:
    """The protocol of that name. Raises UsageError with the names there are."""
    if name not in PROTOCOLS:
        raise UsageError(f"unknown protocol {name!r}: {nearest(name, PROTOCOLS)}")
    return PROTOCOLS[name]


def protocol_options(kind: type[Protocol]) -> tuple[str, ...]:
    """What can be varied of a protocol."""
    return tuple(field.name for field in fields(kind))


def make_protocol(name: str, options: Mapping[str, Any]) -> Protocol:
    """The protocol of that name, with those of the options that it has. UsageError for a value that cannot be."""
    kind = protocol_class(name)
    return kind(**{option: value for option, value in options.items() if option in protocol_options(kind)})


def usual_protocol(dataset: str, classes: int, targets: int = 0) -> tuple[str, str]:
    """The protocol of a data set where none is given, and why it is that one."""
    if targets:
        return CrossDataset.name, "there are targets"
    if not is_published(dataset):
        return FewShot.name, f"{dataset} is none of the published data sets"
    if classes < 2 * LEAST:
        return FewShot.name, f"the {classes} classes of {dataset} leave none to hold out as new ones"
    return BaseToNew.name, f"{dataset} is a published data set"
