from __future__ import annotations

import numpy as np
import pytest
import sklearn.metrics as sk
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import softmax
from sklearn.calibration import calibration_curve
from statsmodels.stats.proportion import proportion_confint

from mma.pipeline.fitting.row_scores import RowScores, score_rows
from mma.pipeline.reports.metrics import balanced_is_main, classified, confidently_wrong, reliability


def predictions(rows: int = 400, classes: int = 6, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Labels and logits that are right about two times in three; the last class has no test row."""
    rng = np.random.default_rng(seed)
    label = rng.integers(classes - 1, size=rows)
    return label, (2 * np.eye(classes)[label] + rng.standard_normal((rows, classes)) * 1.2).astype(np.float32)


def of_rows(label: np.ndarray, logits: np.ndarray) -> RowScores:
    return score_rows(torch.from_numpy(logits), torch.from_numpy(label))


@pytest.mark.slow
@given(st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4)), min_size=1, max_size=60))
@pytest.mark.filterwarnings("ignore:y_pred contains classes not in y_true", "ignore:A single label was found")
def test_accuracies_are_scikit_learns(pairs: list[tuple[int, int]]) -> None:
    label, predicted = np.array(pairs).T
    found = classified(label, predicted, 5)
    assert found.accuracy == pytest.approx(100 * sk.accuracy_score(label, predicted))
    assert found.balanced_accuracy == pytest.approx(100 * sk.balanced_accuracy_score(label, predicted))
    assert found.macro_f1 == pytest.approx(100 * sk.f1_score(label, predicted, average="macro"))
    assert (found.confusion == sk.confusion_matrix(label, predicted, labels=range(5))).all()


def test_per_class_numbers_are_scikit_learns_with_wilsons_intervals() -> None:
    label, logits = predictions()
    predicted = logits.argmax(1)
    found = classified(label, predicted, 6).per_class
    precision, recall, f1, count = sk.precision_recall_fscore_support(
        label, predicted, labels=range(5), zero_division=np.nan
    )
    assert found.recall[:5] == pytest.approx(100 * recall)
    assert found.precision[:5] == pytest.approx(100 * precision)
    assert found.f1[:5] == pytest.approx(100 * f1)
    assert (found.count[:5] == count).all()
    right = int(np.sum((label == 2) & (predicted == 2)))
    for low, high, of in (
        (found.recall_low, found.recall_high, found.count),
        (found.precision_low, found.precision_high, found.predicted),
    ):
        want = proportion_confint(right, of[2], method="wilson")
        assert (low[2], high[2]) == pytest.approx([100 * end for end in want])


def test_a_class_without_rows_has_no_recall() -> None:
    label, logits = predictions()
    found = classified(label, logits.argmax(1), 6).per_class
    assert found.count[5] == 0
    assert np.isnan(found.recall[5])
    assert (found.recall_low[5], found.recall_high[5]) == (0, 100)


def test_rows_that_cannot_be_classified_are_refused() -> None:
    with pytest.raises(ValueError, match="labels from -1 to 0"):
        classified(np.array([-1, 0]), np.array([0, 0]), 3)
    with pytest.raises(ValueError, match="one label per row"):
        classified(np.array([0]), np.array([0, 0]), 3)
    with pytest.raises(ValueError, match="predictions from 0 to 3"):
        classified(np.array([0, 1]), np.array([0, 3]), 3)


def test_the_reliability_curve_is_scikit_learns() -> None:
    label, logits = predictions(3_000)
    confidence, correct = softmax(logits.astype(np.float64), axis=1).max(1), logits.argmax(1) == label
    curve = reliability(confidence, correct)
    accuracy, confidence = calibration_curve(correct, confidence, n_bins=15, strategy="quantile")
    assert curve.accuracy == pytest.approx(100 * accuracy)
    assert curve.confidence == pytest.approx(100 * confidence)
    assert curve.error == pytest.approx(np.average(np.abs(curve.accuracy - curve.confidence), weights=curve.count))
    assert set(curve.count) == {200}


def test_the_calibration_error_tells_a_calibrated_model_from_a_boastful_one() -> None:
    rng = np.random.default_rng(1)
    confidence = rng.uniform(0.3, 1, 20_000)
    correct = rng.random(20_000) < confidence
    assert reliability(confidence, correct).error < 1.5
    curve = reliability(confidence, rng.random(20_000) < confidence - 0.2)
    assert curve.error == pytest.approx(20, abs=1)
    assert (curve.high < curve.confidence).all()


def test_the_reliability_curve_does_not_know_the_order_of_rows() -> None:
    rng = np.random.default_rng(2)
    confidence = rng.choice([0.5, 0.7, 0.9, 1.0], 200)
    correct = rng.random(200) < confidence
    order = rng.permutation(200)
    one, other = reliability(confidence, correct), reliability(confidence[order], correct[order])
    assert one.error == pytest.approx(other.error)
    assert one.accuracy == pytest.approx(other.accuracy)


def test_the_most_confidently_wrong_rows_come_first() -> None:
    label = np.array([0, 0, 1, 1, 0])
    logits = np.array([[3.0, 0], [0, 1], [5, 0], [0, 9], [0, 2]])
    assert confidently_wrong([of_rows(label, logits)], 2).tolist() == [2, 4]
    assert confidently_wrong([of_rows(label, logits)], 9).tolist() == [2, 4, 1]
    right = of_rows(label, np.eye(2)[label])
    several = confidently_wrong([of_rows(label, logits), of_rows(label, -logits), right], 2)
    assert several.tolist() == [3, 2]  # wrong once each, by 9 and by 5


def test_balanced_accuracy_is_the_main_metric_where_classes_differ() -> None:
    assert not balanced_is_main(np.repeat([0, 1], [30, 20]))
    assert balanced_is_main(np.repeat([0, 1], [31, 20]))
