"""Options: a settings object's fields, each with its help beside it. Loads no torch.

    @dataclass(frozen=True, kw_only=True)
    class FitSettings:
        shots: Annotated[int | None, Option("Support images per class.", PROTOCOL, least=1)] = None

From these come the command line, the tables in the docs, the keyword arguments of the Python functions and the factors
of a grid: adding an option is one field. Values are looked at as values, whether they were typed or passed.
"""

from __future__ import annotations

import math
import operator
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import MISSING, dataclass, fields
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Union, get_args, get_origin, get_type_hints

from mma.pipeline.errors import UsageError, nearest

MOST = 10**9  # of any number that has no bound of its own
MOST_VALUES = 100_000  # of one option that takes several


@dataclass(frozen=True)
class Option:
    """What a person is told of a field, and what it may be."""

    help: str
    group: str
    choices: tuple[str, ...] = ()
    least: float | None = None
    most: float | None = None
    shown: str | None = None  # the default, where a value does not say it
    factor: bool = False  # whether a grid may vary it
    split: bool = False  # of several values: whether a comma parts them
    read: Callable[[Any], Any] | None = None  # of an option with a form of its own: what makes its value


@dataclass(frozen=True)
class Field:
    """An option with its place in the settings object."""

    name: str
    kind: type  # str, int, float, bool or Path
    optional: bool  # whether None is a value, written "none"
    several: bool  # a tuple of values
    default: Any  # MISSING where there is none
    option: Option

    def value(self, given: Any) -> Any:
        """A value as the settings hold it, from one that was typed or passed. Raises UsageError."""
        if given is None or (self.optional and isinstance(given, str) and given.lower() == "none"):
            if self.optional:
                return None
            raise UsageError(f"{self.name} needs a value")
        if self.option.read:
            return self.option.read(given)
        if not self.several:
            return self._one(given)
        listed = [given] if isinstance(given, str | os.PathLike | int | float) else list(given)
        if self.option.split:
            listed = [part.strip() for each in listed for part in str(each).split(",") if part.strip()]
        if not listed and self.default != ():
            raise UsageError(f"{self.name} has no values")
        if len(listed) > MOST_VALUES:
            raise UsageError(f"{self.name} has {len(listed):,} values; at most {MOST_VALUES:,} are taken")
        return tuple(self._one(each) for each in listed)

    def _one(self, given: Any) -> Any:
        option = self.option
        if self.kind is bool:
            if isinstance(given, bool):
                return given
            if isinstance(given, str) and given.lower() in ("true", "false"):
                return given.lower() == "true"
            raise UsageError(f"{written(self.name, given)} is not true or false")
        if self.kind in (int, float):
            return self._number(given)
        if not isinstance(given, str | os.PathLike) or not str(given):
            raise UsageError(f"{written(self.name, given)} is not {'a path' if self.kind is Path else 'a word'}")
        value = str(os.fspath(given))
        if option.choices and value not in option.choices:
            raise UsageError(f"unknown {self.name} {short(value)}: {nearest(value, option.choices)}")
        return Path(value) if self.kind is Path else value

    def _number(self, given: Any) -> int | float:
        wanted = "a whole number" if self.kind is int else "a number"
        try:
            if isinstance(given, bool):
                raise TypeError
            value: int | float
            if isinstance(given, str):
                value = self.kind(given) if len(given) < 100 else math.inf
            else:
                value = operator.index(given) if self.kind is int else float(given)
        except (TypeError, ValueError, OverflowError):
            raise UsageError(f"{written(self.name, given)} is not {wanted}") from None
        least, most = self.option.least, self.option.most
        most = MOST if most is None else most
        if not math.isfinite(value):
            raise UsageError(f"{written(self.name, given)} is not {wanted} that can be used")
        if (least is not None and value < least) or (most is not None and value > most):
            bounds = f"from {least or 0:,} to {most:,.10g}"
            if most == MOST:
                bounds = f"{least:,} or more" if least is not None and value < least else f"at most {most:,}"
            raise UsageError(f"{written(self.name, given)}: it must be {bounds}")
        return value


def fields_of(settings: type) -> tuple[Field, ...]:
    """The options of a settings class, in order; fields without an `Option` are left out."""
    hints = get_type_hints(settings, include_extras=True)
    found = []
    for field in fields(settings):
        hint = hints[field.name]
        if get_origin(hint) is not Annotated:
            continue
        kind, option = get_args(hint)[:2]
        kinds = list(get_args(kind)) if get_origin(kind) in (Union, UnionType) else [kind]
        (one,) = (k for k in kinds if k is not NoneType)
        several = get_origin(one) is tuple
        default = field.default if field.default_factory is MISSING else field.default_factory()
        kind = get_args(one)[0] if several else one
        found.append(Field(field.name, kind, NoneType in kinds, several, default, option))
    return tuple(found)


def checked(settings: Any) -> None:
    """Bring every option of a frozen settings object to its type. Call it from `__post_init__`. Raises UsageError."""
    for field in fields_of(type(settings)):
        object.__setattr__(settings, field.name, field.value(getattr(settings, field.name)))


def settings_from(kind: type, given: Mapping[str, Any]) -> Any:
    """A settings object from keyword arguments. Raises UsageError for one that it does not have."""
    known = [field.name for field in fields(kind)]
    for name in given:
        if name not in known:
            raise UsageError(f"unknown option {name!r}: {nearest(name, known)}")
    missing = [f.name for f in fields_of(kind) if f.default is MISSING and f.name not in given]
    if missing:
        raise UsageError(f"{missing[0]} is missing")
    return kind(**given)


def default_text(field: Field) -> str:
    """The default of an option as people are told it; empty where there is nothing to tell."""
    default = field.default
    if field.option.shown or default is MISSING or default is None or default == () or default is False:
        return field.option.shown or ""
    if default is True:
        return "on"
    if isinstance(default, int) and default >= 10_000:
        return f"{default:,}"
    if isinstance(default, float):
        return f"{default:g}"
    return ",".join(map(str, default)) if isinstance(default, tuple) else str(default)


def groups(of: Iterable[Field]) -> dict[str, list[Field]]:
    """Fields by their group, in order."""
    found: dict[str, list[Field]] = {}
    for field in of:
        found.setdefault(field.option.group, []).append(field)
    return found


def written(name: str, value: object) -> str:
    """An option with its value, in a message: the command line puts its own form in place of it."""
    text = str(value).replace("`", "'")
    return f"`{name}={text if text and len(text) <= 80 else short(value)}`"


def short(value: object) -> str:
    """A value in a message: quoted where it is text, and cut where it is very long."""
    text = repr(value) if isinstance(value, str) else str(value)
    return text if len(text) <= 80 else f"{text[:40]}... ({len(text):,} letters)"


def numbers(name: str, values: Sequence[Any], *, least: int = 0, most: int = 2**63 - 1) -> list[int]:
    """Whole numbers, each once. Raises UsageError."""
    field = Field(name, int, False, True, MISSING, Option("", "", least=least, most=most))
    return list(dict.fromkeys(field.value(values)))
