"""`mma ablate`: a grid over anything `fit` takes; resumes by itself, and skips what is done."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, closing
from typing import Protocol as Interface

from rich.console import Console

from mma.pipeline.errors import UsageError
from mma.pipeline.fitting.factors import adapters_of, described, matches
from mma.pipeline.fitting.grid import Outcome, Work
from mma.pipeline.fitting.plan import Plan, add_grid
from mma.pipeline.fitting.results import Failure, Grid, Result
from mma.pipeline.fitting.runner import Outcomes, Runner, bar
from mma.pipeline.fitting.settings import AblateSettings
from mma.pipeline.fitting.store import Store
from mma.pipeline.progress import span

Shown = Callable[[Outcome], None]


class Watch(Interface):
    """What a person looks at while a grid runs; see reports/live.py."""

    def __call__(self, console: Console, plan: Plan, outcomes: Outcomes, total: int) -> AbstractContextManager[Shown]:
        """A context for `total` cells still to run."""


def plain(console: Console, plan: Plan, outcomes: Outcomes, total: int) -> AbstractContextManager[Shown]:
    """A bar."""
    return bar(console, "cells", total)


def ablate(settings: AblateSettings, console: Console, watch: Watch = plain) -> Grid:
    """Run what is not done of a grid, and return all of it. Plan and progress go to `console`.

    Raises UsageError, CacheError or AdapterError, before any work, where a part of the grid cannot be done.
    """
    wanted = described(settings.baseline, adapters_of(settings.factors))
    plan = Plan()
    for cache in settings.cache:
        add_grid(plan, cache, settings.factors, settings.device)
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
    words = [f"{len(runner.plan.cells):,} cells", f"{done:,} done", f"{len(todo):,} to run"]
    if failed:
        words.append(f"{failed:,} failed before (--retry-failed runs them again)")
    stale = runner.store.stale([work.cell for work in todo])
    if stale:
        words.append(f"{stale:,} of them known with another cache, code or numerics")
    console.print(", ".join(words))


def _run(runner: Runner, todo: list[Work], settings: AblateSettings, console: Console, watch: Watch) -> None:
    start, rest = time.perf_counter(), todo
    if settings.workers == 1 and settings.scheduler is None:
        rest = _probe(runner, todo, console)
    if rest:
        running = runner.run(rest, workers=settings.workers, scheduler=settings.scheduler)
        with watch(console, runner.plan, runner.outcomes, len(rest)) as shown, closing(running):
            for outcome in running:
                shown(outcome)
    passed = time.perf_counter() - start
    console.print(f"{len(todo):,} cells in {span(passed)}, {len(todo) / passed:.1f} cells/s")


def _probe(runner: Runner, todo: list[Work], console: Console) -> list[Work]:
    """Run two cells, the first of which warms up, say how long the rest takes by them, and return the rest."""
    seconds = 0.0
    probes = list(dict.fromkeys([todo[-1], todo[len(todo) // 2]]))
    for probe in probes:
        began = time.perf_counter()
        _exhaust(runner.run([probe]))
        seconds = time.perf_counter() - began
    rest = [work for work in todo if work not in probes]
    if rest:
        console.print(f"about {span(seconds * len(rest) / (os.cpu_count() or 1))}, by two cells")
    return rest


def _exhaust(outcomes: Iterator[Outcome]) -> None:
    for _ in outcomes:
        pass
