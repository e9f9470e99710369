"""The plain forms and the compact ones are the same methods: the same options, and weights that load in either."""

from __future__ import annotations

import pytest
import torch

from mma.adapters import Adapter, Recipe, fit, options_of, predict
from mma.adapters.mma import MultiModalAdapter
from mma.adapters.plain.mma import PlainMultiModalAdapter
from mma.adapters.plain.rada import PlainRAda
from mma.adapters.rada import RAda

from .toy import toy

both_ways = pytest.mark.parametrize(
    ("kind", "other"),
    [
        (MultiModalAdapter, PlainMultiModalAdapter),
        (PlainMultiModalAdapter, MultiModalAdapter),
        (RAda, PlainRAda),
        (PlainRAda, RAda),
    ],
)


@both_ways
def test_trained_weights_load_in_the_other_form_and_give_the_same_logits(
    kind: type[Adapter], other: type[Adapter]
) -> None:
    data = toy(dtype=torch.float64)
    trained, again = kind(), other()
    fit(trained, data.support, Recipe(epochs=3), seed=0)
    again.start(data.support)
    again.load_state_dict(trained.state_dict())
    for image, text in ((data.test.image, data.support.text), (data.new_test.image, data.new_text)):
        torch.testing.assert_close(predict(again, image, text), predict(trained, image, text), atol=1e-9, rtol=0)


@both_ways
def test_options_and_recipe_are_those_of_the_other_form(kind: type[Adapter], other: type[Adapter]) -> None:
    of_cost = ("candidates", "all_up_to")  # the plain form has all classes as candidates
    ours, theirs = ([o for o in options_of(each) if o.name not in of_cost] for each in (kind, other))
    assert ours == theirs
    assert kind.recipe == other.recipe
