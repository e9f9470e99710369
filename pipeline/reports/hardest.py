"""Which test images does hardly any method get right? By all settings of a table that were compared with each other."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mma.pipeline.reports.findings import Group, main_block
from mma.pipeline.reports.pairing import tests_of
from mma.pipeline.reports.records import predicted

MOST = 12  # of a table

# From a cache's location and a row of its test split: the image's path, and a JPEG of it where it is at hand.
Finder = Callable[[str, int], tuple[str, bytes | None] | None]


@dataclass(frozen=True)
class HardImage:
    """A test image, with the share of fits that are right, and what most of the others say."""

    cache: str
    row: int
    classname: str
    right: float  # percent of the fits
    said: str  # the class that fits which are wrong say most often
    agreed: float  # percent of the fits that say it


def hardest(folder: Path, group: Group) -> list[HardImage]:
    """The images with the fewest right answers, those first whose wrong answers agree most: some are wrong labels.

    Every setting counts alike, whatever its number of seeds. Images that every fit has right are left out.
    """
    settings = [row.setting for row in main_block(group)[1]]
    found: list[HardImage] = []
    for test in tests_of(group.main):
        there = [setting for setting in settings if test in setting.scored]
        if not there:
            continue
        of = there[0].scored[test].test
        there = [setting for setting in there if setting.scored[test].test is of]
        said = [predicted(folder, setting, test) for setting in there]  # [S, N] each
        label, names = of.label, there[0].classnames
        right = np.mean([(each == label).mean(0) for each in said], 0)  # [N]
        for at in np.flatnonzero(right < 1):
            votes: dict[int, float] = {}
            for each in said:
                for answer in each[:, at]:
                    if answer != label[at]:
                        votes[int(answer)] = votes.get(int(answer), 0.0) + 1 / len(each) / len(said)
            other = max(votes, key=lambda c: votes[c])
            found.append(
                HardImage(
                    there[0].cache,
                    int(of.rows[at]),
                    _name(names, int(label[at])),
                    100 * float(right[at]),
                    _name(names, other),
                    100 * votes[other],
                )
            )
    return sorted(found, key=lambda image: (image.right, -image.agreed, image.row))[:MOST]


def _name(names: Sequence[str], c: int) -> str:
    return names[c] if c < len(names) else f"class {c}"
