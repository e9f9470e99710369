"""LFA against its equations written plainly."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from mma.adapters import AdapterError, fit, predict, unit
from mma.adapters.lfa import BETAS, LinearFeatureAlignment, procrustes

from .toy import toy


def orthogonal(dim: int, seed: int) -> Tensor:
    draw = torch.Generator().manual_seed(seed)
    return torch.linalg.qr(torch.randn(dim, dim, generator=draw, dtype=torch.float64)).Q


def test_procrustes_finds_the_rotation_that_rows_were_turned_by() -> None:
    draw = torch.Generator().manual_seed(0)
    rows, turned = torch.randn(40, 16, generator=draw, dtype=torch.float64), orthogonal(16, 1)
    torch.testing.assert_close(procrustes(rows, rows @ turned), turned)


def test_with_few_classes_the_map_is_the_best_orthogonal_one_and_of_these_the_nearest_to_the_identity() -> None:
    data = toy(dtype=torch.float64)  # 5 classes, 32 dimensions: 27 of them are free
    image, text = data.support.image, data.support.text[data.support.label]
    found = procrustes(image, text)
    torch.testing.assert_close(found @ found.mT, torch.eye(32, dtype=torch.float64))
    best = float((image @ found - text).square().sum())
    bound = len(image) + len(text) - 2 * float(torch.linalg.svdvals(image.mT @ text).sum())  # von Neumann's inequality
    assert math.isclose(best, bound, rel_tol=1e-9)
    u, _, vh = torch.linalg.svd(image.mT @ text)
    for seed in range(5):
        turn = torch.block_diag(torch.eye(5, dtype=torch.float64), orthogonal(27, seed))
        other = u @ turn @ vh
        assert math.isclose(float((image @ other - text).square().sum()), bound, rel_tol=1e-9)
        assert (found - torch.eye(32)).norm() < (other - torch.eye(32)).norm()


def test_the_loss_is_the_margin_violated_by_each_of_the_nearest_classes() -> None:
    data = toy(dtype=torch.float64)
    adapter = LinearFeatureAlignment(beta=1.0, noise=0, dropout=0)
    adapter.start(data.support)
    image, text, label = data.support.image, data.support.text, data.support.label
    total = []
    for x, y in zip(unit(image @ adapter.map), label.tolist(), strict=True):
        away = [math.dist(x.tolist(), t.tolist()) for t in text]
        for j in sorted(range(len(text)), key=lambda j: away[j])[:3]:
            margin = (1 - float(text[j] @ text[y])) / 4
            total.append(max(0.0, away[y] + margin - away[j]))
    assert sum(value > 0 for value in total) > len(data.support.label)
    assert math.isclose(adapter.loss(image, text, label).item(), sum(total) / len(total), rel_tol=1e-9)


def test_a_fit_is_procrustes_blended_with_the_identity_and_then_adamw_on_that_loss() -> None:
    data = toy(dtype=torch.float64)
    adapter = LinearFeatureAlignment(beta=0.8, scale=1.0, noise=0, dropout=0)
    history = fit(adapter, data.support, replace(adapter.recipe, epochs=10), seed=0)
    image, text, label = data.support.image, data.support.text, data.support.label
    start = 0.2 * procrustes(image, text[label]) + 0.8 * torch.eye(32)
    w, first, second, losses = start.clone(), 0.0, 0.0, []
    for step in range(10):
        w.requires_grad_()
        mapped = unit(image @ w)
        away = torch.cdist(mapped, text, compute_mode="donot_use_mm_for_euclid_dist")
        near = away.topk(3, largest=False)
        own = away.gather(1, label[:, None])
        margin = torch.stack([1 - text[i] @ text[y] for i, y in zip(near.indices, label, strict=True)])
        loss = torch.clamp(own + margin - near.values, min=0).mean()
        (gradient,) = torch.autograd.grad(loss, w)
        losses.append(loss.item())
        rate = 5e-4 * (1 + math.cos(math.pi * step / 10)) / 2
        first, second = 0.9 * first + 0.1 * gradient, 0.999 * second + 0.001 * gradient**2
        moment = (second / (1 - 0.999 ** (step + 1))) ** 0.5 + 1e-8
        w = w.detach() * (1 - rate * 5e-4) - rate * first / (1 - 0.9 ** (step + 1)) / moment
    assert losses[-1] < losses[0]
    torch.testing.assert_close(torch.tensor(history.loss), torch.tensor(losses))
    torch.testing.assert_close(adapter.map.detach(), w)
    expected = 100 * unit(data.test.image @ w) @ data.new_text.mT
    torch.testing.assert_close(predict(adapter, data.test.image, data.new_text), expected)


def test_beta_is_chosen_on_left_out_rows_and_published_where_new_classes_are_scored() -> None:
    support = toy(shots=8, dtype=torch.float64).support
    chosen = LinearFeatureAlignment()
    chosen.start(support)
    beta = chosen.choices()["beta"]
    assert beta in BETAS.tolist()
    draw, right = torch.Generator().manual_seed(0), [0] * 25
    for _ in range(3):
        order = torch.randperm(40, generator=draw)
        train, left = order[:32], order[32:]
        aligned = procrustes(support.image[train], support.text[support.label[train]])
        for i, share in enumerate(BETAS.tolist()):
            mapped = unit(support.image[left] @ ((1 - share) * aligned + share * torch.eye(32)))
            right[i] += int(((mapped @ support.text.mT).argmax(1) == support.label[left]).sum())
    assert beta == float(BETAS[right.index(max(right))])
    assert max(right) > min(right)

    for_new, given = LinearFeatureAlignment(), LinearFeatureAlignment(beta=0.5)
    for adapter in (for_new, given):
        adapter.start(replace(support, new_classes=True))
    assert for_new.choices() == {"beta": 0.9}
    assert given.choices() == {}


def test_the_noise_follows_from_the_seed_and_the_step() -> None:
    data = toy(dtype=torch.float64)
    maps = []
    for seed, noise, dropout in ((0, 0.035, 0.0), (0, 0.035, 0.0), (1, 0.035, 0.0), (0, 0.0, 0.0), (0, 0.0, 0.5)):
        adapter = LinearFeatureAlignment(beta=0.5, noise=noise, dropout=dropout)
        fit(adapter, data.support, replace(adapter.recipe, epochs=6), seed=seed)
        maps.append(adapter.map.detach())
    assert torch.equal(maps[0], maps[1])
    assert all(not torch.equal(a, b) for i, a in enumerate(maps[1:]) for b in maps[i + 2 :])


def test_the_noise_is_in_every_other_step_and_as_large_as_it_says() -> None:
    data = toy(classes=20, shots=20, dtype=torch.float64)
    adapter = LinearFeatureAlignment(beta=1.0, noise=0.1, dropout=0.0)
    adapter.start(data.support)
    spread = []
    for step in range(200):
        adapter.steps = step
        spread.append(float((adapter.disturbed(data.support.image) - data.support.image).std()))
    assert 70 < sum(value > 0 for value in spread) < 130
    assert all(math.isclose(value, 0.1, rel_tol=0.05) for value in spread if value)


def test_a_share_outside_of_0_and_1_is_refused() -> None:
    with pytest.raises(AdapterError, match=r"beta = 1\.5 is outside"):
        LinearFeatureAlignment(beta=1.5)
