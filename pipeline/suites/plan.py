"""What is to be done for a suite? All is looked at first, and nothing is fetched, embedded or fitted."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from rich.console import Console

from mma.adapters import AdapterError, adapter_class, short_name
from mma.cache import CacheError
from mma.pipeline.console import Column, show_table
from mma.pipeline.embedding.settings import EmbedSettings
from mma.pipeline.errors import UsageError
from mma.pipeline.fitting.cells import Cell, Setting
from mma.pipeline.fitting.estimate import Durations, Kind
from mma.pipeline.fitting.plan import GridPlan, add_grid
from mma.pipeline.fitting.protocols import DEFAULT_SHOTS
from mma.pipeline.fitting.store import Store
from mma.pipeline.progress import size, span
from mma.pipeline.suites.have import Have, look
from mma.pipeline.suites.settings import ReproduceSettings
from mma.pipeline.suites.suite import Method, Suite, Table


@dataclass
class Fits:
    """The fits of a table on one data set."""

    plan: GridPlan
    settings: dict[str, Setting] = field(default_factory=dict)  # by method
    refused: dict[str, str] = field(default_factory=dict)  # method -> why it cannot be fitted here

    @property
    def cells(self) -> list[Cell]:
        """One for every method and seed."""
        return [cell for setting in dict.fromkeys(self.settings.values()) for cell in self.plan.rows[setting]]


@dataclass(frozen=True)
class Step:
    """One data set of a table."""

    table: Table
    dataset: str
    embed: EmbedSettings
    have: Have
    cells: int  # of the table on this data set
    todo: int  # of them without a result
    seconds: float | None  # that they take, on one core; None where nothing like one of them was measured


def plan_suite(suite: Suite, settings: ReproduceSettings, store: Store) -> list[Step]:
    """The steps, table by table."""
    estimate = Durations(store.times())
    steps = []
    for table in suite.tables:
        for dataset, embed in table.embeds.items():
            here = replace(
                embed,
                cache=str(settings.caches / f"{dataset}.zarr"),
                root=settings.root,
                download=settings.download,
                device=settings.device,
            )
            steps.append(_step(table, dataset, here, settings.device, store, estimate))
    return steps


def plan_fits(table: Table, have: Have, device: str) -> Fits:
    """The fits of a table on a cache that is there. What cannot be fitted is refused method by method."""
    fits = Fits(GridPlan(tolerant=True))
    for method in table.methods:
        try:
            setting = add_grid(fits.plan, [str(have.path)], method.factors, device)[-1]
        except (UsageError, CacheError, AdapterError) as error:
            fits.refused[method.name] = str(error)
            continue
        if setting in fits.plan.undrawn:
            fits.refused[method.name] = fits.plan.undrawn[setting]
        else:
            fits.settings[method.name] = setting
    return fits


def show_plan(console: Console, steps: Sequence[Step]) -> None:
    """Say what is there, what must be fetched and embedded, and how long fits take."""
    for table in dict.fromkeys(step.table.title for step in steps):
        of_table = [step for step in steps if step.table.title == table]
        columns = [Column("data set"), Column("cache"), Column("images"), Column("fits", right=True), Column("time")]
        show_table(console, columns, [_line(step) for step in of_table], table)
    for reason in dict.fromkeys(step.have.refused for step in steps if step.have.refused):
        console.print(f"left out: {reason}")
    console.print(_summary(steps))


def _step(table: Table, dataset: str, embed: EmbedSettings, device: str, store: Store, estimate: Durations) -> Step:
    have = look(embed)
    if have.refused:
        return Step(table, dataset, embed, have, 0, 0, 0.0)
    if not have.complete or have.texts:
        kinds = [_kind(method) for method in table.methods for _ in method.seeds]
        return Step(table, dataset, embed, have, len(kinds), len(kinds), _seconds(kinds, estimate))
    cells = plan_fits(table, have, device).cells
    done = store.results(cells)
    todo = [cell for cell in cells if cell.id not in done]
    seconds = _seconds([Kind.of(cell.setting) for cell in todo], estimate)
    return Step(table, dataset, embed, have, len(cells), len(todo), seconds)


def _kind(method: Method) -> Kind:
    """What is known of a method's fits before there is a cache."""
    shots = method.factors.get("shots", [DEFAULT_SHOTS])[0]
    return Kind(short_name(method.adapter), shots if adapter_class(method.adapter).few_shot else 0, "", "")


def _seconds(kinds: Sequence[Kind], estimate: Durations) -> float | None:
    total = 0.0
    for kind in kinds:
        seconds = estimate.seconds(kind)
        if seconds is None:
            return None
        total += seconds
    return total


def _line(step: Step) -> list[str]:
    have = step.have
    pictures = "" if have.pictures is None else f"{have.pictures:,} "
    cache = f"embed {pictures}images"
    if have.complete:
        cache = f"add {', '.join(have.texts)}" if have.texts else "there"
    fits = f"{step.cells - step.todo:,} of {step.cells:,} done"
    time = "unknown" if step.seconds is None else span(step.seconds) if step.todo else ""
    return [step.dataset, *(("-", have.images, "-", "") if have.refused else (cache, have.images, fits, time))]


def _summary(steps: Sequence[Step]) -> str:
    once: Mapping[object, Have] = {step.have.path: step.have for step in steps}
    fetch = [have.fetch for have in once.values() if have.fetch != 0]
    words = []
    if fetch:
        more = " and more" if None in fetch else ""
        words.append(f"{size(sum(count or 0 for count in fetch))}{more} to fetch")
    embed = [have for have in once.values() if not have.complete and not have.refused]
    words.append(f"{len(embed):,} data sets to embed")
    words.append(f"{sum(step.todo for step in steps):,} fits to run")
    unknown = any(step.seconds is None for step in steps)
    seconds = sum(step.seconds or 0.0 for step in steps) / (os.cpu_count() or 1)
    if seconds:
        words.append(f"about {span(seconds)} for {'those of them like any before' if unknown else 'them'}")
    return ", ".join(words)
