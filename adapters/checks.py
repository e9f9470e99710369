"""What every adapter promises, whatever its method: a suite for its author, as scikit-learn has `check_estimator`.

check_adapter(MyAdapter)                         # AdapterError with the first promise that does not hold
for check in checks(MyAdapter, known=Known(draws=True)):
    print(check)
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import product
from typing import Any, NamedTuple

import safetensors.torch
import torch
from torch import Tensor

from mma.adapters.base import Adapter, AdapterError, Recipe, unit, zero_shot_logits
from mma.adapters.blame import blamed
from mma.adapters.from_file import name_in_file
from mma.adapters.memory import stream_order
from mma.adapters.options import AdapterOption, options_of
from mma.adapters.registry import adapters, title
from mma.adapters.storage import from_bytes, restored, to_bytes
from mma.adapters.toy import Toy, toy
from mma.adapters.training import Labelled, accuracy, fit, predict


class Check(NamedTuple):
    """One promise, and whether it holds."""

    name: str
    ok: bool
    message: str  # what broke; empty if nothing


@dataclass(frozen=True)
class Known:
    """What only the author knows of a method; an adapter may have it as its attribute `known`. What is None is not
    checked.
    """

    off: Mapping[str, Any] | None = None  # options that switch it off: zero-shot to the bit
    starts_off: Mapping[str, Any] | None = (
        None  # options with which it is zero-shot before the first step, but rounding
    )
    draws: bool | None = None  # whether its first weights are drawn at random
    other: Mapping[str, Any] = field(default_factory=dict)  # a legal value of options whose type does not tell one


def check_adapter(kind: type[Adapter], *, known: Known | None = None, **options: Any) -> None:
    """Raise AdapterError naming the first promise that `kind`, with these options, does not hold."""
    for check in checks(kind, known=known, **options):
        if not check.ok:
            raise AdapterError(f"{kind.__name__} breaks the promise {check.name!r}: {check.message}")


def checks(kind: type[Adapter], *, known: Known | None = None, **options: Any) -> Iterator[Check]:
    """Every promise that concerns `kind`, made with `options` in place of its defaults, as it is checked."""
    if known is None:
        known = getattr(kind, "known", Known())
    subject = Subject(kind, options, known)
    for check in CHECKS:
        name = check.__name__.replace("_", " ")
        try:
            with torch.random.fork_rng(devices=[]):
                if check(subject) is NotImplemented:
                    continue
        except Exception as error:  # whatever an adapter does wrong is the answer, not an accident
            message = " ".join(str(error).split())
            if not isinstance(error, Broken):
                message = f"{type(error).__name__}: {message}{blamed(error, kind)}"
            yield Check(name, False, message)
        else:
            yield Check(name, True, "")


class Broken(Exception):
    """A promise is broken, and how."""


def promise(holds: bool | Tensor, message: str) -> None:
    """Raise Broken with the message unless it holds."""
    if not holds:
        raise Broken(message)


@dataclass
class Subject:
    """An adapter to be checked."""

    kind: type[Adapter]
    options: dict[str, Any]
    known: Known

    def made(self, **options: Any) -> Adapter:
        """It, not yet fitted; `options` before those it is checked with."""
        return self.kind(**{**self.options, **options})

    def fitted(self, data: Toy, **options: Any) -> Adapter:
        """It, after a short fit."""
        adapter = self.made(**options)
        fit(adapter, data.support, self.short, seed=0, validation=data.validation)
        return adapter

    @property
    def short(self) -> Recipe:
        """Its recipe, in three epochs."""
        return replace(self.kind.recipe, epochs=3)

    @cached_property
    def data(self) -> Toy:
        """The usual problem; checks only read it."""
        return toy()

    @cached_property
    def usual(self) -> Adapter:
        """It, fitted on the usual problem; checks only read it."""
        return self.fitted(self.data)

    @cached_property
    def logits(self) -> Tensor:
        """Those of the usual problem's test rows."""
        return predict(self.usual, self.data.test.image, self.data.support.text)

    def shuffled(self, shuffle: bool) -> dict[str, bool]:
        """The option `shuffle` of a stream, if it has that."""
        return {"shuffle": shuffle} if "shuffle" in self.names else {}

    @cached_property
    def names(self) -> list[str]:
        """Its options."""
        return [option.name for option in options_of(self.kind)]


def options_survive_json_and_the_command_line(s: Subject) -> None:
    """Values that are not the defaults too."""
    default = {option.name: option.default for option in options_of(s.kind)}
    other = {option.name: other_value(option, s.known.other) for option in options_of(s.kind)}
    promise(s.kind().options() == default, "an option is not kept under its own name as it was given")
    for name in default:
        promise(other[name] != default[name], f"{name} has no other value than its default in `other`")
    for options in (default, other):
        promise(s.kind(**json.loads(json.dumps(options))).options() == options, f"{options} do not survive JSON")
        for option in options_of(s.kind):
            value = options[option.name]
            typed = "none" if value is None else str(value).lower()
            promise(option.parse(typed) == value, f"{option.name} = {value!r} cannot be typed")


def what_it_does_and_its_source_and_every_option_are_told_in_a_line(s: Subject) -> Any:
    """Of the adapters of this package; others may leave it."""
    if not s.kind.__module__.startswith("mma.adapters."):
        return NotImplemented
    promise("__doc__" in vars(s.kind) and bool(s.kind.__doc__), "its class has no docstring")
    promise(bool(s.kind.source) and "\n" not in s.kind.source, "it has no `source` of one line")
    for option in options_of(s.kind):
        promise(bool(option.help) and "\n" not in option.help, f"{option.name} has no line of help")
    return None


def what_is_chosen_on_validation_is_an_option_that_can_be_left_open(s: Subject) -> None:
    """Those of `tunes` are None by default."""
    for option in options_of(s.kind):
        promise(
            option.name not in s.kind.tunes or option.default is None, f"{option.name} is in `tunes` and has a default"
        )
    promise(set(s.kind.tunes) <= set(s.names), "`tunes` names what is not an option")


def no_views_of_test_images_are_offered_without_use(s: Subject) -> Any:
    """`test_views` is an option of those alone that use them."""
    if s.kind.uses_views == "test":
        return NotImplemented
    return promise("test_views" not in s.names, "it has the option test_views, and `uses_views` is not test")


def logits_are_finite_and_one_per_image_and_class(s: Subject) -> None:
    """[B, C]."""
    shape = (len(s.data.test.label), len(s.data.support.text))
    promise(s.logits.shape == shape, f"logits are {list(s.logits.shape)}, not {list(shape)}")
    promise(s.logits.isfinite().all(), "a logit is not finite")


def more_than_half_of_an_easy_problem_is_solved(s: Subject) -> None:
    """Chance is a fifth."""
    share = accuracy(s.logits, s.data.test.label)
    promise(share > 0.5, f"{share:.0%} of the rows are right")


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


def switched_off_it_is_exactly_zero_shot(s: Subject) -> Any:
    """With the options `off`."""
    if s.known.off is None:
        return NotImplemented
    logits = predict(s.fitted(s.data, **s.known.off), s.data.test.image, s.data.support.text)
    expected = zero_shot_logits(s.data.test.image, s.data.support.text, s.data.support.logit_scale)
    return promise(torch.equal(logits, expected), f"its logits differ by {(logits - expected).abs().max():.1e}")


def before_the_first_step_it_is_zero_shot(s: Subject) -> Any:
    """With the options `starts_off`."""
    if s.known.starts_off is None:
        return NotImplemented
    adapter = s.made(**s.known.starts_off)
    adapter.start(s.data.support)
    expected = zero_shot_logits(s.data.test.image, s.data.support.text, s.data.support.logit_scale)
    return near(predict(adapter, s.data.test.image, s.data.support.text), expected, 1e-4, 0)


def permuting_the_classes_permutes_the_logits(s: Subject) -> None:
    """In float64: sums in another order differ."""
    data = toy(dtype=torch.float64)
    order = torch.tensor([3, 0, 4, 1, 2])
    place = order.argsort()
    support = replace(data.support, text=data.support.text[order], label=place[data.support.label])
    validation = Labelled(data.validation.image, place[data.validation.label])
    permuted = replace(data, support=support, validation=validation)
    logits = predict(s.fitted(data), data.test.image, data.support.text)
    again = predict(s.fitted(permuted), data.test.image, permuted.support.text)
    near(again, logits[:, order], 1e-5, 1e-6)


def permuting_the_images_permutes_the_rows(s: Subject) -> Any:
    """But in a stream."""
    if s.kind.transductive == "stream":
        return NotImplemented
    order = torch.randperm(len(s.data.test.label), generator=torch.Generator().manual_seed(1))
    return near(predict(s.usual, s.data.test.image[order], s.data.support.text), s.logits[order], 2e-4, 1e-5)


def an_image_does_not_depend_on_the_rest_of_the_test_rows(s: Subject) -> Any:
    """Unless the adapter is transductive."""
    if s.kind.transductive != "no":
        return NotImplemented
    alone = torch.cat([predict(s.usual, row[None], s.data.support.text) for row in s.data.test.image])
    return near(alone, s.logits, 2e-4, 1e-5)


def in_a_stream_a_row_depends_on_rows_before_it_and_on_none_after(s: Subject) -> Any:
    """What has been seen is remembered, and a row that is still to come has not been."""
    if s.kind.transductive != "stream":
        return NotImplemented
    data = replace(s.data, support=replace(s.data.support, logit_scale=10.0))  # at 100, p is 0 or 1 whatever is kept
    for shuffle in (False, True) if "shuffle" in s.names else (False,):
        order = stream_order(len(data.test.image), shuffle)
        moved = depends(s.fitted(data, **s.shuffled(shuffle)), data)[order][:, order]
        promise(not moved.tril(-1).any(), "a row depends on one after it")
        promise(moved.triu(1).any(dim=0)[1:].all(), "a row depends on none before it")
    return None


def a_stream_may_end_after_any_row(s: Subject) -> Any:
    """The first rows are what they are without the others."""
    if s.kind.transductive != "stream":
        return NotImplemented
    adapter = s.fitted(s.data, **s.shuffled(False))
    logits = predict(adapter, s.data.test.image, s.data.support.text)
    return near(predict(adapter, s.data.test.image[:9], s.data.support.text), logits[:9], 2e-4, 1e-5)


def in_a_batch_every_row_depends_on_every_other(s: Subject) -> Any:
    """What is estimated from all test rows moves with each of them."""
    if s.kind.transductive != "batch":
        return NotImplemented
    return promise(depends(s.usual, s.data).all(), "a row does not depend on another")


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


def no_value_of_the_grid_beats_what_is_chosen_on_validation(s: Subject) -> Any:
    """And some are worse, so there is a choice."""
    if not s.made().open_options():
        return NotImplemented
    data, adapter = s.data, s.made()
    chosen = fit(adapter, data.support, s.short, seed=0, validation=data.validation).chosen
    grids = {name: s.kind.tunes[name] for name in chosen}
    promise(all(chosen[name] in grid for name, grid in grids.items()), f"{chosen} is not of the grid")

    def score(adapter: Adapter) -> float:
        return accuracy(predict(adapter, data.validation.image, data.support.text), data.validation.label)

    best, rivals = score(adapter), []
    for values in product(*grids.values()):
        given = dict(zip(grids, values, strict=True))
        rival = adapter
        if s.kind.trains:  # the choice is made with weights that are trained already
            adapter.choose(given)
        else:
            rival = s.made(**given)
            fit(rival, data.support, s.short, seed=0)
        rivals.append(score(rival))
    promise(max(rivals) == best, f"{chosen} gives {best:.3f} on validation rows, another {max(rivals):.3f}")
    return promise(min(rivals) < best, "every value of the grid is as good")


def without_validation_rows_a_choice_is_refused_naming_the_option(s: Subject) -> None:
    """And with a value given none are needed."""
    adapter = s.made()
    wanted = adapter.open_options()
    if wanted:
        try:
            fit(adapter, s.data.support, s.short, seed=0)
        except AdapterError as error:
            message = str(error)
        else:
            raise Broken("it was fitted without validation rows")
        said = message.startswith(f"{title(adapter)} chooses ") and f"give {wanted[0]}" in message
        promise(said and "\n" not in message, f"it says {message!r}")
    fit(s.made(**{name: s.kind.tunes[name][0] for name in wanted}), s.data.support, s.short, seed=0)


def new_classes_are_told_apart(s: Subject) -> Any:
    """Where it is `class_free`."""
    if not s.kind.class_free:
        return NotImplemented
    logits = predict(s.usual, s.data.new_test.image, s.data.new_text)
    promise(logits.shape == (len(s.data.new_test.label), len(s.data.new_text)), f"logits are {list(logits.shape)}")
    promise(logits.isfinite().all(), "a logit is not finite")
    share = accuracy(logits, s.data.new_test.label)  # chance: 0.25
    return promise(share > 0.5, f"{share:.0%} of the rows of new classes are right")


def what_it_does_it_does_to_new_classes_too(s: Subject) -> Any:
    """Unless it does nothing: it neither looks at shots, nor at test rows."""
    if not s.kind.class_free or not (s.kind.few_shot or s.kind.trains or s.kind.transductive != "no" or s.names):
        return NotImplemented
    logits = predict(s.usual, s.data.new_test.image, s.data.new_text)
    expected = zero_shot_logits(s.data.new_test.image, s.data.new_text, s.data.support.logit_scale)
    moved = ((logits - expected).abs().amax(dim=-1) > 1e-3).double().mean()
    return promise(moved > 0.5, f"the logits of {1 - moved:.0%} of the rows of new classes are zero-shot's")


def weights_of_other_classes_are_refused_with_the_reason(s: Subject) -> Any:
    """Where it is not `class_free`."""
    if s.kind.class_free:
        return NotImplemented
    for text in (s.data.new_text, s.data.support.text.flip(0)):
        try:
            predict(s.usual, s.data.test.image, text)
        except AdapterError as error:
            promise("weights are for the 5 classes of the support" in str(error), f"it says {str(error)!r}")
        else:
            raise Broken("it scores classes that its weights are not for")
    return None


def a_float16_cache_gives_nearly_the_same_predictions(s: Subject) -> None:
    """Nine of ten."""

    def stored(x: Tensor) -> Tensor:
        return unit(x.half().float())

    data = s.data
    support = replace(data.support, image=stored(data.support.image))
    validation = Labelled(stored(data.validation.image), data.validation.label)
    half = s.fitted(replace(data, support=support, validation=validation))
    predicted = predict(half, stored(data.test.image), data.support.text).argmax(dim=-1)
    same = (predicted == s.logits.argmax(dim=-1)).double().mean()
    promise(same >= 0.9, f"{same:.0%} of the predictions are the same")


def one_class_and_one_shot_are_enough(s: Subject) -> None:
    """One of each, and one of either."""
    for classes, shots in ((1, 1), (1, 3), (5, 1)):
        data = toy(classes, shots)
        logits = predict(s.fitted(data), data.test.image, data.support.text)
        promise(logits.shape == (len(data.test.label), classes), f"logits are {list(logits.shape)}")
        promise(logits.isfinite().all(), f"a logit is not finite with {classes} classes, {shots} shots")


def a_thousand_classes_are_not_too_many(s: Subject) -> None:
    """A step of those that train, and a fit of those that do not."""
    data = toy(classes=1000, shots=1)
    few = Labelled(data.validation.image[:4], data.validation.label[:4])
    adapter = s.made()
    if s.kind.trains:
        adapter.start(data.support)
        loss = adapter.loss(data.support.image[:4], data.support.text, data.support.label[:4])
        loss.backward()  # type: ignore[no-untyped-call]
        for name, weight in adapter.named_parameters():
            promise(weight.grad is not None and bool(weight.grad.isfinite().all()), f"{name} has no finite gradient")
    else:
        fit(adapter, data.support, s.kind.recipe, seed=0, validation=few)
    promise(predict(adapter, few.image, data.support.text).isfinite().all(), "a logit is not finite")


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


def views_are_used_exactly_where_that_is_declared(s: Subject) -> None:
    """Those of the support change the logits if `uses_views` is train."""
    data = toy(views=4)
    plain = replace(data, support=replace(data.support, views=None))
    given = {option: grid[-1] for option, grid in s.kind.tunes.items()}
    with_views, without = (
        predict(s.fitted(each, **given), data.test.image, data.support.text) for each in (data, plain)
    )
    same = torch.equal(with_views, without)
    promise(
        same == (s.kind.uses_views != "train"), f"`uses_views` is {s.kind.uses_views}, and views are another matter"
    )


def views_of_a_test_image_beyond_the_first_change_its_logits(s: Subject) -> Any:
    """Where `uses_views` is test, and the option `test_views` does not leave them out."""
    if s.kind.uses_views != "test":
        return NotImplemented
    has_option = "test_views" in s.names
    adapter = s.fitted(s.data, **({"test_views": None} if has_option else {}))
    image, text = s.data.test.image, s.data.support.text
    views = torch.stack([image.roll(shift, 0) for shift in (0, 1, 5, 9)], dim=1)  # [B, V, D]
    first, every = predict(adapter, views[:, :1], text), predict(adapter, views, text)
    promise(torch.equal(first, predict(adapter, image, text)), "one view is not as the image [B, D]")
    promise(every.shape == first.shape, f"logits of views are {list(every.shape)}")
    promise(every.isfinite().all(), "a logit is not finite")
    promise(((every - first).abs().amax(dim=-1) > 1e-3).double().mean() > 0.5, "more views change little")
    if has_option:
        one = predict(s.fitted(s.data, test_views=1), views, text)
        promise(torch.equal(one, first), "test_views = 1 is not the first view")
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


def near(found: Tensor, expected: Tensor, atol: float, rtol: float) -> None:
    """Raise Broken unless they are the same but for rounding."""
    try:
        torch.testing.assert_close(found, expected, atol=atol, rtol=rtol)
    except AssertionError as error:
        raise Broken(" ".join(str(error).split())) from error


def depends(adapter: Adapter, data: Toy) -> Tensor:
    """Whether the logits of test row i move when row j is another image: entry [j, i] of [B, B]."""
    image, text = data.test.image, data.support.text
    logits, moved = predict(adapter, image, text), []
    for row in range(len(image)):
        other = image.clone()
        other[row] = data.new_test.image[0]
        moved.append((predict(adapter, other, text) - logits).abs().amax(dim=-1) > 1e-4)
    return torch.stack(moved)


def other_value(option: AdapterOption, given: Mapping[str, Any]) -> Any:
    """A legal value of an option that is not its default."""
    if option.name in given:
        return given[option.name]
    if option.choices:
        return next(choice for choice in option.choices if choice != option.default)
    if option.kind is bool:
        return not option.default
    if option.kind is int:
        return option.default // 2 if option.default and option.default > 1 else 2
    promise(option.kind is float, f"say in `other` which other value {option.name} may have")
    return option.default / 2 if option.default and math.isfinite(option.default) else 0.5


CHECKS: tuple[Callable[[Subject], Any], ...] = (
    options_survive_json_and_the_command_line,
    what_it_does_and_its_source_and_every_option_are_told_in_a_line,
    what_is_chosen_on_validation_is_an_option_that_can_be_left_open,
    no_views_of_test_images_are_offered_without_use,
    logits_are_finite_and_one_per_image_and_class,
    more_than_half_of_an_easy_problem_is_solved,
    weights_are_learned_exactly_if_it_trains,
    switched_off_it_is_exactly_zero_shot,
    before_the_first_step_it_is_zero_shot,
    permuting_the_classes_permutes_the_logits,
    permuting_the_images_permutes_the_rows,
    an_image_does_not_depend_on_the_rest_of_the_test_rows,
    in_a_stream_a_row_depends_on_rows_before_it_and_on_none_after,
    a_stream_may_end_after_any_row,
    in_a_batch_every_row_depends_on_every_other,
    the_same_seed_gives_the_same_weights,
    another_seed_gives_other_weights_exactly_where_they_are_drawn,
    a_saved_adapter_gives_the_same_logits_to_the_bit,
    no_value_of_the_grid_beats_what_is_chosen_on_validation,
    without_validation_rows_a_choice_is_refused_naming_the_option,
    new_classes_are_told_apart,
    what_it_does_it_does_to_new_classes_too,
    weights_of_other_classes_are_refused_with_the_reason,
    a_float16_cache_gives_nearly_the_same_predictions,
    one_class_and_one_shot_are_enough,
    a_thousand_classes_are_not_too_many,
    gradients_are_those_of_finite_differences,
    views_are_used_exactly_where_that_is_declared,
    views_of_a_test_image_beyond_the_first_change_its_logits,
    a_fit_leaves_its_support_and_the_random_state_alone,
)
