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

With more classes than `all_up_to`, all of the above is done among the K = `candidates` classes of highest <f, h_k>
alone, of the embeddings as they come; M = 1 for all other classes, whose logits are zero-shot's. In training an image's
own class is one of the K. Else it is the published form.
"""

from __future__ import annotations

from functools import reduce
from typing import Annotated
from typing import Protocol as Interface

import torch
from torch import Tensor
from torch.nn import functional

from mma.adapters.base import check_at_least, zero_shot_logits
from mma.adapters.blocks import in_blocks
from mma.adapters.linear import linear
from mma.adapters.plain.rada import Alpha, Heads, Penalty, PlainRAda, Queries, Temperature

CANDIDATES = 16  # a fit in a minute at 200 classes: docs/methods.md, "RAda among the nearest classes"
ALL_UP_TO = 64  # classes of which all are affordable

# The options that say among which classes an image attends.
Candidates = Annotated[int | None, "attend among an image's nearest classes, this many; none: all, the published form"]
AllUpTo = Annotated[int, "attend among all classes where there are no more than this"]


class Attend(Interface):
    """Attention of images among all classes, or among some of each."""

    def __call__(self, image: Tensor, near: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """(mean_i P_i) value [B, K or 1, D], before Wo, and R [B, K, D]: `image` [B, D], classes `near` [B, K]."""


class RAda(PlainRAda):
    """A mask on the channels of f * h_k, from attention across the candidate classes.

    The weights of `PlainRAda`, and its numbers where all classes are candidates, at less work.
    """

    def __init__(
        self,
        *,
        queries: Queries = "image+text+rational",
        heads: Heads = 8,
        temperature: Temperature = 1.0,
        regulariser: Penalty = "linf",
        alpha: Alpha = 0.1,
        candidates: Candidates = CANDIDATES,
        all_up_to: AllUpTo = ALL_UP_TO,
    ) -> None:
        super().__init__(queries=queries, heads=heads, temperature=temperature, regulariser=regulariser, alpha=alpha)
        check_at_least("candidates", candidates, 2)
        check_at_least("all_up_to", all_up_to, 0)
        self.candidates = candidates
        self.all_up_to = all_up_to

    def loss(self, image: Tensor, text: Tensor, label: Tensor) -> Tensor:
        """As `PlainRAda`, each image's own class among its candidates."""
        logits, distance = self.masked(image, text, regularised=self.alpha > 0, label=label)
        return functional.cross_entropy(logits, label) + self.alpha * distance.mean()

    def masked(
        self, image: Tensor, text: Tensor, *, regularised: bool, label: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Logits [B, C], and the distance of each image's mask from 1 [B] (0 unless `regularised`)."""
        near = self.nearest(image, text, label)
        image, text = self.embed(image, text)
        attend = self.attention(text)

        def work(image: Tensor, near: Tensor | None = None) -> tuple[Tensor, Tensor]:
            attended, rational = attend(image, near)
            mask = linear(attended, self.out.weight, self.out.bias + 1).relu()
            distance = self.distance(mask) if regularised else mask.new_zeros(mask.shape[0])
            logits = (mask * rational).sum(-1)  # [B, K]
            if near is not None:
                logits = zero_shot_logits(image, text, self.logit_scale).scatter(1, near, logits)  # [B, C]
            return logits, distance

        rows = (image,) if near is None else (image, near)
        logits, distance = in_blocks(work, rows, self.floats_per_image(text))
        return logits, distance

    @torch.no_grad()
    def nearest(self, image: Tensor, text: Tensor, label: Tensor | None) -> Tensor | None:
        """The candidates of each image [B, K], its own class in place of the farthest if need be; None: all classes."""
        count = self.attended(text)
        if count == text.shape[0]:
            return None
        near = (image @ text.mT).topk(count, dim=-1).indices
        if label is None:
            return near
        own = label[:, None]  # [B, 1]
        farthest = torch.where((near == own).any(-1, keepdim=True), near[:, -1:], own)
        return torch.cat([near[:, :-1], farthest], -1)

    def attended(self, text: Tensor) -> int:
        """Among how many of the classes of `text` [C, D] an image attends."""
        classes = text.shape[0]
        return classes if self.candidates is None or classes <= self.all_up_to else min(self.candidates, classes)

    def attention(self, text: Tensor) -> Attend:
        """What depends on the classes alone, done once."""
        dim = text.shape[1]
        named = self.queries.split("+")
        if named == ["image"]:
            return lambda image, near=None: self.attend_by_image(image, text if near is None else text[near])
        shrink = (dim // self.heads) ** -0.5 / self.temperature
        root = self.logit_scale**0.5
        q_text = (  # [H, C, E]
            self.split_heads(shrink * self.q_text(root * text)[None])[:, 0] if "text" in named else None
        )

        def attend(image: Tensor, near: Tensor | None = None) -> tuple[Tensor, Tensor]:
            rational = (self.logit_scale * image)[:, None] * (text if near is None else text[near])  # [B, K, D]
            classes = rational.shape[1]
            key = self.split_heads(linear(rational, self.key.weight, self.key.bias))  # [H, B, K, E]
            value = self.split_heads(linear(rational, self.value.weight, self.value.bias))
            maps = []  # P_i / K
            if "image" in named:
                q_image = self.split_heads(shrink * self.q_image(root * image)[:, None])  # [H, B, 1, E]
                maps.append((q_image @ key.mT).softmax(dim=-1) / classes)  # one row for all k
            if q_text is not None and near is None:
                scores = key.flatten(1, 2) @ q_text.mT  # one product for all images
                maps.append(softmax_of_all(scores.view(*key.shape[:3], classes)).mT)
            elif q_text is not None:
                maps.append(softmax_of_all(q_text[:, near] @ key.mT))
            if "rational" in named:
                layer = self.q_rational
                q_rational = self.split_heads(linear(rational, shrink * layer.weight, shrink * layer.bias))
                maps.append(softmax_of_all(q_rational @ key.mT))
            mean = reduce(torch.add, maps) * (classes / len(maps))
            return (mean @ value).permute(1, 2, 0, 3).flatten(2), rational

        return attend

    def attend_by_image(self, image: Tensor, text: Tensor) -> tuple[Tensor, Tensor]:
        """As `attention` with the image query alone, among `text` [C, D], or the classes of each image [B, K, D]: no
        token is projected, for <q, Wk R_j> = <Wk' q, R_j> and sum_j p_j Wv R_j = Wv sum_j p_j R_j.
        """
        dim = text.shape[-1]
        heads, shrink = self.heads, (dim // self.heads) ** -0.5 / self.temperature
        scaled = (self.logit_scale * image)[:, None]  # [B, 1, D]
        query = shrink * self.q_image(self.logit_scale**0.5 * image).view(len(image), heads, -1)  # [B, H, E]
        onto_key = torch.einsum("bhe,hed->bhd", query, self.key.weight.view(heads, -1, dim))
        offset = (query * self.key.bias.view(heads, -1)).sum(-1, keepdim=True)
        share = ((onto_key * scaled) @ text.mT + offset).softmax(dim=-1)  # [B, H, C or K]
        mean = (share @ text) * scaled  # [B, H, D]
        attended = torch.einsum("bhd,hed->bhe", mean, self.value.weight.view(heads, -1, dim)).flatten(1)
        return (attended + self.value.bias)[:, None], scaled * text

    def floats_per_image(self, text: Tensor) -> int:
        """About how many numbers a training step holds for one image."""
        classes = self.attended(text)
        return 4 * self.heads * classes**2 + 12 * classes * text.shape[1]

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
