"""APE: Tip-Adapter on the channels that tell classes apart (arXiv 2304.01195; yangyangyang127/APE, training-free form).

channels: the `share` of D with the largest  -w S_d + (1 - w) V_d,  S_d the mean product between embeddings (texts and
          shots) of different classes, V_d the variance of the texts; embeddings cut to them are made unit again (')
logits = s x T' + alpha exp(-beta (1 - x' K'')) diag(exp(gamma d)) V,  d_i = log2 (1 / p_i), p_i the probability
         softmax(K' T'') of shot i's own class, so a shot that its text does not explain counts more
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated, ClassVar

import torch
from torch import Tensor, nn

from mma.adapters.base import (
    PerClassAdapter,
    Shapes,
    Support,
    check_at_least,
    check_share,
    class_sum,
    unit,
    zero_shot_logits,
)

GRID = [0.1 + i * (7 - 0.1) / 10 for i in range(10)]  # published: 0.1 to 7, in 20 steps of alpha and 200 of beta


class AdaptivePriorRefinement(PerClassAdapter):
    """Tip-Adapter on the channels that tell the classes apart, with surprising shots counting more.

    What is open is chosen on validation rows. Published: 500 to 800 of 1024 channels, 400 on DTD, and a similarity of
    0.7 on ImageNet, 0.1 to 0.9 elsewhere (`published.py`).
    """

    source = "APE, arXiv 2304.01195; code yangyangyang127/APE (training-free form)"
    trains = False
    uses_views = "train"
    tunes: ClassVar[Mapping[str, Sequence[float]]] = {"alpha": GRID, "beta": GRID, "gamma": [0.0, 0.2, 0.4, 0.6, 0.8]}
    channels: Tensor  # [D'] indices
    keys: Tensor  # [N, D'] unit
    label: Tensor  # [N]
    surprise: Tensor  # [N] bits

    def __init__(
        self,
        *,
        alpha: Annotated[float | None, "weight of the shots beside zero-shot; 0 is zero-shot"] = None,
        beta: Annotated[float | None, "sharpness: how fast a shot's say falls with distance"] = None,
        gamma: Annotated[float | None, "how much more a shot counts that its text does not explain"] = None,
        share: Annotated[float, "share of the channels that is kept, 0 to 1"] = 0.5,
        similarity: Annotated[float, "weight of similarity when channels are chosen; the rest is variance"] = 0.7,
    ) -> None:
        super().__init__()
        for name, value in (("alpha", alpha), ("beta", beta), ("gamma", gamma)):
            check_at_least(name, value, 0)
        self.alpha, self.beta, self.gamma = alpha, beta, gamma
        self.share = check_share("share", share)
        self.similarity = check_share("similarity", similarity)

    def build(self, shapes: Shapes) -> None:
        """The shots on the channels that are kept."""
        super().build(shapes)
        for name in ("channels", "keys", "label", "surprise"):
            self.register_buffer(name, nn.UninitializedBuffer())

    def start(self, support: Support) -> None:
        """Choose the channels, cut the shots to them, and weigh the shots."""
        super().start(support)
        keys = support.image if support.views is None else unit(support.views.mean(dim=1))
        kept = max(1, round(self.share * keys.shape[1]))
        channels = criterion(keys, support.label, support.text, self.similarity).topk(kept).indices
        keys = unit(keys[:, channels])
        probability = (keys @ unit(support.text[:, channels]).mT).softmax(dim=-1)
        own = probability.gather(1, support.label[:, None]).squeeze(1)
        self.channels, self.keys, self.label = channels, keys, support.label
        self.surprise = torch.log2((1 + 1e-6) / (own + 1e-6))

    def forward(self, image: Tensor, text: Tensor) -> Tensor:
        """Logits [B, C] of unit `image` [B, D]; `text` [C, D] must be of the classes of the support."""
        self.check_classes(text)
        cache = self.read(self.affinity(image), self.decided("beta"), self.decided("gamma"))
        return zero_shot_logits(image, text, self.logit_scale) + self.decided("alpha") * cache

    def affinity(self, image: Tensor) -> Tensor:
        """Cosines with the shots on the kept channels [B, N]."""
        return unit(image[:, self.channels]) @ self.keys.mT

    def read(self, affinity: Tensor, beta: float, gamma: float) -> Tensor:
        """The cache's logits [B, C]."""
        weights = torch.exp(gamma * self.surprise - beta * (1 - affinity))
        return class_sum(weights, self.label, len(self.classes))

    def combinations(self, image: Tensor, text: Tensor) -> Iterator[tuple[dict[str, float], Tensor]]:
        """Every beta and gamma with every alpha; the cache is read once for each pair of the former."""
        zero_shot, affinity = zero_shot_logits(image, text, self.logit_scale), self.affinity(image)
        for beta in self.tried("beta"):
            for gamma in self.tried("gamma"):
                cache = self.read(affinity, beta, gamma)
                for alpha in self.tried("alpha"):
                    yield {"alpha": alpha, "beta": beta, "gamma": gamma}, zero_shot + alpha * cache


def criterion(image: Tensor, label: Tensor, text: Tensor, weight: float) -> Tensor:
    """How well each channel tells classes apart [D], from shots [N, D] and texts [C, D]; `weight` of the similarity.

    The products between classes are all products less those within a class: |sum|^2 - sum over classes of |sum|^2.
    """
    classes = len(text)
    if classes == 1:
        return torch.zeros_like(text[0])
    sums = class_sum(image.mT, label, classes).mT + text  # [C, D]
    sizes = class_sum(torch.ones_like(image[:, 0]), label, classes) + 1  # [C]
    pairs = sizes.sum() ** 2 - sizes.square().sum()
    between = (sums.sum(0).square() - sums.square().sum(0)) / pairs
    return (1 - weight) * text.var(dim=0) - weight * between
