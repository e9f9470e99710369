"""How sure is a mean over seeds and test images?

Every seed of a setting is scored on the same test images, so an image that is hard is hard for all of them: the design
is crossed, not nested. One value for every seed and image stands in a matrix [S, N],

    value[s, i] = mean + seed[s] + image[i] + rest[s, i]

and the variance of its grand mean is var(seed)/S + var(image)/N + var(rest)/(S N). An interval over seeds alone (all
that `mean_interval` has) leaves out the second term, which is often the largest.

Of the pigeonhole bootstrap (Owen, 2007), Satterthwaite's degrees of freedom, Howe's rule, and Cochran and Cox's
weighted quantile, the last holds 95 % best from three seeds on; tests/benchmarks/coverage.py simulates all of them.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

CONFIDENCE = 0.95
LEAST_P = 1e-300  # smaller p-values are told as this

Array = Any  # a number or an array


def mean_interval(values: Sequence[float]) -> tuple[float, float | None]:
    """Mean, and the half-width of its 95 % Student-t interval over seeds alone (None for a single value)."""
    if len(values) < 2:
        return float(values[0]), None
    from scipy.special import stdtrit

    quantile = float(stdtrit(len(values) - 1, 0.5 + CONFIDENCE / 2))
    return float(np.mean(values)), quantile * float(np.std(values, ddof=1)) / math.sqrt(len(values))


def mean_text(values: Sequence[float]) -> str:
    """`66.81 ± 1.30`; without the interval where there is none, or where every value is the same."""
    mean, half = mean_interval(values)
    same = max(values) == min(values)
    return f"{mean:.2f}" if half is None or same else f"{mean:.2f} ± {half:.2f}"


@dataclass(frozen=True)
class Spread:
    """Variances in the model above, in squared units; `seed` is None where there is one seed, which tells nothing."""

    seed: float | None
    image: float
    rest: float


@dataclass(frozen=True)
class Estimate:
    """A mean with its 95 % interval. With one seed, all is over test images alone.

    `p` is the two-sided p-value of the true mean being zero: for differences, where it is below 0.05 exactly if the
    interval leaves zero out.
    """

    mean: float
    low: float
    high: float
    p: float
    seeds: int
    images: int
    spread: Spread

    def scaled(self, factor: float) -> Estimate:
        """The same in another unit: `scaled(100)` makes percent of shares. The factor is positive."""
        spread = self.spread
        seed = None if spread.seed is None else spread.seed * factor**2
        return Estimate(
            self.mean * factor,
            self.low * factor,
            self.high * factor,
            self.p,
            self.seeds,
            self.images,
            Spread(seed, spread.image * factor**2, spread.rest * factor**2),
        )


def mean_estimate(values: np.ndarray, supports: Sequence[Hashable] | None = None) -> Estimate:
    """The mean of values [S, N] (any unit) over the seeds and test images that might have been drawn.

    `supports` names the support of each of the S rows: rows of one support are averaged and count as one seed.
    One method without seeds is S = 1. Raises ValueError for fewer than two images.
    """
    values = merge_supports(values, supports)
    mean, parts, spread = _parts(values)
    half = parts.quantile(1 - CONFIDENCE) * parts.error
    seeds, images = values.shape
    return Estimate(mean, mean - half, mean + half, parts.p_value(mean), seeds, images, spread)


def share_estimate(values: np.ndarray, supports: Sequence[Hashable] | None = None) -> Estimate:
    """As `mean_estimate` for values [S, N] whose mean is a share (correct or not, balanced_values, harmonic_values), in
    percent, and within 0 to 100.

    The interval is Wilson's for the number of independent images that would give the same variance (effective sample
    size; Dean and Pavlou, 2015). Near 100 % the symmetric interval covers 91 % where this one covers 97 %.
    """
    values = merge_supports(values, supports)
    mean, parts, spread = _parts(values)
    seeds, images = values.shape
    known = parts.error > 0 and 0 < mean < 1
    effective = mean * (1 - mean) / parts.error**2 if known else float(images)
    low, high = wilson(np.asarray(mean), np.asarray(effective), parts.quantile(1 - CONFIDENCE))
    return Estimate(mean, float(low), float(high), parts.p_value(mean), seeds, images, spread).scaled(100)


def merge_supports(values: np.ndarray, supports: Sequence[Hashable] | None) -> np.ndarray:
    """Values [S, N] as float64, rows of equal support averaged into one, in the order of first appearance.

    Raises ValueError where values are not a matrix of two images or more, or supports are not one per row.
    """
    if values.ndim != 2 or not len(values) or values.shape[1] < 2:
        raise ValueError(f"values of shape {values.shape}: give one row per seed and at least two images, [S, N]")
    values = values.astype(np.float64)
    if supports is None:
        return values
    if len(supports) != len(values):
        raise ValueError(f"{len(supports)} supports for {len(values)} seeds: name one support per row")
    groups = [[row for row, other in enumerate(supports) if other == one] for one in dict.fromkeys(supports)]
    return np.stack([values[group].mean(0) for group in groups])


def balanced_values(correct: np.ndarray, label: np.ndarray) -> np.ndarray:
    """Values [S, N] whose row means are the seeds' balanced accuracies (shares), for any estimate or difference.

    Of correct [S, N] (0 or 1) and label [N]. With m_c the accuracy on class c over all seeds and n_c its rows,

        value[s, i] = balanced + N / (C n_c) (correct[s, i] - m_c),   c = label[i]

    is balanced accuracy made linear in the images (its influence function): between-class differences, which are no
    chance, do not widen the interval. C counts the classes that have rows.
    """
    _, index, count = np.unique(label, return_inverse=True, return_counts=True)
    weight = len(label) / (len(count) * count[index])  # [N]
    of_class = np.bincount(index, weights=correct.mean(0)) / count  # [C]
    values: np.ndarray = of_class.mean() + weight * (correct - of_class[index])
    return values


def harmonic_values(base: np.ndarray, new: np.ndarray, at: tuple[float, float] | None = None) -> np.ndarray:
    """Values [S, Nb + Nn] whose mean is H = 2bn/(b+n) of the mean base b and the mean new n (shares).

    With `at`, b and n are those, as where they are means over data sets of which this is one.

    Of correct [S, Nb] and [S, Nn] (0 or 1). H is made linear about its value by the delta method:
    dH/db = 2n^2/(b+n)^2, dH/dn = 2b^2/(b+n)^2. Zero everywhere where nothing was correct.
    """
    of_b, of_n = float(base.mean()), float(new.mean())
    b, n = at or (of_b, of_n)
    if b + n == 0:
        return np.zeros((len(base), base.shape[1] + new.shape[1]))
    total = base.shape[1] + new.shape[1]
    of_base = total / base.shape[1] * 2 * n**2 / (b + n) ** 2 * (base - of_b)
    of_new = total / new.shape[1] * 2 * b**2 / (b + n) ** 2 * (new - of_n)
    return 2 * b * n / (b + n) + np.concatenate([of_base, of_new], 1)


def mean_values(correct: Sequence[np.ndarray]) -> np.ndarray:
    """Values [S, N] whose row means are the mean share over several tests: correct [S, N_t] each, side by side."""
    total = sum(each.shape[1] for each in correct)
    of_tests = [each.mean(1, keepdims=True) for each in correct]
    mean = np.mean(of_tests, axis=0)  # [S, 1]
    spread = [
        total / (len(correct) * each.shape[1]) * (each - of_test)
        for each, of_test in zip(correct, of_tests, strict=True)
    ]
    values: np.ndarray = mean + np.concatenate(spread, 1)
    return values


def macro_f1_values(label: np.ndarray, predicted: np.ndarray) -> np.ndarray:
    """Values [S, N] whose row means are the seeds' macro F1 (shares): label [N], predicted [S, N].

    F1 of class c is 2 tp / d, where d counts its rows and the rows called it. Made linear in the images (delta method):
    a row brings 2 (if both it is of c and is called c) less F1_c for being of c, and F1_c for being called c, over d.
    Classes that neither have rows nor are called do not count.
    """
    classes = int(max(label.max(), predicted.max())) + 1
    values = np.empty(predicted.shape)
    for at, called in enumerate(predicted):
        right = called == label
        of, by = np.bincount(label, minlength=classes), np.bincount(called, minlength=classes)
        either = of + by  # [C]
        f1 = 2 * np.bincount(label[right], minlength=classes) / np.maximum(either, 1)
        there = np.count_nonzero(either)
        pull = f1 / np.maximum(either, 1)
        own = np.where(right, 2 / either[label], 0.0) - pull[label] - pull[called]  # [N], of sum 0
        values[at] = f1.sum() / there + len(label) / there * own
    return values


def precision_values(label: np.ndarray, predicted: np.ndarray, c: int) -> np.ndarray:
    """Values [S, N] whose mean is the precision of class c over all seeds (a share): label [N], predicted [S, N].

    A ratio, made linear in the images. Raises ValueError where no row is called c.
    """
    called = predicted == c
    if not called.any():
        raise ValueError(f"no row is called class {c}: it has no precision")
    precision = float(np.mean((predicted == label)[called]))
    values: np.ndarray = precision + called * ((label == c) - precision) / called.mean()
    return values


def wilson(share: np.ndarray, trials: np.ndarray, quantile: float | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Wilson's score interval (1927) of a share: low and high, of any one shape; 0 to 1 where there were no trials.

    Not Clopper and Pearson's: that one never covers less than 95 % but, for a class with few rows, often 99 %; Wilson's
    covers 95 % on average (Brown, Cai and DasGupta, 2001, section 4). `quantile` is the normal one unless given.
    """
    if quantile is None:
        from scipy.special import ndtri

        quantile = float(ndtri(0.5 + CONFIDENCE / 2))
    square = quantile**2
    with np.errstate(invalid="ignore", divide="ignore"):
        centre = (share * trials + square / 2) / (trials + square)
        half = quantile * np.sqrt(share * (1 - share) * trials + square / 4) / (trials + square)
    # At 0 and at 1 the interval ends there, but for rounding.
    low, high = np.clip(centre - half, 0, share), np.clip(centre + half, share, 1)
    return np.where(trials > 0, low, 0.0), np.where(trials > 0, high, 1.0)


@dataclass(frozen=True)
class Parts:
    """The variance of a grand mean as a sum of two: `seed` on S - 1 degrees of freedom, `image` on N - 1."""

    seed: float
    image: float
    seed_df: int
    image_df: int

    @property
    def error(self) -> float:
        """The standard error of the mean."""
        return math.sqrt(self.seed + self.image)

    def quantile(self, p: float) -> float:
        """The two-sided critical value at level p."""
        if not self.seed:
            return -_student(self.image_df, p / 2)
        return float(critical_value(self.seed, self.image, self.seed_df, self.image_df, p))

    def p_value(self, mean: float) -> float:
        """The level p at which the interval just reaches zero, to a relative 1e-9. It lies between the p-values that
        Student's distributions of the two parts give alone.
        """
        from scipy.optimize import brentq
        from scipy.special import stdtr

        if not mean:
            return 1.0
        if not self.error:
            return 0.0
        ratio = abs(mean) / self.error
        of_image = 2 * float(stdtr(self.image_df, -ratio))
        if not self.seed:
            return of_image
        of_seed = 2 * float(stdtr(self.seed_df, -ratio))
        low = math.log(max(min(of_seed, of_image), LEAST_P)) - 1e-6
        high = min(math.log(max(of_seed, of_image, LEAST_P)) + 1e-6, 0.0)

        def beyond(log_p: float) -> float:
            return self.quantile(math.exp(log_p)) - ratio

        if beyond(low) <= 0 or beyond(high) >= 0:  # below the least p, or both parts on as many degrees of freedom
            return math.exp(low if beyond(low) <= 0 else high)
        return math.exp(brentq(beyond, low, high, xtol=1e-10))


def critical_value(seed: Array, image: Array, seed_df: Array, image_df: Array, p: float) -> Array:
    """The two-sided critical value at level p of a mean with such parts (numbers or arrays): Student's quantiles,
    weighted by the variances that they belong to (Cochran and Cox, Experimental Designs, 1950).
    """
    from scipy.special import stdtrit

    return -(seed * stdtrit(seed_df, p / 2) + image * stdtrit(image_df, p / 2)) / (seed + image)


def _student(df: int, p: float) -> float:
    from scipy.special import stdtrit

    return float(stdtrit(df, p))


def _parts(values: np.ndarray) -> tuple[float, Parts, Spread]:
    """Mean, variance and spread of values [S, N], from the mean squares of the two-way layout (Searle, Casella and
    McCulloch, Variance Components, 1992):

        E[ms_seed] = rest + N seed,  E[ms_image] = rest + S image,  E[ms_rest] = rest
        var(mean) = (ms_seed + (ms_image - ms_rest)) / (S N)
    """
    seeds, images = values.shape
    mean = float(values.mean())
    of_seed, of_image = values.mean(1), values.mean(0)  # [S], [N]
    ms_image = seeds * float(np.square(of_image - mean).sum()) / (images - 1)
    if seeds == 1:
        return mean, Parts(0.0, ms_image / images, 0, images - 1), Spread(None, ms_image, 0.0)
    rest = values - of_image
    rest -= (of_seed - mean)[:, None]
    ms_rest = float(np.einsum("si,si->", rest, rest)) / ((seeds - 1) * (images - 1))
    # Row means that agree exactly while their rows do not agree by chance: E[ms_seed] is never below E[ms_rest].
    ms_seed = images * float(np.var(of_seed, ddof=1)) if np.ptp(of_seed) > 0 else ms_rest
    spread = Spread(max(ms_seed - ms_rest, 0.0) / images, max(ms_image - ms_rest, 0.0) / seeds, ms_rest)
    return mean, Parts(ms_seed / (seeds * images), spread.image / images, seeds - 1, images - 1), spread
