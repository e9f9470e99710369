"""The adapter that is checked, and how a broken promise is told."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from mma.adapters.base import Adapter, Recipe
from mma.adapters.options import options_of
from mma.adapters.toy import Toy, toy
from mma.adapters.training import fit, predict


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


class Broken(Exception):
    """A promise is broken, and how."""


def promise(holds: bool | Tensor, message: str) -> None:
    """Raise Broken with the message unless it holds."""
    if not holds:
        raise Broken(message)


def near(found: Tensor, expected: Tensor, atol: float, rtol: float) -> None:
    """Raise Broken unless they are the same but for rounding."""
    try:
        torch.testing.assert_close(found, expected, atol=atol, rtol=rtol)
    except AssertionError as error:
        raise Broken(" ".join(str(error).split())) from error


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


Promise = Callable[[Subject], Any]  # NotImplemented where it does not concern the subject
