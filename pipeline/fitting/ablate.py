"""`mma ablate`: a grid over anything `fit` takes; resumes by itself, and skips what is done."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Collection
from contextlib import AbstractContextManager, closing
from typing import Protocol as Interface

from rich.console import Console

from mma.pipeline.errors import UsageError
from mma.pipeline.fitting.cells import Cell
from mma.pipeline.fitting.estimate import Durations, Kind, Pace
from mma.pipeline.fitting.factors import adapters_of, as_typed, described, matches
from mma.pipeline.fitting.grid import Outcome, Work
from mma.pipeline.fitting.plan import GridPlan, add_grid
from mma.pipeline.fitting.results import Failure, Grid, Result
from mma.pipeline.fitting.runner import Outcomes, Runner, bar
from mma.pipeline.fitting.settings import AblateSettings
from mma.pipeline.fitting.store import Store
from mma.pipeline.progress import Remaining, span

SAID = 10  # failures of which a line is said while a grid runs; its table has them all

Shown = Callable[[Outcome], None]


class Watch(Interface):
    """What a person looks at while a grid runs; see reports/live.py."""

    def __call__(
        self, console: Console, plan: GridPlan, outcomes: Outcomes, total: int, left: Remaining
    ) -> AbstractContextManager[Shown]:
        """A context for `total` cells still to run, which take `left` seconds."""


def plain_bar(
    console: Console, plan: GridPlan, outcomes: Outcomes, total: int, left: Remaining
) -> AbstractContextManager[Shown]:
    """A bar."""
    return bar(console, "cells", total, left)


def ablate(settings: AblateSettings, console: Console, watch: Watch = plain_bar) -> Grid:
    """Run what is not done of a grid, and return all of it. Plan and progress go to `console`.

    A setting that cannot be drawn on its cache is left out, and noted. Raises UsageError, CacheError or AdapterError,
    before any work, where another part of the grid cannot be done, or nothing can be drawn.
    """
    wanted = described(settings.baseline, adapters_of(settings.factors))
    plan = GridPlan(tolerant=True)
    add_grid(plan, settings.cache, settings.factors, settings.device, console=console)
    if plan.undrawn and all(setting.adapter == "zero-shot" for setting in plan.rows):
        raise UsageError(next(iter(plan.undrawn.values())))
    if not any(matches(setting, wanted) for setting in plan.rows):
        raise UsageError(
            f"the baseline {settings.baseline!r} is no setting of this grid: name one of its adapters and values"
        )
    with Store(settings.out) as store:
        runner = Runner(plan, store, settings.out, predictions=settings.predictions, say=console.print)
        runner.known(retry_failed=settings.retry_failed, force=settings.force)
        todo = runner.todo
        _say_plan(console, runner, todo)
        if todo:
            _run(runner, todo, settings, console, watch)
    results = {key: outcome for key, outcome in runner.outcomes.items() if isinstance(outcome, Result)}
    failed = {key: outcome for key, outcome in runner.outcomes.items() if isinstance(outcome, Failure)}
    return plan.grid(results, failed, settings.out)


def _say_plan(console: Console, runner: Runner, todo: list[Work]) -> None:
    failed = sum(isinstance(outcome, Failure) for outcome in runner.outcomes.values())
    done = len(runner.outcomes) - failed
    for reason in dict.fromkeys(runner.plan.undrawn.values()):
        console.print(f"left out: {reason}", markup=False)
    words = [f"{len(runner.plan.cells):,} cells", f"{done:,} done", f"{len(todo):,} to run"]
    if failed:
        words.append(f"{failed:,} failed before (`retry_failed=True` runs them again)")
    stale = runner.store.stale([work.cell for work in todo])
    if stale:
        words.append(f"{stale:,} of them known with another cache, code or numerics")
    console.print(", ".join(words))


def _run(runner: Runner, todo: list[Work], settings: AblateSettings, console: Console, watch: Watch) -> None:
    start, durations = time.perf_counter(), Durations(runner.store.times())
    failed: list[Failure] = []

    def tell(outcome: Outcome) -> None:
        if isinstance(outcome, Failure):
            failed.append(outcome)
            if len(failed) <= SAID:
                named = cell_text(outcome.cell, settings.factors)
                console.print(f"failed: {named}: {outcome.reason}", markup=False)

    here = settings.workers == 1 and settings.scheduler is None
    rest = _probe(runner, todo, durations, tell) if here else todo
    pace = Pace(durations, [work.cell.setting for work in rest], (os.cpu_count() or 1) if here else settings.workers)
    left = pace.left()
    if rest and left is not None:
        console.print(f"about {span(left)}, by cells like these")
    if rest:
        running = runner.run(rest, workers=settings.workers, scheduler=settings.scheduler)
        with watch(console, runner.plan, runner.outcomes, len(rest), pace.left) as shown, closing(running):
            for outcome in running:
                pace.done(outcome.cell.setting, outcome.seconds if isinstance(outcome, Result) else None)
                shown(outcome)
                tell(outcome)
    if len(failed) > SAID:
        console.print(f"and {len(failed) - SAID:,} more failed")
    passed = time.perf_counter() - start
    console.print(f"{len(todo):,} cells in {span(passed)}, {len(todo) / passed:.1f} cells/s")


def _probe(runner: Runner, todo: list[Work], durations: Durations, tell: Shown) -> list[Work]:
    """Run a cell of each adapter of which nothing was measured, the one with most shots; return the rest."""
    probes: dict[str, Work] = {}
    for work in sorted(todo, key=lambda work: work.cell.setting.protocol.shots):
        if durations.seconds(Kind.of(work.cell.setting)) is None:
            probes[work.cell.setting.adapter] = work
    with closing(runner.run(list(probes.values()))) as outcomes:
        for outcome in outcomes:
            tell(outcome)
            if isinstance(outcome, Result):
                durations.add(Kind.of(outcome.cell.setting), outcome.seconds)
    return [work for work in todo if work.cell.id not in runner.outcomes]


def cell_text(cell: Cell, factors: Collection[str]) -> str:
    """A cell as a person finds it in the grid: `small, mma lam=0.5 shots=2, seed 3`."""
    flat = cell.setting.flat()
    values = [f"{name}={as_typed(flat[name])}" for name in factors if name in flat and name not in ("adapter", "seed")]
    return f"{cell.setting.data.dataset}, {' '.join([cell.setting.name, *values])}, seed {cell.seed}"
