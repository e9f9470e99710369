"""Carry out a plan: run what is not done of it, record each outcome at once, and say how far it is.

With files, each setting of a plan gets a folder beside the store:

    runs/<adapter>-<id>/   config.json   metrics.json   weights-<seed>.safetensors   predictions-<seed>.npz
"""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.console import Console

from mma.cache.durable import write_whole
from mma.pipeline.fitting.grid import Outcome, Work, run_works
from mma.pipeline.fitting.plan import Plan
from mma.pipeline.fitting.results import Predictions, Result, setting_folder, weights_file
from mma.pipeline.fitting.store import Store
from mma.pipeline.progress import track

Outcomes = dict[str, Outcome]  # by cell


class Runner:
    """Runs cells of a plan into a store."""

    def __init__(self, plan: Plan, store: Store, out: Path, *, predictions: bool = True) -> None:
        self.plan, self.store, self.out, self.predictions = plan, store, out, predictions
        self.outcomes: Outcomes = {}

    def known(self, *, retry_failed: bool) -> None:
        """Take what the store has of the plan; where files are kept, only if they are there."""
        cells = self.plan.cells
        done: Outcomes = dict(self.store.results(cells))
        if self.plan.keep_weights:
            done = {key: found for key, found in done.items() if weights_file(self.out, found.cell).is_file()}
        self.outcomes |= done
        if not retry_failed:
            self.outcomes |= self.store.failures(cells)

    @property
    def todo(self) -> list[Work]:
        """What is neither done nor known to fail."""
        return self.plan.works(cell for cell in self.plan.cells if cell.id not in self.outcomes)

    def run(
        self, works: Sequence[Work], *, workers: int = 1, scheduler: str | None = None
    ) -> Generator[Outcome, None, None]:
        """Run some cells; each outcome is on the disk when it is yielded."""
        with closing(run_works(works, self.plan.loader, workers=workers, scheduler=scheduler)) as outcomes:
            for outcome in outcomes:
                self.record(outcome)
                yield outcome

    def record(self, outcome: Outcome) -> None:
        """Write the files of a cell, then its record: a recorded cell has its files."""
        config = self.plan.configs[outcome.cell.setting]
        if self.plan.keep_weights and isinstance(outcome, Result):
            _write_files(outcome, config, self.out)
        self.store.record(outcome, config, predictions=self.predictions)
        self.outcomes[outcome.cell.id] = outcome

    def write_metrics(self) -> None:
        """metrics.json of every setting, where files are kept."""
        for setting, cells in self.plan.rows.items():
            done = [self.outcomes[cell.id] for cell in cells if cell.id in self.outcomes]
            results = [outcome for outcome in done if isinstance(outcome, Result)]
            if results:
                _write_metrics(setting_folder(self.out, setting), results)


@contextmanager
def bar(console: Console, unit: str, total: int) -> Iterator[Callable[[Outcome], None]]:
    """A plain bar: what is shown where no one gives something better to look at."""
    with track(console, unit, total, unit) as advance:
        yield lambda outcome: advance(1)


def _write_files(result: Result, config: Mapping[str, Any], out: Path) -> None:
    folder = setting_folder(out, result.cell.setting)
    write_whole(folder / "config.json", _json(config))
    write_whole(folder / f"predictions-{result.cell.seed}.npz", _npz(result.predictions))
    write_whole(weights_file(out, result.cell), result.weights or b"")


def _write_metrics(folder: Path, results: Sequence[Result]) -> None:
    path = folder / "metrics.json"
    known = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    seeds = {str(r.cell.seed): {**r.metrics, "seconds": round(r.seconds, 3), **r.details} for r in results}
    write_whole(path, _json({**known, **seeds}))


def _npz(predictions: Sequence[Predictions]) -> bytes:
    arrays: dict[str, NDArray[np.int32]] = {}
    for p in predictions:
        arrays |= {f"{p.test}_rows": p.rows, f"{p.test}_label": p.label, f"{p.test}_predicted": p.predicted}
    stream = io.BytesIO()
    np.savez_compressed(stream, allow_pickle=False, **arrays)
    return stream.getvalue()


def _json(value: Mapping[str, Any]) -> bytes:
    return (json.dumps(value, indent=2, sort_keys=True) + "\n").encode()
