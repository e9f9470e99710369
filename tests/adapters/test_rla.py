"""RLA against its equations written plainly, in numpy and with Adam's steps spelled out."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from mma.adapters import AdapterError, fit, predict, unit
from mma.adapters.rla import RegularisedLinear

from .toy import toy


def test_a_fit_follows_adam_with_the_released_epsilon_on_the_penalised_loss() -> None:
    data = toy(dtype=torch.float64)  # five classes of three shots: lam = 1 / 3
    recipe = replace(RegularisedLinear.recipe, lr=1e-2, epochs=12)
    adapter = RegularisedLinear()
    history = fit(adapter, data.support, recipe, seed=0)
    x, t, label = (value.numpy() for value in (data.support.image, data.support.text, data.support.label))
    w, first, second, losses = np.eye(x.shape[1]), 0.0, 0.0, []
    for step in range(12):
        mapped = x @ w.T
        length = np.linalg.norm(mapped, axis=1, keepdims=True)
        logits = 100 * (mapped / length) @ t.T
        share = np.exp(logits - logits.max(1, keepdims=True))
        share /= share.sum(1, keepdims=True)
        own = np.arange(len(x)), label
        losses.append(-np.log(share[own]).mean() + np.square(w - np.eye(len(w))).sum() / 3)
        share[own] -= 1
        of_unit = 100 * share @ t / len(x)
        of_mapped = (of_unit - (of_unit * mapped).sum(1, keepdims=True) * mapped / length**2) / length
        gradient = of_mapped.T @ x + 2 / 3 * (w - np.eye(len(w)))
        first, second = 0.9 * first + 0.1 * gradient, 0.999 * second + 0.001 * gradient**2
        rate = 1e-2 * (1 + np.cos(np.pi * step / 12)) / 2
        moment = np.sqrt(second / (1 - 0.999 ** (step + 1))) + 1e-4
        w = w - rate * first / (1 - 0.9 ** (step + 1)) / moment
    np.testing.assert_allclose(history.loss, losses, rtol=1e-8)
    np.testing.assert_allclose(adapter.map.detach().numpy(), w, atol=1e-8)
    mapped = unit(data.test.image @ torch.from_numpy(w).mT)
    torch.testing.assert_close(predict(adapter, data.test.image, data.new_text), 100 * mapped @ data.new_text.mT)


def test_a_large_penalty_keeps_the_map_at_the_identity() -> None:
    data = toy()
    recipe = replace(RegularisedLinear.recipe, lr=1e-2, epochs=50)
    drift = []
    for lam in (0.0, 1.0, 1e4):
        adapter = RegularisedLinear(lam=lam)
        fit(adapter, data.support, recipe, seed=0)
        drift.append(float((adapter.map.detach() - torch.eye(32)).norm()))
    assert drift[0] > drift[1] > 10 * drift[2]


def test_a_negative_penalty_is_refused() -> None:
    with pytest.raises(AdapterError, match=r"lam = -1\.0 is below 0"):
        RegularisedLinear(lam=-1.0)
