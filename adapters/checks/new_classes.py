"""Classes that had no shots: scored by what was learned, or refused."""

from __future__ import annotations

from typing import Any

from mma.adapters.base import AdapterError, zero_shot_logits
from mma.adapters.checks.subject import Broken, Promise, Subject, promise
from mma.adapters.training import accuracy, predict


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


PROMISES: tuple[Promise, ...] = (
    new_classes_are_told_apart,
    what_it_does_it_does_to_new_classes_too,
    weights_of_other_classes_are_refused_with_the_reason,
)
