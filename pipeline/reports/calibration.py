"""How far can a probability be believed, and which classes can the right one be among?

Temperature scaling (Guo et al., 2017) and split conformal sets, both from validation rows that trained nothing: one
part for the temperature, another for the quantiles (`split_rows`), since a quantile from the rows that chose the
temperature is no longer of rows like the next ones. Logits [N, C] are as they enter the softmax; coverages are shares.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np

LEAST, MOST = 0.05, 20.0  # temperatures that are tried: beyond, validation rows hold no information on it

Method = Literal["lac", "aps"]


def split_rows(label: np.ndarray, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Rows for the temperature and rows for the quantiles: of labels [N], two sorted halves that share no row.

    Within a class they differ by one row at most, and in all by one. Drawn by the seed.
    """
    order = np.random.default_rng(seed).permutation(len(label))
    order = order[np.argsort(label[order], kind="stable")]  # by class, shuffled within
    return np.sort(order[::2]), np.sort(order[1::2])


@dataclass(frozen=True)
class Temperature:
    """What logits are divided by, the negative log-likelihood (nats) before and after, and from how many rows.

    `at_end`: the likelihood rises up to the end of what is tried, as it does where every row is right: not determined.
    """

    value: float
    before: float
    after: float
    rows: int
    at_end: bool


def fit_temperature(label: np.ndarray, logits: np.ndarray) -> Temperature:
    """The temperature that makes labels [N] likeliest under softmax(logits / temperature) (Guo et al., section 4.2).

    With b = 1 / temperature the negative log-likelihood is convex, and its slope is

        mean over rows of  sum_c p_c(b) z_c - z_label

    which rises in b: the minimum is its only root. Raises ValueError for no row.
    """
    from scipy.optimize import brentq
    from scipy.special import log_softmax

    if not len(label):
        raise ValueError("no validation row to fit a temperature on: keep some, or use scores without a temperature")
    logits = logits.astype(np.float64)
    logits -= logits.max(1, keepdims=True)
    own = logits[np.arange(len(label)), label]

    def loss(inverse: float) -> float:
        return -float(log_softmax(inverse * logits, axis=1)[np.arange(len(label)), label].mean())

    def slope(inverse: float) -> float:
        probability = np.exp(log_softmax(inverse * logits, axis=1))
        return float(np.mean(np.einsum("nc,nc->n", probability, logits) - own))

    low, high = 1 / MOST, 1 / LEAST
    at_end = not slope(low) < 0 < slope(high)
    best = (low if slope(low) >= 0 else high) if at_end else float(brentq(slope, low, high, xtol=1e-12, rtol=1e-12))
    return Temperature(1 / best, loss(1.0), loss(best), len(label), at_end)


def rows_needed(coverage: float) -> int:
    """The fewest rows from which a conformal quantile says anything: 19 for 95 %. With fewer, sets hold every class."""
    rows = math.ceil(coverage / (1 - coverage) - 1e-9)
    return max(rows, 1)


def conformal_quantile(label: np.ndarray, probability: np.ndarray, coverage: float, method: Method) -> float:
    """The threshold for sets that hold the right class with at least this coverage: labels [N], probability [N, C].

    Raises ValueError for a coverage that is not between 0 and 1. See `conformal_scores` and `quantile_of`.
    """
    return quantile_of(conformal_scores(label, probability, method), coverage)


def conformal_scores(label: np.ndarray, probability: np.ndarray, method: Method) -> np.ndarray:
    """How unlikely the right class of each row looked, in rising order [N]: labels [N], probability [N, C].

    "lac", 1 - p_label (least ambiguous classifier: Sadinle et al., 2019; smallest sets on average); "aps", the summed
    probability of the classes before the label (Romano et al., 2020; nearer the coverage for hard images too).

    Romano et al. add a random share of the label's own probability; here that share is 0, in the quantile as in the
    set. So the same image has the same set always, and no set is empty. Its whole probability (a share of 1) would rule
    the likeliest class out of the surest images: sets with it put back covered 88 % where 80 % were asked.
    """
    scores: np.ndarray = np.sort(_scores(probability, method)[np.arange(len(label)), label])
    return scores


def quantile_of(scores: np.ndarray, coverage: float) -> float:
    """The k-th of N rising scores, k = ceil((N + 1) coverage).

    A new row like these scores at most as much with a probability of coverage to coverage + 1/(N + 1) (Vovk et al.,
    2005; more where scores tie). Infinite where N < rows_needed(coverage). Raises ValueError for a coverage that is not
    between 0 and 1.
    """
    if not 0 < coverage < 1:
        raise ValueError(f"coverage {coverage} is not a share: give one between 0 and 1, such as 0.95")
    rank = math.ceil((len(scores) + 1) * coverage - 1e-9)
    return math.inf if rank > len(scores) else float(scores[rank - 1])


def conformal_sets(probability: np.ndarray, quantile: float, method: Method) -> np.ndarray:
    """Which classes can be the right one: booleans [N, C] of probability [N, C], by a quantile of the same method.

    The likeliest class is always in, since an empty set is no answer; so coverage is never below accuracy.
    """
    sets: np.ndarray = _scores(probability, method) <= quantile
    sets[np.arange(len(sets)), probability.argmax(1)] = True
    return sets


def covered(sets: np.ndarray, label: np.ndarray) -> float:
    """The share of rows whose label [N] is in their set [N, C]."""
    return float(sets[np.arange(len(label)), label].mean())


def _scores(probability: np.ndarray, method: Method) -> np.ndarray:
    """Nonconformity of every class [N, C]: low is likely."""
    probability = probability.astype(np.float64)
    if method == "lac":
        return 1 - probability
    order = np.argsort(-probability, axis=1, kind="stable")
    before = np.zeros_like(probability)
    before[:, 1:] = np.cumsum(np.take_along_axis(probability, order, 1), 1)[:, :-1]
    scores = np.empty_like(probability)
    np.put_along_axis(scores, order, before, 1)
    return scores
