from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st
from statsmodels.stats.contingency_tables import mcnemar as statsmodels_mcnemar
from statsmodels.stats.multitest import multipletests

from mma.pipeline.reports.comparisons import (
    across_datasets,
    change_per_class,
    difference,
    holm,
    images_needed,
    mcnemar,
    pairwise,
    pairwise_across_datasets,
    seeds_needed,
    verdict,
)
from mma.pipeline.reports.statistics import Estimate, Spread

from .experiments import Design, methods

EXPERIMENTS = 2_000
FIVE = Design(5, 400, seed=0.05, image=1.0, rest=0.3)
DESIGNS = {
    "images decide": Design(5, 400, seed=0.02, image=1.0, rest=0.3),
    "seeds and images decide": Design(5, 400, seed=0.05, image=1.0, rest=0.3),
    "seeds decide": Design(5, 400, seed=0.3, image=1.0, rest=0.3),
    "predictions decide": Design(5, 400, seed=0.0, image=0.1, rest=1.0),
    "ten seeds, many images": Design(10, 1_000, seed=0.05, image=1.0, rest=0.3),
}


@given(st.integers(0, 60), st.integers(0, 60), st.integers(0, 5), st.integers(0, 5))
def test_mcnemar_is_statsmodels(mended: int, broken: int, both: int, neither: int) -> None:
    ours = np.repeat([1, 0, 1, 0], [mended, broken, both, neither])
    theirs = np.repeat([0, 1, 1, 0], [mended, broken, both, neither])
    found = mcnemar(ours, theirs)
    assert (found.mended, found.broken) == (mended, broken)
    want = statsmodels_mcnemar([[both, mended], [broken, neither]], exact=True).pvalue
    assert found.p == pytest.approx(want, rel=1e-9)


def holds(design: Design, better: float) -> float:
    """The percentage of experiments whose interval holds the true difference of two methods."""
    rng = np.random.default_rng(0)
    held = 0
    for _ in range(EXPERIMENTS):
        (theirs, ours), truth = methods(design, rng, (0.0, better))
        change = difference(ours, theirs)
        held += change.low <= 100 * (truth[1] - truth[0]) <= change.high
    return 100 * held / EXPERIMENTS


@pytest.mark.slow
@pytest.mark.parametrize("design", DESIGNS.values(), ids=DESIGNS.keys())
def test_95_percent_intervals_of_a_difference_hold_the_truth(design: Design) -> None:
    assert 93 <= holds(design, better=0.1) <= 97


@pytest.mark.slow
def test_with_three_seeds_intervals_of_a_difference_are_rather_too_long() -> None:
    assert 93 <= holds(Design(3, 400, seed=0.05, image=1.0, rest=0.3), better=0.1) <= 98


def test_a_method_without_seeds_pairs_with_every_seed() -> None:
    (ours,), _ = methods(FIVE, np.random.default_rng(1))
    theirs = np.random.default_rng(2).random((1, 400)) < 0.7
    assert difference(ours, theirs) == difference(ours, np.repeat(theirs, 5, 0))
    assert difference(ours, theirs).mean == pytest.approx(100 * (ours.mean() - theirs.mean()))


def test_shapes_that_do_not_pair_are_refused() -> None:
    with pytest.raises(ValueError, match="do not pair"):
        difference(np.ones((3, 10), np.uint8), np.ones((2, 10), np.uint8))
    with pytest.raises(ValueError, match="do not pair"):
        difference(np.ones((3, 10), np.uint8), np.ones((3, 11), np.uint8))


def test_change_per_class_is_the_difference_on_its_images() -> None:
    rng = np.random.default_rng(3)
    (theirs, ours), _ = methods(FIVE, rng, (0.0, 0.3))
    label = np.append(rng.integers(3, size=399), 3)  # the last class has one image
    changes = change_per_class(ours, theirs, label)
    assert list(changes) == [0, 1, 2]
    assert changes[1] == difference(ours[:, label == 1], theirs[:, label == 1])


@pytest.mark.slow
@settings(max_examples=20)  # statsmodels takes its time
@given(st.lists(st.floats(0, 1), min_size=1, max_size=20))
def test_holms_correction_is_statsmodels(p: list[float]) -> None:
    assert holm(np.array(p)) == pytest.approx(multipletests(p, method="holm")[1])


@pytest.mark.slow
def test_false_findings_after_holm_are_in_5_percent_of_tables_at_most() -> None:
    rng = np.random.default_rng(4)
    design = Design(5, 200, seed=0.05, image=1.0, rest=0.3)
    found = sum((pairwise(methods(design, rng, (0.0,) * 4)[0]).p < 0.05).any() for _ in range(EXPERIMENTS))
    assert 0 < found / EXPERIMENTS <= 0.05


def test_without_holm_false_findings_would_be_more() -> None:
    rng = np.random.default_rng(4)
    design = Design(5, 200, seed=0.05, image=1.0, rest=0.3)
    found = 0
    for _ in range(300):
        correct, _ = methods(design, rng, (0.0,) * 4)
        found += any(difference(a, b).p < 0.05 for a, b in combinations(correct, 2))
    assert found / 300 > 0.08


def test_pairwise_holds_every_difference_both_ways() -> None:
    correct, _ = methods(FIVE, np.random.default_rng(5), (0.0, 0.2, 0.6))
    correct.append(np.random.default_rng(6).random((1, 400)) < 0.5)  # without seeds
    table = pairwise(correct, supports=["a", "b", "c", "d", "d"])
    change = difference(correct[2], correct[0], ["a", "b", "c", "d", "d"])
    assert (table.mean[2, 0], table.low[2, 0], table.high[2, 0]) == (change.mean, change.low, change.high)
    assert (table.mean == -table.mean.T).all()
    assert (table.low == -table.high.T).all()
    assert (table.p == table.p.T).all()
    assert table.p[2, 0] >= change.p
    assert (np.diag(table.p) == 1).all()


def test_over_data_sets_both_tests_are_scipys() -> None:
    rng = np.random.default_rng(7)
    for datasets in (2, 6, 11, 20, 60):
        ours, theirs = rng.normal(70, 5, datasets) + 1, rng.normal(70, 5, datasets)
        found = across_datasets(ours, theirs)
        assert found.p_t == pytest.approx(scipy.stats.ttest_rel(ours, theirs).pvalue)
        assert found.p_wilcoxon == pytest.approx(scipy.stats.wilcoxon(ours, theirs).pvalue)
        assert (found.won, found.lost) == ((ours > theirs).sum(), (ours < theirs).sum())
        want = scipy.stats.ttest_rel(ours, theirs).confidence_interval()
        assert (found.low, found.high) == pytest.approx(want)


def test_the_signed_rank_is_exact_with_ties_too() -> None:
    change = np.array([0.2, 0.2, -0.2, 0.5, 0.7, 0.7, 1.0, 0.0])
    nonzero = change[change != 0]
    ranked = scipy.stats.rankdata(np.abs(nonzero))

    def positive(values: np.ndarray, axis: int = -1) -> np.ndarray:
        total: np.ndarray = np.where(values > 0, ranked, 0).sum(axis)
        return total

    want = scipy.stats.permutation_test((nonzero,), positive, permutation_type="samples", n_resamples=np.inf)
    found = across_datasets(70 + change, np.full(8, 70.0))
    assert found.p_wilcoxon == pytest.approx(want.pvalue)
    assert found.tied == 1


def test_five_data_sets_cannot_reach_5_percent_by_ranks() -> None:
    found = across_datasets(np.array([71.0, 72, 73, 74, 75]), np.array([70.0, 70, 70, 70, 70]))
    assert found.p_wilcoxon == found.least_p_wilcoxon == 0.0625
    assert found.p_t < 0.05


def test_equal_scores_are_no_difference() -> None:
    found = across_datasets(np.array([0.1, 0.2, 0.3]) + 0.2, np.array([0.3, 0.4, 0.5]))  # equal but for rounding
    assert (found.p_t, found.p_wilcoxon, found.least_p_wilcoxon, found.tied) == (1, 1, 1, 3)


def test_pairwise_across_data_sets_is_the_t_tests_after_holm() -> None:
    scores = np.random.default_rng(8).normal(70, 3, (3, 8))
    table = pairwise_across_datasets(scores)
    p = [scipy.stats.ttest_rel(scores[a], scores[b]).pvalue for a, b in ((1, 0), (2, 0), (2, 1))]
    assert [table.p[1, 0], table.p[2, 0], table.p[2, 1]] == pytest.approx(multipletests(p, method="holm")[1])
    assert table.mean[2, 1] == pytest.approx((scores[2] - scores[1]).mean())


def test_the_verdict_is_words() -> None:
    small = Estimate(1.2, -0.3, 2.7, 0.09, seeds=5, images=500, spread=Spread(0.4, 60.0, 200.0))
    assert verdict(small) == (
        "+1.2 points, 95 % interval -0.3 to 2.7: not distinguishable; "
        "about 15 seeds or 2,500 test images would settle it"
    )
    clear = Estimate(1.2, 0.3, 2.1, 0.01, seeds=5, images=500, spread=Spread(0.1, 50.0, 50.0))
    assert verdict(clear) == "+1.2 points, 95 % interval 0.3 to 2.1: better"
    assert verdict(clear, p=0.06, family=6).startswith(
        "+1.2 points, 95 % interval 0.3 to 2.1: not distinguishable after Holm's correction over 6 comparisons; about "
    )
    worse = Estimate(-1.2, -2.1, -0.3, 0.01, seeds=1, images=500, spread=Spread(None, 50.0, 0.0))
    assert verdict(worse) == "-1.2 points, 95 % interval -2.1 to -0.3 (over test images alone): worse"
    none = Estimate(0.0, -0.3, 0.3, 1.0, seeds=5, images=500, spread=Spread(0.1, 50.0, 50.0))
    assert verdict(none).endswith("; no practicable number of seeds or test images alone would settle it")


@pytest.mark.slow
def test_as_many_seeds_as_named_would_settle_it() -> None:
    rng = np.random.default_rng(9)
    few, better = Design(4, 2_000, seed=0.1, image=0.5, rest=0.3), 0.07
    planned = []
    for _ in range(40):
        (theirs, ours), truth = methods(few, rng, (0.0, better))
        change = difference(ours, theirs)
        true = Estimate(100 * (truth[1] - truth[0]), change.low, change.high, change.p, 4, 2_000, change.spread)
        planned.append(seeds_needed(true))
    seeds = int(np.median([number for number in planned if number is not None]))
    many = Design(seeds, 2_000, few.seed, few.image, few.rest)
    seen = 0
    for _ in range(300):
        (theirs, ours), _ = methods(many, rng, (0.0, better))
        seen += difference(ours, theirs).p < 0.05
    assert 0.7 <= seen / 300 <= 0.9


def test_as_many_images_as_named_would_settle_it() -> None:
    rng = np.random.default_rng(10)
    few, better = Design(5, 300, seed=0.0, image=1.0, rest=0.3), 0.1
    planned = []
    for _ in range(40):
        (theirs, ours), truth = methods(few, rng, (0.0, better))
        change = difference(ours, theirs)
        true = Estimate(100 * (truth[1] - truth[0]), change.low, change.high, change.p, 5, 300, change.spread)
        planned.append(images_needed(true))
    images = int(np.median([number for number in planned if number is not None]))
    many = Design(5, images, few.seed, few.image, few.rest)
    seen = 0
    for _ in range(300):
        (theirs, ours), _ = methods(many, rng, (0.0, better))
        seen += difference(ours, theirs).p < 0.05
    assert 0.7 <= seen / 300 <= 0.9


def test_where_seeds_are_too_few_no_number_of_images_helps() -> None:
    change = Estimate(1.0, -3.0, 5.0, 0.4, seeds=3, images=500, spread=Spread(2.0, 10.0, 10.0))
    assert images_needed(change) is None
    assert seeds_needed(change) is not None
    one = Estimate(1.0, -3.0, 5.0, 0.4, seeds=1, images=500, spread=Spread(None, 2_000.0, 0.0))
    assert seeds_needed(one) is None
    assert images_needed(one) == 16_000  # (1.96 + 0.84)^2 * 2,000 = 15,698
