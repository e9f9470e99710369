from __future__ import annotations

import pytest
import torch
from torch import Tensor

from mma.adapters import AdapterError, fit, predict, zero_shot_logits
from mma.adapters.memory import entropy_of
from mma.adapters.plain.rada import PlainRAda
from mma.adapters.rada_ttt import RAdaTestTime

from .toy import Toy, toy


def started(data: Toy, **options: float) -> RAdaTestTime:
    adapter = RAdaTestTime(**options)  # type: ignore[arg-type]
    fit(adapter, data.support, adapter.recipe, seed=0)
    return adapter


def views_of(data: Toy) -> Tensor:
    views = data.support.views
    assert views is not None
    return views


def test_a_step_is_adamw_on_the_entropy_of_the_certain_views_of_plain_rada() -> None:
    data = toy(views=4, dtype=torch.float64)
    views, text = views_of(data), data.support.text
    adapter = started(data, confident=0.5, step_size=1e-2, steps=1)
    logits = predict(adapter, views, text)
    for row, expected in zip(views, logits, strict=True):
        plain = PlainRAda()
        plain.start(data.support)
        plain.load_state_dict(adapter.state_dict())
        optimizer = torch.optim.AdamW([plain.out.weight, plain.out.bias], lr=1e-2)
        entropy = entropy_of(zero_shot_logits(row, text, 100.0).log_softmax(dim=-1))
        kept = entropy.topk(2, largest=False).indices
        mean = plain(row[kept], text).softmax(dim=-1).mean(0)
        (-(mean * mean.log()).sum()).backward()
        optimizer.step()
        torch.testing.assert_close(plain(row[:1], text)[0].detach(), expected, atol=1e-5, rtol=1e-5)


def test_the_views_entropy_falls() -> None:
    data = toy(views=4)
    views, text = views_of(data), data.support.text
    entropies = [
        entropy_of(predict(started(data, steps=steps), views, text).log_softmax(dim=-1)).mean() for steps in (0, 1, 3)
    ]
    assert entropies[0] > entropies[1] > entropies[2]


def test_asking_for_more_views_than_there_are_is_refused() -> None:
    data = toy(views=4)
    with pytest.raises(AdapterError, match=r"^test_views = 8, and the cache has 4 of each image: embed more views$"):
        predict(started(data, test_views=8), views_of(data), data.support.text)


def test_a_single_view_may_be_given_as_plain_rows() -> None:
    data = toy()
    adapter = started(data)
    as_views = predict(adapter, data.test.image[:, None], data.support.text)
    assert torch.equal(predict(adapter, data.test.image, data.support.text), as_views)
