"""TransCLIP, zero-shot form: all test rows at once (arXiv 2406.01837; written from its equations).

A Gaussian mixture with one diagonal covariance, whose assignments z_i agree with their neighbours' and, by a KL term,
with the text's y_i = softmax(s x_i T'). In turn:

z_i    = softmax(log p_i + sum_j w_ij z_j + lam log y_i),  w_ij = max(0, <x_i, x_j>) for the `neighbours` nearest j
log p_ik = -(x_i - mu_k)' Sigma^-1 (x_i - mu_k) / 2
mu_k   = sum_i z_ik x_i / sum_i z_ik     Sigma = diag(mean_i sum_k z_ik (x_i - mu_k)^2)

It starts from z = y (our setting; the released code, which has another licence, was not used).
"""

from __future__ import annotations

import torch
from torch import Tensor

from mma.adapters.base import Adapter, check_at_least, zero_shot_logits

ASSIGNMENT_STEPS = 5  # of z for one of mu and Sigma


class TransClip(Adapter):
    """Zero-shot on a whole test set: a row's logits depend on all rows, and on no label.

    `lam` is the weight of the text (published: 1 without shots), `iterations` of mu and Sigma; 0 iterations: zero-shot.
    """

    trains = False
    few_shot = False
    seeded = False
    transductive = "batch"

    def __init__(self, *, lam: float = 1.0, neighbours: int = 3, iterations: int = 10) -> None:
        super().__init__()
        check_at_least("lam", lam, 0)
        check_at_least("neighbours", neighbours, 0)
        check_at_least("iterations", iterations, 0)
        self.lam, self.neighbours, self.iterations = lam, neighbours, iterations

    def forward(self, image: Tensor, text: Tensor) -> Tensor:
        """Logits [B, C] of all unit test images [B, D] against unit `text` [C, D]: what z is the softmax of."""
        logits = zero_shot_logits(image, text, self.logit_scale)
        of_text = self.lam * logits.log_softmax(dim=-1)
        near, affinity = nearest(image, self.neighbours)
        z = logits.softmax(dim=-1)
        for _ in range(self.iterations):
            of_image = log_gaussian(image, z)
            for _ in range(ASSIGNMENT_STEPS):
                logits = of_image + (affinity[:, :, None] * z[near]).sum(1) + of_text
                z = logits.softmax(dim=-1)
        return logits


def nearest(image: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """The `count` nearest other rows of each [B, n], and max(0, cosine) with them [B, n]."""
    count = min(count, len(image) - 1)
    found = []
    for rows in torch.split(torch.arange(len(image), device=image.device), 1024):
        cosine = image[rows] @ image.mT
        cosine[torch.arange(len(rows), device=image.device), rows] = -2.0  # itself
        found.append(cosine.topk(count))
    return torch.cat([f.indices for f in found]), torch.cat([f.values for f in found]).clamp(min=0)


def log_gaussian(image: Tensor, z: Tensor) -> Tensor:
    """log p [B, C], up to a number per row, of the Gaussians that assignments z [B, C] give to rows [B, D]."""
    mass = z.sum(0)[:, None].clamp(min=torch.finfo(z.dtype).tiny)  # [C, 1]
    mean = z.mT @ image / mass  # [C, D]
    # sum_k z_k (x - mu_k)^2 = x^2 - 2 x sum_k z_k mu_k + sum_k z_k mu_k^2, for z sums to 1
    spread = (image.square() - 2 * image * (z @ mean) + z @ mean.square()).mean(0)  # [D]
    precision = 1 / spread.clamp(min=1e-8)
    return (image * precision) @ mean.mT - (mean.square() * precision).sum(-1) / 2
