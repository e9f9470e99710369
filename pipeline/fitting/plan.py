"""What is to be run, before anything is: every cell of a fit or a grid, each checked against its data."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from rich.console import Console

from mma.adapters import AdapterError
from mma.adapters.published import PUBLISHED
from mma.pipeline.device import pick_device
from mma.pipeline.errors import UsageError
from mma.pipeline.fitting.cells import AUTHORS, Cell, Choice, Setting, cells_of, recipe_names, resolve
from mma.pipeline.fitting.episodes import most_shots
from mma.pipeline.fitting.factors import (
    Factors,
    check_factors,
    choices_of,
    factor_values,
    protocols_of,
    seeds_of,
    targets_of,
)
from mma.pipeline.fitting.features import Address, Features, Loader
from mma.pipeline.fitting.grid import Work
from mma.pipeline.fitting.protocols import DEFAULT_SHOTS, protocol_class, usual_protocol
from mma.pipeline.fitting.results import Failure, Grid, Result, Row
from mma.pipeline.fitting.run import check_cell
from mma.pipeline.fitting.targets import check_targets


@dataclass
class GridPlan:
    """Settings with their cells, in the order of the table; and where each finds its data."""

    keep_weights: bool = False
    tolerant: bool = False  # whether a setting that cannot be drawn on its cache is left out, and stops nothing
    loader: Loader = field(default_factory=Loader)
    rows: dict[Setting, list[Cell]] = field(default_factory=dict)
    addresses: dict[Setting, tuple[Address, ...]] = field(default_factory=dict)
    configs: dict[Setting, dict[str, Any]] = field(default_factory=dict)  # what is kept with a result
    undrawn: dict[Setting, str] = field(default_factory=dict)  # what is left out, and why
    failed_images: dict[str, int] = field(default_factory=dict)  # by cache: rows without an embedding
    notes: dict[str, None] = field(default_factory=dict)  # what a reader must know of how choices were resolved

    def add(self, setting: Setting, seeds: Sequence[int], addresses: Sequence[Address], caches: Sequence[str]) -> None:
        """A setting's cells. Raises UsageError (unless tolerant), CacheError or AdapterError where one of them cannot
        be run.
        """
        if setting in self.rows or setting in self.undrawn:
            return
        data = [self.loader.features(address) for address in addresses]
        cells = cells_of(setting, seeds)
        try:
            for cell in cells:
                _check(cell, data)
        except UsageError as error:
            if not self.tolerant:
                raise
            self.undrawn[setting] = str(error)
            return
        self.rows[setting], self.addresses[setting] = cells, tuple(addresses)
        where = {"adapter_source": setting.adapter} if setting.name != setting.adapter else {}
        self.configs[setting] = {**setting.config(), **data[0].config(), **where, "cache_path": caches[0]}
        if setting.targets:
            self.configs[setting]["target_paths"] = list(caches[1:])
        self.failed_images |= {cache: of.images.failed for cache, of in zip(caches, data, strict=True)}

    @property
    def cells(self) -> list[Cell]:
        """Every cell, setting by setting."""
        return [cell for cells in self.rows.values() for cell in cells]

    def works(self, cells: Iterable[Cell]) -> list[Work]:
        """Cells, as they are sent to a worker."""
        return [Work(cell, self.addresses[cell.setting], self.keep_weights) for cell in cells]

    def cache(self, setting: Setting) -> str:
        """Where the fitted cache of a setting lies, as it was named."""
        return str(self.configs[setting]["cache_path"])

    def row(self, setting: Setting, done: Mapping[str, Result], out: Path | None = None) -> Row | None:
        """A setting with those of its results that are there; None where there is none."""
        results = [done[cell.id] for cell in self.rows[setting] if cell.id in done]
        return Row(setting, results, self.cache(setting), out if self.keep_weights else None) if results else None

    def grid(self, done: Mapping[str, Result], failed: Mapping[str, Failure], out: Path) -> Grid:
        """Everything that is there, in the order of the table."""
        rows = [row for setting in self.rows if (row := self.row(setting, done, out))]
        lost = sum(self.failed_images.values())
        notes = [f"{lost:,} images of the cache have no embedding and are left out"] if lost else []
        for reason in dict.fromkeys(self.undrawn.values()):
            adapters = dict.fromkeys(setting.name for setting, why in self.undrawn.items() if why == reason)
            notes.append(f"left out: {', '.join(adapters)}; {reason}")
        failures = [failed[cell.id] for cell in self.cells if cell.id in failed]
        return Grid(rows, failures, [*self.notes, *notes], dict(self.undrawn))


def add_grid(
    plan: GridPlan,
    caches: Sequence[str],
    factors: Factors,
    device: str = "auto",
    partial: bool = False,
    console: Console | None = None,
) -> list[Setting]:
    """Every cell of a grid, on every cache; returns the settings in order.

    Raises UsageError, CacheError or AdapterError where a part cannot be done.

    Where no shots are given there are as many along every axis, and on every cache: what the smallest class allows.
    """
    device = pick_device(device).type
    seeds, wanted = seeds_of(factors), targets_of(factors)
    texts = list(itertools.product(factor_values("prompts", factors), factor_values("reduce", factors)))
    grids = [Address(cache, *text, device, partial) for cache in caches for text in texts]
    usual = {address: _usual_protocol(plan.loader.features(address), factors) for address in grids}
    protocols = {
        address: list(dict.fromkeys(name or usual[address][0] for name in factor_values("protocol", factors)))
        for address in grids
    }
    check_factors(factors, list(dict.fromkeys(name for names in protocols.values() for name in names)))
    shots = min(
        most_shots(plan.loader.features(address).labels, drawn, validate="rows" in factor_values("val", factors))
        for address, names in protocols.items()
        for name in names
        for drawn in protocols_of(factors, name)
    )
    if console and None in factor_values("protocol", factors):
        for name, why in dict.fromkeys(usual.values()):
            console.print(f"note: protocol {name}, since {why} (choose with `protocol=NAME`)", markup=False)
    if console and "shots" not in factors and shots < DEFAULT_SHOTS:
        console.print(f"note: {shots} shots, which is what the smallest class allows (choose with `shots=K`)")
    named = dict(zip(grids, (cache for cache in caches for _ in texts), strict=True))
    settings = []
    for address, names in protocols.items():
        features = plan.loader.features(address)
        elsewhere = [replace(address, cache=target) for target in wanted]
        targets = [plan.loader.features(other) for other in elsewhere]
        check_targets(features, targets)
        for name in names:
            there = len(wanted) if protocol_class(name).transfers else 0
            scored, at = [target.data for target in targets[:there]], [address, *elsewhere[:there]]
            for choice in choices_of(factors, name, shots):
                setting = resolve(choice, features.data, scored)
                plan.add(setting, seeds, at, [named[address], *wanted[:there]])
                plan.notes |= dict.fromkeys(_notes(choice, setting))
                settings.append(setting)
    return settings


def _usual_protocol(features: Features, factors: Factors) -> tuple[str, str]:
    """The protocol of some data where none is given, and why."""
    return usual_protocol(features.images.dataset, len(features.classnames), len(targets_of(factors)))


def _notes(choice: Choice, setting: Setting) -> Iterator[str]:
    """Where an adapter takes something else than was asked for, or than its defaults."""
    adapter, asked, dataset = choice.adapter, choice.recipe_name, setting.data.dataset
    idle = [name for name in ("patience", "monitor") if name in choice.recipe]
    if idle and setting.recipe and setting.select == "last":
        yield f"{setting.name} keeps its last epoch (select last), and does not look at {' and '.join(idle)}"
    names = recipe_names(adapter)
    if asked is None or not names:
        return
    if asked not in names:
        yield f"recipe {asked}: {setting.name} has none of that name, and keeps {setting.recipe_name or 'its defaults'}"
    elif asked == AUTHORS and adapter in PUBLISHED:
        values = ", ".join(f"{name} {value:g}" for name, value in choice.authors_options(dataset).items())
        if values:
            yield f"recipe {asked}: {adapter} has what its authors set for {dataset}: {values}"
        elif dataset not in PUBLISHED[adapter]:
            yield f"recipe {asked}: what the authors of {adapter} set is for other data sets than {dataset}"


def _check(cell: Cell, data: Sequence[Features]) -> None:
    try:
        check_cell(cell, data)
    except (UsageError, AdapterError) as error:
        raise type(error)(f"{cell.setting.data.dataset}: {error}") from error
