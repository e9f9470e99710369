"""`mma reproduce`: a paper's tables, made again.

    read_suite     suite.py      data sets, methods, published numbers: a TOML file
    plan_suite     plan.py       what is there (have.py), what is to be fetched, embedded and fitted
    embed          embedding/    what lacks a cache
    Runner.run     fitting/      what lacks a result
    compare        compare.py    ours beside what was published

What is done is kept in caches and in the results folder, so the same command continues, wherever it was interrupted. A
data set that cannot be had is said, and stops no other.
"""

from __future__ import annotations

from contextlib import closing
from dataclasses import dataclass, field, replace

from rich.console import Console

from mma.adapters import AdapterError
from mma.cache import CacheError, open_cache
from mma.pipeline.embedding.embed import embed
from mma.pipeline.errors import UsageError, WorkError
from mma.pipeline.fitting.results import Failure, Grid, Result, Row
from mma.pipeline.fitting.runner import Runner, bar
from mma.pipeline.fitting.store import Store
from mma.pipeline.reports.tables import notes as table_notes
from mma.pipeline.suites.compare import PaperLine, compare
from mma.pipeline.suites.have import Have, look
from mma.pipeline.suites.plan import Step, plan_fits, plan_suite, show_plan
from mma.pipeline.suites.settings import ReproduceSettings
from mma.pipeline.suites.suite import Suite, Table, read_suite


@dataclass
class Made:
    """A table, and what there is of it by data set and method: a row, or why there is none."""

    table: Table
    rows: dict[tuple[str, str], Row] = field(default_factory=dict)
    refused: dict[tuple[str, str], str] = field(default_factory=dict)
    notes: dict[str, None] = field(
        default_factory=dict
    )  # what a reader must know of the rows and their data, each once

    @property
    def lines(self) -> list[PaperLine]:
        """Ours beside what was published."""
        return compare(self.table, self.rows, self.refused)


@dataclass(frozen=True)
class Reproduced:
    """A suite with its tables as they were made here."""

    suite: Suite
    tables: list[Made]


def reproduce(settings: ReproduceSettings, console: Console) -> Reproduced | None:
    """Do what is not done of a suite, and return its tables; None for a dry run. Plan and progress go to `console`.

    Raises UsageError or AdapterError where the suite cannot be used, WorkError where results cannot be kept.
    """
    suite = read_suite(settings.suite)
    console.print(f"{suite.name}: {suite.title}, {suite.source}")
    with Store(settings.out) as store:
        steps = plan_suite(suite, settings, store)
        show_plan(console, steps)
        if settings.dry_run:
            return None
        made = {id(table): Made(table) for table in suite.tables}
        for step in steps:
            _do(step, made[id(step.table)], settings, store, console)
    return Reproduced(suite, list(made.values()))


def _do(step: Step, made: Made, settings: ReproduceSettings, store: Store, console: Console) -> None:
    """One data set of one table."""
    try:
        have = _cached(step, console)
    except (UsageError, WorkError, CacheError, AdapterError) as error:
        if not step.have.refused:  # else it has been said
            console.print(f"{step.dataset} is left out: {error}")
        made.refused |= {(step.dataset, method.name): str(error) for method in step.table.methods}
        return
    fits = plan_fits(step.table, have, settings.device)
    made.refused |= {(step.dataset, method): why for method, why in fits.refused.items()}
    runner = Runner(fits.plan, store, settings.out, say=console.print)
    runner.known(retry_failed=True)
    wanted = {cell.id for cell in fits.cells}
    todo = [work for work in runner.todo if work.cell.id in wanted]
    if todo:
        console.print(f"{step.dataset}: {len(todo):,} fits")
        with bar(console, "fits", len(todo)) as shown, closing(runner.run(todo, workers=settings.workers)) as running:
            for outcome in running:
                shown(outcome)
    outcomes = runner.outcomes
    results = {key: outcome for key, outcome in outcomes.items() if isinstance(outcome, Result)}
    for method, setting in fits.settings.items():
        of_method = [outcomes[cell.id] for cell in fits.plan.rows[setting]]
        failures = [outcome for outcome in of_method if isinstance(outcome, Failure)]
        row = fits.plan.row(setting, results)
        if failures or row is None:
            made.refused[step.dataset, method] = f"seed {failures[0].cell.seed} failed: {failures[0].reason}"
        else:
            made.rows[step.dataset, method] = row
    of_data = [f"{step.dataset}: {note}" for note in open_cache(have.path).header.notes]
    lost = sum(fits.plan.failed_images.values())
    of_data += [f"{step.dataset}: {lost:,} images have no embedding and are left out"] if lost else []
    rows = [row for (dataset, _), row in made.rows.items() if dataset == step.dataset]
    made.notes |= dict.fromkeys([*table_notes(Grid(rows, notes=list(fits.plan.notes))), *of_data])


def _cached(step: Step, console: Console) -> Have:
    """The data set's cache, made where it is not there. Raises what `embed` raises, in one line."""
    have = look(step.embed)  # an earlier table may have made it
    if have.refused:
        raise UsageError(have.refused)
    if have.complete and have.texts:
        embed(replace(step.embed, text_only=True, prompts=",".join(have.texts)), console)
    elif not have.complete:
        embed(step.embed, console)
    return replace(have, complete=True, texts=())
