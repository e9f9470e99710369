"""Which test images are explained, and what do zero-shot and the adapter say of them?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mma.adapters import predict, zero_shot_logits
from mma.pipeline.errors import UsageError
from mma.pipeline.fitting.saved import SavedFit
from mma.pipeline.options import numbers

IMAGES = 4  # shown where none is named


@dataclass(frozen=True, eq=False)
class Answered:
    """All rows of one test, with the logits [N, C] of zero-shot and of the adapter among the test's classes.

    `known`: whether the adapter has weights for these classes; where it has not, its logits are zero-shot's.
    """

    test: str
    rows: NDArray[np.int64]  # [N] of the test split
    label: NDArray[np.int64]  # [N] within the data set
    classes: NDArray[np.int64]  # [C] within the data set
    text: Tensor  # [C, D]
    zero_shot: Tensor  # [N, C]
    adapted: Tensor  # [N, C]
    known: bool

    def said(self, logits: Tensor) -> NDArray[np.int64]:
        """The class that each row is called [N], within the data set."""
        called: NDArray[np.int64] = self.classes[logits.argmax(-1).cpu().numpy()]
        return called


@dataclass(frozen=True, eq=False)
class Look:
    """One test image that is explained."""

    row: int  # of the test split
    at: int  # among the rows of its test
    path: str
    image: Tensor  # [D] unit
    of: Answered


def answers_of(fit: SavedFit) -> list[Answered]:
    """What is said of every test row of the fitted cache, test by test."""
    features, episode = fit.features, fit.episode()
    images = features.images.images("test", fit.setting.protocol.test_noise)
    found = []
    for test in episode.tests:
        classes = test.candidates.classes
        text = features.text.embedding[torch.from_numpy(classes).to(features.device)]
        image = images[torch.from_numpy(test.rows).to(features.device)]
        zero_shot = zero_shot_logits(image, text, features.logit_scale)
        known = fit.adapter.class_free or np.array_equal(classes, episode.classes)
        adapted = predict(fit.adapter, image, text) if known else zero_shot
        label = features.labels["test"].label[test.rows].astype(np.int64)
        found.append(Answered(test.name, test.rows, label, classes, text, zero_shot, adapted, known))
    return found


def looks_at(fit: SavedFit, answers: Sequence[Answered], wanted: Sequence[str], most: int = IMAGES) -> list[Look]:
    """The images that are named, by row or path; else `most` whose answer changed most. Raises UsageError."""
    path = fit.features.images.cache.split("test").path
    images = fit.features.images.images("test", fit.setting.protocol.test_noise)
    rows = [row_of(name, path) for name in wanted] or changed_most(answers)[:most]
    found = []
    for row in rows:
        of = next((answered for answered in answers if row in answered.rows), None)
        if of is None:
            raise UsageError(f"`image={row}`: this row of the test split has no embedding, or is in no test of the run")
        at = int(np.flatnonzero(of.rows == row)[0])
        found.append(Look(row, at, path[row], images[row], of))
    return found


def row_of(name: str, path: Sequence[str]) -> int:
    """The row of the test split that a row number or a path (or its end) names. Raises UsageError."""
    if name.isdecimal():
        return numbers("image", [name], most=len(path) - 1)[0]
    exact = [row for row, each in enumerate(path) if each == name]
    rows = exact or [row for row, each in enumerate(path) if name.endswith(f"/{each}") or each.endswith(f"/{name}")]
    if len(rows) == 1:
        return rows[0]
    if rows:
        raise UsageError(f"`image={name}` is the end of {len(rows)} paths: give more of it, or the row")
    raise UsageError(
        f"`image={name}` is no test image of the cache: give a row, 0 to {len(path) - 1}, or a path such as {path[0]}"
    )


def changed_most(answers: Sequence[Answered]) -> list[int]:
    """Rows whose class changed, mended and broken ones in turn, those first whose probabilities moved most.

    Where no class changed: the rows whose probabilities moved most.
    """
    rows = np.concatenate([answered.rows for answered in answers])
    label = np.concatenate([answered.label for answered in answers])
    before = np.concatenate([answered.said(answered.zero_shot) for answered in answers])
    after = np.concatenate([answered.said(answered.adapted) for answered in answers])
    moved = [(each.adapted.softmax(-1) - each.zero_shot.softmax(-1)).abs().sum(-1) for each in answers]
    order = torch.cat(moved).argsort(descending=True, stable=True).cpu().numpy()
    mended = [i for i in order if before[i] != label[i] == after[i]]
    broken = [i for i in order if before[i] == label[i] != after[i]]
    in_turn = [i for pair in zip(mended[:IMAGES], broken[:IMAGES], strict=False) for i in pair]
    chosen = list(dict.fromkeys([*in_turn, *mended[:IMAGES], *broken[:IMAGES], *order[:IMAGES]]))[:IMAGES]
    return [int(rows[i]) for i in chosen]
