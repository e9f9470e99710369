"""What is kept of the probabilities that a test row was given: four numbers, whatever the number of classes.

They are enough for the calibration error, the negative log-likelihood, Brier's score, top-k accuracy, the reliability
curve, and the rows that are most confidently wrong. Logits would take 2 C bytes for each row, these take 8.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

BLOCK = 4_096  # rows at a time: 16 MB in float32 at a thousand classes
MOST_RANK = 2**16 - 1  # a rank beyond is told as this


@dataclass(frozen=True, eq=False)
class RowScores:
    """One value per test row [N], of probabilities that are the softmax of the logits.

    Logarithms, since float16 keeps three digits: near 1, of what a probability lacks.
    """

    log_confidence: NDArray[np.float16]  # of the predicted class's probability, in nats
    log_likelihood: NDArray[np.float16]  # of the label's, in nats
    brier: NDArray[np.float16]  # squared distance of the probabilities to the label's, 0 to 2 (Brier, 1950)
    rank: NDArray[np.uint16]  # classes before the label, in the order that argmax takes them: 0 where it is right

    @property
    def confidence(self) -> NDArray[np.float64]:
        """The probability of the predicted class."""
        found: NDArray[np.float64] = np.exp(self.log_confidence.astype(np.float64))
        return found

    @property
    def negative_log_likelihood(self) -> float:
        """The mean over rows, in nats; lower is better."""
        return -float(self.log_likelihood.mean(dtype=np.float64))

    @property
    def brier_score(self) -> float:
        """The mean over rows, 0 to 2; lower is better."""
        return float(self.brier.mean(dtype=np.float64))

    def top(self, k: int) -> float:
        """The percentage of rows whose label is among the k highest logits."""
        return 100 * float(np.mean(self.rank < k))

    def to_bytes(self) -> bytes:
        """The four arrays, one after the other, little-endian."""
        return b"".join(array.astype(kind).tobytes() for array, kind in zip(self._arrays(), KINDS, strict=True))

    @classmethod
    def from_bytes(cls, data: bytes, rows: int) -> RowScores:
        """What `to_bytes` gave of so many rows. Raises ValueError where it is of another number."""
        if len(data) != 2 * len(KINDS) * rows:
            raise ValueError(f"{len(data)} bytes are not the scores of {rows} rows")
        return cls(*(np.frombuffer(data, kind, rows, 2 * rows * at) for at, kind in enumerate(KINDS)))

    def _arrays(self) -> tuple[NDArray[np.generic], ...]:
        return self.log_confidence, self.log_likelihood, self.brier, self.rank


KINDS = ("<f2", "<f2", "<f2", "<u2")


def score_rows(logits: Tensor, label: Tensor) -> RowScores:
    """Logits [N, C] as they enter the softmax, against labels [N] within the classes; computed in their precision."""
    parts: list[list[Tensor]] = []
    for block, own in zip(torch.split(logits, BLOCK), torch.split(label, BLOCK), strict=True):
        logp = torch.log_softmax(block, dim=1)  # [B, C]
        of_label, score = logp.gather(1, own[:, None]), block.gather(1, own[:, None])  # [B, 1]
        # Before the label: classes with a higher logit, and equal ones that come first, as argmax takes them.
        first = torch.arange(block.shape[1], device=block.device) < own[:, None]
        rank = ((block > score) | ((block == score) & first)).sum(1)
        brier = logp.exp().square().sum(1) - 2 * of_label[:, 0].exp() + 1
        highest = logp.gather(1, block.argmax(1, keepdim=True))
        parts.append([highest[:, 0], of_label[:, 0], brier.clamp_min(0), rank.clamp_max(MOST_RANK)])
    arrays = [torch.cat(each).cpu().numpy() for each in zip(*parts, strict=True)]
    least = float(np.finfo(np.float16).min)
    confidence, likelihood, brier = (np.maximum(array, least).astype(np.float16) for array in arrays[:3])
    return RowScores(confidence, likelihood, brier, arrays[3].astype(np.uint16))
