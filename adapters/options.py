"""An adapter's hyper-parameters, read from its constructor's signature: the one source of command lines and grids."""

from __future__ import annotations

import inspect
import math
from dataclasses import dataclass
from numbers import Integral, Real
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

from mma.adapters.base import Adapter, AdapterError

MOST = 10**9  # of any number, either way: beyond, sums overflow


@dataclass(frozen=True)
class AdapterOption:
    """One keyword argument of an adapter's constructor."""

    name: str
    kind: type  # float, int, str or bool
    choices: tuple[str, ...]  # of a Literal; empty otherwise
    optional: bool  # whether None is a value, written "none"
    default: Any
    help: str = ""  # one line, where the author has written one

    def value(self, given: Any) -> Any:
        """The value of `given`: what a person typed, or a Python value, a whole number where a float is wanted too.

        Raises AdapterError naming the option, what was given and what is accepted.
        """
        if isinstance(given, str):
            return self._bounded(self.parse(given))
        if given is None and self.optional:
            return None
        if self.kind is bool and isinstance(given, bool):
            return given
        wanted = {int: Integral, float: Real}.get(self.kind)
        if wanted is None or isinstance(given, bool) or not isinstance(given, wanted):
            raise self.refusal(given)
        return self._bounded(self.kind(given))

    def _bounded(self, value: Any) -> Any:
        if self.kind in (int, float) and value is not None and abs(value) > MOST and math.isfinite(value):
            raise AdapterError(f"{self.name} = {value!r:.60} is not between -{MOST:,} and {MOST:,}")
        return value

    def parse(self, text: str) -> Any:
        """The value a person typed. Raises AdapterError as `value`."""
        if self.optional and text.lower() == "none":
            return None
        if self.choices:
            if text not in self.choices:
                raise self.refusal(text)
            return text
        if self.kind is bool:
            if text.lower() not in ("true", "false"):
                raise self.refusal(text)
            return text.lower() == "true"
        try:
            return self.kind(text)
        except ValueError:
            raise self.refusal(text) from None

    def refusal(self, given: Any) -> AdapterError:
        """What is said of a value that this option cannot have."""
        if self.choices:
            wanted = f"one of {', '.join(self.choices)}"
        else:
            kinds = {int: "a whole number", float: "a number", bool: "true or false", str: "a text"}
            wanted = kinds.get(self.kind, "a value")
        return AdapterError(f"{self.name} = {given!r} is not {wanted}")

    @property
    def meaning(self) -> str:
        """What may be given, in a word or a list: `cross|pair|bias`, `float`, `int|none`."""
        return "|".join(self.choices or (self.kind.__name__,)) + ("|none" if self.optional else "")


def options_of(adapter: type[Adapter]) -> list[AdapterOption]:
    """The hyper-parameters of an adapter, in the order of its constructor."""
    hints, annotated = get_type_hints(adapter.__init__), get_type_hints(adapter.__init__, include_extras=True)
    found = []
    for name, parameter in inspect.signature(adapter).parameters.items():
        kinds = [hints[name]]
        if get_origin(kinds[0]) in (Union, UnionType):
            kinds = list(get_args(kinds[0]))
        optional = NoneType in kinds
        (kind,) = (k for k in kinds if k is not NoneType)
        choices = get_args(kind) if get_origin(kind) is Literal else ()
        help_text = _help(annotated[name])
        found.append(AdapterOption(name, str if choices else kind, choices, optional, parameter.default, help_text))
    return found


def _help(hint: Any) -> str:
    """The text of Annotated[float, "text"], and of that | None."""
    for each in (hint, *get_args(hint)):
        if get_origin(each) is Annotated:
            return next((word for word in get_args(each)[1:] if isinstance(word, str)), "")
    return ""
