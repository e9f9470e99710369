"""What was predicted in a fit, seed by seed, and its metrics over seeds and test images at once."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mma.pipeline.fitting.results import Predictions, Row
from mma.pipeline.fitting.row_scores import RowScores
from mma.pipeline.fitting.store import Store
from mma.pipeline.reports.statistics import (
    Estimate,
    harmonic_values,
    mean_values,
    share_estimate,
)

LEAST_IMAGES = 2  # of one, nothing is known of how images differ


@dataclass(frozen=True, eq=False)
class Answers:
    """What a row of a table said of one test."""

    rows: NDArray[np.int32]  # [N] of the test split
    label: NDArray[np.int32]  # [N]
    predicted: NDArray[np.int32]  # [S, N]
    scores: Sequence[RowScores] | None  # [S]; None where probabilities of a seed were not kept
    supports: Sequence[Hashable] | None  # [S] names; None where they are not known

    @property
    def correct(self) -> NDArray[np.bool_]:
        """[S, N]."""
        right: NDArray[np.bool_] = self.predicted == self.label
        return right

    def estimate(self, values: np.ndarray) -> Estimate | None:
        """Of values [S, N] whose mean is a share, in percent; seeds of one support count as one."""
        return share_estimate(values, self.supports) if len(self.label) >= LEAST_IMAGES else None

    def estimate_of_some(self, rows: NDArray[np.bool_]) -> Estimate:
        """Accuracy on some of the test rows [N], two or more, in percent."""
        return share_estimate(self.correct[:, rows], self.supports)


def answers_of(rows: Sequence[Row]) -> list[dict[str, Answers]]:
    """By test, the answers of each row of a table; none where predictions were not kept."""
    return [_answers(row) for row in rows]


def estimate_of(row: Row, answers: Mapping[str, Answers], metric: str) -> Estimate | None:
    """A metric of the protocol, in percent; None where predictions were not kept, or of one image."""
    parts = [answers[test] for test in _tests_of(row, metric) if test in answers]
    if not parts or len(parts) < len(_tests_of(row, metric)):
        return None
    correct = [part.correct for part in parts]
    if metric == "H":
        values = harmonic_values(correct[0], correct[1])
    else:
        values = mean_values(correct) if metric == "mean" else correct[0]
    supports = parts[0].supports
    return share_estimate(values, supports) if values.shape[1] >= LEAST_IMAGES else None


def _tests_of(row: Row, metric: str) -> Sequence[str]:
    if metric == "mean":
        return [name for name in row.metrics if name not in ("source", "mean")]
    return {"accuracy": ("all",), "H": ("base", "new")}.get(metric, (metric,))


def _answers(row: Row) -> dict[str, Answers]:
    found = [list(result.predictions) for result in row.results]
    if row.out is not None and not all(found):
        with Store(row.out) as store:
            found = [kept or store.predictions(result.cell.id) for kept, result in zip(found, row.results, strict=True)]
    supports = [result.details.get("support") for result in row.results]
    named = supports if None not in supports else None
    by_test: dict[str, list[Predictions]] = {}
    for each in (one for of_seed in found for one in of_seed):
        by_test.setdefault(each.test, []).append(each)
    made = {}
    for test, seeds in by_test.items():
        if len(seeds) == len(row.results):  # the same rows for every seed: test rows are not drawn
            scores = [each.scores for each in seeds if each.scores is not None]
            kept = scores if len(scores) == len(seeds) else None
            predicted = np.stack([each.predicted for each in seeds])
            made[test] = Answers(seeds[0].rows, seeds[0].label, predicted, kept, named)
    return made
