"""Carry out a plan: run what is not done of it, record each outcome at once, and say how far it is.

With files, each setting of a plan gets a folder beside the store:

    runs/<adapter>-<id>/   config.json   metrics.json   weights-<seed>.safetensors   predictions-<seed>.npz
"""

from __future__ import annotations

import io
import time
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.console import Console

from mma.cache.durable import write_whole
from mma.pipeline.fitting.cells import Cell
from mma.pipeline.fitting.claims import Claims
from mma.pipeline.fitting.grid import Outcome, Work, run_works
from mma.pipeline.fitting.plan import GridPlan
from mma.pipeline.fitting.results import Predictions, Result, setting_folder, weights_file
from mma.pipeline.fitting.store import Store
from mma.pipeline.json_text import to_json
from mma.pipeline.progress import Remaining, track

POLL = 0.5  # seconds between looks at what another process has done

Outcomes = dict[str, Outcome]  # by cell


class Runner:
    """Runs cells of a plan into a store. `say` is told what a person may wonder about."""

    def __init__(
        self,
        plan: GridPlan,
        store: Store,
        out: Path,
        *,
        predictions: bool = True,
        say: Callable[[str], None] = lambda line: None,
    ) -> None:
        self.plan, self.store, self.out, self.predictions, self._say = plan, store, out, predictions, say
        self.outcomes: Outcomes = {}
        self._again: set[str] = set()  # cells that are to be run though they have a record

    def known(self, *, retry_failed: bool, force: bool = False) -> None:
        """Take what the store has of the plan, unless forced; where files are kept, only if they are there."""
        cells = self.plan.cells
        recorded = self.store.recorded(cells)
        if not force:
            self.outcomes |= self._stored(cells, failures=not retry_failed)
        self._again = recorded - self.outcomes.keys()

    def _stored(self, cells: Sequence[Cell], *, failures: bool) -> Outcomes:
        found: Outcomes = dict(self.store.results(cells))
        if self.plan.keep_weights:
            found = {key: each for key, each in found.items() if weights_file(self.out, each.cell).is_file()}
        if failures:
            found |= self.store.failures(cells)
        return found

    @property
    def todo(self) -> list[Work]:
        """What is neither done nor known to fail."""
        return self.plan.works(cell for cell in self.plan.cells if cell.id not in self.outcomes)

    def run(
        self, works: Sequence[Work], *, workers: int = 1, scheduler: str | None = None
    ) -> Generator[Outcome, None, None]:
        """Run some cells; each outcome is on the disk when it is yielded.

        A cell that another process runs is left to it and waited for at the end; it is run here if that one dies.
        """
        left, told = list(works), False
        with Claims(self.store.path, counts=scheduler is None) as claims:
            while left:
                yield from self._found(left)
                held = claims.held({work.cell.id for work in left})
                free = [work for work in left if work.cell.id not in {*held, *self.outcomes}]
                if free:
                    yield from self._run(free, claims, workers, scheduler)
                elif held:
                    if not told:
                        self._say(f"{len(held):,} cells are run by another process: waiting for it")
                    told = True
                    time.sleep(POLL)
                left = [work for work in left if work.cell.id not in self.outcomes]

    def _run(
        self, works: Sequence[Work], claims: Claims, workers: int, scheduler: str | None
    ) -> Generator[Outcome, None, None]:
        deaths = claims.deaths()  # of a kill from outside, or of a cell: run by itself, a cell shows which
        ready = [replace(work, alone=deaths.get(work.cell.id, 0) > 0) for work in works]

        def take(work: Work) -> bool:
            return claims.take(work.cell.id, recorded=work.cell.id in self._again)

        running = run_works(ready, self.plan.loader, workers=workers, scheduler=scheduler, take=take)
        with closing(running) as outcomes:
            for outcome in outcomes:
                self.record(outcome)
                yield outcome

    def _found(self, works: Sequence[Work]) -> Iterator[Outcome]:
        """What another process has recorded of some cells since they were planned."""
        cells = [work.cell for work in works if work.cell.id not in self._again]
        recorded = self.store.recorded(cells)
        found = self._stored(cells, failures=True)
        self.outcomes |= found
        self._again |= recorded - found.keys()  # recorded without the files that are wanted here
        yield from found.values()

    def record(self, outcome: Outcome) -> None:
        """Write the files of a cell, then its record: a recorded cell has its files."""
        config = self.plan.configs[outcome.cell.setting]
        if self.plan.keep_weights and isinstance(outcome, Result):
            _write_files(outcome, config, self.out)
        self.store.record(outcome, config, predictions=self.predictions)
        self.outcomes[outcome.cell.id] = outcome

    def write_metrics(self) -> None:
        """metrics.json of every setting, where files are kept: what the store has of it."""
        for setting in self.plan.rows:
            if known := self.store.seeds(setting):
                write_whole(setting_folder(self.out, setting) / "metrics.json", _json(known))


@contextmanager
def bar(console: Console, unit: str, total: int, left: Remaining | None = None) -> Iterator[Callable[[Outcome], None]]:
    """A plain bar: what is shown where no one gives something better to look at."""
    with track(console, unit, total, unit, left) as advance:
        yield lambda outcome: advance(1)


def _write_files(result: Result, config: Mapping[str, Any], out: Path) -> None:
    folder = setting_folder(out, result.cell.setting)
    write_whole(folder / "config.json", _json(config))
    write_whole(folder / f"predictions-{result.cell.seed}.npz", _npz(result.predictions))
    write_whole(weights_file(out, result.cell), result.weights or b"")


def _npz(predictions: Sequence[Predictions]) -> bytes:
    arrays: dict[str, NDArray[Any]] = {}
    for p in predictions:
        arrays |= {f"{p.test}_rows": p.rows, f"{p.test}_label": p.label, f"{p.test}_predicted": p.predicted}
        if p.scores:
            arrays |= {f"{p.test}_{field.name}": getattr(p.scores, field.name) for field in fields(p.scores)}
    stream = io.BytesIO()
    np.savez_compressed(stream, allow_pickle=False, **arrays)
    return stream.getvalue()


def _json(value: Mapping[Any, Any]) -> bytes:
    return (to_json(value, indent=2, sort_keys=True) + "\n").encode()
