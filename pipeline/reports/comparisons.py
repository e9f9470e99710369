"""Is one method better than another, and what would settle it?

Everything is paired: the same supports, the same test images, the same data sets.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np

from mma.pipeline.reports.statistics import CONFIDENCE, Estimate, critical_value, mean_estimate, mean_interval

LEVEL = 1 - CONFIDENCE
POWER = 0.80  # the probability with which the numbers of seeds and images that are named would settle a comparison
MOST_SEEDS, MOST_IMAGES = 1_000, 1_000_000  # beyond these, more seeds or images are no advice


@dataclass(frozen=True)
class Swaps:
    """One run against another on the same images: images that were mended, images that were broken, and the p-value."""

    mended: int
    broken: int
    p: float


def mcnemar(ours: np.ndarray, theirs: np.ndarray) -> Swaps:
    """McNemar's test (1947), exact: of correct [N] and correct [N] (0 or 1) of two runs on the same images.

    Two-sided binomial p-value of the images on which one run alone is right. It holds for these two fits on images like
    these; for methods, over seeds, use `difference`.
    """
    from scipy.special import bdtr

    mended = int(np.sum((ours != 0) & (theirs == 0)))
    broken = int(np.sum((ours == 0) & (theirs != 0)))
    p = min(1.0, 2 * float(bdtr(min(mended, broken), mended + broken, 0.5)))
    return Swaps(mended, broken, p)


def difference(ours: np.ndarray, theirs: np.ndarray, supports: Sequence[Hashable] | None = None) -> Estimate:
    """Our accuracy minus theirs in points, over seeds and test images.

    Of correct [S, N] or [1, N] each (0 or 1, or the values of balanced_values and harmonic_values): row s of both is
    the same support, column i the same image; [1, N] is a method without seeds. `supports` as in mean_estimate.
    Raises ValueError where the shapes do not pair.
    """
    if ours.shape[1:] != theirs.shape[1:] or (len(ours) != len(theirs) and 1 not in (len(ours), len(theirs))):
        raise ValueError(f"shapes {ours.shape} and {theirs.shape} do not pair: give the same seeds and test images")
    return mean_estimate(ours.astype(np.float64) - theirs, supports).scaled(100)


def change_per_class(
    ours: np.ndarray, theirs: np.ndarray, label: np.ndarray, supports: Sequence[Hashable] | None = None
) -> dict[int, Estimate]:
    """The difference in points on each class of label [N] that has two rows or more; the rest as `difference`."""
    classes, count = np.unique(label, return_counts=True)
    return {int(c): difference(ours[:, label == c], theirs[:, label == c], supports) for c in classes[count >= 2]}


def holm(p: np.ndarray) -> np.ndarray:
    """p-values [M] of one family, adjusted by Holm (1979): at 0.05, one family in twenty has any false finding."""
    order = np.argsort(p, kind="stable")
    stepped = np.maximum.accumulate(p[order] * np.arange(len(p), 0, -1))
    adjusted = np.empty(len(p))
    adjusted[order] = np.minimum(stepped, 1.0)
    return adjusted


@dataclass(frozen=True)
class Pairwise:
    """Row method minus column method in points: mean, 95 % interval, p-values adjusted over all pairs; each [M, M].

    A matrix of pairs, and no diagram of mean ranks, where the verdict on two methods depends on which others are in the
    table (Benavoli, Corani and Mangili, 2016, arXiv 1505.02288). On the diagonal: 0, and p = 1.
    """

    mean: np.ndarray
    low: np.ndarray
    high: np.ndarray
    p: np.ndarray


def pairwise(correct: Sequence[np.ndarray], supports: Sequence[Hashable] | None = None) -> Pairwise:
    """Every pair of M methods on one data set: correct [S, N] or [1, N] each, paired as in `difference`."""
    pairs = {
        (a, b): difference(correct[a], correct[b], supports if max(len(correct[a]), len(correct[b])) > 1 else None)
        for a in range(len(correct))
        for b in range(a)
    }
    return _matrix(len(correct), {at: (e.mean, e.low, e.high, e.p) for at, e in pairs.items()})


@dataclass(frozen=True)
class AcrossDatasets:
    """Ours minus theirs over data sets, in the scores' unit: mean with 95 % t-interval, p-values of the paired t-test
    and of Wilcoxon's signed rank, data sets won, tied, lost, and the least p-value that Wilcoxon's could give.
    """

    mean: float
    low: float
    high: float
    p_t: float
    p_wilcoxon: float
    least_p_wilcoxon: float
    won: int
    tied: int
    lost: int


def across_datasets(ours: np.ndarray, theirs: np.ndarray) -> AcrossDatasets:
    """Two methods over D data sets: scores [D] each, means over seeds (Demsar, 2006, section 3.1).

    The paired t-test takes differences as normal; the signed rank does not, and with five data sets or fewer cannot
    reach 0.05 (`least_p_wilcoxon`). Both take data sets as a sample of all there might be. Data sets without a
    difference are dropped by the signed rank (Wilcoxon's own rule), which is exact up to 13 data sets, or up to 50
    without ties. Raises ValueError for fewer than two data sets.
    """
    from scipy.special import stdtr

    if ours.shape != theirs.shape or len(ours) < 2:
        raise ValueError(
            f"scores of shapes {ours.shape} and {theirs.shape}: give both on the same two data sets or more"
        )
    change = np.round(ours - theirs, 9)  # 0.3 - 0.1 ties with 0.2
    mean, half = mean_interval(change.tolist())
    assert half is not None
    error = float(np.std(change, ddof=1)) / math.sqrt(len(change))
    p_t = 2 * float(stdtr(len(change) - 1, -abs(mean) / error)) if error else float(mean == 0)
    differ = change[change != 0]
    return AcrossDatasets(
        mean,
        mean - half,
        mean + half,
        p_t,
        _signed_rank(differ),
        2.0 ** (1 - len(differ)) if len(differ) else 1.0,
        int(np.sum(change > 0)),
        int(np.sum(change == 0)),
        int(np.sum(change < 0)),
    )


def pairwise_across_datasets(scores: np.ndarray) -> Pairwise:
    """Every pair of M methods over D data sets, scores [M, D] in percent: p-values of the paired t-test, adjusted."""
    pairs = {(a, b): across_datasets(scores[a], scores[b]) for a in range(len(scores)) for b in range(a)}
    return _matrix(len(scores), {at: (e.mean, e.low, e.high, e.p_t) for at, e in pairs.items()})


def verdict(change: Estimate, p: float | None = None, family: int = 1) -> str:
    """A difference in points, its interval, and what it says, in one line.

    `p` is the p-value adjusted over a family of so many comparisons; without it, the difference's own. Where nothing
    can be told: with how many seeds, or test images, this difference would be seen with 80 % power if it is the true
    one.
    """
    shown = f"{change.mean:+.1f} points, 95 % interval {change.low:.1f} to {change.high:.1f}"
    over = f" after Holm's correction over {family} comparisons" if family > 1 else ""
    alone = " (over test images alone)" if change.seeds == 1 else ""
    if (change.p if p is None else p) < LEVEL:
        return f"{shown}{alone}: {'better' if change.mean > 0 else 'worse'}{over}"
    seeds, images = seeds_needed(change, LEVEL / family), images_needed(change, LEVEL / family)
    ways = [f"{number:,} {what}" for number, what in ((seeds, "seeds"), (images, "test images")) if number is not None]
    if not ways:
        settled = "no practicable number of seeds or test images alone would settle it"
    else:
        settled = f"about {' or '.join(ways)} would settle it"
    return f"{shown}{alone}: not distinguishable{over}; {settled}"


def seeds_needed(change: Estimate, level: float = LEVEL) -> int | None:
    """How many seeds, on as many test images, would show a difference of this size with 80 % power; to two digits.

    None where no number up to 1,000 does (the test images are too few), and for one seed, which tells no spread.
    """
    if change.spread.seed is None:
        return None
    numbers = _round_numbers(change.seeds, MOST_SEEDS)
    return _first(numbers, _seen(change, numbers, np.array(change.images), level))


def images_needed(change: Estimate, level: float = LEVEL) -> int | None:
    """How many test images, with as many seeds, would show a difference of this size with 80 % power; to two digits.

    None where no number up to 1,000,000 does (the seeds are too few).
    """
    numbers = _round_numbers(change.images, MOST_IMAGES)
    return _first(numbers, _seen(change, np.array(change.seeds), numbers, level))


def _seen(change: Estimate, seeds: np.ndarray, images: np.ndarray, level: float) -> np.ndarray:
    """Whether |mean| >= (critical value + power's quantile) * error, with so many seeds and images."""
    from scipy.special import ndtri

    spread = change.spread
    of_image = spread.image / images
    if spread.seed is None:
        of_seed, seed_df = np.array(0.0), np.array(1)  # weighs nothing
    else:
        of_seed, seed_df = spread.seed / seeds + spread.rest / (seeds * images), seeds - 1
    with np.errstate(invalid="ignore"):  # no spread at all: no error, whatever the quantile
        quantile = np.nan_to_num(critical_value(of_seed, of_image, seed_df, images - 1, level))
    seen: np.ndarray = abs(change.mean) >= (quantile + float(ndtri(POWER))) * np.sqrt(of_seed + of_image)
    return seen


def _first(numbers: np.ndarray, seen: np.ndarray) -> int | None:
    """Not the least of a bisection: with two seeds, more images may show less."""
    return int(numbers[np.argmax(seen)]) if seen.any() else None


@cache
def _all_round_numbers() -> np.ndarray:
    return np.unique([digits * 10**power for power in range(6) for digits in range(1 if power == 0 else 10, 100)])


def _round_numbers(more_than: int, most: int) -> np.ndarray:
    """Numbers of two digits and zeros above one number, up to another: 8, 9, ... 99, 100, 110, ... 990, 1000 ..."""
    numbers = np.union1d(_all_round_numbers(), [most])
    return numbers[(numbers > more_than) & (numbers <= most)]


def _signed_rank(change: np.ndarray) -> float:
    """Wilcoxon's two-sided p-value of differences [D] other than zero: over all 2^D signs up to 13, else scipy's."""
    from scipy.stats import rankdata, wilcoxon

    if not len(change):
        return 1.0
    rank = rankdata(np.abs(change))
    if len(change) > 13:
        exact = len(change) <= 50 and len(np.unique(rank)) == len(rank)
        return float(wilcoxon(change, method="exact" if exact else "approx").pvalue)
    signs = (np.arange(2 ** len(change))[:, None] >> np.arange(len(change))) & 1  # [2^D, D]
    sums = signs @ rank  # [2^D]: the rank sum of positive differences under every choice of signs
    centre = rank.sum() / 2
    return float(np.mean(np.abs(sums - centre) >= abs(rank[change > 0].sum() - centre)))


def _matrix(methods: int, pairs: dict[tuple[int, int], tuple[float, float, float, float]]) -> Pairwise:
    """Pairs (a, b) of mean, low, high and p, filled into antisymmetric matrices, p adjusted over all of them."""
    mean, low, high = (np.zeros((methods, methods)) for _ in range(3))
    p = np.ones((methods, methods))
    adjusted = holm(np.array([pair[3] for pair in pairs.values()]))
    for ((a, b), (of_mean, of_low, of_high, _)), of_p in zip(pairs.items(), adjusted, strict=True):
        mean[a, b], low[a, b], high[a, b] = of_mean, of_low, of_high
        mean[b, a], low[b, a], high[b, a] = -of_mean, -of_high, -of_low
        p[a, b] = p[b, a] = of_p
    return Pairwise(mean, low, high, p)
