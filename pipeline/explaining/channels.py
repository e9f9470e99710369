"""What did RAda do with one image? The mask over its rational matrix, by class and channel, and which channels decide.

A logit is a sum over channels, logit_k = sum_d M[k, d] R[k, d] (adapters/rada.py), so the difference of two classes'
logits is shared out among the channels exactly.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from mma.adapters.linear import linear
from mma.adapters.rada import RAda


@dataclass(frozen=True)
class Masked:
    """One image among its K candidate classes; of all other classes the mask is 1, and the logit is zero-shot's."""

    classes: Tensor  # [K] numbers of the candidates
    mask: Tensor  # [K, D] M, 0 or more; 1 leaves a channel as it is
    rational: Tensor  # [K, D] R, in logits

    def shares(self, one: int, other: int) -> tuple[Tensor, Tensor]:
        """By channel [D]: what it adds to the logit of candidate `one` over that of `other`, unmasked and masked."""
        plain, masked = self.rational, self.mask * self.rational
        return plain[one] - plain[other], masked[one] - masked[other]


@torch.no_grad()
def masked_by(adapter: RAda, image: Tensor, text: Tensor) -> Masked:
    """The mask for a unit image [D] among unit texts [C, D]."""
    near = adapter.nearest(image[None], text, None)
    images, texts = adapter.embed(image[None], text)
    attended, rational = adapter.attention(texts)(images, near)
    mask = linear(attended, adapter.out.weight, adapter.out.bias + 1).relu().expand_as(rational)
    classes = torch.arange(len(text), device=text.device) if near is None else near[0]
    return Masked(classes, mask[0], rational[0])
