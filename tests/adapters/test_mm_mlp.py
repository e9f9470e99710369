from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from mma.adapters import AdapterError, Support, unit
from mma.adapters import blocks as blocks_module
from mma.adapters.mm_mlp import MultiModalMLP

from .golden import Golden, read_golden
from .toy import toy

NAMES = {"mm_to_visual_mlp.": "image_mlp.", "mm_to_text_mlp.": "text_mlp."}


@pytest.fixture(scope="module")
def golden(shared: Path) -> Golden:
    return read_golden(shared, "mm-mlp", NAMES)


def plain_logits(adapter: MultiModalMLP, image: Tensor, text: Tensor) -> Tensor:
    """Every pair concatenated, as the released code does."""
    b, c = len(image), len(text)
    x, t = image[:, None].expand(b, c, -1), text.expand(b, c, -1)
    pair = torch.cat([x, t], dim=-1)
    x = unit((1 - adapter.lam) * x + adapter.lam * adapter.image_mlp(pair).relu())
    t = unit((1 - adapter.lam) * t + adapter.lam * adapter.text_mlp(pair).relu())
    return adapter.logit_scale * (x * t).sum(-1)


def test_published_logits_and_gradients_are_reproduced(golden: Golden) -> None:
    adapter = golden.load(MultiModalMLP())
    torch.testing.assert_close(adapter(golden.image, golden.text), golden.logits, atol=1e-4, rtol=0)
    adapter.loss(golden.image, golden.text, golden.label).backward()
    for name, weight in adapter.named_parameters():
        assert weight.grad is not None
        assert (weight.grad - golden.grad[name]).norm() <= 1e-3 * golden.grad[name].norm(), name


def test_published_training_run_is_reproduced(golden: Golden) -> None:
    assert golden.about["optimizer"] == "adam lr=0.001"
    adapter = golden.load(MultiModalMLP())
    optimizer = torch.optim.Adam(adapter.parameters(), lr=1e-3)
    for expected in golden.loss_curve:
        optimizer.zero_grad()
        loss = adapter.loss(golden.image, golden.text, golden.label)
        torch.testing.assert_close(loss.detach(), expected, atol=2e-3, rtol=0)
        loss.backward()
        optimizer.step()
    torch.testing.assert_close(adapter(golden.image, golden.text), golden.logits_final, atol=1e-2, rtol=0)


def test_published_number_of_weights() -> None:
    adapter = MultiModalMLP()
    adapter.start(Support(torch.eye(512)[:2], torch.arange(2), torch.eye(512)[:2], 100.0))
    assert sum(weight.numel() for weight in adapter.parameters()) == 98_304


def test_projecting_image_and_prompt_apart_is_projecting_the_pair() -> None:
    data = toy(dtype=torch.float64)
    adapter = MultiModalMLP(reduction=4)
    adapter.start(data.support)
    expected = plain_logits(adapter, data.test.image, data.support.text)
    torch.testing.assert_close(adapter(data.test.image, data.support.text), expected)


def test_blocks_change_neither_logits_nor_gradients(monkeypatch: pytest.MonkeyPatch) -> None:
    data = toy(dtype=torch.float64)
    adapter = MultiModalMLP()
    adapter.start(data.support)
    whole = torch.autograd.grad(adapter.loss(*rows(data)), list(adapter.parameters()))
    monkeypatch.setattr(blocks_module, "BLOCK", 2 * 8 * data.support.text.numel())
    for kept in (blocks_module.KEPT, 0):  # a block's own numbers are kept, or worked out again
        monkeypatch.setattr(blocks_module, "KEPT", kept)
        apart = torch.autograd.grad(adapter.loss(*rows(data)), list(adapter.parameters()))
        for one, other in zip(whole, apart, strict=True):
            torch.testing.assert_close(one, other)


def rows(data: Any) -> tuple[Tensor, Tensor, Tensor]:
    return data.test.image, data.support.text, data.test.label


@pytest.mark.parametrize(("options", "named"), [({"lam": 1.5}, "lam"), ({"reduction": 0}, "reduction")])
def test_a_wrong_option_is_named_in_one_line(options: dict[str, Any], named: str) -> None:
    with pytest.raises(AdapterError, match=f"^{named} = .+$"):
        MultiModalMLP(**options)
