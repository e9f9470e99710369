from __future__ import annotations

import math

import numpy as np
import pytest
import scipy.optimize
import sklearn.metrics
from scipy.special import softmax

from mma.pipeline.reports.calibration import (
    Method,
    conformal_quantile,
    conformal_sets,
    covered,
    fit_temperature,
    rows_needed,
    split_rows,
)

METHODS: tuple[Method, ...] = ("lac", "aps")


def calibrated(rows: int, rng: np.random.Generator, classes: int = 8) -> tuple[np.ndarray, np.ndarray]:
    """Logits, and labels drawn from their softmax: the right temperature is 1."""
    logits = 2 * rng.standard_normal((rows, classes))
    label = (logits + rng.gumbel(size=logits.shape)).argmax(1)
    return label, logits


@pytest.mark.parametrize("truth", [0.3, 1.0, 7.0])
def test_the_temperature_is_found(truth: float) -> None:
    label, logits = calibrated(20_000, np.random.default_rng(0))
    found = fit_temperature(label, (truth * logits).astype(np.float32))
    assert found.value == pytest.approx(truth, rel=0.03)
    assert found.after <= found.before
    assert not found.at_end


def test_the_temperature_is_the_likeliest_one() -> None:
    label, logits = calibrated(300, np.random.default_rng(1))

    def loss(temperature: float) -> float:
        return float(sklearn.metrics.log_loss(label, softmax(3 * logits / temperature, axis=1), labels=range(8)))

    want = scipy.optimize.minimize_scalar(loss, bounds=(0.05, 20), method="bounded", options={"xatol": 1e-9})
    found = fit_temperature(label, 3 * logits)
    assert found.value == pytest.approx(want.x, rel=1e-6)
    assert (found.before, found.after) == pytest.approx((loss(1), loss(want.x)))


def test_a_temperature_that_the_rows_do_not_determine_is_said() -> None:
    label = np.arange(5)
    right = fit_temperature(label, np.eye(5))
    wrong = fit_temperature(label, np.roll(np.eye(5), 1, axis=1))
    assert right.at_end
    assert wrong.at_end
    assert (right.value, wrong.value) == pytest.approx((0.05, 20))
    with pytest.raises(ValueError, match="no validation row"):
        fit_temperature(np.empty(0, int), np.empty((0, 5)))


def test_rows_are_split_within_classes_and_never_shared() -> None:
    label = np.random.default_rng(2).integers(7, size=101)
    first, second = split_rows(label, seed=0)
    assert sorted([*first, *second]) == list(range(101))
    assert abs(len(first) - len(second)) <= 1
    for c in range(7):
        assert abs(np.sum(label[first] == c) - np.sum(label[second] == c)) <= 1
    assert (split_rows(label, 0)[0] == first).all()
    assert not np.array_equal(split_rows(label, 1)[0], first)


@pytest.mark.parametrize("coverage", [0.8, 0.9, 0.95])
@pytest.mark.parametrize("method", METHODS)
def test_conformal_sets_hold_the_right_class_as_often_as_asked(method: Method, coverage: float) -> None:
    rng = np.random.default_rng(3)
    found, sizes = [], []
    for _ in range(300):
        label, logits = calibrated(300, rng)
        probability = softmax(3 * logits, axis=1)  # overconfident: coverage does not need calibration
        quantile = conformal_quantile(label[:99], probability[:99], coverage, method)
        sets = conformal_sets(probability[99:], quantile, method)
        found.append(covered(sets, label[99:]))
        sizes.append(sets.sum(1).mean())
    error = float(np.std(found)) / math.sqrt(len(found))
    assert coverage - 3 * error <= np.mean(found) <= coverage + 1 / 100 + 3 * error
    assert 1 < np.mean(sizes) < 8


def test_lac_sets_are_the_smaller_ones() -> None:
    label, logits = calibrated(4_000, np.random.default_rng(4))
    probability = softmax(logits, axis=1)
    sizes = {}
    for method in METHODS:
        quantile = conformal_quantile(label[:2_000], probability[:2_000], 0.9, method)
        sizes[method] = conformal_sets(probability[2_000:], quantile, method).sum(1).mean()
    assert sizes["lac"] < sizes["aps"]


@pytest.mark.parametrize("method", METHODS)
def test_too_few_rows_leave_every_class_in(method: Method) -> None:
    assert [rows_needed(coverage) for coverage in (0.5, 0.9, 0.95, 0.99)] == [1, 9, 19, 99]
    label, logits = calibrated(19, np.random.default_rng(5))
    probability = softmax(logits, axis=1)
    assert conformal_quantile(label, probability, 0.95, method) < math.inf
    assert conformal_quantile(label[1:], probability[1:], 0.95, method) == math.inf
    assert conformal_sets(probability, math.inf, method).all()


def test_the_quantile_is_a_score_of_a_row() -> None:
    probability = np.array([[0.7, 0.2, 0.1]] * 3)
    label = np.array([0, 1, 2])
    assert conformal_quantile(label, probability, 0.5, "lac") == pytest.approx(0.8)  # of 0.3, 0.8, 0.9
    assert conformal_quantile(label, probability, 0.5, "aps") == pytest.approx(0.7)  # of 0, 0.7, 0.9
    assert conformal_sets(probability[:1], 0.8 + 1e-9, "lac").tolist() == [[True, True, False]]
    assert conformal_sets(probability[:1], 0.7 + 1e-9, "aps").tolist() == [[True, True, False]]


@pytest.mark.parametrize("method", METHODS)
def test_no_set_is_empty(method: Method) -> None:
    sets = conformal_sets(np.array([[0.7, 0.2, 0.1]]), 0.0, method)
    assert sets.tolist() == [[True, False, False]]


@pytest.mark.parametrize("coverage", [0.0, 1.0, 2.0])
def test_a_coverage_that_is_no_share_is_refused(coverage: float) -> None:
    with pytest.raises(ValueError, match="between 0 and 1"):
        conformal_quantile(np.array([0]), np.array([[1.0, 0.0]]), coverage, "lac")
