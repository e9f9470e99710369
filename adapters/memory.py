"""What test-time methods share: the views they trust (TDA, DMN, RAda), what they remember of a stream (TDA, DMN)."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from mma.adapters.base import AdapterError, zero_shot_logits

CONFIDENT = 0.1  # share of an image's views that is trusted
BLOCK = 256  # images whose views are scored at once


class Memory:
    """Of each of C classes, the `slots` rows of lowest entropy, of size D; an empty slot has infinite entropy."""

    def __init__(self, text: Tensor, slots: int) -> None:
        self.row = text.new_zeros(len(text), slots, text.shape[1])  # [C, S, D]
        self.entropy = text.new_full((len(text), slots), torch.inf)  # [C, S]

    def put(self, k: int, row: Tensor, entropy: Tensor) -> int | None:
        """Keep a row [D] as class k's in place of its least certain one; return the slot, None if not better."""
        slot = int(self.entropy[k].argmax())
        if not entropy < self.entropy[k, slot]:
            return None
        self.row[k, slot], self.entropy[k, slot] = row, entropy
        return slot

    def weights(self, row: Tensor, beta: float) -> Tensor:
        """exp(-beta (1 - cosine)) of a row [D] with what is kept, 0 for empty slots: [C, S]."""
        weights: Tensor = torch.exp(-beta * (1 - self.row @ row)) * self.entropy.isfinite()
        return weights


def first_views(image: Tensor, wanted: int | None) -> Tensor:
    """The first `wanted` views of each image, or all: [B, V, D], or [B, D] for one, -> [B, wanted or V, D]."""
    views = image[:, None] if image.dim() == 2 else image
    if wanted is not None and views.shape[1] < wanted:
        raise AdapterError(f"test_views = {wanted}, and the cache has {views.shape[1]} of each image: embed more views")
    return views[:, :wanted]


def confident_views(views: Tensor, text: Tensor, logit_scale: float, share: float = CONFIDENT) -> Tensor:
    """The views whose zero-shot prediction is most certain, a `share` of them, at least one: [B, V, D] -> [B, n, D]."""
    found = []
    for block in torch.split(views, BLOCK):
        entropy = entropy_of(zero_shot_logits(block, text, logit_scale).log_softmax(dim=-1))  # [b, V]
        kept = entropy.topk(max(1, int(share * views.shape[1])), largest=False).indices
        found.append(block.gather(1, kept[:, :, None].expand(-1, -1, views.shape[2])))
    return torch.cat(found)


def vote(logits: Tensor) -> Tensor:
    """The logarithm of the mean probability over views: logits [B, n, C] -> [B, C]."""
    return logits.log_softmax(dim=-1).logsumexp(dim=1) - math.log(logits.shape[1])


def stream_order(rows: int, shuffle: bool) -> list[int]:
    """The order in which rows come: a random one, always the same, or as they stand."""
    if not shuffle:
        return list(range(rows))
    order: list[int] = torch.randperm(rows, generator=torch.Generator().manual_seed(0)).tolist()
    return order


def entropy_of(log_probability: Tensor) -> Tensor:
    """Entropy in nats of log-probabilities [..., C]: [...]; with a gradient where a probability underflows too."""
    return -(log_probability.exp() * log_probability).sum(-1)
