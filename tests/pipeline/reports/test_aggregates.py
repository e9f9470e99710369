from __future__ import annotations

import numpy as np
import pytest
import scipy.stats
from hypothesis import given
from hypothesis import strategies as st

from mma.pipeline.reports.aggregates import (
    average_of_datasets,
    h_of_means,
    interquartile_mean,
    mean_of_h,
    performance_profile,
    worst_tenth,
)
from mma.pipeline.reports.statistics import share_estimate

from .experiments import Design, methods


def test_h_of_means_is_what_the_papers_print() -> None:
    # CoOp's base-to-new average over 11 data sets (CoCoOp, 2022, Table 1): 82.69, 63.22, H 71.66
    assert h_of_means(np.array([82.69]), np.array([63.22])) == pytest.approx(71.66, abs=0.005)
    base, new = np.array([90.0, 60.0]), np.array([50.0, 70.0])
    assert h_of_means(base, new) == pytest.approx(2 * 75 * 60 / 135)
    assert mean_of_h(base, new) == pytest.approx((2 * 90 * 50 / 140 + 2 * 60 * 70 / 130) / 2)
    assert h_of_means(np.zeros(2), np.zeros(2)) == mean_of_h(np.zeros(2), np.zeros(2)) == 0


@given(st.lists(st.tuples(st.floats(0, 100), st.floats(0, 100)), min_size=1, max_size=10))
def test_the_mean_of_h_is_never_above_h_of_means(pairs: list[tuple[float, float]]) -> None:
    base, new = np.array(pairs).T
    assert mean_of_h(base, new) <= h_of_means(base, new) + 1e-9


def test_the_worst_tenth_of_seeds() -> None:
    assert worst_tenth([3.0, 1.0, 2.0]) == 1
    assert worst_tenth([float(n) for n in range(10)]) == 0
    assert worst_tenth([float(n) for n in range(20)]) == 0.5


@pytest.mark.slow
def test_an_average_of_data_sets_holds_the_truth() -> None:
    rng = np.random.default_rng(0)
    held = 0
    for _ in range(1_000):
        estimates, truths = [], []
        for level in (0.3, 0.8, 1.5, 0.0):
            correct, truth = methods(Design(4, 200, seed=0.1, image=1.0, rest=0.3, level=level), rng)
            estimates.append(share_estimate(correct[0]))
            truths.append(100 * truth[0])
        average = average_of_datasets(estimates)
        assert average.value == pytest.approx(np.mean([e.mean for e in estimates]))
        held += bool(average.low <= np.mean(truths) <= average.high)
    assert 0.93 <= held / 1_000 <= 0.98  # ends of few seeds are rather far, and four of them add


def test_the_interquartile_mean_is_scipys_trimmed_mean() -> None:
    scores = np.random.default_rng(1).normal(70, 5, (5, 11))
    found = interquartile_mean(scores)
    assert found.value == pytest.approx(scipy.stats.trim_mean(scores, 0.25, axis=None))
    assert found.low < found.value < found.high
    outlier = scores.copy()
    outlier[0, 0] = 1_000
    assert interquartile_mean(outlier).value < found.value + 1


def test_intervals_of_the_interquartile_mean_are_over_seeds_alone() -> None:
    levels = np.linspace(50, 90, 11)
    assert interquartile_mean(np.tile(levels, (5, 1))).low == interquartile_mean(np.tile(levels, (5, 1))).high
    spread = np.random.default_rng(2).normal(levels, 2, (200, 11))
    found = interquartile_mean(spread)
    assert found.high - found.low < 0.5  # 2,200 runs; over data sets it would be ten points wide


def test_the_profile_is_the_share_of_runs_above() -> None:
    scores = np.random.default_rng(3).normal(70, 5, (5, 8))
    thresholds = np.array([0.0, 60.0, 70.0, scores.max()])
    found = performance_profile(scores, thresholds)
    assert found.value == pytest.approx([(scores > t).mean() for t in thresholds])
    assert (found.value[0], found.value[-1]) == (1, 0)
    assert ((found.low <= found.value) & (found.value <= found.high)).all()
