"""A cell: one fit, named by the hash of everything that decides its result."""

from __future__ import annotations

import hashlib
import inspect
import json
import sys
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from functools import cached_property
from typing import Any

from mma.adapters import Adapter, AdapterError, Recipe, adapter_class
from mma.pipeline.errors import UsageError, nearest
from mma.pipeline.fitting.episodes import NO_NOISE, Protocol

NUMERICS = 2  # raised whenever the same cell would give other numbers; results of another version are stale
SELECTIONS = ("val", "last", "oracle")
CHOICES = {"optimizer": ("adam", "adamw", "sgd"), "schedule": ("constant", "cosine")}
NO_SELECTION = "none"  # of an adapter that neither trains nor chooses anything


@dataclass(frozen=True)
class Setting:
    """All that decides a result but the seed."""

    cache: str  # digest of the cache's fingerprint and of the prompt set
    dataset: str
    prompts: str
    reduce: str
    adapter: str
    options: tuple[tuple[str, Any], ...]  # every hyper-parameter, sorted by name
    protocol: Protocol
    select: str
    recipe: Recipe | None  # None for an adapter that does not train
    code: str | None = None  # digest of the source of an adapter that is not built in
    numerics: int = NUMERICS

    @cached_property
    def id(self) -> str:
        """Twelve hexadecimal digits."""
        return digest({name: value for name, value in self.config().items() if name != "dataset"})

    def config(self) -> dict[str, Any]:
        """The setting as plain data."""
        data = {**asdict(self), "options": dict(self.options)}
        return data if self.code else {name: value for name, value in data.items() if name != "code"}

    @property
    def name(self) -> str:
        """The setting without what can go stale: the same name with another cache digest, code or numerics is stale."""
        return digest({k: v for k, v in self.config().items() if k not in ("cache", "code", "numerics")})


@dataclass(frozen=True)
class Cell:
    """One fit: a setting and a seed."""

    setting: Setting
    seed: int

    @cached_property
    def id(self) -> str:
        """Twelve hexadecimal digits."""
        return digest({"setting": self.setting.id, "seed": self.seed})


def make_setting(
    cache: str,
    dataset: str,
    prompts: str,
    reduce: str,
    adapter: str,
    options: Mapping[str, Any],
    protocol: Protocol,
    select: str,
    recipe: Mapping[str, Any],
) -> Setting:
    """Resolve a setting: options and recipe beyond those given are the adapter's own. What an adapter does not look at
    is left out of its setting. Raises AdapterError or UsageError for a value that cannot be.
    """
    if select not in SELECTIONS:
        raise UsageError(f"unknown select {select!r}: {nearest(select, SELECTIONS)}")
    _check_recipe(recipe)
    kind = adapter_class(adapter)
    try:
        made = kind(**options)
    except AdapterError as error:
        raise AdapterError(f"{adapter}: {error}") from None
    if select == "last" and made.open_options():
        flags = ", ".join(f"--{name.replace('_', '-')}" for name in made.open_options())
        raise UsageError(f"{adapter} chooses {flags} on validation rows: give a value, or use --select val")
    if protocol.name == "few-shot":
        protocol = replace(protocol, base_rule="ceil", base_ratio=1.0)
    if not kind.few_shot:
        protocol = replace(protocol, shots=0, label_noise=0.0, imbalance=1.0, splits="nested", train_noise=NO_NOISE)
    return Setting(
        cache=cache,
        dataset=dataset,
        prompts=prompts,
        reduce=reduce,
        adapter=adapter,
        options=tuple(sorted(made.options().items())),
        protocol=protocol,
        select=select if kind.trains or made.open_options() else NO_SELECTION,
        recipe=replace(kind.recipe, **recipe) if kind.trains else None,
        code=code_of(kind),
    )


def check_of_use(names: Collection[str], adapters: Sequence[str], protocols: Collection[str]) -> None:
    """Refuse a given option that nothing looks at: of training where no adapter trains, of the base classes where all
    classes are scored.
    """
    training = [name for name in (field.name for field in fields(Recipe)) if name in names]
    if training and not any(adapter_class(adapter).trains for adapter in adapters):
        raise UsageError(f"{training[0]} is an option of training, and {', '.join(adapters)} has none")
    of_base = [name for name in ("base_rule", "base_ratio") if name in names]
    if of_base and "base-to-new" not in protocols:
        raise UsageError(f"{of_base[0]} is an option of base-to-new, and few-shot has no base classes")


def cells_of(setting: Setting, seeds: range | list[int]) -> list[Cell]:
    """A cell a seed; one alone for an adapter that the seed does not touch."""
    return [Cell(setting, seed) for seed in (seeds if adapter_class(setting.adapter).seeded else [0])]


def code_of(kind: type[Adapter]) -> str | None:
    """Digest of the module of an adapter that is not of this package: changed, its results are others."""
    if kind.__module__.startswith("mma.adapters."):
        return None
    try:
        return digest({"source": inspect.getsource(sys.modules[kind.__module__])})
    except (OSError, TypeError):  # no source: a compiled module, or one typed in
        return digest({"name": f"{kind.__module__}.{kind.__qualname__}"})


def digest(value: Mapping[str, Any]) -> str:
    """Twelve hexadecimal digits of the SHA-256 of plain data."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:12]


def _check_recipe(recipe: Mapping[str, Any]) -> None:
    for name, value in recipe.items():
        if name in CHOICES and value not in CHOICES[name]:
            raise UsageError(f"unknown {name} {value!r}: {nearest(value, CHOICES[name])}")
        if isinstance(value, int | float) and not (value > 0 or (value == 0 and name == "weight_decay")):
            raise UsageError(f"{name} = {value} must be above 0")
