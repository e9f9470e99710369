"""RAda: attention over the rational matrix f * h_k, which masks its channels (arXiv 2507.15480; khufia/RAda, 5d419c0).

R_k = s f * h_k [C, D]     key, value = Wk R, Wv R     queries: Wq1 sqrt(s) f (image), Wq2 sqrt(s) h_k (text), Wq3 R
P_i = C softmax over all C x C entries of (q_i key' / sqrt(D / H) / T), a head     O = Wo ((mean_i P_i) value)
M = ReLU(1 + O)     logit_k = sum_d M[k, d] R[k, d]     loss = cross-entropy + alpha max |M - 1| (or mean (M - 1)^2)

Wo and its bias start at zero, so M = 1 and RAda starts exactly at zero-shot. The numbers of `mma.adapters.plain.rada`
at less work:
- the image query is one vector for all k, so all rows of P_1 are the softmax of one row of C scores;
- the text queries do not depend on the image, and are projected once;
- the scale 1 / sqrt(D / H) / T is folded into the queries, that of the rational one into its weights;
- the image query alone projects no token (`attend_by_image`);
- the maps are averaged before they meet the values;
- images go in blocks, worked out again in the backward pass where they would hold too much.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import reduce

import torch
from torch import Tensor

from mma.adapters.blocks import in_blocks
from mma.adapters.linear import linear
from mma.adapters.plain.rada import PlainRAda


class RAda(PlainRAda):
    """A mask on the channels of f * h_k, from attention across the candidate classes.

    The options, weights and numbers of `PlainRAda`, at less work.
    """

    def masked(self, image: Tensor, text: Tensor, *, regularised: bool) -> tuple[Tensor, Tensor]:
        """Logits [B, C], and the distance of each image's mask from 1 [B] (0 unless `regularised`)."""
        image, text = self.embed(image, text)
        attend = self.attention(text)

        def work(image: Tensor) -> tuple[Tensor, Tensor]:
            attended, rational = attend(image)
            mask = linear(attended, self.out.weight, self.out.bias + 1).relu()
            distance = self.distance(mask) if regularised else mask.new_zeros(len(mask))
            return (mask * rational).sum(-1), distance

        logits, distance = in_blocks(work, image, self.floats_per_image(text))
        return logits, distance

    def attention(self, text: Tensor) -> Callable[[Tensor], tuple[Tensor, Tensor]]:
        """What depends on the classes alone, done once; what it returns gives (mean_i P_i) value [B, C or 1, D], before
        Wo, and R [B, C, D] of images [B, D].
        """
        classes, dim = text.shape
        named = self.queries.split("+")
        if named == ["image"]:
            return lambda image: self.attend_by_image(image, text)
        shrink = (dim // self.heads) ** -0.5 / self.temperature
        root = self.logit_scale**0.5
        q_text = self.split_heads(shrink * self.q_text(root * text)[None]) if "text" in named else None  # [H, 1, C, E]

        def attend(image: Tensor) -> tuple[Tensor, Tensor]:
            rational = (self.logit_scale * image)[:, None] * text  # [B, C, D]
            key = self.split_heads(linear(rational, self.key.weight, self.key.bias))  # [H, B, C, E]
            value = self.split_heads(linear(rational, self.value.weight, self.value.bias))
            maps = []  # P_i / C
            if "image" in named:
                q_image = self.split_heads(shrink * self.q_image(root * image)[:, None])  # [H, B, 1, E]
                maps.append((q_image @ key.mT).softmax(dim=-1) / classes)  # one row for all k
            if q_text is not None:
                scores = key.flatten(1, 2) @ q_text[:, 0].mT  # one product for all images
                maps.append(softmax_of_all(scores.view(*key.shape[:3], classes)).mT)
            if "rational" in named:
                layer = self.q_rational
                q_rational = self.split_heads(linear(rational, shrink * layer.weight, shrink * layer.bias))
                maps.append(softmax_of_all(q_rational @ key.mT))
            mean = reduce(torch.add, maps) * (classes / len(maps))
            return (mean @ value).permute(1, 2, 0, 3).flatten(2), rational

        return attend

    def attend_by_image(self, image: Tensor, text: Tensor) -> tuple[Tensor, Tensor]:
        """As `attention` with the image query alone: no token is projected, for <q, Wk R_j> = <Wk' q, R_j> and
        sum_j p_j Wv R_j = Wv sum_j p_j R_j.
        """
        heads, shrink = self.heads, (text.shape[1] // self.heads) ** -0.5 / self.temperature
        scaled = (self.logit_scale * image)[:, None]  # [B, 1, D]
        query = shrink * self.q_image(self.logit_scale**0.5 * image).view(len(image), heads, -1)  # [B, H, E]
        onto_key = torch.einsum("bhe,hed->bhd", query, self.key.weight.view(heads, -1, text.shape[1]))
        offset = (query * self.key.bias.view(heads, -1)).sum(-1, keepdim=True)
        share = ((onto_key * scaled) @ text.mT + offset).softmax(dim=-1)  # [B, H, C]
        mean = (share @ text) * scaled  # [B, H, D]
        attended = torch.einsum("bhd,hed->bhe", mean, self.value.weight.view(heads, -1, text.shape[1])).flatten(1)
        return (attended + self.value.bias)[:, None], scaled * text

    def floats_per_image(self, text: Tensor) -> int:
        """About how many numbers a training step holds for one image."""
        classes, dim = text.shape
        return 4 * self.heads * classes**2 + 12 * classes * dim

    def split_heads(self, x: Tensor) -> Tensor:
        """[B, C, D] -> [H, B, C, D / H]."""
        return x.view(*x.shape[:2], self.heads, -1).permute(2, 0, 1, 3).contiguous()

    def distance(self, mask: Tensor) -> Tensor:
        """The regulariser of each image's mask: [B, C, D] -> [B]."""
        mask = mask.flatten(1)
        if self.regulariser == "l2":
            return (mask - 1).square().mean(-1)
        farthest = (mask.detach() - 1).abs().argmax(-1, keepdim=True)
        return (mask.gather(1, farthest) - 1).abs().squeeze(-1)


def softmax_of_all(scores: Tensor) -> Tensor:
    """The softmax over all C x C entries of each map: [H, B, C, C]."""
    return scores.flatten(2).softmax(dim=-1).view_as(scores)
