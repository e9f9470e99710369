"""APE-T against its equations written plainly."""

from __future__ import annotations

import math
from dataclasses import replace

import torch

from mma.adapters import accuracy, fit, predict
from mma.adapters.ape_t import TrainedPriorRefinement
from mma.adapters.tip_adapter import TipAdapter

from .toy import toy


def test_a_fit_is_adamw_on_residuals_shared_by_a_text_and_its_shots_and_on_weights_of_the_shots() -> None:
    data = toy(dtype=torch.float64)
    image, text, label = data.support.image, data.support.text, data.support.label
    adapter = TrainedPriorRefinement(alpha=2.0, beta=1.5, share=0.25)
    history = fit(adapter, data.support, replace(adapter.recipe, lr=0.01, epochs=8), seed=0)

    pairs = [text[i] * text[j] for i in range(5) for j in range(5) if i != j]
    worth = 0.8 * text.var(dim=0) - 0.2 * torch.stack(pairs).mean(0)
    learns = worth >= worth.sort(descending=True).values[7]  # a quarter of 32 channels
    weights = [torch.zeros(5, 32, dtype=torch.float64), torch.ones(15, dtype=torch.float64)]
    moments = [(torch.zeros_like(w), torch.zeros_like(w)) for w in weights]
    losses = []

    def logits(x: torch.Tensor) -> torch.Tensor:
        residual, weight = weights[0] * learns, weights[1]
        columns = []
        for k in range(5):
            shots = [i for i in range(15) if label[i] == k]
            cache = sum(weight[i] * torch.exp(-1.5 * (1 - x @ (image[i] + residual[k]))) for i in shots)
            columns.append(100 * x @ (text[k] + residual[k]) + 2.0 * cache)
        return torch.stack(columns, dim=1)

    for step in range(8):
        weights = [w.detach().requires_grad_() for w in weights]
        loss = -logits(image).log_softmax(1)[torch.arange(15), label].mean()
        losses.append(loss.item())
        gradients = torch.autograd.grad(loss, weights)
        rate = 0.01 * (1 + math.cos(math.pi * step / 8)) / 2
        for n, gradient in enumerate(gradients):
            first, second = (0.9 * moments[n][0] + 0.1 * gradient, 0.999 * moments[n][1] + 0.001 * gradient**2)
            moments[n] = first, second
            moment = (second / (1 - 0.999 ** (step + 1))) ** 0.5 + 1e-3
            weights[n] = weights[n].detach() * (1 - rate * 0.1) - rate * first / (1 - 0.9 ** (step + 1)) / moment
    assert losses[-1] < losses[0]
    torch.testing.assert_close(torch.tensor(history.loss), torch.tensor(losses))
    torch.testing.assert_close(predict(adapter, data.test.image, text), logits(data.test.image))


def test_before_the_first_step_it_is_tip_adapter() -> None:
    data = toy(dtype=torch.float64)
    trained, tip = TrainedPriorRefinement(alpha=2.0, beta=3.0), TipAdapter(alpha=2.0, beta=3.0)
    for adapter in (trained, tip):
        adapter.start(data.support)
    rows = data.test.image, data.support.text
    torch.testing.assert_close(predict(trained, *rows), predict(tip, *rows))


def test_the_search_yields_what_forward_gives() -> None:
    data = toy(dtype=torch.float64)
    adapter = TrainedPriorRefinement(start_alpha=2.0)
    fit(adapter, data.support, replace(adapter.recipe, epochs=2), seed=0, validation=data.validation)
    with torch.no_grad():
        for number, (values, logits) in enumerate(adapter.combinations(data.test.image, data.support.text)):
            if number % 17 == 0:
                adapter.choose(values)
                torch.testing.assert_close(predict(adapter, data.test.image, data.support.text), logits)


def test_training_starts_from_the_given_alpha_or_from_the_search() -> None:
    data = toy(dtype=torch.float64)
    begun = replace(TrainedPriorRefinement.recipe, epochs=1)
    losses = []
    for start_alpha in (0.0, 5.0, None):
        adapter = TrainedPriorRefinement(start_alpha=start_alpha)
        losses.append(fit(adapter, data.support, begun, seed=0, validation=data.validation).loss[0])
        assert adapter.decided("alpha") in adapter.tunes["alpha"]
    searched = TrainedPriorRefinement()
    searched.start(data.support)
    searched.tune(data.validation.image, data.support.text, data.validation.label)
    logits = predict(searched, data.support.image, data.support.text)
    expected = torch.nn.functional.cross_entropy(logits, data.support.label)
    assert math.isclose(losses[2], expected.item(), rel_tol=1e-6)
    assert len(set(losses)) == 3


def test_training_tells_the_support_apart_better() -> None:
    data = toy()
    adapter = TrainedPriorRefinement(alpha=0.5, beta=1.0)
    adapter.start(data.support)
    before = accuracy(predict(adapter, data.support.image, data.support.text), data.support.label)
    fit(adapter, data.support, replace(adapter.recipe, lr=0.01), seed=0)
    assert accuracy(predict(adapter, data.support.image, data.support.text), data.support.label) > before
