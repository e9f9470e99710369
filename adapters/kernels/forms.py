"""Quadratic and linear forms of the hidden units of every pair of image and prompt, of which none is kept."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional

from mma.adapters.kernels.runs import blocks


def forms(*inputs: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """a'Ga + w'a, <on_image_b, a> and <on_text_k, a>, [B, C] each, of the inputs that `_Forms` names."""
    return _Forms.apply(*inputs)  # type: ignore[no-any-return]


class _Forms(torch.autograd.Function):
    """The forms of (3) in `mma.adapters.mma` for every image and prompt, [B, C] each, without their constants.

    With z = base_k + sum_h gate_hbk (v_bh - seen_kh) and a = GELU(z):  a'Ga + w'a,  <on_image_b, a>,  <on_text_k, a>.
    Shapes: gate [H, B, C], base [C, m], seen [C, H, m], v [B, H, m], G [m, m] (symmetric), w [m], on_image [B, m],
    on_text [C, m]. Prompts go in blocks of BLOCK_BYTES; only the inputs are kept: z and a are made again going back.
    """

    @staticmethod
    def forward(ctx: Any, *inputs: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        gate, base, seen, v, gram, linear, on_image, on_text = inputs
        ctx.save_for_backward(*inputs)
        square, by_image, by_text = (torch.empty_like(gate[0]) for _ in range(3))
        for rows in blocks(len(base), v[:, 0]):
            a = functional.gelu(_hidden(_by_prompt(gate[:, :, rows]), base[rows], seen[rows], v))  # [c, B, m]
            moved = torch.addmm(linear, a.flatten(0, 1), gram).view_as(a)
            square[:, rows] = moved.mul_(a).sum(-1).mT
            by_image[:, rows] = torch.mul(a, on_image, out=moved).sum(-1).mT
            by_text[:, rows] = torch.mul(a, on_text[rows, None], out=moved).sum(-1).mT
        return square, by_image, by_text

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, d_square: Tensor, d_image: Tensor, d_text: Tensor) -> tuple[Tensor, ...]:
        gate, base, seen, v, gram, linear, on_image, on_text = ctx.saved_tensors
        d_gate, d_base, d_seen, d_on_text = (x.new_empty(x.shape) for x in (gate, base, seen, on_text))
        d_v, d_gram, d_linear, d_on_image = (x.new_zeros(x.shape) for x in (v, gram, linear, on_image))
        for rows in blocks(len(base), v[:, 0]):
            g = _by_prompt(gate[:, :, rows])  # [c, B, H]
            z = _hidden(g, base[rows], seen[rows], v)  # [c, B, m]
            a = functional.gelu(z)
            by_square, by_image, by_text = (d[:, rows].mT[..., None] for d in (d_square, d_image, d_text))  # [c, B, 1]
            scaled = a * by_square
            d_gram.addmm_(scaled.flatten(0, 1).mT, a.flatten(0, 1))
            d_linear += scaled.sum((0, 1))
            # da = (2 G a + w) d_square + on_image d_image + on_text d_text
            d_a = torch.mm(scaled.flatten(0, 1), 2 * gram).view_as(a)
            d_a.addcmul_(by_square, linear).addcmul_(by_image, on_image).addcmul_(by_text, on_text[rows, None])
            d_on_text[rows] = torch.mul(a, by_text, out=scaled).sum(1)
            d_on_image += a.mul_(by_image).sum(0)
            d_z = torch.ops.aten.gelu_backward(d_a, z)
            d_base[rows] = d_z.sum(1)
            d_seen[rows] = (g.mT @ d_z).neg_()
            d_v.baddbmm_(g.permute(1, 2, 0), d_z.transpose(0, 1))
            d_g = (d_z.transpose(0, 1) @ v.mT).sub_((d_z @ seen[rows].mT).transpose(0, 1))  # [B, c, H]
            d_gate[:, :, rows] = d_g.permute(2, 0, 1)
        return d_gate, d_base, d_seen, d_v, d_gram, d_linear, d_on_image, d_on_text


def _by_prompt(gate: Tensor) -> Tensor:
    """[H, B, c] -> [c, B, H], laid out so."""
    return gate.permute(2, 1, 0).contiguous()


def _hidden(gate: Tensor, base: Tensor, seen: Tensor, v: Tensor) -> Tensor:
    """z of (2) in `mma.adapters.mma`: [c, B, H], [c, m], [c, H, m], [B, H, m] -> [c, B, m]."""
    z = torch.baddbmm(base[:, None], gate, seen, alpha=-1)  # prompt by prompt
    return z.add_(torch.bmm(gate.transpose(0, 1), v).transpose(0, 1))  # image by image
