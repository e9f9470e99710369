"""GDA: Gaussian discriminant analysis beside zero-shot (arXiv 2402.04087, "A Hard-to-Beat Baseline"; mrflogs/ICLR24).

logits = s x T' + alpha (x W' + b)     W_k = Sigma^-1 mu_k     b_k = -log C - mu_k' Sigma^-1 mu_k / 2
Sigma^-1 = D ((N - 1) S + tr(S) I)^+, S the covariance within classes (Kubokawa and Srivastava's shrinkage)

New classes (its `main_base2new.py`): class k is given the 64 shots nearest to its text. mu_k is the mean of these and
16 times t_k; Sigma^-1 is the mean over the new classes of the same estimate from these shots' deviations from t_k. With
the deviations A [64, D], tau = |A|^2 / 63 and Woodbury's identity, the D x D inverse is one of 64 x 64:
D (A'A + tau I)^-1 = D / tau (I - A' (tau I + A A')^-1 A).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Annotated, ClassVar

import torch
from torch import Tensor, nn

from mma.adapters.base import Adapter, Shapes, Support, check_at_least, class_sum, same_classes, zero_shot_logits

TEXT_SHOTS = 16  # how often a new class's text counts in its mean


class GaussianDiscriminant(Adapter):
    """One Gaussian per class with a shared covariance, beside zero-shot.

    A class of the support is known by its text embedding; any other is new, and made of its nearest shots. Where a
    cache has views, all are shots. One shot per class and no views leave no covariance: zero-shot remains.
    """

    source = 'GDA, "A Hard-to-Beat Baseline", arXiv 2402.04087; code mrflogs/ICLR24'
    trains = False
    uses_views = "train"
    tunes: ClassVar[Mapping[str, Sequence[float]]] = {"alpha": [1e-4, 1e-3, 1e-2, 0.1, 1.0, 10.0, 100.0]}
    classes: Tensor  # [C, D] the texts of the support
    shots: Tensor  # [N, D]
    weight: Tensor  # [C, D]
    bias: Tensor  # [C]

    def __init__(
        self,
        *,
        alpha: Annotated[float | None, "weight beside zero-shot; none: chosen on validation rows"] = None,
        neighbours: Annotated[int, "shots that a new class is made of"] = 64,
    ) -> None:
        super().__init__()
        check_at_least("alpha", alpha, 0)
        check_at_least("neighbours", neighbours, 1)
        self.alpha, self.neighbours = alpha, neighbours

    def build(self, shapes: Shapes) -> None:
        """The discriminant of each class, and the shots (all views of them) that new classes are made of."""
        super().build(shapes)
        self.register_buffer("shots", nn.UninitializedBuffer())
        self.register_buffer("weight", torch.empty(shapes.classes, shapes.dim))
        self.register_buffer("bias", torch.empty(shapes.classes))
        self.register_buffer("classes", torch.empty(shapes.classes, shapes.dim))

    def start(self, support: Support) -> None:
        """Means, shared covariance and its inverse, in float64."""
        super().start(support)
        views = support.image[:, None] if support.views is None else support.views
        shots = views.flatten(0, 1).double()  # [N V, D]
        label = support.label.repeat_interleave(views.shape[1])
        classes, (count, dim) = len(support.text), shots.shape
        sizes = class_sum(torch.ones_like(shots[:, 0]), label, classes)
        mean = class_sum(shots.mT, label, classes).mT / sizes.clamp(min=1)[:, None]  # [C, D]
        centred = shots - mean[label]
        scatter = centred.mT @ centred  # (N - 1) S
        shrunk = scatter + scatter.trace() / max(1, count - 1) * torch.eye(dim).to(scatter)
        weight, bias = discriminant(mean, dim * torch.linalg.pinv(shrunk, hermitian=True))
        self.shots, self.weight, self.bias = (value.to(support.text) for value in (shots, weight, bias))
        self.classes = support.text

    def forward(self, image: Tensor, text: Tensor) -> Tensor:
        """Logits [B, C] of unit `image` [B, D] against unit `text` [C, D], of classes with shots, new ones, or both."""
        weight, bias = self.of_classes(text)
        return zero_shot_logits(image, text, self.logit_scale) + self.decided("alpha") * (image @ weight.mT + bias)

    def of_classes(self, text: Tensor) -> tuple[Tensor, Tensor]:
        """W [C, D] and b [C] of the classes with these texts."""
        if same_classes(text, self.classes):
            return self.weight, self.bias  # two of them may have one text
        similarity, own = (text @ self.classes.mT).max(dim=-1)
        known = similarity > 1 - 1e-5
        weight, bias = self.weight[own], self.bias[own]
        if not known.all():
            new_weight, new_bias = self.of_new_classes(text[~known].double())
            weight[~known], bias[~known] = new_weight.to(weight), new_bias.to(bias)
        return weight, bias

    def of_new_classes(self, text: Tensor) -> tuple[Tensor, Tensor]:
        """W and b for classes without shots, from their texts [C, D]."""
        shots, (classes, dim) = self.shots.double(), text.shape
        nearest = min(self.neighbours, len(shots))
        mean = torch.empty_like(text)
        inverse = torch.zeros(dim, dim).to(text)
        for k, t in enumerate(text):
            near = shots[(shots @ t).topk(nearest).indices]  # [n, D]
            mean[k] = (near.sum(0) + TEXT_SHOTS * t) / (nearest + TEXT_SHOTS)
            deviation = near - t
            tau = (deviation.square().sum() / max(1, nearest - 1)).clamp(min=1e-12)
            small = deviation @ deviation.mT
            small.diagonal().add_(tau)
            inverse -= deviation.mT @ torch.linalg.solve(small, deviation) / tau
            inverse.diagonal().add_(1 / tau)
        return discriminant(mean, dim / classes * inverse)


def discriminant(mean: Tensor, inverse: Tensor) -> tuple[Tensor, Tensor]:
    """W = mu Sigma^-1 [C, D] and b = -log C - mu' Sigma^-1 mu / 2 [C], for equally likely classes."""
    weight = mean @ inverse
    return weight, -math.log(len(mean)) - (weight * mean).sum(-1) / 2
