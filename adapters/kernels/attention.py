"""Attention that also tells the log-sum-exp of its scores, and never holds all of them."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from mma.adapters.kernels.runs import blocks

LEAST_QUERIES = 64  # in a block of scores, however many prompts: with fewer, adding up key gradients costs more


def attend(query: Tensor, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
    """Queries [H, N, E] over keys [H, C, E], values [H, C, m]: outputs [H, N, m], log-sum-exp of the scores [H, N]."""
    return _Attend.apply(query, key, value)  # type: ignore[no-any-return]


class _Attend(torch.autograd.Function):
    """softmax(q k') v with its log-sum-exp, by blocks of queries.

    Only inputs and outputs are kept. Backward, with P = e^(s - L):  dv = P'dO,  ds = P (dO v' - <dO, O> + dL).
    """

    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        out, lse = query.new_empty(*query.shape[:2], value.shape[2]), torch.empty_like(query[..., 0])
        for rows in blocks(query.shape[1], key[..., 0], LEAST_QUERIES):
            scores = query[:, rows] @ key.mT  # [H, n, C]
            top = scores.amax(-1, keepdim=True)
            weight = scores.sub_(top).exp_()
            total = weight.sum(-1, keepdim=True)
            out[:, rows] = (weight @ value).div_(total)
            lse[:, rows] = (total.log_() + top)[..., 0]
        ctx.save_for_backward(query, key, value, out, lse)
        return out, lse

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, d_out: Tensor, d_lse: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        query, key, value, out, lse = ctx.saved_tensors
        d_query, d_key, d_value = torch.empty_like(query), key.new_zeros(key.shape), value.new_zeros(value.shape)
        shift = (d_lse - (d_out * out).sum(-1))[..., None]  # [H, N, 1]
        for rows in blocks(query.shape[1], key[..., 0], LEAST_QUERIES):
            weight = torch.baddbmm(lse[:, rows, None], query[:, rows], key.mT, beta=-1).exp_()  # [H, n, C]
            d_value.baddbmm_(weight.mT, d_out[:, rows])
            d_scores = torch.baddbmm(shift[:, rows], d_out[:, rows], value.mT).mul_(weight)
            d_query[:, rows] = d_scores @ key
            d_key.baddbmm_(d_scores.mT, query[:, rows])
        return d_query, d_key, d_value
