"""What validation rows say of a fitted adapter: its accuracy, a temperature, and scores for conformal sets.

The rows are parted in two: one part for the temperature, the other for all that is measured with it.
"""

from __future__ import annotations

from typing import Any, cast

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from mma.adapters import Adapter, Labelled, predict
from mma.pipeline.reports.calibration import Method, conformal_scores, fit_temperature, split_rows
from mma.pipeline.reports.metrics import classified, reliability
from mma.pipeline.using.model import METHODS, Calibration
from mma.pipeline.using.score import softmax

SEED = 0  # parts the rows
LEAST = 4  # rows; fewer say nothing

Scores = dict[str, NDArray[np.float64]]


def calibrate(
    adapter: Adapter, rows: Labelled, text: Tensor, *, selected_on: bool
) -> tuple[Calibration | None, dict[str, Any], Scores]:
    """The calibration of an adapter, its figures on the rows (accuracies in percent), and conformal scores by method.

    Nothing where there are fewer than four rows.
    """
    if len(rows.label) < LEAST:
        return None, {}, {}
    logits = predict(adapter, rows.image, text).double().cpu().numpy()  # [N, C]
    label = rows.label.cpu().numpy()
    first, second = split_rows(label, SEED)
    temperature = fit_temperature(label[first], logits[first])
    value = None if temperature.at_end else temperature.value
    probability = softmax(logits[second], value or 1.0)
    found = classified(label, logits.argmax(1), logits.shape[1])
    figures = {
        "rows": len(label),
        "accuracy": found.accuracy,
        "balanced_accuracy": found.balanced_accuracy,
        "calibration_error_before": _error(label[second], softmax(logits[second])),
        "calibration_error": _error(label[second], probability),
    }
    scores: Scores = {m: conformal_scores(label[second], probability, cast(Method, m)) for m in METHODS}
    calibration = Calibration(value, temperature.rows, temperature.before, temperature.after, len(second), selected_on)
    return calibration, figures, scores


def _error(label: NDArray[np.int64], probability: NDArray[np.float64]) -> float:
    """Expected calibration error, in percent."""
    return float(reliability(probability.max(1), probability.argmax(1) == label).error)
