"""Factors of a grid: `lam=0,0.1 mask=cross,pair seed=0:5`, and the choices they multiply out to."""

from __future__ import annotations

import itertools
import tomllib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from decimal import Decimal, Overflow
from pathlib import Path
from typing import Any

from mma.adapters import adapter_class, adapters, options_of, reference, short_name
from mma.pipeline.errors import UsageError, nearest
from mma.pipeline.fitting.cells import RECIPE, Choice, Setting, check_of_use, recipe_names
from mma.pipeline.fitting.protocols import OPTIONS, Protocol, make_protocol, protocol_class, protocol_options
from mma.pipeline.fitting.settings import FACTORS
from mma.pipeline.options import MOST_VALUES, numbers, short
from mma.pipeline.regular_files import read_regular

MOST_BYTES = 10_000_000  # of a grid file
MOST_CELLS = 10_000_000  # of a grid
SEED = "seed"
TARGET = "target"  # several values are all scored by every fit

Factors = Mapping[str, Sequence[Any]]  # values as typed, or as Python has them


def read_factors(words: Sequence[str], grid: Path | None) -> dict[str, list[Any]]:
    """Factors from `key=a,b,c` words and a TOML file; a word stands for the file's. Raises UsageError."""
    factors: dict[str, list[Any]] = {}
    for name, value in (_read_toml(grid) if grid else {}).items():
        listed = value if isinstance(value, list) else [value]
        factors[name.replace("-", "_")] = [v for each in listed for v in expand(name, _plain(each))]
    for word in words:
        name, equals, value = word.partition("=")
        if not equals or not name:
            raise UsageError(f"{short(word)} is not a factor: write key=a,b,c or key=0:10")
        factors[name.lstrip("-").replace("-", "_")] = list(expand(name, value))
    return factors


def expand(name: str, text: str) -> list[str]:
    """`a,b,c` as its parts; `0:10` and `0:1:0.1` as the numbers from the first up to but without the last."""
    values = [value for part in text.split(",") for value in _range(name, part.strip())]
    if not values:
        raise UsageError(f"factor {name} has no values in {short(text)}")
    return list(dict.fromkeys(values))


def seeds_of(factors: Factors) -> list[int]:
    """The seeds of a grid; 0, 1 and 2 where none are given."""
    return numbers(SEED, list(factors.get(SEED, (0, 1, 2))))


def check_factors(factors: Factors, protocols: Sequence[str]) -> None:
    """Refuse a factor that neither `fit` nor any of the grid's adapters has, with the nearest name; one that nothing of
    the grid looks at; and a grid that is far too large.
    """
    named = adapters_of(factors)
    short = list(map(short_name, named))
    for name in short:
        if short.count(name) > 1:
            raise UsageError(f"{name} is the name of two classes in files: give one of them another")
    known = {SEED, *FACTORS} | {option.name for adapter in named for option in options_of(adapter_class(adapter))}
    for name, values in factors.items():
        if name not in known:
            raise UsageError(f"unknown factor {name!r}: {nearest(name, sorted(known))}")
        if not values:
            raise UsageError(f"factor {name} has no values")
    if "shots" in factors and None in factor_values("shots", factors):
        raise UsageError("factor shots: none is not a number: left out, it is what every data set of the grid allows")
    fitted = [name for name in named if name != "zero-shot"] or named
    check_of_use(factors, fitted, protocols)
    has = list(dict.fromkeys(name for adapter in fitted for name in recipe_names(adapter)))
    for name in factor_values("recipe", factors):
        if name is not None and name not in has:
            raise UsageError(f"{', '.join(map(short_name, fitted))}: no recipe {name!r}: {nearest(name, has)}")
    _check_targets(bool(targets_of(factors)), protocols)
    cells = 1
    for name, values in factors.items():
        cells *= 1 if name == TARGET else len(values)
    if cells > MOST_CELLS:
        raise UsageError(f"the grid has {cells:,} cells; at most {MOST_CELLS:,} are taken: give fewer values")


def adapters_of(factors: Factors) -> list[str]:
    """Zero-shot first, then each adapter in the order given; those in files by their absolute names."""
    named = map(reference, FACTORS["adapter"].value(factors.get("adapter", ("mma",))))
    return list(dict.fromkeys(("zero-shot", *named)))


def targets_of(factors: Factors) -> list[str]:
    """The caches that are scored beside the fitted one."""
    return list(dict.fromkeys(FACTORS[TARGET].value(factors.get(TARGET, ()))))


def choices_of(factors: Factors, protocol: str, shots: int) -> Iterator[Choice]:
    """Every choice under one protocol, zero-shot first, with so many shots where the factors give none.

    A factor that an adapter does not have is not multiplied into it. Raises UsageError or AdapterError.
    """
    for adapter, drawn in itertools.product(adapters_of(factors), protocols_of(factors, protocol)):
        kind = adapter_class(adapter)
        options = {option.name: option for option in options_of(kind)}
        given = {
            name: list(dict.fromkeys(options[name].value(value) for value in values))
            for name, values in factors.items()
            if name in options
        }
        recipe = {name: factor_values(name, factors) for name in RECIPE if name in factors and kind.trains}
        at = replace(drawn, shots=shots) if "shots" not in factors else drawn
        words = (factor_values("select", factors), factor_values("recipe", factors), factor_values("val", factors))
        for option, steps, select, name, val in itertools.product(_product(given), _product(recipe), *words):
            yield Choice(adapter, at, option, steps, select, name, val)


def protocols_of(factors: Factors, protocol: str) -> list[Protocol]:
    """The ways in which episodes are drawn under one protocol: the product of those factors that it has."""
    has = protocol_options(protocol_class(protocol))
    given = {name: factor_values(name, factors) for name in OPTIONS if name in factors and name in has}
    return [make_protocol(protocol, values) for values in _product(given)]


def factor_values(name: str, factors: Factors) -> list[Any]:
    """The values of a factor of `fit`, each once; its default where it is not given."""
    field = FACTORS[name]
    values = factors.get(name, [field.default])
    return list(dict.fromkeys(field.value(value) for value in values))


def described(text: str, named: Iterable[str] = ()) -> dict[str, str]:
    """`mma lam=0.2 mask=cross` as {"adapter": "mma", "lam": "0.2", "mask": "cross"}; of an adapter in a file, its short
    name. Raises UsageError.
    """
    adapter, *rest = text.split() or [""]
    adapter = short_name(adapter)
    if adapter not in {*adapters(), *map(short_name, named)}:
        raise UsageError(f"the baseline {short(text)} names no adapter: write one, such as 'mma mask=cross'")
    wanted = {"adapter": adapter}
    for word in rest:
        name, equals, value = word.partition("=")
        values = expand(name, value) if equals else []
        if len(values) != 1:
            raise UsageError(f"the baseline {short(text)}: {short(word)} is not key=value")
        wanted[name.replace("-", "_")] = values[0]
    return wanted


def matches(setting: Setting, wanted: Mapping[str, str]) -> bool:
    """Whether a setting has all the values of a description."""
    return has_values(setting.flat(), wanted)


def has_values(values: Mapping[str, Any], wanted: Mapping[str, str]) -> bool:
    """Whether factors by name have all the values of a description."""
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


def _check_targets(there: bool, protocols: Sequence[str]) -> None:
    """Refuse a protocol that needs targets without one, and targets that no protocol looks at."""
    transfers = [name for name in protocols if protocol_class(name).transfers]
    if transfers and not there:
        raise UsageError(f"`protocol={transfers[0]}` scores other data: name a finished cache, `target=CACHE.zarr`")
    if there and not transfers:
        raise UsageError(
            f"{', '.join(protocols)} scores no other data than the one fitted: leave target out, or use "
            "`protocol=cross-dataset` or `protocol=domain-shift`"
        )


def _product(factors: Mapping[str, Iterable[Any]]) -> list[dict[str, Any]]:
    return [dict(zip(factors, values, strict=True)) for values in itertools.product(*factors.values())]


def _range(name: str, text: str) -> list[str]:
    parts = text.split(":")
    if len(parts) == 1 or name in ("adapter", TARGET):  # an adapter may be FILE:CLASS, a target a URL
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
        raise UsageError(f"factor {name}: {short(text)} is not a range: write start:stop or start:stop:step") from None
    if many:
        raise UsageError(f"factor {name}: the range {short(text)} has more than {MOST_VALUES:,} values")
    values = []
    while start < stop:
        values.append(str(start))
        start += step
    return values


def _read_toml(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(read_regular(path, MOST_BYTES).decode())
    except OSError as error:
        raise UsageError(f"the grid file {path} cannot be read ({error.strerror})") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise UsageError(f"the grid file {path} is not TOML ({error})") from error


def _plain(value: object) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str | int | float):
        return str(value)
    raise UsageError(f"a factor of the grid file has {value!r}, which is not a number, a word or a list of them")
