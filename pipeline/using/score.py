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

NEAREST = 5  # shots that are named


@dataclass(frozen=True)
class Why:
    """Why an image was called what it was called."""

    margins: tuple[tuple[str, float], ...]  # every other class, with how far its logit is below; the closest first
    shots: tuple[tuple[str, str, float], ...]  # path, class and cosine of the nearest shots; () of a model without


@dataclass(frozen=True)
class Prediction:
    """What a model says of one image."""

    path: str
    top: tuple[tuple[str, float], ...] = ()  # classes, the likeliest first, with their probability, or their score
    calibrated: bool = False  # whether they are probabilities; scores are not comparable with how often one is right
    abstained: bool = False  # the likeliest class is below the threshold
    sets: Mapping[str, tuple[str, ...]] = field(default_factory=dict)  # by method: classes that may be the right one
    reason: str | None = None  # why there is no answer
    why: Why | None = None  # where it was asked

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
    why: bool = False
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

    def reasons(self, image: Tensor, logits: NDArray[np.float64]) -> list[Why]:
        """Why each of the unit images [N, D] was called the class of its largest logit [N, C]."""
        order = np.argsort(-logits, axis=1, kind="stable")
        margins = np.take_along_axis(logits, order[:, :1], 1) - np.take_along_axis(logits, order[:, 1:], 1)
        named = [[self.classnames[c] for c in row] for row in order[:, 1:].tolist()]
        shots: list[tuple[tuple[str, str, float], ...]] = [()] * len(image)
        if known := self.model.shots:
            cosine, near = (image @ known.image.to(image).mT).topk(min(NEAREST, len(known.paths)))
            own = self.model.about.classnames
            label = known.label[near].tolist()
            shots = [
                tuple((known.paths[n], own[c], value) for n, c, value in zip(*row, strict=True))
                for row in zip(near.tolist(), label, cosine.tolist(), strict=True)
            ]
        pairs = (tuple(zip(*row, strict=True)) for row in zip(named, margins.tolist(), strict=True))
        return [Why(*found) for found in zip(pairs, shots, strict=True)]

    def score(self, paths: Sequence[str], image: Tensor, reasons: Mapping[int, str]) -> list[Prediction]:
        """An answer for each row of [N, D], in order; a row that has a reason has no other answer."""
        rows = [row for row in range(len(paths)) if row not in reasons]
        answers = {row: Prediction(paths[row], reason=reason) for row, reason in reasons.items()}
        if rows:
            usable = image[torch.tensor(rows, device=image.device)]
            logits = self.logits(usable)
            probability = softmax(logits, self.temperature or 1.0)
            why = self.reasons(usable, logits) if self.why else [None] * len(rows)
            sets = {m: conformal_sets(probability, q, cast(Method, m)) for m, q in self.quantiles.items()}
            order = np.argsort(-probability, axis=1, kind="stable")[:, : self.top]
            best = np.take_along_axis(probability, order, axis=1).tolist()  # [N, top]
            for at, (row, classes) in enumerate(zip(rows, order.tolist(), strict=True)):
                held = {m: s[at] for m, s in sets.items()}
                answers[row] = self._answer(paths[row], best[at], classes, held, why[at])
        return [answers[row] for row in range(len(paths))]

    def _answer(
        self,
        path: str,
        best: Sequence[float],
        classes: Sequence[int],
        sets: Mapping[str, NDArray[np.bool_]],
        why: Why | None,
    ) -> Prediction:
        return Prediction(
            path,
            tuple(zip((self.classnames[c] for c in classes), best, strict=True)),
            self.temperature is not None,
            self.threshold is not None and best[0] < self.threshold,
            {m: tuple(self.classnames[int(c)] for c in np.flatnonzero(held)) for m, held in sets.items()},
            why=why,
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
