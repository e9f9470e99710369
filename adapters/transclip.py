"""TransCLIP, zero-shot form: all test rows at once (arXiv 2406.01837; written from its equations).

A Gaussian mixture with one diagonal covariance, whose assignments z_i agree with their neighbours' and, by a KL term,
with the text's y_i = softmax(s x_i T'). From z = y, in turn:

z_i    = softmax(log p_i / 50 + sum_j w_ij z_j + lam log y_i)
log p_ik = -(x_i - mu_k)' Sigma^-1 (x_i - mu_k) / 2
mu_k   = unit(sum_i z_ik x_i)     Sigma = diag(mean_i sum_k z_ik (x_i - mu_k)^2)
w      = (W + W') / (2 n),  W_ij = max(0, <x_i, x_j>) for the n `neighbours` nearest to i, else 0

mu_k starts as the mean of the rows that the text is most certain are of class k, Sigma as I / D. After the last mu and
Sigma, z is made once more.

The weight 1/50, the form of w, the length of the means, the start and the last z are the released code's (facts: its
text, which has another licence, was not used). How many rows make a mean at the start, and how often z is made for one
mu and Sigma, are our reading: other numbers move the accuracy by up to half a point on DTD, and one on Cars.
"""

from __future__ import annotations

from typing import Annotated

import torch
from torch import Tensor

from mma.adapters.base import Adapter, check_at_least, unit, zero_shot_logits

ASSIGNMENT_STEPS = 5  # of z for one of mu and Sigma
LIKELIHOOD_WEIGHT = 1 / 50
MOST_CERTAIN = 8  # rows per class, of which its mean is made at the start


class TransClip(Adapter):
    """Zero-shot on a whole test set at once: a mixture of Gaussians whose assignments agree with their neighbours'.

    A row's logits depend on all rows, and on no label.
    """

    source = "TransCLIP (zero-shot form), arXiv 2406.01837; written from its equations"
    trains = False
    few_shot = False
    seeded = False
    transductive = "batch"

    def __init__(
        self,
        *,
        lam: Annotated[float, "weight of the text; published: 1 without shots"] = 1.0,
        neighbours: Annotated[int, "rows that each row should agree with"] = 3,
        iterations: Annotated[int, "iterations of means and covariance; 0: zero-shot"] = 10,
    ) -> None:
        super().__init__()
        check_at_least("lam", lam, 0)
        check_at_least("neighbours", neighbours, 0)
        check_at_least("iterations", iterations, 0)
        self.lam, self.neighbours, self.iterations = lam, neighbours, iterations

    def forward(self, image: Tensor, text: Tensor) -> Tensor:
        """Logits [B, C] of all unit test images [B, D] against unit `text` [C, D]: what z is the softmax of."""
        return self.unlabelled(image, text, self.lam)

    def unlabelled(self, image: Tensor, text: Tensor, lam: float) -> Tensor:
        """The same with a weight of the text."""
        logits = zero_shot_logits(image, text, self.logit_scale)
        if not self.iterations:
            return logits
        of_text = lam * logits.log_softmax(dim=-1)
        graph = neighbour_graph(image, self.neighbours)
        z = logits.softmax(dim=-1)
        mean, spread = most_certain_means(image, z), torch.full_like(image[0], 1 / image.shape[1])
        for _ in range(self.iterations):
            of_image = LIKELIHOOD_WEIGHT * log_gaussian(image, mean, spread)
            for _ in range(ASSIGNMENT_STEPS):
                z = (of_image + graph @ z + of_text).softmax(dim=-1)
            mean, spread = gaussians(image, z)
        return LIKELIHOOD_WEIGHT * log_gaussian(image, mean, spread) + graph @ z + of_text


def neighbour_graph(image: Tensor, count: int) -> Tensor:
    """(W + W') / (2 count) [B, B], sparse: W has max(0, cosine) of each row with its `count` nearest other rows."""
    near, affinity = neighbours(image, count)
    rows = torch.arange(len(image), device=image.device).repeat_interleave(near.shape[1])
    ends, weights = torch.stack([rows, near.flatten()]), affinity.flatten() / (2 * max(1, near.shape[1]))
    both = torch.cat([ends, ends.flip(0)], dim=1), torch.cat([weights, weights])
    return torch.sparse_coo_tensor(*both, (len(image), len(image)), check_invariants=True).coalesce()


def neighbours(image: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """The `count` nearest other rows of each [B, n], and max(0, cosine) with them [B, n]."""
    count = min(count, len(image) - 1)
    found = []
    for rows in torch.split(torch.arange(len(image), device=image.device), 1024):
        cosine = image[rows] @ image.mT
        cosine[torch.arange(len(rows), device=image.device), rows] = -2.0  # itself
        found.append(cosine.topk(count))
    return torch.cat([f.indices for f in found]), torch.cat([f.values for f in found]).clamp(min=0)


def most_certain_means(image: Tensor, z: Tensor) -> Tensor:
    """The unit mean of the rows [B, D] with the largest z [B, C] for each class: [C, D]."""
    rows = z.topk(min(MOST_CERTAIN, len(z)), dim=0).indices  # [n, C]
    return unit(image[rows].mean(dim=0))


def gaussians(image: Tensor, z: Tensor) -> tuple[Tensor, Tensor]:
    """The unit means [C, D] and the shared variances [D] that assignments z [B, C] give to rows [B, D]."""
    mean = unit(z.mT @ image)
    # sum_k z_k (x - mu_k)^2 = x^2 - 2 x sum_k z_k mu_k + sum_k z_k mu_k^2, for z sums to 1
    spread = (image.square() - 2 * image * (z @ mean) + z @ mean.square()).mean(0)
    return mean, spread


def log_gaussian(image: Tensor, mean: Tensor, spread: Tensor) -> Tensor:
    """log p [B, C], up to a number per row, of rows [B, D] under means [C, D] and shared variances [D]."""
    precision = 1 / spread.clamp(min=1e-8)
    return (image * precision) @ mean.mT - (mean.square() * precision).sum(-1) / 2
