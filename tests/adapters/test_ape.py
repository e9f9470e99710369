from __future__ import annotations

import math

import torch
from torch import Tensor

from mma.adapters import accuracy, fit, predict, unit
from mma.adapters.ape import AdaptivePriorRefinement, criterion
from mma.adapters.tip_adapter import TipAdapter

from .toy import toy


def pairs_of_different_classes(image: Tensor, label: Tensor, text: Tensor) -> Tensor:
    """The mean product of each channel, pair by pair."""
    rows = torch.cat([image, text])
    owner = torch.cat([label, torch.arange(len(text))])
    products = [a * b for a, k in zip(rows, owner, strict=True) for b, j in zip(rows, owner, strict=True) if k != j]
    return torch.stack(products).mean(0)


def test_the_criterion_is_what_all_pairs_give() -> None:
    data = toy(classes=3, shots=2, dim=8, dtype=torch.float64)
    image, label, text = data.support.image, data.support.label, data.support.text
    expected = 0.3 * text.var(dim=0) - 0.7 * pairs_of_different_classes(image, label, text)
    torch.testing.assert_close(criterion(image, label, text, 0.7), expected)


def test_on_all_channels_and_without_gamma_it_is_tip_adapter() -> None:
    data = toy(dtype=torch.float64)
    ape = AdaptivePriorRefinement(alpha=2.0, beta=3.0, gamma=0.0, share=1.0)
    tip = TipAdapter(alpha=2.0, beta=3.0)
    for adapter in (ape, tip):
        fit(adapter, data.support, adapter.recipe, seed=0)
    torch.testing.assert_close(
        predict(ape, data.test.image, data.support.text), predict(tip, data.test.image, data.support.text)
    )


def test_a_shot_that_its_text_does_not_explain_counts_more() -> None:
    data = toy(dtype=torch.float64)
    adapter = AdaptivePriorRefinement(alpha=1.0, beta=1.0, gamma=0.5)
    adapter.start(data.support)
    channels = adapter.channels
    assert len(channels) == data.support.text.shape[1] // 2
    cosine = unit(data.support.image[:, channels]) @ unit(data.support.text[:, channels]).mT
    own = cosine.softmax(dim=-1)[torch.arange(len(cosine)), data.support.label]
    assert torch.equal(adapter.surprise.argsort(), own.argsort(descending=True))
    torch.testing.assert_close(adapter.surprise, -own.log2(), atol=1e-4, rtol=0)


def test_logits_are_zero_shot_plus_the_shots_each_by_its_similarity_and_surprise() -> None:
    data = toy(dtype=torch.float64)
    image, label, text = data.support.image, data.support.label, data.support.text
    adapter = AdaptivePriorRefinement(alpha=2.0, beta=3.0, gamma=0.4, share=0.25)
    fit(adapter, data.support, adapter.recipe, seed=0)
    logits = predict(adapter, data.test.image, text)

    worth = 0.3 * text.var(dim=0) - 0.7 * pairs_of_different_classes(image, label, text)
    kept = worth.argsort(descending=True)[:8]  # a quarter of 32 channels

    def cosine(a: Tensor, b: Tensor) -> float:
        return float(a[kept] @ b[kept] / (a[kept].norm() * b[kept].norm()))

    surprise = []
    for key, k in zip(image, label.tolist(), strict=True):
        similar = [math.exp(cosine(key, t)) for t in text]
        surprise.append(math.log2((1 + 1e-6) / (similar[k] / sum(similar) + 1e-6)))
    for i, x in enumerate(data.test.image):
        for k, t in enumerate(text):
            cache = sum(
                math.exp(-3.0 * (1 - cosine(x, image[n]))) * math.exp(0.4 * surprise[n])
                for n in range(len(image))
                if label[n] == k
            )
            assert math.isclose(float(logits[i, k]), 100 * float(x @ t) + 2.0 * cache, rel_tol=1e-9, abs_tol=1e-9)


def test_the_search_yields_what_forward_gives() -> None:
    data = toy(dtype=torch.float64)
    adapter = AdaptivePriorRefinement()
    adapter.start(data.support)
    for number, (values, logits) in enumerate(adapter.combinations(data.test.image, data.support.text)):
        if number % 97 == 0:
            given = AdaptivePriorRefinement(**values)
            fit(given, data.support, given.recipe, seed=0)
            torch.testing.assert_close(predict(given, data.test.image, data.support.text), logits)


def test_what_is_open_is_chosen_on_validation_and_what_is_given_stays() -> None:
    data = toy()
    adapter, plain = AdaptivePriorRefinement(gamma=0.2), AdaptivePriorRefinement(alpha=0.1, beta=0.1, gamma=0.2)
    for each in (adapter, plain):
        fit(each, data.support, each.recipe, seed=0, validation=data.validation)
    rows = data.validation.image, data.support.text
    assert adapter.decided("gamma") == 0.2
    assert adapter.decided("alpha") in adapter.tunes["alpha"]
    assert adapter.decided("beta") in adapter.tunes["beta"]
    chosen, unchosen = (accuracy(predict(each, *rows), data.validation.label) for each in (adapter, plain))
    assert chosen > unchosen


def test_the_weight_of_similarity_decides_which_channels_are_kept() -> None:
    data = toy(dtype=torch.float64)
    image, label, text = data.support.image, data.support.label, data.support.text
    for weight, order in ((0.0, text.var(dim=0)), (1.0, -pairs_of_different_classes(image, label, text))):
        adapter = AdaptivePriorRefinement(similarity=weight, share=0.25)
        adapter.start(data.support)
        assert torch.equal(adapter.channels, order.topk(8).indices)
