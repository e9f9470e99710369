"""A linear layer on many tokens: x W' + b, by oneDNN on processors.

torch sends float32 products to MKL, which keeps to AVX2 on processors that are not Intel's. oneDNN, which torch carries
too, uses AVX-512 wherever there is one: there these products, and so a training step, take about half the time.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.autograd.function import FunctionCtx, once_differentiable
from torch.nn import functional

ONEDNN = hasattr(torch.ops.mkldnn, "_linear_pointwise")  # torch may be built without oneDNN


def linear(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """x W' + b: [..., D] by [E, D], [E] -> [..., E]. Derivatives of first order."""
    tracing = torch.compiler.is_compiling()  # for an export: by torch's own operations
    if ONEDNN and x.device.type == "cpu" and x.dtype == torch.float32 and not tracing:
        return _Linear.apply(x, weight, bias)  # type: ignore[no-any-return]
    return functional.linear(x, weight, bias)


class _Linear(torch.autograd.Function):
    """torch has the product of oneDNN without its derivatives."""

    @staticmethod
    def forward(ctx: FunctionCtx, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        ctx.save_for_backward(x, weight)
        return _product(x, weight, bias)

    @staticmethod
    @once_differentiable
    def backward(ctx: FunctionCtx, *gradients: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        x, weight = ctx.saved_tensors  # type: ignore[attr-defined]
        of_x, of_weight, of_bias = ctx.needs_input_grad  # type: ignore[attr-defined]
        (gradient,) = gradients
        rows = gradient.flatten(0, -2)
        return (
            _product(gradient, weight.mT) if of_x else None,
            _product(rows.mT, x.flatten(0, -2).mT) if of_weight else None,
            rows.sum(0) if of_bias else None,
        )


def _product(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    return torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")  # type: ignore[no-any-return]
