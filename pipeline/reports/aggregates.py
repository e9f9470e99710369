"""What one number says of many seeds and data sets?

Averages as the field computes them, the worst seeds, and the robust aggregates of Agarwal et al., "Deep Reinforcement
Learning at the Edge of the Statistical Precipice" (2021). Scores [S, D] are one row per seed, one column per data set.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from mma.pipeline.reports.statistics import CONFIDENCE, Estimate

RESAMPLES = 2_000  # the ends of a 95 % interval vary by about 3 % of its width between generators


def h_of_means(base: np.ndarray, new: np.ndarray) -> float:
    """H = 2bn/(b+n) of the means of base and new, in their unit: what papers print, over seeds and over data sets
    (Xian et al., 2017; CoCoOp, 2022, Table 1). 0 where both are 0.
    """
    return float(_harmonic(np.mean(base), np.mean(new)))


def mean_of_h(base: np.ndarray, new: np.ndarray) -> float:
    """The mean of H over pairs of base [n] and new [n]: never above h_of_means, and lower the more the pairs differ."""
    return float(np.mean(_harmonic(base, new)))


def worst_tenth(values: Sequence[float]) -> float:
    """The mean of the worst tenth of seeds, rounded up (of ten seeds or fewer: the worst one), in their unit; as the
    conditional value at risk of Rockafellar and Uryasev (2000). What one draw of shots can cost. Higher is better.
    """
    return float(np.mean(sorted(values)[: math.ceil(len(values) / 10)]))


@dataclass(frozen=True)
class Interval:
    """A value with its 95 % interval: numbers, or arrays of one shape."""

    value: np.ndarray
    low: np.ndarray
    high: np.ndarray


def average_of_datasets(estimates: Sequence[Estimate]) -> Interval:
    """The average of estimates on D data sets, its interval over their seeds and test images; data sets are fixed.

    Seeds and images of different data sets are independent, so distances to the ends add as squares (MOVER: Zou and
    Donner, 2008). What other data sets would give is `across_datasets`.
    """
    mean, low, high = (np.array([getattr(e, name) for e in estimates]) for name in ("mean", "low", "high"))
    value = mean.mean()
    below = np.sqrt(np.square(mean - low).sum()) / len(mean)
    above = np.sqrt(np.square(high - mean).sum()) / len(mean)
    return Interval(value, value - below, value + above)


def interquartile_mean(scores: np.ndarray, seed: int = 0) -> Interval:
    """The mean of the middle half of all S D scores, in their unit (Agarwal et al., 2021, section 4.3).

    The interval is the percentile bootstrap's over seeds, drawn anew within every data set.
    """

    def middle_half(drawn: np.ndarray) -> np.ndarray:  # [R, S, D] -> [R]
        flat = np.sort(drawn.reshape(len(drawn), -1), 1)
        cut = flat.shape[1] // 4
        mean: np.ndarray = flat[:, cut : flat.shape[1] - cut].mean(1)
        return mean

    return _bootstrap(scores, middle_half, seed)


def performance_profile(scores: np.ndarray, thresholds: np.ndarray, seed: int = 0) -> Interval:
    """The share of runs above each threshold [T], over seeds and data sets: [T] (Agarwal et al., 2021, section 4.2).

    The pointwise band is the percentile bootstrap's over seeds, drawn anew within every data set.
    """

    def above(drawn: np.ndarray) -> np.ndarray:  # [R, S, D] -> [R, T]
        flat = np.sort(drawn.reshape(len(drawn), -1), 1)
        return np.stack([1 - np.searchsorted(row, thresholds, side="right") / len(row) for row in flat])

    return _bootstrap(scores, above, seed)


def _bootstrap(scores: np.ndarray, statistic: Callable[[np.ndarray], np.ndarray], seed: int) -> Interval:
    """A statistic of scores [S, D] with the stratified bootstrap's percentile interval (same, section 4.1)."""
    rng = np.random.default_rng(seed)
    rows = rng.integers(len(scores), size=(RESAMPLES, *scores.shape))
    drawn = np.take_along_axis(scores[None], rows, 1)  # [R, S, D]
    low, high = np.quantile(statistic(drawn), [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2], axis=0)
    return Interval(statistic(scores[None])[0], low, high)


def _harmonic(base: np.ndarray, new: np.ndarray) -> np.ndarray:
    total = np.asarray(base + new, np.float64)
    h: np.ndarray = np.divide(2 * base * new, total, out=np.zeros_like(total), where=total > 0)
    return h
