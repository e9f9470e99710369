"""Its logits: finite, right more often than chance, zero-shot's where it is off; of any number of classes and shots."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from mma.adapters.base import unit, zero_shot_logits
from mma.adapters.checks.subject import Promise, Subject, near, promise
from mma.adapters.toy import toy
from mma.adapters.training import Labelled, accuracy, fit, predict


def logits_are_finite_and_one_per_image_and_class(s: Subject) -> None:
    """[B, C]."""
    shape = (len(s.data.test.label), len(s.data.support.text))
    promise(s.logits.shape == shape, f"logits are {list(s.logits.shape)}, not {list(shape)}")
    promise(s.logits.isfinite().all(), "a logit is not finite")


def more_than_half_of_an_easy_problem_is_solved(s: Subject) -> None:
    """Chance is a fifth."""
    share = accuracy(s.logits, s.data.test.label)
    promise(share > 0.5, f"{share:.0%} of the rows are right")


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
    """A step of those that train, and a fit of those that do not, with the first of the values that would be tried."""
    data = toy(classes=1000, shots=1)
    few = Labelled(data.validation.image[:4], data.validation.label[:4])
    adapter = s.made(**{name: values[0] for name, values in s.kind.tunes.items() if name not in s.options})
    if s.kind.trains:
        adapter.start(data.support)
        loss = adapter.loss(data.support.image[:4], data.support.text, data.support.label[:4])
        loss.backward()  # type: ignore[no-untyped-call]
        for name, weight in adapter.named_parameters():
            promise(weight.grad is not None and bool(weight.grad.isfinite().all()), f"{name} has no finite gradient")
    else:
        fit(adapter, data.support, s.kind.recipe, seed=0, validation=few)
    promise(predict(adapter, few.image, data.support.text).isfinite().all(), "a logit is not finite")


PROMISES: tuple[Promise, ...] = (
    logits_are_finite_and_one_per_image_and_class,
    more_than_half_of_an_easy_problem_is_solved,
    switched_off_it_is_exactly_zero_shot,
    before_the_first_step_it_is_zero_shot,
    permuting_the_classes_permutes_the_logits,
    a_float16_cache_gives_nearly_the_same_predictions,
    one_class_and_one_shot_are_enough,
    a_thousand_classes_are_not_too_many,
)
