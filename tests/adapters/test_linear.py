"""The linear layer by oneDNN against torch's own."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional

from mma.adapters import linear as linear_module
from mma.adapters.linear import linear


@pytest.mark.parametrize("shape", [(7, 24), (3, 5, 24), (1, 24)])
def test_outputs_and_gradients_are_those_of_torch(shape: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    results = []
    x, weight, bias = torch.randn(shape), torch.randn(11, 24), torch.randn(11)
    for form in (linear, functional.linear):
        given = [tensor.clone().requires_grad_() for tensor in (x, weight, bias)]
        out = form(*given)
        results.append([out, *torch.autograd.grad(out.square().sum(), given)])
    for ours, torchs in zip(*results, strict=True):
        torch.testing.assert_close(ours, torchs, atol=1e-4, rtol=1e-5)


def test_a_gradient_nobody_asks_for_is_not_worked_out() -> None:
    x, weight, bias = torch.randn(4, 8), torch.randn(3, 8, requires_grad=True), torch.randn(3)
    linear(x, weight, bias).sum().backward()
    assert weight.grad is not None
    assert x.grad is None


def test_without_onednn_it_is_torchs_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(linear_module, "ONEDNN", False)
    x, weight, bias = torch.randn(4, 8), torch.randn(3, 8), torch.randn(3)
    assert torch.equal(linear(x, weight, bias), functional.linear(x, weight, bias))
