"""TDA and DMN against their rules written plainly, row by row, with dictionaries of lists."""

from __future__ import annotations

import math
from collections import defaultdict
from typing import Any

import pytest
import torch
from torch import Tensor

from mma.adapters import AdapterError, fit, predict, unit, zero_shot_logits
from mma.adapters.dmn import DynamicMemory
from mma.adapters.memory import stream_order
from mma.adapters.tda import TrainingFreeDynamicAdapter

from .toy import toy


def keep(cache: list[Any], item: Any, entropy: float, slots: int) -> None:
    """A queue that holds the `slots` items of lowest entropy, as the released code updates it."""
    if len(cache) < slots:
        cache.append((entropy, item))
    elif entropy < cache[-1][0]:
        cache[-1] = (entropy, item)
    cache.sort(key=lambda held: held[0])


def confident(views: Tensor, text: Tensor, scale: float) -> tuple[Tensor, Tensor]:
    """The tenth of the views [V, D] of lowest entropy, and their probabilities."""
    p = zero_shot_logits(views, text, scale).softmax(-1)
    order = (-(p * p.log()).sum(-1)).argsort()[: max(1, len(views) // 10)]
    return views[order], p[order]


def plain_tda(views: Tensor, text: Tensor, scale: float) -> Tensor:
    positive, negative = defaultdict[int, list[Any]](list), defaultdict[int, list[Any]](list)
    rows = []
    for of_image in views:
        chosen, each = confident(of_image, text, scale)
        x, p = chosen.mean(0), each.mean(0)
        logits = zero_shot_logits(x[None], text, scale)[0]
        entropy, k = -float((p * p.log()).sum()), int(logits.argmax())
        keep(positive[k], x, entropy, 3)
        if 0.2 < entropy / math.log2(len(text)) < 0.5:
            keep(negative[k], (x, (p > 0.03) & (p < 1.0)), entropy, 2)
        for c, held in positive.items():
            for _, m in held:
                logits[c] += 2.0 * torch.exp(-5.0 * (1 - x @ m))
        for held in negative.values():
            for _, (m, labels) in held:
                logits -= 0.117 * torch.exp(-(1 - x @ m)) * labels
        rows.append(logits)
    return torch.stack(rows)


def plain_dmn(views: Tensor, text: Tensor, scale: float, slots: int) -> Tensor:
    memory = defaultdict[int, list[Any]](list)
    rows = []
    for of_image in views:
        x, voted = of_image[0], confident(of_image, text, scale)[1].mean(0)
        keep(memory[int(voted.argmax())], x, -float((voted * voted.log()).sum()), slots)
        p = zero_shot_logits(x[None], text, scale)[0].softmax(-1)
        cosines = []
        for c, t in enumerate(text):
            kept = torch.stack([t, *(m for _, m in memory[c])])
            cosines.append(x @ unit((torch.exp(-5.5 * (1 - kept @ x))[:, None] * kept).sum(0)))
        rows.append(p + 2.0 * (scale * torch.stack(cosines)).softmax(-1))
    return torch.stack(rows)


def stream(count: int) -> tuple[Tensor, Tensor]:
    """Views [B, V, D] of a stream in which classes return, and text [C, D]."""
    data = toy(classes=4, dtype=torch.float64)
    image = data.support.image.repeat(3, 1)[:, None]
    noise = torch.randn(len(image), count, 32, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    return unit(image + 0.05 * noise), data.support.text


@pytest.mark.parametrize("count", [1, 20])
def test_tda_is_its_rules_row_by_row(count: int) -> None:
    views, text = stream(count)
    adapter = TrainingFreeDynamicAdapter(shuffle=False, test_views=None)
    adapter.logit_scale = scale = 20.0
    torch.testing.assert_close(predict(adapter, views, text), plain_tda(views, text, scale))


@pytest.mark.parametrize("count", [1, 20])
def test_dmn_is_its_rules_row_by_row(count: int) -> None:
    views, text = stream(count)
    adapter = DynamicMemory(weight=2.0, slots=3, shuffle=False)
    adapter.logit_scale = scale = 20.0
    expected = plain_dmn(views, text, scale, slots=3)
    probability = predict(adapter, views, text).softmax(-1)
    torch.testing.assert_close(probability, expected / expected.sum(-1, keepdim=True))


@pytest.mark.parametrize("kind", [TrainingFreeDynamicAdapter, DynamicMemory])
def test_an_image_is_a_single_view(kind: type[TrainingFreeDynamicAdapter | DynamicMemory]) -> None:
    views, text = stream(1)
    adapter = kind()
    adapter.logit_scale = 20.0
    assert torch.equal(predict(adapter, views, text), predict(adapter, views[:, 0], text))


@pytest.mark.parametrize("kind", [TrainingFreeDynamicAdapter, DynamicMemory])
def test_shuffling_is_a_fixed_order_of_the_stream(kind: type[TrainingFreeDynamicAdapter | DynamicMemory]) -> None:
    data = toy()
    shuffled, as_stored = kind(), kind(shuffle=False)
    for adapter in (shuffled, as_stored):
        fit(adapter, data.support, adapter.recipe, seed=0)
    order = torch.tensor(stream_order(len(data.test.image), shuffle=True))
    assert sorted(order.tolist()) == list(range(len(order)))
    in_order = predict(as_stored, data.test.image[order], data.support.text)
    torch.testing.assert_close(predict(shuffled, data.test.image, data.support.text)[order], in_order)


def test_wrong_options_are_named() -> None:
    with pytest.raises(AdapterError, match="slots = 0 is below 1"):
        TrainingFreeDynamicAdapter(slots=0)
    with pytest.raises(AdapterError, match=r"weight = -1.0 is below 0"):
        DynamicMemory(weight=-1.0)
