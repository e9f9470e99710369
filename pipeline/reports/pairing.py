"""May two settings be compared, over which seeds and test rows, and how do they differ?

Only like with like: the same bytes read, the same conditions, the same test rows, the seeds that both have.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, TypeVar

import numpy as np

from mma.pipeline.fitting.factors import has_values
from mma.pipeline.fitting.protocols import OPTIONS
from mma.pipeline.reports.comparisons import LEVEL, difference, mcnemar
from mma.pipeline.reports.records import Recorded
from mma.pipeline.reports.statistics import (
    Estimate,
    Spread,
    balanced_values,
    harmonic_values,
    mean_interval,
    share_estimate,
)

CONDITIONS = ("prompts", "reduce", *OPTIONS, "targets")  # what two settings must share to be compared
BALANCED = "balanced accuracy"

Conditions = tuple[tuple[str, Any], ...]
T = TypeVar("T")


def conditions_of(setting: Recorded) -> Conditions:
    """The conditions of a setting, in their order."""
    return tuple((name, setting.factors[name]) for name in CONDITIONS if name in setting.factors)


def alike(one: Recorded, other: Recorded) -> bool:
    """Whether two settings may be compared: the same bytes read, drawn and scored under the same conditions.

    A method that looks at no support has no shots, and goes with any number. What was selected on the test rows goes
    only with its like, or with what selects nothing.
    """
    return one.digest == other.digest and same_conditions(one.factors, other.factors)


def same_conditions(one: Mapping[str, Any], other: Mapping[str, Any], but: Collection[str] = ()) -> bool:
    """Whether two settings, as factors, were drawn, selected and scored under the same conditions, but for some by
    name.
    """
    if one["protocol"] != other["protocol"]:
        return False
    if {one["select"], other["select"]} in ({"oracle", "val"}, {"oracle", "last"}) and "select" not in but:
        return False
    shared = [name for name in CONDITIONS if name in one and name in other and name not in but]
    return all(one[name] == other[name] for name in shared)


def compare(ours: Recorded, theirs: Recorded, metric: str) -> Estimate | None:
    """Our metric minus theirs in points, over the seeds that both have and the test rows; None where nothing pairs."""
    if not alike(ours, theirs):
        return None
    seeds = common_seeds(ours, theirs)
    if not seeds:
        return None
    if (mine := values_of(ours, metric, seeds)) is not None and (other := values_of(theirs, metric, seeds)) is not None:
        tests = [theirs.scored.get(name) for name in ours.scored]
        same = all(t is not None and s.test is t.test for s, t in zip(ours.scored.values(), tests, strict=True))
        return difference(mine, other) if same else None
    if metric not in ours.metrics or metric not in theirs.metrics:
        return None
    return _over_seeds(_by_seed(ours, metric, seeds) - _by_seed(theirs, metric, seeds))


def measure(setting: Recorded, metric: str) -> Estimate | None:
    """A metric of a setting in percent: over seeds and test rows, or over seeds alone where predictions were not kept
    (then `images` is 0).
    """
    values = values_of(setting, metric, setting.seeds)
    if values is not None:
        return share_estimate(values)
    return _over_seeds(setting.metrics[metric]) if metric in setting.metrics else None


def tests_of(metric: str) -> tuple[str, ...]:
    """The tests that a metric is made of."""
    return {"accuracy": ("all",), BALANCED: ("all",), "H": ("base", "new")}.get(metric, (metric,))


def values_of(setting: Recorded, metric: str, seeds: Sequence[int]) -> np.ndarray | None:
    """Values [S, N] whose mean is the metric as a share, of some seeds; None without predictions."""
    scored = [setting.scored.get(test) for test in tests_of(metric)]
    rows = [setting.seeds.index(seed) for seed in seeds if seed in setting.seeds] if setting.seeded else [0]
    parts = [(each.correct[rows], each.test.label) for each in scored if each is not None]
    if len(parts) != len(scored):
        return None
    if metric == "H":
        return harmonic_values(parts[0][0], parts[1][0])
    correct, label = parts[0]
    return balanced_values(correct, label) if metric == BALANCED else correct


def _by_seed(setting: Recorded, metric: str, seeds: Sequence[int]) -> np.ndarray:
    if not setting.seeded:
        return setting.metrics[metric][:1]
    return setting.metrics[metric][[setting.seeds.index(seed) for seed in seeds]]


def common_seeds(ours: Recorded, theirs: Recorded) -> tuple[int, ...]:
    """The seeds that both have; a method without seeds goes with any."""
    if not ours.seeded:
        return theirs.seeds
    return tuple(seed for seed in ours.seeds if not theirs.seeded or seed in theirs.seeds)


def _over_seeds(values: np.ndarray) -> Estimate:
    """An estimate of values [S] over seeds alone, as it must be where it is not known which rows were right."""
    from scipy.special import stdtr

    mean, half = mean_interval(values.tolist())
    if half is None:
        return Estimate(mean, float("nan"), float("nan"), float("nan"), 1, 0, Spread(None, 0.0, 0.0))
    error = float(np.std(values, ddof=1)) / len(values) ** 0.5
    p = 2 * float(stdtr(len(values) - 1, -abs(mean) / error)) if error else float(mean == 0)
    return Estimate(mean, mean - half, mean + half, p, len(values), 0, Spread(error**2 * len(values), 0.0, 0.0))


def baseline_of(setting: Recorded, others: Sequence[Recorded], wanted: Mapping[str, str]) -> Recorded | None:
    """The setting to compare with: of those that fit the description and are alike, the one that shares most factors.

    None for the baseline itself, where there is none, and where it is of several conditions: then there is no
    difference.
    """
    if has_values(setting.factors, wanted):
        return None
    fitting = [other for other in others if has_values(other.factors, wanted) and alike(setting, other)]
    return most_like(setting.factors, fitting, lambda other: other.factors)


def most_like(own: Mapping[str, Any], fitting: Sequence[T], factors: Callable[[T], Mapping[str, Any]]) -> T | None:
    """Of settings that one may be compared with, that which shares most factors with it.

    None where there is none, and where they are of several conditions: a method without shots goes with any number of
    them, and to take one would be arbitrary.
    """
    if len({tuple(str(factors(other).get(name)) for name in CONDITIONS) for other in fitting}) != 1:
        return None
    return max(fitting, key=lambda other: sum(own.get(name) == value for name, value in factors(other).items()))


def swaps_of(ours: Recorded, theirs: Recorded, main: str) -> tuple[float, float, int] | None:
    """Images mended and broken, mean over seeds, and in how many seeds McNemar's test finds a difference."""
    seeds = common_seeds(ours, theirs)
    mine, other = (correct_of(setting, main, seeds) for setting in (ours, theirs))
    if mine is None or other is None:
        return None
    pairs = [mcnemar(a, b) for a, b in zip(*np.broadcast_arrays(mine, other), strict=True)]
    mended, broken = (float(np.mean([getattr(pair, name) for pair in pairs])) for name in ("mended", "broken"))
    return mended, broken, sum(pair.p < LEVEL for pair in pairs)


def correct_of(setting: Recorded, metric: str, seeds: Sequence[int]) -> np.ndarray | None:
    """Right or wrong [S, N] over all tests of a metric, side by side."""
    parts = [values_of(setting, test if test != "all" else "accuracy", seeds) for test in tests_of(metric)]
    return None if any(part is None for part in parts) else np.concatenate([p for p in parts if p is not None], 1)
