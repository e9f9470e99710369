"""What is a suite? A paper's tables as a TOML file: data sets, methods with their options, and published numbers.

title = "..."
source = "arXiv ..."
embed = { model = "ViT-B-16" }                           # options of mma embed

[[tables]]
title = "..."
datasets = ["dtd", "path/to/images"]
fit = { protocol = "base-to-new", shots = 16 }            # options of mma fit, for all methods that look at them

[[tables.methods]]
name = "MMA"
fit = { adapter = "mma", recipe = "published" }           # options of mma fit, or of the adapter
source = "where the published numbers are from"
published.dtd = { base = 79.4, new = 41.2, H = 54.2 }     # in percent; what is not known is left out
published.average = { H = 60.0 }
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from importlib import resources
from importlib.resources.abc import Traversable
from typing import Any

from mma.adapters import adapter_class, options_of
from mma.pipeline.datasets import cache_name
from mma.pipeline.embedding.settings import EmbedSettings
from mma.pipeline.errors import UsageError, nearest
from mma.pipeline.fitting.cells import RECIPE, check_of_use, recipe_names
from mma.pipeline.fitting.factors import Factors
from mma.pipeline.fitting.protocols import protocol_class
from mma.pipeline.fitting.settings import FACTORS, FitSettings
from mma.pipeline.options import settings_from
from mma.pipeline.regular_files import expanded, read_text

AVERAGE = "average"  # the key of published averages over a table's data sets
OF_EMBED = (
    *("model", "pretrained", "quick_gelu", "precision", "dtype", "limit", "split_seed", "prompts"),
    *("views", "view_splits", "view_seed", "image_noise", "noise_splits"),
)
OF_FIT = (*(name for name in FACTORS if name != "target"), "seeds")


@dataclass(frozen=True)
class Method:
    """One method of a table, and what was published of it."""

    name: str  # as the paper calls it
    factors: Factors  # a grid of one setting, and its seeds
    source: str  # of the published numbers; empty where there are none
    published: Mapping[str, Mapping[str, float]]  # data set, or "average" -> metric -> percent

    @property
    def adapter(self) -> str:
        """The name by which `adapter_class` takes the adapter."""
        return str(self.factors["adapter"][0])

    @property
    def seeds(self) -> Sequence[int]:
        """The seeds; one alone of an adapter that they do not touch."""
        return self.factors["seed"] if adapter_class(self.adapter).seeded else [0]


@dataclass(frozen=True)
class Table:
    """One table of a paper."""

    title: str
    embeds: Mapping[str, EmbedSettings]  # by data set's name, in order: how its cache is made
    methods: Sequence[Method]
    metrics: Sequence[str]


@dataclass(frozen=True)
class Suite:
    """The tables of one paper."""

    name: str
    title: str
    source: str
    tables: Sequence[Table]


def shipped() -> dict[str, str]:
    """The suites that the package carries: name -> title."""
    return {name: str(tomllib.loads(file.read_text(encoding="utf-8"))["title"]) for name, file in _files().items()}


def read_suite(named: str) -> Suite:
    """The suite of that name, or in that file. Raises UsageError, or AdapterError, where it cannot be used."""
    files = _files()
    if named in files:
        return _suite(named, tomllib.loads(files[named].read_text(encoding="utf-8")))
    path = expanded(named)
    if path.suffix != ".toml":
        raise UsageError(f"unknown suite {named!r}: {nearest(named, files)}; one's own is a .toml file")
    try:
        given = tomllib.loads(read_text(path))
    except OSError as error:
        raise UsageError(f"the suite {path} cannot be read ({error.strerror})") from error
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        raise UsageError(f"the suite {path} is not TOML ({error})") from error
    try:
        return _suite(path.stem, given)
    except UsageError as error:
        raise UsageError(f"{path}: {error}") from error


def _files() -> dict[str, Traversable]:
    folder = resources.files("mma.pipeline.suites").joinpath("shipped")
    files = sorted(folder.iterdir(), key=lambda file: file.name)
    return {file.name.removesuffix(".toml"): file for file in files if file.name.endswith(".toml")}


def _suite(name: str, given: Mapping[str, Any]) -> Suite:
    known = _Reader("the suite", given, ("title", "source", "embed", "tables"))
    embed = known.options("embed", OF_EMBED)
    tables = [_table(f"table {i}", each, embed) for i, each in enumerate(known.several("tables", dict), 1)]
    return Suite(name, known.text("title"), known.text("source"), tables)


def _table(where: str, given: Mapping[str, Any], embed: Mapping[str, Any]) -> Table:
    known = _Reader(where, given, ("title", "datasets", "embed", "fit", "methods"))
    fit = known.options("fit")
    methods = [_method(f"{where}, method {i}", m, fit) for i, m in enumerate(known.several("methods", dict), 1)]
    for name in fit:
        if not any(_looks_at(method.adapter, name) for method in methods):
            raise UsageError(
                f"{where}: none of its methods looks at the option {name!r} of fit: {nearest(name, OF_FIT)}"
            )
    protocols = {str(method.factors["protocol"][0]) for method in methods}
    if len(protocols) != 1:
        raise UsageError(
            f"{where}: its methods are of {' and '.join(sorted(protocols))}, and a table is of one protocol"
        )
    protocol = protocol_class(protocols.pop())
    if protocol.transfers:
        raise UsageError(f"{where}: a suite has no targets, and {protocol.name} needs some; see `mma fit --help`")
    prompts = dict.fromkeys(str(method.factors.get("prompts", ["default"])[0]) for method in methods)
    wanted = {"prompts": ",".join(prompts), **embed, **known.options("embed", OF_EMBED)}
    embeds = {}
    for dataset in known.several("datasets", str):
        settings = settings_from(EmbedSettings, {**wanted, "dataset": dataset})
        name = cache_name(dataset, settings.limit)
        if name in embeds:
            raise UsageError(f"{where}: two data sets are called {name}: a data set stands there once, by its own name")
        embeds[name] = settings
    table = Table(known.text("title"), embeds, methods, protocol().metrics())
    names = [method.name for method in methods]
    for method in methods:
        if names.count(method.name) > 1:
            raise UsageError(f"{where}: two methods are called {method.name}: give one of them another name")
        _check_published(where, table, method)
    return table


def _method(where: str, given: Mapping[str, Any], shared: Mapping[str, Any]) -> Method:
    """A method from what stands at it and, of what its adapter looks at, at its table."""
    known = _Reader(where, given, ("name", "fit", "source", "published"))
    own = known.options("fit")
    named: FitSettings = settings_from(FitSettings, {"cache": (".",), "adapter": own.get("adapter", ())})
    if len(named.adapter) != 1:
        raise UsageError(f"{where}: fit.adapter names {len(named.adapter)} adapters, and a method is one")
    has = {option.name: option for option in options_of(adapter_class(named.adapter[0]))}
    wanted = {**{name: value for name, value in shared.items() if _looks_at(named.adapter[0], name)}, **own}
    of_fit = {name: value for name, value in wanted.items() if name in OF_FIT}
    options = {name: value for name, value in wanted.items() if name not in of_fit}
    for name in options:
        if name not in has:
            raise UsageError(f"{where}: unknown option {name!r}: {nearest(name, sorted({*has, *OF_FIT}))}")
    settings: FitSettings = settings_from(FitSettings, {"cache": (".",), **of_fit})
    if settings.protocol is None:
        raise UsageError(f"{where}: write fit.protocol, once for the table")
    factors = replace(settings, options={name: has[name].value(value) for name, value in options.items()}).factors
    check_of_use(factors, settings.adapter, [settings.protocol])
    return Method(known.text("name"), factors, known.text("source", ""), known.numbers("published"))


def _looks_at(adapter: str, name: str) -> bool:
    """Whether an option of a table is one for a method with this adapter."""
    kind = adapter_class(adapter)
    if name == "recipe":
        return bool(recipe_names(adapter))
    if name in RECIPE:
        return kind.trains
    return name in OF_FIT or name in {option.name for option in options_of(kind)}


def _check_published(where: str, table: Table, method: Method) -> None:
    """Refuse a number of something that is not in the table."""
    for dataset, numbers in method.published.items():
        for name, known in ((dataset, (*table.embeds, AVERAGE)), *((metric, table.metrics) for metric in numbers)):
            if name not in known:
                raise UsageError(f"{where}, {method.name}: published {name!r} is not in it: {nearest(name, known)}")


class _Reader:
    """A TOML table whose keys and kinds of values are looked at."""

    def __init__(self, where: str, given: Mapping[str, Any], keys: Sequence[str]) -> None:
        self.where, self.given = where, given
        for key in given:
            if key not in keys:
                raise UsageError(f"{where}: unknown key {key!r}: {nearest(key, keys)}")

    def text(self, key: str, default: str | None = None) -> str:
        value = self._value(key, str, default)
        return str(value)

    def several(self, key: str, kind: type) -> list[Any]:
        values = self._value(key, list, None)
        if not values or not all(isinstance(value, kind) for value in values):
            raise UsageError(f"{self.where}: {key} is a list of one {'word' if kind is str else 'table'} or more")
        return list(values)

    def options(self, key: str, names: Sequence[str] = ()) -> dict[str, Any]:
        """Options by name, written with - or _; of those `names` alone, where there are some."""
        found = {str(name).replace("-", "_"): value for name, value in self._value(key, dict, {}).items()}
        for name in found:
            if names and name not in names:
                raise UsageError(f"{self.where}: a suite sets no {key} option {name!r}: {nearest(name, names)}")
        return found

    def numbers(self, key: str) -> dict[str, dict[str, float]]:
        found = self._value(key, dict, {})
        for name, numbers in found.items():
            if not isinstance(numbers, dict) or not all(type(value) in (int, float) for value in numbers.values()):
                raise UsageError(f"{self.where}: {key}.{name} has numbers by metric, such as {{ base = 79.4 }}")
        return {name: {metric: float(value) for metric, value in of.items()} for name, of in found.items()}

    def _value(self, key: str, kind: type, default: Any) -> Any:
        value = self.given.get(key, default)
        if not isinstance(value, kind):
            state = "is missing" if value is None else f"is not a {kind.__name__}"
            raise UsageError(f"{self.where}: {key} {state}")
        return value
