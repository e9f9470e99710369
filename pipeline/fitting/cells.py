"""A cell: one fit, named by the hash of everything that decides its result."""

from __future__ import annotations

import hashlib
import inspect
import json
import sys
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from functools import cached_property
from typing import Any

from mma.adapters import Adapter, AdapterError, NamedRecipe, Recipe, adapter_class, short_name
from mma.adapters.blame import blaming
from mma.adapters.from_file import text_of
from mma.adapters.published import PUBLISHED, published_options
from mma.pipeline.errors import UsageError, nearest
from mma.pipeline.fitting.protocols import OPTIONS, PROTOCOLS, Protocol, protocol_class, protocol_options

NUMERICS = 3  # raised whenever the same cell would give other numbers; results of another version are stale
SELECTIONS = ("val", "classes", "last", "oracle")
CHOICES = {
    "optimizer": ("adam", "adamw", "sgd"),
    "schedule": ("constant", "cosine"),
    "monitor": ("accuracy", "loss"),
}
MAY_BE_ZERO = ("weight_decay", "warmup")  # of a recipe's numbers
OF_SUPPORT = ("shots", "supports", "label_noise", "imbalance", "draws", "train_noise")  # of a protocol
RECIPE = tuple(field.name for field in fields(Recipe))
NO_SELECTION = "none"  # of an adapter that neither trains nor chooses anything
AUTHORS = "published"  # the recipe with which go the options that authors set for each data set
NO_PART = ("recipe_name",)  # of a cell's name: what a recipe is called decides no number


@dataclass(frozen=True)
class Data:
    """The embeddings that a cell reads: which, and a digest that tells them from all others."""

    dataset: str
    prompts: str
    reduce: str
    digest: str


@dataclass(frozen=True)
class Setting:
    """All that decides a result but the seed."""

    data: Data  # where it is fitted
    adapter: str  # as `adapter_class` takes it in any process: FILE.py:CLASS is absolute
    options: tuple[tuple[str, Any], ...]  # every hyper-parameter, sorted by name
    protocol: Protocol
    select: str
    recipe: Recipe | None  # None for an adapter that does not train
    targets: tuple[Data, ...] = ()  # other data it is scored on, where the protocol has such
    code: str | None = None  # digest of the source of an adapter that is not built in
    numerics: int = NUMERICS
    recipe_name: str | None = field(default=None, compare=False)  # None as `recipe` is; its values may be others

    @property
    def name(self) -> str:
        """What tables, records and folders call the adapter."""
        return short_name(self.adapter)

    @cached_property
    def id(self) -> str:
        """Twelve hexadecimal digits."""
        config = self.config()
        for data in (config["data"], *config.get("targets", ())):
            del data["dataset"]  # what a data set is called decides no number
        return short_digest({name: value for name, value in config.items() if name not in NO_PART})

    def config(self) -> dict[str, Any]:
        """The setting as plain data. Of an adapter in a file it has the class and the code, not where the file lies."""
        config = {**asdict(self), "options": dict(self.options), "protocol": self.protocol.config()}
        if self.name != self.adapter:
            config |= {"adapter": self.name, "class": self.adapter.rpartition(":")[2]}
        return {name: value for name, value in config.items() if name not in ("targets", "code") or value}

    @cached_property
    def question(self) -> str:
        """What is asked, as twelve digits: the same question with other data, code or numerics has a stale answer."""
        config = self.config()
        for data in (config["data"], *config.get("targets", ())):
            del data["digest"]
        return short_digest(
            {name: value for name, value in config.items() if name not in ("code", "numerics", *NO_PART)}
        )

    @property
    def metrics(self) -> tuple[str, ...]:
        """What is measured, in the order of a table."""
        return self.protocol.metrics([target.dataset for target in self.targets])

    def flat(self) -> Mapping[str, Any]:
        """The setting as factors: what tables have for columns and records for fields; of the support only if it has
        one.
        """
        return self._flat

    @cached_property
    def _flat(self) -> Mapping[str, Any]:
        protocol, data = self.protocol, self.data
        support = OF_SUPPORT if protocol.shots == 0 else ()
        drawn = {name: getattr(protocol, name) for name in protocol_options(type(protocol)) if name not in support}
        recipe: dict[str, Any] = {}
        if self.recipe:
            recipe = {"recipe": self.recipe_name, **{name: getattr(self.recipe, name) for name in RECIPE}}
        head = {"dataset": data.dataset, "prompts": data.prompts, "reduce": data.reduce, "adapter": self.name}
        return {**head, **dict(self.options), "protocol": protocol.name, **drawn, "select": self.select, **recipe}


@dataclass(frozen=True)
class Cell:
    """One fit: a setting and a seed."""

    setting: Setting
    seed: int

    @cached_property
    def id(self) -> str:
        """Twelve hexadecimal digits."""
        return short_digest({"setting": self.setting.id, "seed": self.seed})


@dataclass(frozen=True)
class Choice:
    """What is asked of one adapter. Options and recipe beyond those given are the adapter's own.

    A recipe name that the adapter does not have is for others of the grid: it keeps its default.
    """

    adapter: str
    protocol: Protocol
    options: Mapping[str, Any] = field(default_factory=dict)
    recipe: Mapping[str, Any] = field(default_factory=dict)  # single values in place of the recipe's
    select: str | None = None  # None: the recipe's, or val
    recipe_name: str | None = None  # None: the adapter's first
    val: str = "rows"  # "none": whatever needs validation rows is refused

    @property
    def named_recipe(self) -> tuple[str, NamedRecipe]:
        """The name and the recipe that the adapter takes."""
        recipes = adapter_class(self.adapter).recipes
        asked = self.recipe_name
        name = asked if asked is not None and asked in recipes else next(iter(recipes))
        return name, recipes[name]

    def authors_options(self, dataset: str) -> dict[str, Any]:
        """Options left open that the adapter's authors set for a data set; none unless their recipe is asked for."""
        published = published_options(self.adapter, dataset) if self.recipe_name == AUTHORS else {}
        return {name: value for name, value in published.items() if name not in self.options}


def resolve(choice: Choice, data: Data, targets: Sequence[Data] = ()) -> Setting:
    """The setting of a choice on some data, every default filled in; what the adapter does not look at is left out.

    Raises AdapterError or UsageError for a value that cannot be.
    """
    if choice.select is not None and choice.select not in SELECTIONS:
        raise UsageError(f"unknown select {choice.select!r}: {nearest(choice.select, SELECTIONS)}")
    _check_recipe(choice.recipe)
    kind, protocol = adapter_class(choice.adapter), choice.protocol
    name = short_name(choice.adapter)
    try:
        with blaming(kind):
            made = kind(**{**choice.options, **choice.authors_options(data.dataset)})
    except AdapterError as error:
        raise AdapterError(f"{name}: {error}") from error.__cause__
    recipe_name, named = choice.named_recipe
    select = choice.select or (named.select if kind.trains else "val")
    if choice.val == "none" and select == "val" and (kind.trains or made.open_options()):
        what = ", ".join(["its epochs"] * kind.trains + made.open_options())
        raise UsageError(
            f"{name} chooses {what} on validation rows, and `val=none` draws none: use `select=classes`, or "
            "`select=last` with every value given"
        )
    if select == "last" and made.open_options():
        names = ", ".join(made.open_options())
        raise UsageError(
            f"{name} chooses {names} on rows that are held out: give a value, or use `select=val` or `select=classes`"
        )
    if not kind.few_shot:
        usual = {name: getattr(type(protocol), name) for name in OF_SUPPORT}
        protocol = replace(protocol, **{**usual, "shots": 0})
    return Setting(
        data=data,
        adapter=choice.adapter,
        options=tuple(sorted(made.options().items())),
        protocol=protocol,
        select=select if kind.trains or made.open_options() else NO_SELECTION,
        recipe=replace(named.recipe, **choice.recipe) if kind.trains else None,
        targets=tuple(targets),
        code=code_of(kind),
        recipe_name=recipe_name if kind.trains else None,
    )


def check_of_use(names: Collection[str], adapters: Sequence[str], protocols: Collection[str]) -> None:
    """Refuse a given option that nothing looks at: of training where no adapter trains, of a protocol that is not
    asked for.
    """
    training = [name for name in ("recipe", *RECIPE) if name in names]
    if "recipe" in names and any(recipe_names(adapter) for adapter in adapters):
        training.remove("recipe")
    if training and not any(adapter_class(adapter).trains for adapter in adapters):
        names = ", ".join(map(short_name, adapters))
        raise UsageError(f"{training[0]} is an option of training, and {names} has none")
    looked_at = {option for name in protocols for option in protocol_options(protocol_class(name))}
    for name in names:
        if name in OPTIONS and name not in looked_at:
            owner = next(kind.name for kind in PROTOCOLS.values() if name in protocol_options(kind))
            raise UsageError(f"{name} is an option of {owner}, and {', '.join(protocols)} does not look at it")


def recipe_names(adapter: str) -> list[str]:
    """The recipes that may be asked for of an adapter: of training, and of options that its authors set."""
    kind = adapter_class(adapter)
    return list(kind.recipes) if kind.trains else [AUTHORS] * (adapter in PUBLISHED)


def cells_of(setting: Setting, seeds: Sequence[int]) -> list[Cell]:
    """One cell for every seed; one alone for an adapter that the seed does not touch."""
    return [Cell(setting, seed) for seed in (seeds if adapter_class(setting.adapter).seeded else [0])]


def code_of(kind: type[Adapter]) -> str | None:
    """Digest of the module of an adapter that is not of this package: changed, its results are others."""
    if kind.__module__.startswith("mma.adapters."):
        return None
    text = text_of(kind.__module__)
    if text is not None:
        return short_digest({"source": text})
    try:
        return short_digest({"source": inspect.getsource(sys.modules[kind.__module__])})
    except (OSError, TypeError):  # no source: a compiled module, or one typed in
        return short_digest({"name": f"{kind.__module__}.{kind.__qualname__}"})


def short_digest(value: Mapping[str, Any]) -> str:
    """Twelve hexadecimal digits of the SHA-256 of plain data."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:12]


def _check_recipe(recipe: Mapping[str, Any]) -> None:
    for name, value in recipe.items():
        if name in CHOICES and value not in CHOICES[name]:
            raise UsageError(f"unknown {name} {value!r}: {nearest(value, CHOICES[name])}")
        if isinstance(value, int | float) and not (value > 0 or (value == 0 and name in MAY_BE_ZERO)):
            raise UsageError(f"{name} = {value} must be above 0")
