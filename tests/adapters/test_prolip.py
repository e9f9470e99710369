"""ProLIP against its equations written plainly, in numpy and with Adam's steps spelled out; and RAda's projections."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from mma.adapters import (
    Adapter,
    AdapterError,
    Projection,
    Projections,
    Support,
    fit,
    from_bytes,
    predict,
    to_bytes,
    unit,
    zero_shot_logits,
)
from mma.adapters.prolip import ProLIP
from mma.adapters.rada import RAda
from mma.adapters.rada_projections import RAdaProjections

from .toy import toy

WIDTHS, DIM = (24, 20), 16


def features(dtype: torch.dtype = torch.float64) -> Support:
    """Five classes of three shots, before projections of other widths than D, with biases."""
    draw = torch.Generator().manual_seed(0)

    def gaussian(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=draw, dtype=torch.float64).to(dtype)

    layers = Projections(*(Projection(gaussian(width, DIM) / width**0.5, gaussian(DIM) / 4) for width in WIDTHS))
    label = torch.arange(5).repeat_interleave(3)
    return Support(gaussian(15, WIDTHS[0]), label, gaussian(5, WIDTHS[1]), 100.0, projections=layers)


@pytest.mark.parametrize("rule", ["1/n", "1/n^2"])
def test_a_fit_follows_adam_with_the_released_epsilon_on_the_penalised_loss(rule: str) -> None:
    support = features()
    assert support.projections is not None
    recipe = replace(ProLIP.recipe, lr=1e-2, epochs=12)
    adapter = ProLIP(rule=rule)
    history = fit(adapter, support, recipe, seed=0)
    layers = support.projections
    f, label, bias = support.image.numpy(), support.label.numpy(), layers.image.bias.numpy()
    t = support.text.numpy() @ layers.text.weight.numpy() + layers.text.bias.numpy()
    t /= np.linalg.norm(t, axis=1, keepdims=True)
    start = layers.image.weight.numpy()
    w, first, second, losses = start.copy(), 0.0, 0.0, []
    lam = 1 / 3 if rule == "1/n" else 1 / 9
    for step in range(12):
        mapped = f @ w + bias
        length = np.linalg.norm(mapped, axis=1, keepdims=True)
        logits = 100 * (mapped / length) @ t.T
        share = np.exp(logits - logits.max(1, keepdims=True))
        share /= share.sum(1, keepdims=True)
        own = np.arange(len(f)), label
        losses.append(-np.log(share[own]).mean() + lam * np.square(w - start).sum())
        share[own] -= 1
        of_unit = 100 * share @ t / len(f)
        of_mapped = (of_unit - (of_unit * mapped).sum(1, keepdims=True) * mapped / length**2) / length
        gradient = f.T @ of_mapped + 2 * lam * (w - start)
        first, second = 0.9 * first + 0.1 * gradient, 0.999 * second + 0.001 * gradient**2
        rate = 1e-2 * (1 + np.cos(np.pi * step / 12)) / 2
        w = w - rate * first / (1 - 0.9 ** (step + 1)) / (np.sqrt(second / (1 - 0.999 ** (step + 1))) + 1e-4)
    np.testing.assert_allclose(history.loss, losses, rtol=1e-8)
    np.testing.assert_allclose(adapter.projection.detach().numpy(), w, atol=1e-8)
    mapped = unit(support.image @ torch.from_numpy(w) + layers.image.bias)
    expected = 100 * mapped @ torch.from_numpy(t).mT
    torch.testing.assert_close(predict(adapter, support.image, support.text), expected)


def test_a_given_lam_takes_the_place_of_the_rule() -> None:
    support, recipe = features(), replace(ProLIP.recipe, lr=1e-2, epochs=20)
    drift = []
    for lam in (0.0, 1.0, 1e4):
        adapter = ProLIP(lam=lam)
        fit(adapter, support, recipe, seed=0)
        drift.append(float((adapter.projection.detach() - adapter.first).norm()))
    assert drift[0] > drift[1] > 10 * drift[2]


@pytest.mark.parametrize("adapter", [ProLIP(), RAdaProjections(heads=2)])
def test_before_the_first_step_it_is_zero_shot_on_the_projected_features(adapter: Adapter) -> None:
    support = features()
    layers = support.projections
    assert layers is not None
    adapter.start(support)
    expected = zero_shot_logits(unit(layers.image(support.image)), unit(layers.text(support.text)), 100.0)
    torch.testing.assert_close(predict(adapter, support.image, support.text), expected)
    assert adapter.shapes.widths == WIDTHS
    again = from_bytes(to_bytes(adapter))
    assert torch.equal(predict(again, support.image, support.text), predict(adapter, support.image, support.text))


def test_projections_that_take_no_steps_leave_rada_as_it_is() -> None:
    support = features()
    layers = support.projections
    assert layers is not None
    image, text = unit(layers.image(support.image)), unit(layers.text(support.text))
    recipe = replace(RAda.recipe, epochs=2)
    still, plain = RAdaProjections(heads=2, share=0.0), RAda(heads=2)
    losses = fit(still, support, recipe, seed=0).loss
    expected = fit(plain, replace(support, image=image, text=text, projections=None), recipe, seed=0).loss
    np.testing.assert_allclose(losses, expected, rtol=1e-9)
    torch.testing.assert_close(predict(still, support.image, support.text), predict(plain, image, text))


def test_projections_move_with_the_mask_and_the_biases_do_not() -> None:
    support = features()
    layers = support.projections
    assert layers is not None
    adapter = RAdaProjections(heads=2)
    fit(adapter, support, replace(RAda.recipe, epochs=2), seed=0)
    for weight, layer in ((adapter.image_projection, layers.image), (adapter.text_projection, layers.text)):
        moved = float((weight.detach() - layer.weight).abs().max())
        assert 0 < moved < 2 * 2 * adapter.share * RAda.recipe.lr
    assert torch.equal(adapter.image_bias, layers.image.bias)


@pytest.mark.parametrize("adapter", [ProLIP(), RAdaProjections()])
def test_embeddings_alone_are_refused_with_the_command_that_makes_more(adapter: Adapter) -> None:
    support = replace(toy().support, projections=None)
    with pytest.raises(AdapterError, match="fit it on a cache that has such features"):
        fit(adapter, support, replace(adapter.recipe, epochs=1), seed=0)


def test_a_negative_penalty_and_an_unknown_rule_are_refused() -> None:
    with pytest.raises(AdapterError, match=r"lam = -1\.0 is below 0"):
        ProLIP(lam=-1.0)
    with pytest.raises(AdapterError, match=r"rule = '1/k' is not one of 1/n, 1/n\^2"):
        ProLIP(rule="1/k")  # type: ignore[arg-type]
