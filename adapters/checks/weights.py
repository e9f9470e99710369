"""What a fit does: weights move where it trains, follow the seed, have true gradients, and survive being saved."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import safetensors.torch
import torch
from torch import Tensor

from mma.adapters.checks.subject import Promise, Subject, near, promise
from mma.adapters.from_file import name_in_file
from mma.adapters.registry import adapters, title
from mma.adapters.storage import from_bytes, restored, to_bytes
from mma.adapters.toy import toy
from mma.adapters.training import fit, predict


def weights_are_learned_exactly_if_it_trains(s: Subject) -> None:
    """By steps; and what is chosen was left open: all that `tunes` names, and nothing that was given."""
    adapter = s.made()
    open_options = set(adapter.open_options())
    adapter.start(s.data.support)
    before = {key: value.clone() for key, value in adapter.state_dict().items()}
    history = fit(adapter, s.data.support, s.short, seed=0, validation=s.data.validation)
    promise(
        (len(history.loss) > 0) == s.kind.trains, f"`trains` is {s.kind.trains}, and it took {len(history.loss)} epochs"
    )
    chosen, left_open = set(history.chosen), {name for name, value in adapter.options().items() if value is None}
    promise(open_options <= chosen <= left_open, f"{sorted(chosen)} were chosen, {sorted(open_options)} were to be")
    if s.kind.trains:
        moved = any(not torch.equal(before[key], value) for key, value in adapter.state_dict().items())
        promise(moved, "no weight moved in training")


def the_same_seed_gives_the_same_weights(s: Subject) -> None:
    """Whatever was drawn before."""
    torch.manual_seed(12345)
    weights, again = s.usual.state_dict(), s.fitted(s.data).state_dict()
    promise(weights.keys() == again.keys(), "the second fit has other weights by name")
    for key, value in weights.items():
        promise(torch.equal(value, again[key]), f"{key} differs in the second fit")


def another_seed_gives_other_weights_exactly_where_they_are_drawn(s: Subject) -> Any:
    """Before the first step."""
    if s.known.draws is None:
        return NotImplemented
    weights = []
    for seed in (0, 1):
        adapter = s.made()
        fit(adapter, s.data.support, replace(s.kind.recipe, epochs=0), seed=seed, validation=s.data.validation)
        weights.append(adapter.state_dict())
    same = all(torch.equal(value, weights[1][key]) for key, value in weights[0].items())
    return promise(same != s.known.draws, "two seeds give the same weights" if same else "two seeds give other weights")


def a_saved_adapter_gives_the_same_logits_to_the_bit(s: Subject) -> None:
    """Through `to_bytes` if it is registered or in a file, and else by what that does."""
    if s.kind in adapters().values() or name_in_file(s.kind):
        loaded = from_bytes(to_bytes(s.usual))
    else:
        tensors = {key: value.contiguous() for key, value in s.usual.state_dict().items()}
        again = s.kind(**json.loads(json.dumps(s.usual.options())))
        again.logit_scale = s.usual.logit_scale
        tensors = safetensors.torch.load(safetensors.torch.save(tensors))
        loaded = restored(again, title(s.usual), s.usual.shapes, tensors)
    promise(type(loaded) is s.kind, f"it is restored as {type(loaded).__name__}")
    promise(loaded.options() == s.usual.options(), f"it is restored with the options {loaded.options()}")
    image, text = s.data.test.image, s.data.support.text
    promise(torch.equal(predict(loaded, image, text), s.logits), "its logits differ")
    if s.kind.class_free:
        expected = predict(s.usual, image, s.data.new_text)
        promise(torch.equal(predict(loaded, image, s.data.new_text), expected), "its logits of new classes differ")


def gradients_are_those_of_finite_differences(s: Subject) -> Any:
    """Along one direction for each weight, in float64."""
    if not s.kind.trains:
        return NotImplemented
    data = toy(classes=3, shots=2, dim=16, dtype=torch.float64)
    support = replace(data.support, logit_scale=10.0)
    draw = torch.Generator().manual_seed(0)
    torch.manual_seed(0)
    adapter = s.made()
    adapter.start(support)
    named: dict[str, Tensor] = dict(adapter.named_parameters())
    with torch.no_grad():  # away from zero starts, where halves of a network have no gradient
        for weight in named.values():
            weight += 0.1 * torch.randn(weight.shape, generator=draw, dtype=torch.float64)

    def loss() -> Tensor:
        return adapter.loss(support.image, support.text, support.label)

    gradient = torch.autograd.grad(loss(), list(named.values()))
    for weight, slope in zip(named.values(), gradient, strict=True):
        direction = torch.randn(weight.shape, generator=draw, dtype=torch.float64)
        with torch.no_grad():
            weight += 1e-6 * direction
            above = loss()
            weight -= 2e-6 * direction
            below = loss()
            weight += 1e-6 * direction
        near((slope * direction).sum(), (above - below) / 2e-6, 1e-6, 1e-5)
    return None


def a_fit_leaves_its_support_and_the_random_state_alone(s: Subject) -> None:
    """The next fit finds both as this one did."""
    data = toy()
    given = (data.support.image, data.support.text, data.support.label)
    copies = [tensor.clone() for tensor in given]
    state = torch.random.get_rng_state()
    adapter = s.fitted(data)
    predict(adapter, data.test.image, data.support.text)
    promise(torch.equal(torch.random.get_rng_state(), state), "torch's random state has moved")
    for tensor, copy in zip(given, copies, strict=True):
        promise(torch.equal(tensor, copy), "the support has changed")


PROMISES: tuple[Promise, ...] = (
    weights_are_learned_exactly_if_it_trains,
    the_same_seed_gives_the_same_weights,
    another_seed_gives_other_weights_exactly_where_they_are_drawn,
    a_saved_adapter_gives_the_same_logits_to_the_bit,
    gradients_are_those_of_finite_differences,
    a_fit_leaves_its_support_and_the_random_state_alone,
)
