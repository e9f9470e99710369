"""TransCLIP with shots: the mixture of `transclip` on test rows and labelled rows together (arXiv 2406.01837, equations
4 to 7; written from its equations).

With S the shots and Q the test rows, z_i of a shot fixed, its label, and a_i = gamma / |S| of a shot and 1 / |Q| of a
test row:

z_i    = softmax(log p_i / 50 + sum_j w_ij z_j + lam log y_i)     i in Q, j in S and Q
mu_k   = unit(sum_i a_i z_ik x_i)     Sigma = diag(sum_i a_i sum_k z_ik (x_i - mu_k)^2 / (gamma + 1))     i in S and Q

p, w, y and the number of steps are those of `transclip`, whose released parts (the weight 1/50, the form of w, the
length of the means) are taken over; mu_k starts as the unit mean of the shots of class k, which is our reading.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, ClassVar

import torch
from torch import Tensor
from torch.nn import functional

from mma.adapters.base import Shapes, Support, check_at_least, class_sum, same_classes, unit, zero_shot_logits
from mma.adapters.transclip import ASSIGNMENT_STEPS, LIKELIHOOD_WEIGHT, TransClip, log_gaussian, neighbour_graph


class TransClipShots(TransClip):
    """The mixture of TransCLIP with labelled rows: a whole test set at once, whose neighbours may be shots.

    A class of the support is known by its text. Among classes of which none has shots, it is `transclip`.
    """

    source = "TransCLIP (few-shot form), arXiv 2406.01837, equations 4 to 7; written from its equations"
    few_shot = True
    seeded = True
    tunes: ClassVar[Mapping[str, Sequence[float]]] = {"gamma": [0.002, 0.01, 0.02, 0.2]}
    classes: Tensor  # [C, D] the texts of the support
    shots: Tensor  # [N, D]
    label: Tensor  # [N]

    def __init__(
        self,
        *,
        gamma: Annotated[float | None, "weight of the shots in means and covariance"] = None,
        lam: Annotated[float, "weight of the text; published: 0.5 with shots"] = 0.5,
        lam_new: Annotated[float, "the same where no class has shots; published: 1"] = 1.0,
        neighbours: Annotated[int, "rows that each row should agree with"] = 3,
        iterations: Annotated[int, "iterations of means and covariance; 0: zero-shot"] = 10,
    ) -> None:
        super().__init__(lam=lam, neighbours=neighbours, iterations=iterations)
        check_at_least("gamma", gamma, 0)
        check_at_least("lam_new", lam_new, 0)
        self.gamma, self.lam_new = gamma, lam_new

    def build(self, shapes: Shapes) -> None:
        """The shots, their labels and the texts of their classes."""
        super().build(shapes)
        self.register_buffer("classes", torch.empty(shapes.classes, shapes.dim))
        self.register_buffer("shots", torch.empty(shapes.rows, shapes.dim))
        self.register_buffer("label", torch.empty(shapes.rows, dtype=torch.int64))

    def start(self, support: Support) -> None:
        """Keep the shots."""
        super().start(support)
        self.classes, self.shots, self.label = support.text, support.image, support.label

    def forward(self, image: Tensor, text: Tensor) -> Tensor:
        """Logits [B, C] of all unit test images [B, D] against unit `text` [C, D]: what z is the softmax of."""
        shots, label = self.shots_of(text)
        if not len(shots):
            return self.unlabelled(image, text, self.lam_new)
        logits = zero_shot_logits(image, text, self.logit_scale)
        if not self.iterations:
            return logits
        rows, known, classes = torch.cat([shots, image]), len(shots), len(text)
        of_text = self.lam * logits.log_softmax(dim=-1)
        graph = neighbour_graph(rows, self.neighbours)
        fixed = functional.one_hot(label, classes).to(image)
        z = torch.cat([fixed, logits.softmax(dim=-1)])  # [N + B, C]
        gamma = self.decided("gamma")
        weight = torch.cat([image.new_full((known,), gamma / known), image.new_full((len(image),), 1 / len(image))])
        mean, spread = starting_means(shots, label, text), torch.full_like(image[0], 1 / image.shape[1])
        for _ in range(self.iterations):
            of_image = LIKELIHOOD_WEIGHT * log_gaussian(image, mean, spread)
            for _ in range(ASSIGNMENT_STEPS):
                z = torch.cat([fixed, (of_image + (graph @ z)[known:] + of_text).softmax(dim=-1)])
            mean, spread = weighted_gaussians(rows, z, weight)
        return LIKELIHOOD_WEIGHT * log_gaussian(image, mean, spread) + (graph @ z)[known:] + of_text

    def shots_of(self, text: Tensor) -> tuple[Tensor, Tensor]:
        """The shots [n, D] of the classes with these texts [C, D], and their labels [n] among them."""
        if same_classes(text, self.classes):
            return self.shots, self.label
        similarity, place = (self.classes @ text.mT).max(dim=-1)  # of each class of the support
        there = (similarity > 1 - 1e-5)[self.label]
        return self.shots[there], place[self.label[there]]


def starting_means(shots: Tensor, label: Tensor, text: Tensor) -> Tensor:
    """The unit mean of the shots of each class [C, D]; of a class without shots, its text."""
    mean = class_sum(shots.mT, label, len(text)).mT
    none = (mean == 0).all(dim=-1, keepdim=True)
    return torch.where(none, text, unit(mean))


def weighted_gaussians(rows: Tensor, z: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    """The unit means [C, D] and the shared variances [D] that assignments z [M, C] give to rows [M, D] of a weight."""
    mean = unit((weight[:, None] * z).mT @ rows)
    # sum_k z_k (x - mu_k)^2 = x^2 - 2 x sum_k z_k mu_k + sum_k z_k mu_k^2, for z sums to 1
    spread = weight @ (rows.square() - 2 * rows * (z @ mean) + z @ mean.square()) / weight.sum()
    return mean, spread
