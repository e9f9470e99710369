from __future__ import annotations

import math
from dataclasses import replace

import torch

from mma.adapters import fit, predict, unit
from mma.adapters.tip_adapter import TipAdapter, TipAdapterF

from .toy import toy


def test_logits_are_zero_shot_plus_the_shots_each_by_its_similarity() -> None:
    data = toy(dtype=torch.float64)
    adapter = TipAdapter(alpha=2.0, beta=3.0)
    fit(adapter, data.support, adapter.recipe, seed=0)
    logits = predict(adapter, data.test.image, data.support.text)
    for i, x in enumerate(data.test.image):
        for k, t in enumerate(data.support.text):
            cache = sum(math.exp(-3.0 * (1 - float(x @ key))) for key in data.support.image[data.support.label == k])
            assert math.isclose(float(logits[i, k]), 100 * float(x @ t) + 2.0 * cache, rel_tol=1e-9, abs_tol=1e-9)


def test_a_key_is_the_mean_of_its_views() -> None:
    data = toy(views=4)
    adapter = TipAdapter(alpha=1.0, beta=1.0)
    adapter.start(data.support)
    assert data.support.views is not None
    torch.testing.assert_close(adapter.keys, unit(data.support.views.mean(dim=1)))


def test_what_is_open_is_the_best_on_validation_and_what_is_given_stays() -> None:
    data = toy()
    open_both, given = TipAdapter(), TipAdapter(beta=5.0)
    for adapter in (open_both, given):
        fit(adapter, data.support, adapter.recipe, seed=0, validation=data.validation)
    assert given.decided("beta") == 5.0

    def correct(adapter: TipAdapter) -> int:
        predicted = predict(adapter, data.validation.image, data.support.text).argmax(dim=-1)
        return int((predicted == data.validation.label).sum())

    for alpha in TipAdapter.tunes["alpha"][::5]:
        for beta in TipAdapter.tunes["beta"][::5]:
            rival = TipAdapter(alpha=alpha, beta=beta)
            fit(rival, data.support, rival.recipe, seed=0)
            assert correct(open_both) >= correct(rival)


def test_the_search_yields_what_forward_gives() -> None:
    data = toy()
    adapter = TipAdapter()
    adapter.start(data.support)
    for number, (values, logits) in enumerate(adapter.combinations(data.test.image, data.support.text)):
        if number % 97 == 0:
            adapter.choose(values)
            torch.testing.assert_close(adapter(data.test.image, data.support.text), logits)


def test_f_trains_its_keys_from_the_shots() -> None:
    data = toy()
    adapter = TipAdapterF(start_alpha=2.0)
    adapter.start(data.support)
    assert [name for name, _ in adapter.named_parameters()] == ["keys"]
    assert torch.equal(adapter.keys, data.support.image)
    assert (adapter.decided("alpha"), adapter.decided("beta")) == (2.0, 1.0)
    assert adapter.optimizer(adapter.recipe).param_groups[0]["eps"] == 1e-4
    fit(adapter, data.support, adapter.recipe, seed=0, validation=data.validation)
    assert not torch.equal(adapter.keys, data.support.image)


def test_f_trains_with_what_tip_adapter_chooses_on_validation_or_with_the_given_start() -> None:
    data = toy()
    tip = TipAdapter()
    fit(tip, data.support, tip.recipe, seed=0, validation=data.validation)
    searched = {"alpha": tip.decided("alpha"), "beta": tip.decided("beta")}
    for adapter, start in (
        (TipAdapterF(), searched),
        (TipAdapterF(start_alpha=5.0), {"alpha": 5.0, "beta": 1.0}),
        (TipAdapterF(beta=3.0, start_alpha=5.0), {"alpha": 5.0, "beta": 3.0}),
    ):
        recipe = replace(adapter.recipe, epochs=1)
        fit(adapter, data.support, recipe, seed=0, validation=data.validation)
        given = TipAdapterF(**start)
        fit(given, data.support, recipe, seed=0)
        assert torch.equal(adapter.keys, given.keys)
