from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import scipy.stats
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import f1_score
from statsmodels.stats.proportion import proportion_confint

from mma.pipeline.reports.statistics import (
    Estimate,
    balanced_values,
    harmonic_values,
    macro_f1_values,
    mean_estimate,
    mean_interval,
    mean_text,
    mean_values,
    precision_values,
    share_estimate,
    wilson,
)

from . import experiments

EXPERIMENTS = 2_000


@given(st.lists(st.floats(0, 100), min_size=2, max_size=20))
def test_the_interval_is_students(values: list[float]) -> None:
    mean, half = mean_interval(values)
    assert mean == pytest.approx(np.mean(values))
    if np.std(values) > 1e-6:
        low, high = scipy.stats.t.interval(0.95, len(values) - 1, np.mean(values), scipy.stats.sem(values))
        assert half == pytest.approx((high - low) / 2)


def test_one_value_and_equal_values_show_no_interval() -> None:
    assert mean_text([56.88]) == "56.88"
    assert mean_text([56.88] * 3) == "56.88"
    assert mean_text([1.0, 2.0, 3.0]) == "2.00 ± 2.48"


def coverage(draw: Callable[[np.random.Generator], tuple[Estimate, float]], experiments: int = EXPERIMENTS) -> float:
    """The percentage of experiments whose interval holds the truth."""
    rng = np.random.default_rng(0)
    held = 0
    for _ in range(experiments):
        estimate, truth = draw(rng)
        held += estimate.low <= truth <= estimate.high
    return 100 * held / experiments


DESIGNS = {
    "images decide": experiments.Design(5, 400, seed=0.02, image=1.0, rest=0.3),
    "seeds and images decide": experiments.Design(5, 400, seed=0.1, image=1.0, rest=0.3),
    "seeds decide": experiments.Design(5, 400, seed=0.2, image=0.5, rest=1.0),
    "predictions decide": experiments.Design(5, 400, seed=0.0, image=0.1, rest=1.0),
    "ten seeds, many images": experiments.Design(10, 1_000, seed=0.05, image=1.0, rest=0.3),
}


@pytest.mark.slow
@pytest.mark.parametrize("design", DESIGNS.values(), ids=DESIGNS.keys())
def test_95_percent_intervals_of_one_method_hold_the_truth(design: experiments.Design) -> None:
    def draw(rng: np.random.Generator) -> tuple[Estimate, float]:
        correct, truth = experiments.methods(design, rng)
        return share_estimate(correct[0]), 100 * truth[0]

    assert 93 <= coverage(draw) <= 97


@pytest.mark.slow
def test_an_interval_near_100_percent_holds_the_truth_and_ends_at_100() -> None:
    design = experiments.Design(5, 400, seed=0.1, image=1.0, rest=0.3, level=2.2)  # 98 % right

    def draw(rng: np.random.Generator) -> tuple[Estimate, float]:
        correct, truth = experiments.methods(design, rng)
        estimate = share_estimate(correct[0])
        assert estimate.high <= 100
        return estimate, 100 * truth[0]

    assert 93 <= coverage(draw) <= 97.5


def test_an_interval_over_seeds_alone_is_too_short_for_new_images() -> None:
    design = DESIGNS["images decide"]

    def draw(rng: np.random.Generator) -> tuple[Estimate, float]:
        correct, truth = experiments.methods(design, rng)
        mean, half = mean_interval(correct[0].mean(1).tolist())
        assert half is not None
        whole = mean_estimate(correct[0])
        return Estimate(mean, mean - half, mean + half, 1.0, 5, 400, whole.spread), truth[0]

    assert coverage(draw, 500) < 75


def test_one_seed_has_wilsons_interval_over_its_images() -> None:
    correct = (np.arange(250) < 218)[None]
    estimate = share_estimate(correct)
    low, high = proportion_confint(218, 250, method="wilson")
    assert estimate.seeds == 1
    assert estimate.spread.seed is None
    assert (estimate.low, estimate.high) == pytest.approx((100 * low, 100 * high), abs=0.05)


def test_without_errors_the_interval_still_has_a_width() -> None:
    estimate = share_estimate(np.ones((3, 50), np.uint8))
    assert estimate.mean == estimate.high == 100
    assert 90 < estimate.low < 95  # 50 of 50


def test_the_spread_is_that_of_the_two_way_layout() -> None:
    rng = np.random.default_rng(1)
    values = 2 * rng.standard_normal((400, 1)) + 3 * rng.standard_normal(500) + rng.standard_normal((400, 500))
    spread = mean_estimate(values).spread
    assert spread.seed == pytest.approx(4, rel=0.2)
    assert spread.image == pytest.approx(9, rel=0.2)
    assert spread.rest == pytest.approx(1, rel=0.02)


@given(st.integers(1, 6), st.integers(2, 30), st.integers(0, 2**32), st.floats(-1, 1))
def test_p_is_below_5_percent_exactly_where_the_interval_leaves_zero_out(
    seeds: int, images: int, draw: int, shift: float
) -> None:
    rng = np.random.default_rng(draw)
    estimate = mean_estimate(rng.standard_normal((seeds, images)) + shift)
    edge = min(abs(estimate.low), abs(estimate.high))
    if edge > 1e-6:
        assert (estimate.p < 0.05) == (estimate.low > 0 or estimate.high < 0)


def test_p_of_one_seed_is_the_t_tests() -> None:
    values = np.random.default_rng(2).standard_normal((1, 40)) + 0.4
    assert mean_estimate(values).p == pytest.approx(scipy.stats.ttest_1samp(values[0], 0).pvalue)


def test_seeds_of_one_support_count_as_one() -> None:
    rng = np.random.default_rng(3)
    first, second = rng.random((1, 200)) < 0.7, rng.random((1, 200)) < 0.8
    twice = np.concatenate([first, second, first, first])
    merged = share_estimate(twice, supports=["a", "b", "a", "a"])
    assert merged == share_estimate(np.concatenate([first, second]))
    assert merged.seeds == 2
    with pytest.raises(ValueError, match="3 supports for 4 seeds"):
        share_estimate(twice, supports=["a", "b", "a"])


def test_too_few_images_are_refused() -> None:
    with pytest.raises(ValueError, match="at least two images"):
        mean_estimate(np.ones((3, 1)))


def test_balanced_values_mean_balanced_accuracy_seed_by_seed() -> None:
    from sklearn.metrics import balanced_accuracy_score

    rng = np.random.default_rng(4)
    label = rng.choice(4, 300, p=[0.6, 0.2, 0.15, 0.05])
    predicted = np.where(rng.random((3, 300)) < 0.7, label, rng.integers(4, size=(3, 300)))
    values = balanced_values(predicted == label, label)
    assert values.mean(1) == pytest.approx([balanced_accuracy_score(label, row) for row in predicted])


@pytest.mark.slow
def test_intervals_of_balanced_accuracy_hold_the_truth() -> None:
    chances = np.array([0.95, 0.6, 0.8])  # correct, class by class

    def draw(rng: np.random.Generator) -> tuple[Estimate, float]:
        label = rng.choice(3, 500, p=[0.7, 0.2, 0.1])
        hard = rng.random(500) * 0.8 + rng.random((5, 500)) * 0.2  # images are alike hard for all seeds
        return share_estimate(balanced_values(hard < limits[label], label)), 100 * chances.mean()

    many = np.random.default_rng(5)
    limits = np.quantile(many.random(2_000_000) * 0.8 + many.random(2_000_000) * 0.2, chances)  # [C]
    assert 93 <= coverage(draw) <= 97


@pytest.mark.slow
def test_h_is_of_the_means_and_its_interval_holds_the_truth() -> None:
    design = experiments.Design(5, 400, seed=0.1, image=1.0, rest=0.3)

    def draw(rng: np.random.Generator) -> tuple[Estimate, float]:
        (base,), (b,) = experiments.methods(design, rng)
        (new,), (n,) = experiments.methods(experiments.Design(5, 300, 0.1, 1.0, 0.3, level=0.5), rng)
        estimate = share_estimate(harmonic_values(base, new))
        of_means = 2 * base.mean() * new.mean() / (base.mean() + new.mean())
        assert estimate.mean == pytest.approx(100 * of_means)
        return estimate, 100 * 2 * b * n / (b + n)

    assert 93 <= coverage(draw) <= 97


def test_nothing_right_has_an_h_of_zero() -> None:
    assert share_estimate(harmonic_values(np.zeros((2, 5)), np.zeros((2, 4)))).mean == 0


@given(st.integers(0, 500), st.integers(1, 500))
def test_wilsons_interval_is_statsmodels(successes: int, trials: int) -> None:
    successes = min(successes, trials)
    low, high = wilson(np.array([successes / trials]), np.array([trials]))
    want = proportion_confint(successes, trials, method="wilson")
    assert (low[0], high[0]) == pytest.approx(want, abs=1e-12)


def test_without_trials_wilsons_interval_is_everything() -> None:
    low, high = wilson(np.array([np.nan]), np.array([0]))
    assert (low[0], high[0]) == (0, 1)


@pytest.mark.slow
def test_macro_f1_made_linear_has_its_value_and_its_spread() -> None:
    rng = np.random.default_rng(0)

    def drawn(rows: int) -> tuple[np.ndarray, np.ndarray]:
        label = rng.choice(4, rows, p=[0.4, 0.3, 0.2, 0.1])
        return label, np.where(rng.random((2, rows)) < 0.7, label, rng.integers(4, size=(2, rows)))

    label, predicted = drawn(300)
    values = macro_f1_values(label, predicted)
    for row, called in zip(values, predicted, strict=True):
        assert row.mean() == pytest.approx(f1_score(label, called, average="macro"))
    several = [
        (f1_score(a, b[0], average="macro"), macro_f1_values(a, b)[0].std() / 300**0.5)
        for a, b in map(drawn, [300] * 200)
    ]
    truth, told = np.std([f for f, _ in several]), np.mean([error for _, error in several])
    assert told == pytest.approx(truth, rel=0.15)


def test_precision_made_linear_has_its_value_and_its_spread() -> None:
    rng = np.random.default_rng(0)
    label = rng.integers(3, size=(200, 300))
    predicted = np.where(rng.random((200, 300)) < 0.7, label, rng.integers(3, size=(200, 300)))
    values = [precision_values(one, called[None], 1)[0] for one, called in zip(label, predicted, strict=True)]
    precision = [float(np.mean((called == one)[called == 1])) for one, called in zip(label, predicted, strict=True)]
    assert [row.mean() for row in values] == pytest.approx(precision)
    assert np.mean([row.std() / 300**0.5 for row in values]) == pytest.approx(np.std(precision), rel=0.15)
    with pytest.raises(ValueError, match="called class 5"):
        precision_values(label[0], predicted[:1], 5)


def test_the_mean_over_tests_counts_each_test_alike() -> None:
    rng = np.random.default_rng(0)
    parts = [rng.random((3, n)) < 0.6 for n in (40, 90)]
    assert mean_values(parts).mean(1) == pytest.approx(np.mean([part.mean(1) for part in parts], axis=0))
