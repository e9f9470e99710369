"""Multi-Modal Adapter (arXiv 2409.02958; code dqmis/clip-mma): prompts and image attend, and both are adapted.

    Z = down([t_1 .. t_C; x])     A = MHA(Z, mask)     delta = up(A)     d = unit(delta)
    t'_k = unit(lam d_k + (1 - lam) t_k)     x' = unit(lam d_x + (1 - lam) x)     logit_k = logit_scale <x', t'_k>

The plain form (`mma.adapters.plain.mma`) builds a sequence per image: scores [B, C + 1, C + 1], adapted prompts
[B, C, D]. None of that is built here, for little of it depends on the image and the prompt at once. Per head, with
scores s_ij = <q_i, k_j> / sqrt(E):

(1) Over the prompts alone, token i gets O_i = sum_j e^(s_ij - L_i) v_j, L_i = log sum_j e^(s_ij), the same for every
    image. One token x more gives g v_x + (1 - g) O_i, with the gate g = sigmoid(s_ix - L_i).
(2) Nothing bends between the values and up's GELU, so values pass MHA's output and up's first layer before they are
    averaged: from here on v_j and O_i are in up's m hidden units, and a = GELU(sum over heads + c).
(3) delta = [U b] [a; 1] lies in the m + 1 columns of `basis` = [U b], so no delta is built: <t, delta> is
    (basis't)'[a; 1], and between deltas, lengths included, [a; 1]'G[a; 1] with G = basis'basis.
(4) Nor is an adapted embedding: <x', y> = (lam <d_x, y> + (1 - lam) <x, y>) / |lam d_x + (1 - lam) x| for any y, where
    the length is the root of lam^2 + 2 lam (1 - lam) <d_x, x> + (1 - lam)^2 |x|^2; the text side likewise.

A step costs B C D for <x, t>, and C^2 and B C m where the mask asks for them.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from mma.adapters.base import zero_shot_logits
from mma.adapters.kernels.attention import attend
from mma.adapters.kernels.forms import forms
from mma.adapters.plain.mma import PlainMultiModalAdapter

TINY = 1e-24  # below any squared length that occurs; the square of `normalize`'s 1e-12


class Tokens(NamedTuple):
    """What attention and the blend need of N embeddings."""

    query: Tensor  # [H, N, E], scaled
    key: Tensor  # [H, N, E]
    value: Tensor  # [H, N, m]
    on_basis: Tensor  # [N, m + 1]
    square: Tensor  # [N] squared length


class MultiModalAdapter(PlainMultiModalAdapter):
    """One attention layer over the prompts and the image, whose output is blended into both.

    The options and weights of `PlainMultiModalAdapter`, and its logits without its memory.
    """

    def forward(self, image: Tensor, text: Tensor) -> Tensor:
        """Logits [B, C] of unit `image` [B, D] against unit `text` [C, D]. What an export traces is the plain form."""
        if torch.compiler.is_compiling():
            return super().forward(image, text)
        lam_image, lam_text = self.shares()
        if lam_image == lam_text == 0:
            return zero_shot_logits(image, text, self.logit_scale)
        basis = torch.cat([self.up_out.weight, self.up_out.bias[:, None]], 1)  # [D, m + 1]
        gram = basis.mT @ basis
        x, t = self.project(image, text, basis)
        cosine = image @ text.mT  # [B, C]
        if self.mask == "pair":
            return self.logit_scale * self.pair(x, t, gram, cosine)
        on_basis = x.on_basis  # <x', basis> [B, m + 1], and cosine <x', t>, once the image is adapted
        if lam_image:
            d = self.direction(self.seen_by_image(x, t), gram)  # [B, m + 1]
            length = blend_length((x.on_basis * d).sum(-1), x.square, lam_image)[:, None]
            cosine = (lam_image * d @ t.on_basis.mT + (1 - lam_image) * cosine) / length
            on_basis = (lam_image * d @ gram + (1 - lam_image) * x.on_basis) / length
        if lam_text == 0:
            return self.logit_scale * cosine
        if self.mask == "cross":
            d = self.direction(x.value.sum(0), gram)  # [B, m + 1]
            by_image, by_text = (on_basis * d).sum(-1, keepdim=True), d @ t.on_basis.mT
        elif self.mask == "within":
            d = self.direction(attend(t.query, t.key, t.value)[0].sum(0), gram)  # [C, m + 1]
            by_image, by_text = on_basis @ d.mT, (t.on_basis * d).sum(-1)
        else:
            by_image, by_text = self.forms(x, t, gram, on_basis)
        # <x', d> and <t, d>, [B, C] or what spreads to it
        blended = lam_text * by_image + (1 - lam_text) * cosine
        return self.logit_scale * blended / blend_length(by_text, t.square, lam_text)

    def pair(self, x: Tokens, t: Tokens, gram: Tensor, cosine: Tensor) -> Tensor:
        """Adapted cosines [B, C] of mask `pair`: the image's d belongs to the prompt, the prompt's to the image."""
        lam_image, lam_text = self.shares()
        d_image, d_text = self.direction(t.value.sum(0), gram), self.direction(x.value.sum(0), gram)  # [C, .], [B, .]
        by_image = (x.on_basis * d_text).sum(-1, keepdim=True)  # <x, d_text> [B, 1]
        if lam_image:
            length = blend_length(x.on_basis @ d_image.mT, x.square[:, None], lam_image)  # [B, C]
            cosine = (lam_image * (t.on_basis * d_image).sum(-1) + (1 - lam_image) * cosine) / length
            by_image = (lam_image * d_text @ (d_image @ gram).mT + (1 - lam_image) * by_image) / length
        if lam_text == 0:
            return cosine
        blended = lam_text * by_image + (1 - lam_text) * cosine
        return blended / blend_length(d_text @ t.on_basis.mT, t.square, lam_text)

    def seen_by_image(self, x: Tokens, t: Tokens) -> Tensor:
        """What attention gives the image, summed over heads: [B, m]."""
        if self.mask == "within":
            return x.value.sum(0)
        seen, lse = attend(x.query, t.key, t.value)  # [H, B, m], [H, B]
        if self.mask == "cross":
            return seen.sum(0)
        gate = torch.sigmoid((x.query * x.key).sum(-1) - lse - self.bias())  # [H, B]: it sees itself too, (1)
        return torch.lerp(seen, x.value, gate[..., None]).sum(0)

    def bias(self) -> float:
        """What is added to the score of a text-image pair."""
        return 1.0 if self.mask == "bias" else 0.0

    def forms(self, x: Tokens, t: Tokens, gram: Tensor, on_basis: Tensor) -> tuple[Tensor, Tensor]:
        """<x', d> and <t, d>, [B, C] each, where prompt k sees all prompts and image b: d is of (k, b)."""
        seen, lse = attend(t.query, t.key, t.value)  # [H, C, m], [H, C]
        gate = torch.sigmoid(torch.baddbmm(self.bias() - lse[:, None], x.key, t.query.mT))  # [H, B, C]
        m = self.hidden
        square, by_image, by_text = forms(
            gate,
            seen.sum(0) + self.constant(),
            seen.transpose(0, 1).contiguous(),
            x.value.transpose(0, 1).contiguous(),
            gram[:m, :m],
            2 * gram[m, :m],
            on_basis[:, :m],
            t.on_basis[:, :m],
        )
        length = (square + gram[m, m]).clamp_min(TINY).sqrt()
        return (by_image + on_basis[:, m:]) / length, (by_text + t.on_basis[:, m]) / length

    def project(self, image: Tensor, text: Tensor, basis: Tensor) -> tuple[Tokens, Tokens]:
        """The tokens of both sides; every product with the D dimensions is made once."""
        both, sides, size = torch.cat([image, text]), [len(image), len(text)], self.width // self.heads
        products = both @ torch.cat([self.down_in.weight.mT, basis], 1)
        low, on_basis = torch.split(products, [self.down_in.out_features, basis.shape[1]], 1)
        folded = functional.linear(low + self.down_in.bias, *self.folded())  # [B + C, H (2 E + m)]
        heads = folded.view(len(both), self.heads, -1).transpose(0, 1)  # [H, B + C, 2 E + m]
        query, key, value = (torch.split(part, sides, 1) for part in torch.split(heads, [size, size, self.hidden], 2))
        square = torch.split(torch.linalg.vector_norm(both, dim=1).square(), sides)
        x, t = (Tokens(*side) for side in zip(query, key, value, torch.split(on_basis, sides), square, strict=True))
        return x, t

    def folded(self) -> tuple[Tensor, Tensor]:
        """Weight and bias of the one linear layer from `down_in` to queries, keys and the values of (2), by heads."""
        size = self.width // self.heads
        weight = torch.cat([self.mha.in_proj_weight, self.mha.in_proj_bias[:, None]], 1)  # [3 W, W + 1]
        query, key, value = weight.view(3, self.heads, size, -1)  # [H, E, W + 1]
        out = (self.up_in.weight @ self.mha.out_proj.weight).view(-1, self.heads, size).transpose(0, 1)  # [H, m, E]
        layer = torch.cat([query / math.sqrt(size), key, out @ value], 1).flatten(0, 1)  # [H (2 E + m), W + 1]
        weight, bias = layer[:, :-1], layer[:, -1]
        if self.down_out is None:
            return weight, bias
        return weight @ self.down_out.weight, weight @ self.down_out.bias + bias

    def constant(self) -> Tensor:
        """c of (2), [m]."""
        return functional.linear(self.mha.out_proj.bias, self.up_in.weight, self.up_in.bias)

    def direction(self, seen: Tensor, gram: Tensor) -> Tensor:
        """Coordinates in the basis of d = unit(delta), [N, m + 1], from what each token sees, [N, m]."""
        a = functional.pad(functional.gelu(seen + self.constant()), (0, 1), value=1.0)
        return a * ((a @ gram) * a).sum(-1, keepdim=True).clamp_min(TINY).rsqrt()


def blend_length(along: Tensor, square: Tensor, lam: float) -> Tensor:
    """|lam d + (1 - lam) y| of unit d, where `along` is <y, d> and `square` |y|^2."""
    keep = 1 - lam
    return (lam**2 + 2 * lam * keep * along + keep**2 * square).clamp_min(TINY).sqrt()
