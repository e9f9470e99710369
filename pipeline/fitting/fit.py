"""`mma fit`: adapters on the embeddings of caches, one protocol, some seeds; a table.

Needs neither the model nor the images. A fit is a grid of its seeds: each is a cell, its result goes to the store of
the results folder, and what the store has is not fitted again.
"""

from __future__ import annotations

import time
from contextlib import closing

from rich.console import Console

from mma.adapters import adapter_class, options_of, short_name
from mma.pipeline.errors import UsageError, WorkError, nearest
from mma.pipeline.fitting.factors import adapters_of
from mma.pipeline.fitting.plan import GridPlan, add_grid
from mma.pipeline.fitting.results import Failure, Grid, Result, setting_folder
from mma.pipeline.fitting.runner import Runner, bar
from mma.pipeline.fitting.settings import FitSettings
from mma.pipeline.fitting.store import Store
from mma.pipeline.options import fields_of
from mma.pipeline.progress import span


def fit(settings: FitSettings, console: Console) -> Grid:
    """Fit every adapter for every seed, on every cache. Progress goes to `console`.

    Raises UsageError, CacheError or AdapterError, before any work, where something asked for cannot be done; WorkError
    at the end where a fit failed: the others are kept.
    """
    _check_options(settings)
    plan = GridPlan(keep_weights=True, tolerant=len(settings.cache) > 1)
    add_grid(plan, settings.cache, settings.factors, settings.device, settings.partial, console)
    for setting, why in plan.undrawn.items():  # of several data sets, one that cannot be drawn stops no other
        if all(other.adapter != setting.adapter for other in plan.rows):
            raise UsageError(why)
    with Store(settings.out) as store:
        runner = Runner(plan, store, settings.out, say=console.print)
        runner.known(retry_failed=True, force=settings.force)
        for setting, cells in plan.rows.items():
            have = sum(cell.id in runner.outcomes for cell in cells)
            if have:
                where = setting_folder(settings.out, setting)
                told = f"{setting.name}: {have} of {len(cells)} seeds are in {where} already (`force=True` fits again)"
                console.print(told)
        todo = runner.todo
        if todo:
            start = time.perf_counter()
            with (
                bar(console, "fits", len(todo)) as shown,
                closing(runner.run(todo, workers=settings.workers)) as running,
            ):
                for outcome in running:
                    shown(outcome)
            console.print(f"{len(todo)} fits in {span(time.perf_counter() - start)}")
        runner.write_metrics()
    results = {key: outcome for key, outcome in runner.outcomes.items() if isinstance(outcome, Result)}
    failures = [outcome for outcome in runner.outcomes.values() if isinstance(outcome, Failure)]
    if failures:
        cell, more = failures[0].cell, f" (and {len(failures) - 1} more fits)" if len(failures) > 1 else ""
        named = f"{cell.setting.data.dataset}, {cell.setting.name}, seed {cell.seed}"
        error = WorkError(f"{named}: {failures[0].reason}{more}; the others are kept")
        error.add_note(failures[0].trace)
        raise error
    return plan.grid(results, {}, settings.out)


def _check_options(settings: FitSettings) -> None:
    """Refuse hyper-parameters that none of the adapters has."""
    if not settings.adapter:
        raise UsageError("no adapter is named")
    named = [name for name in adapters_of(settings.factors) if name != "zero-shot" or name in settings.adapter]
    has = {option.name for adapter in named for option in options_of(adapter_class(adapter))}
    own = [field.name for field in fields_of(FitSettings)]
    for name in settings.options:
        if name not in has:
            known, adapters = nearest(name, sorted(has | {*own})), ", ".join(map(short_name, named))
            raise UsageError(f"{name} is an option of neither fit nor {adapters}: {known}")
