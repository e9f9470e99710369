"""What the class of an adapter declares: its options, its source, and what it says of them."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any

from mma.adapters.checks.subject import Promise, Subject, promise
from mma.adapters.options import AdapterOption, options_of


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


def no_views_of_test_images_are_offered_without_use(s: Subject) -> Any:
    """`test_views` is an option of those alone that use them."""
    if s.kind.uses_views == "test":
        return NotImplemented
    return promise("test_views" not in s.names, "it has the option test_views, and `uses_views` is not test")


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


PROMISES: tuple[Promise, ...] = (
    options_survive_json_and_the_command_line,
    what_it_does_and_its_source_and_every_option_are_told_in_a_line,
    no_views_of_test_images_are_offered_without_use,
)
