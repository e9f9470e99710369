from __future__ import annotations

import numpy as np
import pytest
import scipy.stats
from hypothesis import given
from hypothesis import strategies as st

from mma.pipeline.reports.statistics import mean_interval, mean_text


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
