"""Factors of a grid: `lam=0,0.1 mask=cross,pair seed=0:5`, and the settings they multiply out to."""

from __future__ import annotations

import itertools
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import fields, replace
from decimal import Decimal, Overflow
from functools import lru_cache
from pathlib import Path
from typing import Any

from mma.adapters import Recipe, adapter_class, adapters, options_of
from mma.pipeline.errors import UsageError, nearest
from mma.pipeline.fitting.cells import Setting, check_of_use, make_setting
from mma.pipeline.fitting.episodes import Protocol, most_shots
from mma.pipeline.fitting.features import Features

OF_SUPPORT = {"shots": int, "label_noise": float, "imbalance": float, "splits": str, "train_noise": str}
PROTOCOL = {"protocol": str, "base_rule": str, "base_ratio": float, "test_noise": str, **OF_SUPPORT}
RECIPE = {field.name: {"str": str, "float": float, "int": int}[str(field.type)] for field in fields(Recipe)}
OTHERS = ("adapter", "prompts", "reduce", "select", "seed")
MOST_VALUES = 100_000  # of one factor

Factors = dict[str, list[str]]


def read_factors(words: Sequence[str], grid: Path | None) -> Factors:
    """Factors from `key=a,b,c` words and a TOML file; a word stands for the file's. Raises UsageError."""
    factors: Factors = {}
    for name, value in (_read_toml(grid) if grid else {}).items():
        listed = value if isinstance(value, list) else [value]
        factors[name.replace("-", "_")] = [v for each in listed for v in expand(name, _plain(each))]
    for word in words:
        name, equals, value = word.partition("=")
        if not equals or not name:
            raise UsageError(f"{word!r} is not a factor: write key=a,b,c or key=0:10")
        factors[name.lstrip("-").replace("-", "_")] = expand(name, value)
    return factors


def expand(name: str, text: str) -> list[str]:
    """`a,b,c` as its parts; `0:10` and `0:1:0.1` as the numbers from the first up to but without the last."""
    values = [value for part in text.split(",") for value in _range(name, part.strip())]
    if not values:
        raise UsageError(f"factor {name} has no values in {text!r}")
    return list(dict.fromkeys(values))


def seeds_of(factors: Factors) -> list[int]:
    """The seeds of a grid; 0, 1 and 2 where none are given."""
    seeds = _numbers("seed", factors.get("seed", ["0", "1", "2"]), int)
    for seed in seeds:
        if not 0 <= seed < 2**63:
            raise UsageError(f"seed = {seed} is not in 0 .. 2^63 - 1")
    return list(dict.fromkeys(seeds))


def check_factors(factors: Factors) -> None:
    """Refuse a factor that neither `fit` nor any of the grid's adapters has, with the nearest name, and one that
    nothing of the grid looks at.
    """
    known = {*PROTOCOL, *RECIPE, *OTHERS}
    named = factors.get("adapter", ["mma"])
    for adapter in named:
        known |= {option.name for option in options_of(adapter_class(adapter))}
    for name in factors:
        if name not in known:
            raise UsageError(f"unknown factor {name!r}: {nearest(name, sorted(known))}")
    check_of_use(factors, named, factors.get("protocol", ["base-to-new"]))


def settings_of(factors: Factors, features: Features) -> list[Setting]:
    """Every setting of the grid on one cache under one prompt set, zero-shot first.

    A factor that an adapter does not have is not multiplied into it.
    """
    protocols = _protocols(factors, features)
    prompts, reduce = str(features.prompts["name"]), str(features.prompts["reduce"])
    adapters = ["zero-shot", *(name for name in factors.get("adapter", ["mma"]) if name != "zero-shot")]
    found: dict[Setting, None] = {}
    for adapter, protocol in itertools.product(adapters, protocols):
        kind = adapter_class(adapter)
        options = {option.name: option for option in options_of(kind)}
        parsed = {name: [options[name].parse(v) for v in values] for name, values in factors.items() if name in options}
        recipes = {
            name: _numbers(name, factors[name], RECIPE[name]) for name in RECIPE if name in factors and kind.trains
        }
        selects = factors.get("select", ["val"])
        for chosen, recipe, select in itertools.product(_product(parsed), _product(recipes), selects):
            setting = make_setting(
                features.digest, features.dataset, prompts, reduce, adapter, chosen, protocol, select, recipe
            )
            found[setting] = None
    return list(found)


@lru_cache(maxsize=100_000)
def flat(setting: Setting) -> Mapping[str, Any]:
    """A setting as factors: what tables have for columns and exports for fields; of the support only if it has one."""
    support = OF_SUPPORT if setting.protocol.shots == 0 else ()
    names = [name for name in PROTOCOL if name not in support]
    protocol = {name: getattr(setting.protocol, "name" if name == "protocol" else name) for name in names}
    recipe = {name: getattr(setting.recipe, name) for name in RECIPE} if setting.recipe else {}
    head = {
        "dataset": setting.dataset,
        "prompts": setting.prompts,
        "reduce": setting.reduce,
        "adapter": setting.adapter,
    }
    return {**head, **dict(setting.options), **protocol, "select": setting.select, **recipe}


def _protocols(factors: Factors, features: Features) -> list[Protocol]:
    given = {name: _numbers(name, factors[name], kind) for name, kind in PROTOCOL.items() if name in factors}
    found = [Protocol(**{"name" if k == "protocol" else k: v for k, v in values.items()}) for values in _product(given)]
    if "shots" in given:
        if min(given["shots"]) < 1:
            raise UsageError(f"shots = {min(given['shots'])} is below 1")
        return found
    shots = min(most_shots(features.labels, protocol) for protocol in found)  # the same along every axis
    return [replace(protocol, shots=shots) for protocol in found]


def described(text: str) -> dict[str, str]:
    """`mma lam=0.2 mask=cross` as {"adapter": "mma", "lam": "0.2", "mask": "cross"}. Raises UsageError."""
    adapter, *rest = text.split() or [""]
    if adapter not in adapters():
        raise UsageError(f"--baseline {text!r} names no adapter: write one, such as 'mma mask=cross'")
    wanted = {"adapter": adapter}
    for word in rest:
        name, equals, value = word.partition("=")
        values = expand(name, value) if equals else []
        if len(values) != 1:
            raise UsageError(f"--baseline {text!r}: {word!r} is not key=value")
        wanted[name.replace("-", "_")] = values[0]
    return wanted


def fits(setting: Setting, wanted: Mapping[str, str]) -> bool:
    """Whether a setting has all the values of a description."""
    values = flat(setting)
    return all(name in values and _same(values[name], value) for name, value in wanted.items())


def as_typed(value: object) -> str:
    """A value of a factor as it is typed."""
    if value is None:
        return "none"
    return f"{value:g}" if isinstance(value, float) else str(value)


def _same(value: object, text: str) -> bool:
    if isinstance(value, int | float) and not isinstance(value, bool):
        try:
            return float(text) == float(value)
        except ValueError:
            return False
    return as_typed(value).lower() == text.lower()


def _product(factors: Mapping[str, Iterable[Any]]) -> list[dict[str, Any]]:
    return [dict(zip(factors, values, strict=True)) for values in itertools.product(*factors.values())]


def _numbers(name: str, values: Sequence[str], kind: type) -> list[Any]:
    try:
        return [kind(value) for value in values]
    except ValueError:
        wanted = "whole numbers" if kind is int else "numbers"
        raise UsageError(f"{name} = {','.join(values)!r}: {wanted} are needed") from None


def _range(name: str, text: str) -> list[str]:
    parts = text.split(":")
    if len(parts) == 1:
        return [text] if text else []
    try:
        start, stop, step = (Decimal(part) for part in (parts if len(parts) == 3 else [*parts, "1"]))
        if not all(number.is_finite() for number in (start, stop, step)):
            raise ValueError(text)
        if step <= 0 or stop <= start:
            raise UsageError(f"factor {name}: the range {text!r} is empty")
        many = (stop - start) / step > MOST_VALUES
    except Overflow:
        many = True
    except (ArithmeticError, ValueError) as error:
        if isinstance(error, UsageError):
            raise
        raise UsageError(f"factor {name}: {text!r} is not a range: write start:stop or start:stop:step") from None
    if many:
        raise UsageError(f"factor {name}: the range {text!r} has more than {MOST_VALUES:,} values")
    values = []
    while start < stop:
        values.append(str(start))
        start += step
    return values


def _read_toml(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UsageError(f"--grid {path} cannot be read ({error.strerror})") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UsageError(f"--grid {path} is not TOML ({error})") from error


def _plain(value: object) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str | int | float):
        return str(value)
    raise UsageError(f"a factor of the grid file has {value!r}, which is not a number, a word or a list of them")
