"""From embeddings to answers: logits as in evaluation, probabilities by the model's temperature, conformal sets."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mma.adapters import predict
from mma.pipeline.errors import UsageError
from mma.pipeline.reports.calibration import Method, conformal_sets, quantile_of, rows_needed
from mma.pipeline.using.model import METHODS, Model
from mma.pipeline.using.threads import one_thread


@dataclass(frozen=True)
class Prediction:
    """What a model says of one image."""

    path: str
    top: tuple[tuple[str, float], ...] = ()  # classes, the likeliest first, with their probability, or their score
    calibrated: bool = False  # whether they are probabilities; scores are not comparable with how often one is right
    abstained: bool = False  # the likeliest class is below the threshold
    sets: Mapping[str, tuple[str, ...]] = field(default_factory=dict)  # by method: classes that may be the right one
    reason: str | None = None  # why there is no answer

    @property
    def label(self) -> str | None:
        """The class; None where there is no answer, or it abstained."""
        return None if self.abstained or not self.top else self.top[0][0]


@dataclass(frozen=True)
class Scorer:
    """A model with what is asked of it. Raises UsageError for what it cannot say."""

    model: Model
    classnames: Sequence[str]  # [C]
    text: Tensor  # [C, D] unit
    own: bool = True  # whether these are the model's own classes, for which its calibration holds
    top: int = 1
    threshold: float | None = None
    coverage: float | None = None
    quantiles: Mapping[str, float] = field(init=False)  # by method

    def __post_init__(self) -> None:
        object.__setattr__(self, "quantiles", self._quantiles() if self.coverage is not None else {})

    @property
    def temperature(self) -> float | None:
        """What logits are divided by; None where there is no telling, and what is said are scores."""
        calibration = self.model.about.calibration
        return calibration.temperature if self.own and calibration else None

    def logits(self, image: Tensor) -> NDArray[np.float64]:
        """[N, C] of unit images [N, D], as evaluation has them."""
        with one_thread():
            return predict(self.model.adapter, image, self.text).double().cpu().numpy()

    def probability(self, image: Tensor) -> NDArray[np.float64]:
        """[N, C] of unit images [N, D]; scores where there is no temperature."""
        return softmax(self.logits(image), self.temperature or 1.0)

    def score(self, paths: Sequence[str], image: Tensor, reasons: Mapping[int, str]) -> list[Prediction]:
        """An answer for each row of [N, D], in order; a row that has a reason has no other answer."""
        rows = [row for row in range(len(paths)) if row not in reasons]
        answers = {row: Prediction(paths[row], reason=reason) for row, reason in reasons.items()}
        if rows:
            probability = self.probability(image[torch.tensor(rows, device=image.device)])
            sets = {m: conformal_sets(probability, q, cast(Method, m)) for m, q in self.quantiles.items()}
            order = np.argsort(-probability, axis=1, kind="stable")[:, : self.top]
            best = np.take_along_axis(probability, order, axis=1).tolist()  # [N, top]
            for at, (row, classes) in enumerate(zip(rows, order.tolist(), strict=True)):
                answers[row] = self._answer(paths[row], best[at], classes, {m: s[at] for m, s in sets.items()})
        return [answers[row] for row in range(len(paths))]

    def _answer(
        self,
        path: str,
        best: Sequence[float],
        classes: Sequence[int],
        sets: Mapping[str, NDArray[np.bool_]],
    ) -> Prediction:
        return Prediction(
            path,
            tuple(zip((self.classnames[c] for c in classes), best, strict=True)),
            self.temperature is not None,
            self.threshold is not None and best[0] < self.threshold,
            {m: tuple(self.classnames[int(c)] for c in np.flatnonzero(held)) for m, held in sets.items()},
        )

    def _quantiles(self) -> dict[str, float]:
        coverage, calibration = float(self.coverage or 0), self.model.about.calibration
        if not self.own:
            raise UsageError(
                f"`coverage={coverage:g}` was measured for the model's own classes: leave it out with other classes"
            )
        have, needed = calibration.conformal_rows if calibration else 0, rows_needed(coverage)
        if have < needed:
            raise UsageError(
                f"`coverage={coverage:g}` needs {needed} validation images, and the model was measured with {have}: "
                "ask for less, or label more"
            )
        return {method: quantile_of(self.model.scores[method], coverage) for method in METHODS}


def softmax(logits: NDArray[np.float64], temperature: float = 1.0) -> NDArray[np.float64]:
    """Rows of logits [N, C], divided by the temperature, as probabilities. torch's: scipy's takes a third of a second
    to import.
    """
    found: NDArray[np.float64] = torch.softmax(torch.from_numpy(logits) / temperature, dim=1).numpy()
    return found
