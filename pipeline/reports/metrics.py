"""How good are one run's predictions?

From labels [N], predictions [N] and what is kept of their probabilities. Whatever a table shows in percent is in
percent here (accuracies, F1, recall, precision, calibration error).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from mma.pipeline.fitting.row_scores import RowScores
from mma.pipeline.reports.statistics import wilson

IMBALANCE = 1.5  # test classes that differ more than this in size make balanced accuracy the main metric


@dataclass(frozen=True)
class PerClass:
    """One row per class, in percent with 95 % Wilson intervals; nan, 0 and 100 where the class has no row of the kind.

    recall: of `count` test rows of the class; precision: of `predicted` rows called the class; f1: nan where both are
    0.
    """

    recall: np.ndarray
    recall_low: np.ndarray
    recall_high: np.ndarray
    precision: np.ndarray
    precision_low: np.ndarray
    precision_high: np.ndarray
    f1: np.ndarray
    count: np.ndarray
    predicted: np.ndarray


@dataclass(frozen=True)
class Classified:
    """What labels and predictions tell, in percent.

    balanced_accuracy: the mean recall of classes that have test rows; macro_f1: the mean F1 of classes that have test
    rows or predictions (both as scikit-learn's); confusion [C, C]: rows of each label (down) called each class
    (across).
    """

    accuracy: float
    balanced_accuracy: float
    macro_f1: float
    confusion: np.ndarray
    per_class: PerClass


def classified(label: np.ndarray, predicted: np.ndarray, classes: int) -> Classified:
    """Labels [N] and predictions [N], of 0 to classes - 1. Raises ValueError for others, and for no row."""
    _check(label, predicted.shape, classes)
    if predicted.min() < 0 or predicted.max() >= classes:
        raise ValueError(f"predictions from {predicted.min()} to {predicted.max()}: {classes} classes go from 0")
    confusion = np.bincount(label.astype(np.int64) * classes + predicted, minlength=classes**2)
    confusion = confusion.reshape(classes, classes)
    right, count, called = np.diag(confusion), confusion.sum(1), confusion.sum(0)
    with np.errstate(invalid="ignore"):
        recall, precision = right / count, right / called
        f1 = 2 * right / (count + called)
    recall_low, recall_high = wilson(recall, count)
    precision_low, precision_high = wilson(precision, called)
    return Classified(
        100 * float(right.sum()) / len(label),
        100 * float(np.nanmean(recall)),
        100 * float(np.nanmean(f1)),
        confusion,
        PerClass(
            recall=100 * recall,
            recall_low=100 * recall_low,
            recall_high=100 * recall_high,
            precision=100 * precision,
            precision_low=100 * precision_low,
            precision_high=100 * precision_high,
            f1=100 * f1,
            count=count,
            predicted=called,
        ),
    )


def imbalance(label: np.ndarray) -> float:
    """How many times more rows of label [N] the largest class has than the smallest."""
    _, count = np.unique(label, return_counts=True)
    return float(count.max() / count.min())


def balanced_is_main(label: np.ndarray) -> bool:
    """Whether the classes of label [N] differ so much in size that accuracy mostly tells of the large ones."""
    return imbalance(label) > IMBALANCE


@dataclass(frozen=True)
class Reliability:
    """One entry per bin, in percent: mean confidence, and accuracy with its 95 % Wilson interval.

    `error` is the expected calibration error, the mean |accuracy - confidence| over rows.
    """

    error: float
    confidence: np.ndarray
    accuracy: np.ndarray
    low: np.ndarray
    high: np.ndarray
    count: np.ndarray


def reliability(confidence: np.ndarray, correct: np.ndarray, bins: int = 15) -> Reliability:
    """Confidence [N] (shares) and correct [N] (0 or 1) in bins of equal mass; 15 as in Guo et al. (2017).

    Of equal mass, not of equal width: a good model's confidences crowd near 1, where equal widths lump most rows into
    one bin and leave a few to the others; equal mass estimates the error with less bias (Roelofs et al., 2022; Nixon et
    al., 2019). Bins end at quantiles, so that equal confidences share a bin and the order of rows plays no part.
    """
    edges = np.quantile(confidence, np.linspace(0, 1, bins + 1)[1:-1])
    _, index, count = np.unique(np.searchsorted(edges, confidence), return_inverse=True, return_counts=True)
    mean = np.bincount(index, weights=confidence) / count
    accuracy = np.bincount(index, weights=correct) / count
    low, high = wilson(accuracy, count)
    error = float(np.sum(count * np.abs(accuracy - mean)) / len(confidence))
    return Reliability(100 * error, 100 * mean, 100 * accuracy, 100 * low, 100 * high, count)


def confidently_wrong(scores: Sequence[RowScores], most: int) -> np.ndarray:
    """Rows that are wrong in one of several runs on the same rows, the most confident first: at most so many indices.

    Ordered by the confidence in what is wrong, meant over runs: a run that is right counts 0.
    """
    blame = np.mean([np.where(each.rank > 0, each.confidence, 0.0) for each in scores], axis=0)  # [N]
    found: np.ndarray = np.argsort(-blame, kind="stable")[: min(most, np.count_nonzero(blame))]
    return found


def _check(label: np.ndarray, rows: tuple[int, ...], classes: int) -> None:
    """Refuse labels that do not fit the rows or the classes."""
    if not len(label) or label.shape != rows:
        raise ValueError(f"labels of shape {label.shape} for rows of shape {rows}: give one label per row, and a row")
    if label.min() < 0 or label.max() >= classes:
        raise ValueError(f"labels from {label.min()} to {label.max()}: {classes} classes go from 0")
