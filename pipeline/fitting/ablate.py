"""`mma ablate`: a grid over anything `fit` takes; resumes by itself, and skips what is done."""

from __future__ import annotations

import itertools
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol as Interface

from rich.console import Console, Group
from rich.live import Live
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from mma.pipeline.errors import UsageError
from mma.pipeline.fitting.cells import Cell, Setting, cells_of
from mma.pipeline.fitting.factors import Factors, check_factors, described, fits, seeds_of, settings_of
from mma.pipeline.fitting.features import Features
from mma.pipeline.fitting.fit import Row, cell_config
from mma.pipeline.fitting.grid import Outcome, Source, Work, features_of, run_works
from mma.pipeline.fitting.run import METRICS, Result, draw
from mma.pipeline.fitting.store import Failure, Store
from mma.pipeline.progress import Rate, span, track
from mma.pipeline.reports.tables import label, metric_text

LIVE_ROWS = 12  # settings shown while running, those that changed last


@dataclass(frozen=True)
class AblateSettings:
    """What `mma ablate` can be told; the command line's options, by name."""

    caches: Sequence[str]
    factors: Factors = field(default_factory=dict)
    device: str = "auto"
    out: Path = Path("runs")
    workers: int = 1
    scheduler: str | None = None
    retry_failed: bool = False
    force: bool = False
    keep_predictions: bool = True
    baseline: str = "zero-shot"


@dataclass(frozen=True)
class Ablated:
    """A finished grid: rows with all their seeds, and the cells that failed."""

    rows: Sequence[Row]
    failures: Sequence[Failure]
    failed_images: int


def ablate(settings: AblateSettings, console: Console) -> Ablated:
    """Run what is not done of a grid, and return all of it. Plan and progress go to `console`.

    Raises UsageError, CacheError or AdapterError, before any work, where a part of the grid cannot be done.
    """
    if settings.workers < 1:
        raise UsageError(f"--workers {settings.workers} must be at least 1")
    check_factors(settings.factors)
    wanted = described(settings.baseline)
    plan = _plan(settings)
    if not any(fits(setting, wanted) for setting in plan.rows):
        raise UsageError(
            f"--baseline {settings.baseline!r} is no setting of this grid: name one of its adapters and values"
        )
    store = Store(settings.out)
    try:
        done, failed = _known(store, plan, settings)
        todo = [work for work in plan.works if work.cell.id not in done and work.cell.id not in failed]
        _say_plan(console, plan, store, done, failed, todo)
        if todo:
            _run(plan, todo, store, done, failed, settings, console)
    finally:
        store.close()
    rows = []
    for setting, cells in plan.rows.items():
        results = [done[cell.id] for cell in cells if cell.id in done]
        if results:
            rows.append(Row(setting, results, plan.paths[setting.cache]))
    images = sum(features.failed for features in {id(f): f for f in plan.features.values()}.values())
    return Ablated(rows, [failed[work.cell.id] for work in plan.works if work.cell.id in failed], images)


@dataclass(frozen=True)
class _Plan:
    rows: Mapping[Setting, Sequence[Cell]]
    works: Sequence[Work]
    features: Mapping[str, Features]  # by cache digest
    paths: Mapping[str, str]  # cache digest -> where the cache is


def _plan(settings: AblateSettings) -> _Plan:
    """Every cell of the grid; refuses what cannot be drawn."""
    rows: dict[Setting, list[Cell]] = {}
    works: list[Work] = []
    features: dict[str, Features] = {}
    paths: dict[str, str] = {}
    seeds = seeds_of(settings.factors)
    for cache in settings.caches:
        texts = settings.factors.get("prompts", ["default"]), settings.factors.get("reduce", ["unit"])
        for prompts, reduce in itertools.product(*texts):
            source = Source(cache, prompts, settings.device, reduce)
            loaded = features_of(source)
            features[loaded.digest], paths[loaded.digest] = loaded, cache
            for setting in settings_of(settings.factors, loaded):
                if setting not in rows:
                    rows[setting] = cells_of(setting, seeds)
                    works += [Work(cell, source) for cell in rows[setting]]
    for work in works:
        draw(work.cell, features[work.cell.setting.cache])
    return _Plan(rows, works, features, paths)


def _known(store: Store, plan: _Plan, settings: AblateSettings) -> tuple[dict[str, Result], dict[str, Failure]]:
    """What the store has of the grid, and is not to be run again."""
    if settings.force:
        return {}, {}
    cells = [work.cell for work in plan.works]
    return store.results(cells), {} if settings.retry_failed else store.failures(cells)


def _say_plan(
    console: Console,
    plan: _Plan,
    store: Store,
    done: Mapping[str, Result],
    failed: Mapping[str, Failure],
    todo: Sequence[Work],
) -> None:
    words = [f"{len(plan.works):,} cells", f"{len(done):,} done", f"{len(todo):,} to run"]
    if failed:
        words.append(f"{len(failed):,} failed before (--retry-failed runs them again)")
    stale = store.stale([work.cell for work in todo])
    if stale:
        words.append(f"{stale:,} of them known with another cache, code or numerics")
    console.print(", ".join(words))


def _run(
    plan: _Plan,
    todo: Sequence[Work],
    store: Store,
    done: dict[str, Result],
    failed: dict[str, Failure],
    settings: AblateSettings,
    console: Console,
) -> None:
    """Run and record; `done` and `failed` grow."""
    start = time.perf_counter()

    def record(outcome: Outcome) -> None:
        digest = outcome.cell.setting.cache
        config = cell_config(outcome.cell, plan.features[digest], plan.paths[digest])
        store.record(outcome, config, predictions=settings.keep_predictions)
        if isinstance(outcome, Result):
            done[outcome.cell.id] = outcome
        else:
            failed[outcome.cell.id] = outcome

    rest = list(todo)
    if settings.workers == 1 and settings.scheduler is None:
        rest = _probe(todo, record, console)
    if rest:
        with _show(console, plan, done, len(rest)) as shown:
            for outcome in run_works(rest, workers=settings.workers, scheduler=settings.scheduler):
                record(outcome)
                shown(outcome)
    passed = time.perf_counter() - start
    console.print(f"{len(todo):,} cells in {span(passed)}, {len(todo) / passed:.1f} cells/s")


def _probe(todo: Sequence[Work], record: Callable[[Outcome], None], console: Console) -> list[Work]:
    """Run two cells, the first of which warms up, say how long the rest takes by them, and return the rest."""
    seconds = 0.0
    probes = list(dict.fromkeys([todo[-1], todo[len(todo) // 2]]))
    for probe in probes:
        began = time.perf_counter()
        record(next(run_works([probe])))
        seconds = time.perf_counter() - began
    rest = [work for work in todo if work not in probes]
    if rest:
        console.print(f"about {span(seconds * len(rest) / (os.cpu_count() or 1))}, by two cells")
    return rest


class _Shown(Interface):
    def __call__(self, outcome: Outcome) -> None: ...


@contextmanager
def _show(console: Console, plan: _Plan, done: Mapping[str, Result], total: int) -> Iterator[_Shown]:
    """A live table with the running means of the settings that changed last, over a progress bar; in a log, lines."""
    if not console.is_terminal:
        with track(console, "cells", total, "cells") as advance:
            yield lambda outcome: advance(1)
        return
    bar = Progress(BarColumn(), MofNCompleteColumn(), Rate("cells"), TimeRemainingColumn(), TextColumn("left"))
    task = bar.add_task("cells", total=total)
    recent: dict[Setting, None] = {}
    with Live(bar, console=console, refresh_per_second=4, transient=True) as live:

        def shown(outcome: Outcome) -> None:
            bar.advance(task)
            recent.pop(outcome.cell.setting, None)
            recent[outcome.cell.setting] = None
            live.update(Group(_running(list(recent)[-LIVE_ROWS:], plan, done), bar))

        yield shown


def _running(settings: Sequence[Setting], plan: _Plan, done: Mapping[str, Result]) -> Table:
    table = Table("setting", "seeds", "metrics", box=None)
    for setting in settings:
        cells = plan.rows[setting]
        results = [done[cell.id] for cell in cells if cell.id in done]
        if results:
            row = Row(setting, results, plan.paths[setting.cache])
            metrics = "  ".join(f"{name} {metric_text(row, name)}" for name in METRICS[setting.protocol.name])
            table.add_row(label(setting), f"{len(results)}/{len(cells)}", metrics)
    return table
