from __future__ import annotations

import numpy as np
import pytest
import sklearn.metrics as sk
import torch

from mma.pipeline.fitting import row_scores
from mma.pipeline.fitting.row_scores import RowScores, score_rows

FIELDS = ("log_confidence", "log_likelihood", "brier", "rank")


def of_rows(label: np.ndarray, logits: np.ndarray) -> RowScores:
    return score_rows(torch.from_numpy(logits), torch.from_numpy(label))


def made(rows: int = 400, classes: int = 6) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Labels, logits and their probabilities."""
    rng = np.random.default_rng(0)
    label = rng.integers(classes, size=rows)
    logits = (2 * np.eye(classes)[label] + 1.2 * rng.standard_normal((rows, classes))).astype(np.float32)
    probability = np.exp(logits.astype(np.float64) - logits.max(1, keepdims=True))
    return label, logits, probability / probability.sum(1, keepdims=True)


def test_means_are_scikit_learns_within_what_two_bytes_keep() -> None:
    label, logits, probability = made()
    found = of_rows(label, logits)
    assert found.negative_log_likelihood == pytest.approx(sk.log_loss(label, probability), rel=1e-4)
    assert found.brier_score == pytest.approx(np.square(probability - np.eye(6)[label]).sum(1).mean(), rel=1e-4)
    assert found.confidence == pytest.approx(probability.max(1), rel=1e-3)
    for k in (1, 2, 5):
        assert found.top(k) == pytest.approx(100 * sk.top_k_accuracy_score(label, logits, k=k))


def test_rows_are_scored_alike_however_they_fall_into_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    label, logits, _ = made()
    whole = of_rows(label, logits)
    monkeypatch.setattr(row_scores, "BLOCK", 7)
    parts = of_rows(label, logits)
    for name in FIELDS:
        assert (getattr(whole, name) == getattr(parts, name)).all()


def test_ties_are_broken_as_argmax_does() -> None:
    assert of_rows(np.array([0, 1, 2]), np.zeros((3, 3), np.float32)).rank.tolist() == [0, 1, 2]


def test_what_is_nearly_certain_is_told_apart() -> None:
    found = of_rows(np.array([1, 1]), np.array([[9.0, 0.0], [12.0, 0.0]], np.float32))
    assert 1 - found.confidence == pytest.approx([1.23e-4, 6.14e-6], rel=0.01)


def test_a_class_that_is_ruled_out_costs_as_much_as_two_bytes_can_say() -> None:
    found = of_rows(np.array([1]), np.array([[0.0, -1e30]], np.float32))
    assert found.log_likelihood.tolist() == [-65504]
    assert found.brier_score == 2


def test_eight_bytes_a_row_are_read_back_as_they_were() -> None:
    found = of_rows(*made()[:2])
    data = found.to_bytes()
    assert len(data) == 8 * 400
    for name in FIELDS:
        np.testing.assert_array_equal(getattr(RowScores.from_bytes(data, 400), name), getattr(found, name))
    with pytest.raises(ValueError, match="399 rows"):
        RowScores.from_bytes(data, 399)
