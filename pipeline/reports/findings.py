"""What do runs say? The findings of a report as plain data, and which of them were made under the same conditions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from mma.pipeline.fitting.factors import as_typed
from mma.pipeline.reports.pairing import (
    Conditions,
)
from mma.pipeline.reports.records import Recorded
from mma.pipeline.reports.statistics import Estimate

BEST, TIED = "best", "tied"  # tied: not distinguishable from the best


@dataclass(frozen=True, eq=False)
class Finding:
    """One row: a setting, what was measured in percent, and how it differs from the baseline in the main metric.

    `marks`, by metric: "best" and "tied" among settings under the same conditions. `p` is adjusted by Holm over the
    differences of its table. `swaps` are test images mended and broken against the baseline, mean over seeds, and
    the seeds in which McNemar's test finds the two runs to differ. `notes` are what a reader must know of it.
    """

    setting: Recorded
    method: str
    conditions: Conditions
    measures: Mapping[str, Estimate]
    marks: Mapping[str, str]
    change: Estimate | None
    p: float | None
    verdict: str
    swaps: tuple[float, float, int] | None
    notes: Sequence[str]
    command: str | None

    @property
    def is_oracle(self) -> bool:
        """Whether it was selected on the test rows: an upper bound, and no result."""
        return self.setting.select == "oracle"


@dataclass(frozen=True, eq=False)
class Group:
    """One table: a data set (from one cache) under a protocol. `family` is how many differences Holm corrects for."""

    dataset: str
    protocol: str
    cache: str
    title: str
    metrics: tuple[str, ...]
    main: str
    varying: tuple[str, ...]  # conditions that differ between rows
    rows: Sequence[Finding]
    family: int


@dataclass(frozen=True, eq=False)
class AverageFinding:
    """One method under one set of conditions, averaged over data sets; H is that of the mean base and the mean new.

    `won`, `lost`, `p_t` and `p_wilcoxon` compare it with the baseline over data sets; None where that is not possible.
    """

    protocol: str
    method: str
    conditions: Conditions
    rows: Mapping[str, Finding]  # by data set
    missing: tuple[str, ...]  # data sets of the protocol that it has no result on
    measures: Mapping[str, tuple[float, float, float]]  # mean, low, high in percent
    change: float | None
    p_t: float | None
    p_wilcoxon: float | None
    won: int
    lost: int


@dataclass(frozen=True, eq=False)
class Report:
    """Everything a report says; its forms only write it down."""

    folder: Path
    baseline: str
    headline: str
    groups: Sequence[Group]
    averages: Sequence[AverageFinding]
    notes: Sequence[str]
    versions: Mapping[str, Sequence[str]]


def main_block(group: Group) -> tuple[Conditions, list[Finding]]:
    """The conditions under which most methods of a table were compared (of equals, those with the most shots), and
    their rows; without what was selected on the test rows.
    """
    known = [row for row in group.rows if not row.is_oracle and group.main in row.measures]
    conditions = dict.fromkeys(block_of(row) for row in known if row.setting.seeded)
    blocks = {block: [row for row in known if goes_with(row, block)] for block in conditions}
    return max(blocks.items(), key=lambda item: (len(item[1]), dict(item[0]).get("shots", 0)), default=((), []))


def block_of(row: Finding) -> Conditions:
    """The bytes that a row is of, and its conditions: rows that share them may be compared."""
    return (("data", row.setting.digest), *row.conditions)


def goes_with(row: Finding, block: Conditions) -> bool:
    """Whether a row may be compared with those of a block; one without shots goes with any number of them."""
    wanted = dict(block)
    return row.setting.digest == wanted["data"] and all(
        wanted.get(name, value) == value for name, value in row.conditions
    )


def conditions_text(conditions: Conditions, varying: Sequence[str] = ("shots",)) -> str:
    """`8 shots, prompts photo`: those of the conditions that tell rows apart."""
    words = []
    for name, value in conditions:
        if name == "shots":
            words.append(f"{value} shot{'s' * (value != 1)}")
        elif name in varying:
            words.append(f"{name} {as_typed(value)}")
    return ", ".join(words)
