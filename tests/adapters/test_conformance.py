"""One suite over every registered adapter: what the contract promises, whatever the method."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from functools import cache
from itertools import product
from typing import Any

import pytest
import torch
from torch import Tensor

from mma.adapters import (
    Adapter,
    AdapterError,
    Labelled,
    Option,
    Recipe,
    accuracy,
    adapter_class,
    adapters,
    fit,
    from_bytes,
    options_of,
    predict,
    to_bytes,
    unit,
    zero_shot_logits,
)
from mma.adapters.memory import stream_order

from .toy import Toy, toy

NAMES = list(adapters())
CASES = [  # an adapter, and options in place of its defaults where those take another path
    *NAMES,
    "mma lam_text=0",
    "mma lam_image=0",
    "mma mask=pair",
    "mma mask=bias",
    "mma mask=none",
    "mma mask=within",
    "clip-adapter side=text",
    "clip-adapter side=both",
    "rada queries=image",
    "rada queries=text",
    "rada queries=rational",
    "rada regulariser=l2",
    "linear-probe init=zero",
    "kron-ridge beta=0",
]


def kind_of(case: str) -> type[Adapter]:
    return adapter_class(case.split()[0])


TRAINED = [case for case in CASES if kind_of(case).trains]
CLASS_FREE = [case for case in CASES if kind_of(case).class_free]
PER_CLASS = [case for case in CASES if not kind_of(case).class_free]
ROW_BY_ROW = [case for case in CASES if kind_of(case).transductive == "no"]
OURS = {name for name in NAMES if adapter_class(name).__module__.startswith("mma.adapters.")}
STREAMS = [name for name in NAMES if adapter_class(name).transductive == "stream"]
BATCHES = [name for name in NAMES if adapter_class(name).transductive == "batch"]
TUNED = [name for name in NAMES if adapter_class(name).tunes]
TEST_VIEWS = [name for name in NAMES if adapter_class(name).uses_views == "test"]

# The options that switch a method off: its logits are then zero-shot CLIP's to the bit.
OFF: dict[str, dict[str, Any]] = {
    "zero-shot": {},
    "mma": {"lam": 0.0},
    "mm-mlp": {"lam": 0.0},
    "clip-adapter": {"ratio": 0.0},
    "taskres": {"alpha": 0.0},
    "tip-adapter": {"alpha": 0.0, "beta": 1.0},
    "tip-adapter-f": {"alpha": 0.0, "beta": 1.0},
    "gda": {"alpha": 0.0},
    "proker": {"lam": math.inf, "beta": 1.0},
    "kron-ridge": {"w": 0.0},
    "ape": {"alpha": 0.0, "beta": 1.0, "gamma": 0.0},
    "tda": {"alpha": 0.0, "negative_alpha": 0.0},
    "dmn": {"weight": 0.0},
    "transclip": {"iterations": 0},
}
# These have no such option, but start there: zero-shot before the first step, but for rounding.
STARTS_AT_ZERO_SHOT = {"rada", "rada-adapter", "linear-probe", "clap", "cross-modal", "rada-ttt"}
NEITHER = {"lp++"}  # starts at the shots' sums, whatever the texts say
# These draw their weights at random. The others start at zero, the texts or the shots, or have no weights.
DRAWN = {"mma", "mm-mlp", "clip-adapter", "rada", "rada-adapter", "rada-ttt"}


def short(kind: type[Adapter]) -> Recipe:
    return replace(kind.recipe, epochs=3)


def made(case: str, **options: Any) -> Adapter:
    """A case's adapter, not yet fitted; `options` besides those of the case."""
    kind = kind_of(case)
    accepted = {option.name: option for option in options_of(kind)}
    pairs = [word.split("=") for word in case.split()[1:]]
    return kind(**{name: accepted[name].parse(typed) for name, typed in pairs}, **options)


def fitted(case: str, data: Toy, **options: Any) -> Adapter:
    adapter = made(case, **options)
    fit(adapter, data.support, short(type(adapter)), seed=0, validation=data.validation)
    return adapter


@cache
def usual(case: str) -> tuple[Adapter, Toy]:
    """A case's adapter, fitted on the usual problem; tests only read it."""
    data = toy()
    return fitted(case, data), data


@pytest.mark.parametrize("case", CASES)
def test_logits_are_finite_and_one_per_image_and_class(case: str) -> None:
    adapter, data = usual(case)
    logits = predict(adapter, data.test.image, data.support.text)
    assert logits.shape == (len(data.test.label), len(data.support.text))
    assert logits.isfinite().all()


@pytest.mark.parametrize("case", CASES)
def test_more_than_half_of_an_easy_problem_is_solved(case: str) -> None:
    adapter, data = usual(case)
    predicted = predict(adapter, data.test.image, data.support.text).argmax(dim=-1)
    assert (predicted == data.test.label).double().mean() > 0.5


@pytest.mark.parametrize("case", CASES)
def test_an_adapter_learns_weights_exactly_if_it_trains(case: str) -> None:
    kind = kind_of(case)
    data = toy()
    adapter = made(case)
    adapter.start(data.support)
    before = {key: value.clone() for key, value in adapter.state_dict().items()}
    history = fit(adapter, data.support, short(kind), seed=0, validation=data.validation)
    assert (len(history.loss) > 0) == kind.trains
    assert set(history.chosen) == set(kind.tunes)
    if kind.trains:
        assert any(not torch.equal(before[key], value) for key, value in adapter.state_dict().items())


@pytest.mark.parametrize("name", OFF)
def test_switched_off_an_adapter_is_exactly_zero_shot(name: str) -> None:
    data = toy()
    logits = predict(fitted(name, data, **OFF[name]), data.test.image, data.support.text)
    assert torch.equal(logits, zero_shot_logits(data.test.image, data.support.text, 100.0))


@pytest.mark.parametrize(
    "case", [case for case in CASES if case.split()[0] in STARTS_AT_ZERO_SHOT and case != "linear-probe init=zero"]
)
def test_before_the_first_step_an_adapter_is_zero_shot(case: str) -> None:
    data = toy()
    adapter = made(case, **({"steps": 0} if case == "rada-ttt" else {}))
    adapter.start(data.support)
    logits = predict(adapter, data.test.image, data.support.text)
    expected = zero_shot_logits(data.test.image, data.support.text, 100.0)
    torch.testing.assert_close(logits, expected, atol=1e-4, rtol=0)


def test_every_adapter_can_be_zero_shot_or_is_known_not_to() -> None:
    assert set(OFF) | STARTS_AT_ZERO_SHOT | NEITHER == OURS


@pytest.mark.parametrize("case", CASES)
def test_permuting_the_classes_permutes_the_logits(case: str) -> None:
    data = toy(dtype=torch.float64)
    order = torch.tensor([3, 0, 4, 1, 2])
    place = order.argsort()
    support = replace(data.support, text=data.support.text[order], label=place[data.support.label])
    validation = Labelled(data.validation.image, place[data.validation.label])
    permuted = replace(data, support=support, validation=validation)
    logits = predict(fitted(case, data), data.test.image, data.support.text)
    again = predict(fitted(case, permuted), data.test.image, permuted.support.text)
    torch.testing.assert_close(again, logits[:, order], atol=1e-5, rtol=1e-6)


@pytest.mark.parametrize("case", [case for case in CASES if case not in STREAMS])
def test_permuting_the_images_permutes_the_rows(case: str) -> None:
    adapter, data = usual(case)
    order = torch.randperm(len(data.test.label), generator=torch.Generator().manual_seed(1))
    logits = predict(adapter, data.test.image, data.support.text)
    again = predict(adapter, data.test.image[order], data.support.text)
    torch.testing.assert_close(again, logits[order], atol=2e-4, rtol=1e-5)


@pytest.mark.parametrize("case", ROW_BY_ROW)
def test_an_image_does_not_depend_on_the_rest_of_the_test_rows(case: str) -> None:
    adapter, data = usual(case)
    logits = predict(adapter, data.test.image, data.support.text)
    alone = torch.cat([predict(adapter, row[None], data.support.text) for row in data.test.image])
    torch.testing.assert_close(alone, logits, atol=2e-4, rtol=1e-5)


def depends(adapter: Adapter, data: Toy) -> Tensor:
    """Whether the logits of test row i move when row j is another image: entry [j, i] of [B, B]."""
    image, text = data.test.image, data.support.text
    logits, moved = predict(adapter, image, text), []
    for row in range(len(image)):
        other = image.clone()
        other[row] = data.new_test.image[0]
        moved.append((predict(adapter, other, text) - logits).abs().amax(dim=-1) > 1e-4)
    return torch.stack(moved)


@pytest.mark.parametrize("shuffle", [False, True])
@pytest.mark.parametrize("name", STREAMS)
def test_in_a_stream_a_row_depends_on_rows_before_it_and_on_none_after(name: str, shuffle: bool) -> None:
    """It is remembered what has been seen, and a row that is still to come has not been."""
    data = toy()
    data = replace(data, support=replace(data.support, logit_scale=10.0))  # at 100, p is 0 or 1 whatever is remembered
    order = stream_order(len(data.test.image), shuffle)
    moved = depends(fitted(name, data, shuffle=shuffle), data)[order][:, order]
    assert not moved.tril(-1).any()
    assert moved.triu(1).any(dim=0)[1:].all()


@pytest.mark.parametrize("name", STREAMS)
def test_a_stream_may_end_after_any_row(name: str) -> None:
    data = toy()
    adapter = fitted(name, data, shuffle=False)
    logits = predict(adapter, data.test.image, data.support.text)
    first = predict(adapter, data.test.image[:9], data.support.text)
    torch.testing.assert_close(first, logits[:9], atol=2e-4, rtol=1e-5)


@pytest.mark.parametrize("name", BATCHES)
def test_in_a_batch_every_row_depends_on_every_other(name: str) -> None:
    """What is estimated from all test rows moves with each of them."""
    assert depends(*usual(name)).all()


@pytest.mark.parametrize("case", CASES)
def test_the_same_seed_gives_the_same_weights(case: str) -> None:
    adapter, data = usual(case)
    torch.manual_seed(12345)
    again = fitted(case, data)
    assert adapter.state_dict().keys() == again.state_dict().keys()
    assert all(torch.equal(value, again.state_dict()[key]) for key, value in adapter.state_dict().items())


@pytest.mark.parametrize("case", [case for case in CASES if case.split()[0] in OURS])
def test_another_seed_gives_other_weights_exactly_where_they_are_drawn(case: str) -> None:
    data, weights = toy(), []
    for seed in (0, 1):
        adapter = made(case)
        fit(adapter, data.support, replace(adapter.recipe, epochs=0), seed=seed, validation=data.validation)
        weights.append(adapter.state_dict())
    same = all(torch.equal(value, weights[1][key]) for key, value in weights[0].items())
    assert same != (case.split()[0] in DRAWN)


@pytest.mark.parametrize("case", CASES)
def test_a_saved_adapter_gives_the_same_logits_to_the_bit(case: str) -> None:
    adapter, data = usual(case)
    loaded = from_bytes(to_bytes(adapter))
    assert type(loaded) is type(adapter)
    assert loaded.options() == adapter.options()
    expected = predict(adapter, data.test.image, data.support.text)
    assert torch.equal(predict(loaded, data.test.image, data.support.text), expected)
    if adapter.class_free:
        assert torch.equal(
            predict(loaded, data.test.image, data.new_text), predict(adapter, data.test.image, data.new_text)
        )


def other_value(option: Option) -> Any:
    """A legal value of an option that is not its default."""
    if option.name == "queries":
        return "image+text"
    if option.choices:
        return next(choice for choice in option.choices if choice != option.default)
    if option.kind is bool:
        return not option.default
    if option.kind is int:
        return option.default // 2 if option.default and option.default > 1 else 2
    assert option.kind is float, f"say here which other value {option.name} may have"
    return option.default / 2 if option.default else 0.5


@pytest.mark.parametrize("name", NAMES)
def test_options_survive_json_and_the_command_line(name: str) -> None:
    kind = adapter_class(name)
    default = {option.name: option.default for option in options_of(kind)}
    other = {option.name: other_value(option) for option in options_of(kind)}
    assert kind().options() == default
    assert not any(other[key] == default[key] for key in default)
    for options in (default, other):
        assert kind(**json.loads(json.dumps(options))).options() == options
        for option in options_of(kind):
            value = options[option.name]
            assert option.parse("none" if value is None else str(value).lower()) == value


@pytest.mark.parametrize("name", NAMES)
def test_what_is_chosen_on_validation_is_an_option_that_can_be_left_open(name: str) -> None:
    kind = adapter_class(name)
    for option in options_of(kind):
        assert not (option.name in kind.tunes and option.default is not None)
    assert set(kind.tunes) <= {option.name for option in options_of(kind)}


@pytest.mark.parametrize("name", TUNED)
def test_no_value_of_the_grid_beats_what_is_chosen_on_validation(name: str) -> None:
    data, kind = toy(), adapter_class(name)
    adapter = kind()
    chosen = fit(adapter, data.support, short(kind), seed=0, validation=data.validation).chosen
    assert all(chosen[option] in grid for option, grid in kind.tunes.items())

    def score(adapter: Adapter) -> float:
        return accuracy(predict(adapter, data.validation.image, data.support.text), data.validation.label)

    best, rivals = score(adapter), []
    for values in product(*kind.tunes.values()):
        given = dict(zip(kind.tunes, values, strict=True))
        rival = adapter
        if kind.trains:  # the choice is made with weights that are trained already
            adapter.choose(given)
        else:
            rival = kind(**given)
            fit(rival, data.support, short(kind), seed=0)
        rivals.append(score(rival))
    assert max(rivals) == best
    assert min(rivals) < best


@pytest.mark.parametrize("name", NAMES)
def test_without_validation_rows_a_choice_is_refused_naming_the_option(name: str) -> None:
    kind, data = adapter_class(name), toy()
    if not kind.tunes:
        fit(kind(), data.support, short(kind), seed=0)
        return
    with pytest.raises(AdapterError, match=f"^{name} chooses .*give --{next(iter(kind.tunes))}") as refused:
        fit(kind(), data.support, short(kind), seed=0)
    assert "\n" not in str(refused.value)
    given = {option: grid[0] for option, grid in kind.tunes.items()}
    fit(kind(**given), data.support, short(kind), seed=0)


@pytest.mark.parametrize("case", CLASS_FREE)
def test_new_classes_are_told_apart(case: str) -> None:
    adapter, data = usual(case)
    logits = predict(adapter, data.new_test.image, data.new_text)
    assert logits.shape == (len(data.new_test.label), len(data.new_text))
    assert logits.isfinite().all()
    assert accuracy(logits, data.new_test.label) > 0.5  # chance: 0.25


@pytest.mark.parametrize("case", [case for case in CLASS_FREE if case != "zero-shot"])
def test_what_an_adapter_does_it_does_to_new_classes_too(case: str) -> None:
    adapter, data = usual(case)
    logits = predict(adapter, data.new_test.image, data.new_text)
    moved = (logits - zero_shot_logits(data.new_test.image, data.new_text, 100.0)).abs().amax(dim=-1)
    assert (moved > 1e-3).double().mean() > 0.5


@pytest.mark.parametrize("case", PER_CLASS)
def test_weights_of_other_classes_are_refused_with_the_reason(case: str) -> None:
    adapter, data = usual(case)
    for text in (data.new_text, data.support.text.flip(0)):
        with pytest.raises(AdapterError, match="weights are for the 5 classes of the support"):
            predict(adapter, data.test.image, text)


@pytest.mark.parametrize("case", CASES)
def test_a_float16_cache_gives_nearly_the_same_predictions(case: str) -> None:
    adapter, data = usual(case)

    def stored(x: Tensor) -> Tensor:
        return unit(x.half().float())

    support = replace(data.support, image=stored(data.support.image))
    validation = Labelled(stored(data.validation.image), data.validation.label)
    half = fitted(case, replace(data, support=support, validation=validation))
    expected = predict(adapter, data.test.image, data.support.text).argmax(dim=-1)
    predicted = predict(half, stored(data.test.image), data.support.text).argmax(dim=-1)
    assert (predicted == expected).double().mean() >= 0.9


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize(("classes", "shots"), [(1, 1), (1, 3), (5, 1)])
def test_one_class_and_one_shot_are_enough(case: str, classes: int, shots: int) -> None:
    data = toy(classes, shots)
    logits = predict(fitted(case, data), data.test.image, data.support.text)
    assert logits.shape == (len(data.test.label), classes)
    assert logits.isfinite().all()


@pytest.mark.parametrize("case", CASES)
def test_a_thousand_classes_are_not_too_many(case: str) -> None:
    data, kind = toy(classes=1000, shots=1), kind_of(case)
    few = Labelled(data.validation.image[:4], data.validation.label[:4])
    adapter = made(case)
    if kind.trains:
        adapter.start(data.support)
        adapter.loss(data.support.image[:4], data.support.text, data.support.label[:4]).backward()
        assert all(p.grad is not None and p.grad.isfinite().all() for p in adapter.parameters())
    else:
        fit(adapter, data.support, kind.recipe, seed=0, validation=few)
    assert predict(adapter, few.image, data.support.text).isfinite().all()


@pytest.mark.parametrize("case", TRAINED)
def test_gradients_are_those_of_finite_differences(case: str) -> None:
    data = toy(classes=3, shots=2, dim=16, dtype=torch.float64)
    support = replace(data.support, logit_scale=10.0)
    draw = torch.Generator().manual_seed(0)
    torch.manual_seed(0)
    adapter = made(case)
    adapter.start(support)
    weights = list(adapter.parameters())
    with torch.no_grad():  # away from zero starts, where halves of a network have no gradient
        for weight in weights:
            weight += 0.1 * torch.randn(weight.shape, generator=draw, dtype=torch.float64)

    def loss() -> Tensor:
        return adapter.loss(support.image, support.text, support.label)

    gradient = torch.autograd.grad(loss(), weights)
    for weight, slope in zip(weights, gradient, strict=True):
        direction = torch.randn(weight.shape, generator=draw, dtype=torch.float64)
        with torch.no_grad():
            weight += 1e-6 * direction
            above = loss()
            weight -= 2e-6 * direction
            below = loss()
            weight += 1e-6 * direction
        torch.testing.assert_close((slope * direction).sum(), (above - below) / 2e-6, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("case", CASES)
def test_views_are_used_exactly_where_that_is_declared(case: str) -> None:
    kind, data = kind_of(case), toy(views=4)
    plain = replace(data, support=replace(data.support, views=None))
    given = {option: grid[-1] for option, grid in kind.tunes.items()}
    with_views, without = (
        predict(fitted(case, each, **given), data.test.image, data.support.text) for each in (data, plain)
    )
    assert torch.equal(with_views, without) == (kind.uses_views != "train")


@pytest.mark.parametrize("name", TEST_VIEWS)
def test_views_of_a_test_image_beyond_the_first_change_its_logits(name: str) -> None:
    data = toy()
    has_option = "test_views" in made(name).options()
    adapter = fitted(name, data, **({"test_views": None} if has_option else {}))
    image, text = data.test.image, data.support.text
    views = torch.stack([image.roll(shift, 0) for shift in (0, 1, 5, 9)], dim=1)  # [B, V, D]
    first, all_views = predict(adapter, views[:, :1], text), predict(adapter, views, text)
    assert torch.equal(first, predict(adapter, image, text))
    assert all_views.shape == first.shape
    assert all_views.isfinite().all()
    assert ((all_views - first).abs().amax(dim=-1) > 1e-3).double().mean() > 0.5
    if has_option:
        assert torch.equal(predict(fitted(name, data, test_views=1), views, text), first)


@pytest.mark.parametrize("name", [name for name in NAMES if name not in TEST_VIEWS])
def test_no_adapter_offers_views_of_test_images_that_does_not_use_them(name: str) -> None:
    assert "test_views" not in made(name).options()


@pytest.mark.parametrize("case", CASES)
def test_a_fit_leaves_its_support_and_the_random_state_alone(case: str) -> None:
    data = toy()
    copies = [tensor.clone() for tensor in (data.support.image, data.support.text, data.support.label)]
    state = torch.random.get_rng_state()
    adapter = fitted(case, data)
    predict(adapter, data.test.image, data.support.text)
    assert torch.equal(torch.random.get_rng_state(), state)
    for tensor, copy in zip((data.support.image, data.support.text, data.support.label), copies, strict=True):
        assert torch.equal(tensor, copy)
