from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from torch.nn import functional

from mma.adapters import fit, predict
from mma.adapters.lp_plus_plus import LinearProbePlusPlus

from .toy import toy


def test_it_starts_at_the_sums_of_shots_and_one_text_weight() -> None:
    data = toy(dtype=torch.float64)
    adapter = LinearProbePlusPlus()
    adapter.start(data.support)
    image, label, text = data.support.image, data.support.label, data.support.text
    agreement = torch.stack([(image[label == k] @ text[k]).mean() for k in range(5)]).mean()
    torch.testing.assert_close(adapter.weight, torch.stack([image[label == k].sum(0) for k in range(5)]))
    torch.testing.assert_close(adapter.alpha, (250 * agreement).expand(5))
    expected = data.test.image @ adapter.weight.mT + adapter.alpha * (data.test.image @ text.mT)
    torch.testing.assert_close(predict(adapter, data.test.image, text), expected)


def test_its_step_sizes_are_those_of_the_data() -> None:
    data = toy(dtype=torch.float64)
    adapter = LinearProbePlusPlus()
    adapter.start(data.support)
    image, text = data.support.image.numpy(), data.support.text.numpy()
    largest = np.linalg.eigvalsh(image.T @ image)[-1]
    steepest = ((image @ text.T) ** 2).sum(0).max()
    expected = torch.tensor([4 * len(image) / largest, len(image) / (4 * steepest)])
    torch.testing.assert_close(adapter.steps, expected)


def test_its_steps_are_momentum_on_the_weights_and_plain_descent_on_the_text_weights() -> None:
    data = toy(dtype=torch.float64)
    image, label, text = data.support.image, data.support.label, data.support.text
    adapter, start = LinearProbePlusPlus(), LinearProbePlusPlus()
    fit(adapter, data.support, replace(adapter.recipe, epochs=20), seed=0)
    start.start(data.support)
    weight, alpha, velocity = start.weight.detach(), start.alpha.detach(), torch.zeros_like(text)
    for step in range(1, 21):
        residual = (image @ (weight + alpha[:, None] * text).mT).softmax(dim=-1) - functional.one_hot(label, 5)
        along_weight = residual.mT @ image / len(image)
        along_alpha = (along_weight * text).sum(-1)
        velocity = 0.9 * velocity + along_weight
        weight = weight - start.steps[0] * velocity
        if step % 10 == 0:
            alpha = alpha - start.steps[1] * along_alpha
    torch.testing.assert_close(adapter.weight.detach(), weight)
    torch.testing.assert_close(adapter.alpha.detach(), alpha)


def test_text_weights_step_every_tenth_time() -> None:
    data = toy()
    adapter = LinearProbePlusPlus()
    for epochs, moves in ((9, False), (10, True)):
        fit(adapter, data.support, replace(adapter.recipe, epochs=epochs), seed=0)
        start = LinearProbePlusPlus()
        start.start(data.support)
        assert torch.equal(adapter.alpha, start.alpha) != moves
        assert not torch.equal(adapter.weight, start.weight)


def test_an_epoch_is_one_step_on_all_rows_and_the_loss_falls() -> None:
    adapter = LinearProbePlusPlus()
    history = fit(adapter, toy().support, replace(adapter.recipe, epochs=50), seed=0)
    assert history.loss[-1] < history.loss[0]
    assert adapter.recipe.batch >= 1_000_000


def test_the_released_form_adds_a_drawn_bias_and_never_clears_the_gradient_of_the_text_weights() -> None:
    data = toy(dtype=torch.float64)
    image, label, text = data.support.image, data.support.label, data.support.text
    adapter, start = LinearProbePlusPlus(form="released"), LinearProbePlusPlus(form="released")
    fit(adapter, data.support, replace(adapter.recipe, epochs=20), seed=0)
    fit(start, data.support, replace(adapter.recipe, epochs=0), seed=0)
    weight, alpha, bias = start.weight.detach(), start.alpha.detach(), start.bias.detach()
    assert bias.abs().max() <= text.shape[1] ** -0.5
    assert bias.unique().numel() == 5
    weight_velocity, bias_velocity, alpha_total = (
        torch.zeros_like(text),
        torch.zeros_like(bias),
        torch.zeros_like(alpha),
    )
    for step in range(1, 21):
        logits = image @ weight.mT + alpha * (image @ text.mT) + bias
        residual = (logits.softmax(dim=-1) - functional.one_hot(label, 5)) / len(image)
        alpha_total = alpha_total + (residual * (image @ text.mT)).sum(0)
        weight_velocity = 0.9 * weight_velocity + residual.mT @ image
        bias_velocity = 0.9 * bias_velocity + residual.sum(0)
        weight, bias = weight - start.steps[0] * weight_velocity, bias - start.steps[0] * bias_velocity
        if step % 10 == 0:
            alpha = alpha - start.steps[1] * alpha_total
    torch.testing.assert_close(adapter.weight.detach(), weight)
    torch.testing.assert_close(adapter.bias.detach(), bias)
    torch.testing.assert_close(adapter.alpha.detach(), alpha)
