"""Statistics of results over seeds."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

CONFIDENCE = 0.95


def mean_interval(values: Sequence[float]) -> tuple[float, float | None]:
    """Mean, and the half-width of its 95 % Student-t interval (None for a single value)."""
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
