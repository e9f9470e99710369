"""What did the Multi-Modal Adapter do with one image? Who looked at whom, and how far every embedding moved.

Computed from the compact form (adapters/mma.py, whose words and equations are used here); the attention weights that
torch's own MultiheadAttention gives for the plain form (adapters/plain/mma.py) are the same.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from mma.adapters.base import unit
from mma.adapters.kernels.attention import attend
from mma.adapters.mma import MultiModalAdapter


@dataclass(frozen=True)
class Attention:
    """One image among C prompts; weights are shares of what a token looks at, 0 to 1.

    `image` and `text` are the adapted unit embeddings: with mask `pair` the image has one for every prompt.
    """

    to_prompts: Tensor  # [H, C] of the image's look
    to_itself: Tensor  # [H] the rest of it
    gate: Tensor  # [H, C] of each prompt's look: what the image gets; the other prompts have the rest
    image: Tensor  # [1 or C, D]
    text: Tensor  # [C, D]


@torch.no_grad()
def attention_of(adapter: MultiModalAdapter, image: Tensor, text: Tensor) -> Attention:
    """Attention and adapted embeddings of a unit image [D] among unit prompts [C, D]."""
    basis = torch.cat([adapter.up_out.weight, adapter.up_out.bias[:, None]], 1)  # [D, m + 1]
    gram = basis.mT @ basis
    x, t = adapter.project(image[None], text, basis)
    to_prompts, to_itself = _image_looks(adapter, (x.query * t.key).sum(-1), (x.query * x.key).sum(-1))
    image_sees = (to_prompts[:, None] @ t.value + to_itself[..., None] * x.value).sum(0)  # [1, m]
    if adapter.mask == "pair":  # a sequence for every prompt: in each the image sees that one alone
        image_sees = t.value.sum(0)  # [C, m]
    if adapter.mask in ("cross", "pair"):
        gate = torch.ones_like(to_prompts)
        text_sees = x.value.sum(0).expand(len(text), -1)  # [C, m]
    else:
        among, lse = attend(t.query, t.key, t.value)  # [H, C, m], [H, C]
        gate = torch.sigmoid((t.query * x.key).sum(-1) + adapter.bias() - lse)
        if adapter.mask == "within":
            gate = torch.zeros_like(gate)
        text_sees = torch.lerp(among, x.value, gate[..., None]).sum(0)  # [C, m]
    lam_image, lam_text = adapter.shares()
    image_moves = adapter.direction(image_sees, gram) @ basis.mT  # [1 or C, D] unit
    text_moves = adapter.direction(text_sees, gram) @ basis.mT  # [C, D] unit
    return Attention(
        to_prompts,
        to_itself[:, 0],
        gate,
        unit(lam_image * image_moves + (1 - lam_image) * image),
        unit(lam_text * text_moves + (1 - lam_text) * text),
    )


def _image_looks(adapter: MultiModalAdapter, scores: Tensor, own: Tensor) -> tuple[Tensor, Tensor]:
    """The image's look at prompts [H, C] and at itself [H, 1], from its scores [H, C] and [H, 1]."""
    match adapter.mask:
        case "cross":
            return scores.softmax(-1), torch.zeros_like(own)
        case "pair":
            return torch.ones_like(scores), torch.zeros_like(own)
        case "within":
            return torch.zeros_like(scores), torch.ones_like(own)
    both = torch.cat([scores + adapter.bias(), own], -1).softmax(-1)  # [H, C + 1]
    return both[:, :-1], both[:, -1:]
