"""Stage two, `mma fit`: adapters on the embeddings of a cache, one protocol, some seeds; one table.

Needs neither the model nor the images. A fit is a grid of its seeds: each is a cell, its result goes to the store of
the results folder, and what the store has is not fitted again. Beside the store each setting gets a folder:

    runs/<adapter>-<id>/   config.json   metrics.json   weights-<seed>.safetensors   predictions-<seed>.npz
"""

from __future__ import annotations

import io
import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.console import Console

from mma.adapters import Recipe, adapter_class, options_of
from mma.cache.durable import write_whole
from mma.pipeline.errors import UsageError, WorkError, nearest
from mma.pipeline.fitting.cells import Cell, Setting, cells_of, check_of_use, make_setting
from mma.pipeline.fitting.episodes import DEFAULT_SHOTS, Protocol, most_shots
from mma.pipeline.fitting.features import Features
from mma.pipeline.fitting.grid import Source, Work, features_of, run_works
from mma.pipeline.fitting.run import Predictions, Result, draw
from mma.pipeline.fitting.store import Failure, Store
from mma.pipeline.progress import span, track

FIT_OPTIONS = {
    *("adapter", "protocol", "seeds", "select", "prompts", "reduce", "device", "out", "workers"),
    *(field.name for field in (*fields(Protocol), *fields(Recipe)) if field.name != "name"),
}


@dataclass(frozen=True)
class FitSettings:
    """What `mma fit` can be told; the command line's options, by name."""

    cache: str
    adapters: Sequence[str] = ("mma",)
    options: Mapping[str, str] = field(
        default_factory=dict
    )  # hyper-parameters as typed, for the adapters that have them
    protocol: Protocol = field(default_factory=Protocol)
    shots: int | None = None  # None: 16, or what the classes allow
    seeds: int = 3
    select: str = "val"
    recipe: Mapping[str, Any] = field(default_factory=dict)  # lr, weight_decay, batch, epochs, patience, optimizer
    prompts: str = "default"
    reduce: str = "unit"
    device: str = "auto"
    out: Path = Path("runs")
    workers: int = 1
    partial: bool = False
    force: bool = False


@dataclass(frozen=True)
class Row:
    """One row of a table: a setting, and its result for every seed."""

    setting: Setting
    results: Sequence[Result]
    cache: str  # where it lies: two caches may be of one data set

    @property
    def seconds(self) -> float:
        """Mean time of a cell: fit and scoring."""
        return sum(result.seconds for result in self.results) / len(self.results)


@dataclass(frozen=True)
class Fitted:
    """What a fit leaves: rows, zero-shot first, and what a reader must know of them."""

    rows: Sequence[Row]
    failed_images: int


def fit_cache(settings: FitSettings, console: Console) -> Fitted:
    """Fit every adapter for every seed, and return the rows of the table. Progress goes to `console`.

    Raises UsageError, CacheError or AdapterError, before any work, where something asked for cannot be done.
    """
    _check(settings)
    source = Source(settings.cache, settings.prompts, settings.device, settings.reduce, settings.partial)
    features = features_of(source)
    rows = {setting: cells_of(setting, range(settings.seeds)) for setting in _settings(settings, features, console)}
    cells = [cell for row in rows.values() for cell in row]
    for cell in cells:
        draw(cell, features)  # refuses what cannot be drawn, before the first fit
    store = Store(settings.out)
    try:
        done = {} if settings.force else _finished(store, cells, settings.out)
        for setting, row in rows.items():
            have = sum(cell.id in done for cell in row)
            if have:
                where = setting_folder(settings.out, setting)
                console.print(
                    f"{setting.adapter}: {have} of {len(row)} seeds are in {where} already (--force fits again)"
                )
        todo = [Work(cell, source, keep_weights=True) for cell in cells if cell.id not in done]
        done |= _run(todo, features, store, settings, console)
    finally:
        store.close()
    for setting, row in rows.items():
        _write_metrics(setting_folder(settings.out, setting), [done[cell.id] for cell in row])
    found = [Row(setting, [done[cell.id] for cell in row], settings.cache) for setting, row in rows.items()]
    return Fitted(found, features.failed)


def read_options(adapter: str, options: Mapping[str, str]) -> dict[str, Any]:
    """The hyper-parameters among `options` that this adapter has, as values. Raises AdapterError."""
    known = {option.name: option for option in options_of(adapter_class(adapter))}
    return {name: known[name].parse(text) for name, text in options.items() if name in known}


def setting_folder(out: Path, setting: Setting) -> Path:
    """Where the files of a setting lie."""
    return out / f"{setting.adapter}-{setting.id}"


def cell_config(cell: Cell, features: Features, cache: str) -> dict[str, Any]:
    """All that is known of how a cell came to be, as plain data."""
    return {
        **cell.setting.config(),
        "cache_path": cache,
        "templates": features.prompts["templates"],
        "fingerprint": features.fingerprint,
    }


def _check(settings: FitSettings) -> None:
    for name, number in (("seeds", settings.seeds), ("shots", settings.shots), ("workers", settings.workers)):
        if number is not None and number < 1:
            raise UsageError(f"--{name} {number} must be at least 1")
    if not settings.adapters:
        raise UsageError("no adapter is named: give --adapter")
    protocol, usual = settings.protocol, Protocol()
    of_base = [name for name in ("base_rule", "base_ratio") if getattr(protocol, name) != getattr(usual, name)]
    check_of_use([*settings.recipe, *of_base], settings.adapters, [protocol.name])
    has = {option.name for adapter in settings.adapters for option in options_of(adapter_class(adapter))}
    for name in settings.options:
        if name in FIT_OPTIONS:
            raise UsageError(f"--{name} is written --{name.replace('_', '-')}")
        if name not in has:
            raise UsageError(
                f"--{name.replace('_', '-')} is an option of neither fit nor {', '.join(settings.adapters)}: "
                f"{nearest(name, sorted(has | FIT_OPTIONS))}"
            )


def _settings(settings: FitSettings, features: Features, console: Console) -> list[Setting]:
    """Zero-shot first, then each adapter in the order given."""
    shots = settings.shots or most_shots(features.labels, settings.protocol)
    if settings.shots is None and shots < DEFAULT_SHOTS:
        console.print(f"note: {shots} shots, which is what the smallest class allows (--shots to choose)")
    names = ["zero-shot", *(name for name in dict.fromkeys(settings.adapters) if name != "zero-shot")]
    return [
        make_setting(
            features.digest,
            features.dataset,
            settings.prompts,
            settings.reduce,
            name,
            read_options(name, settings.options),
            replace(settings.protocol, shots=shots),
            settings.select,
            settings.recipe,
        )
        for name in names
    ]


def _finished(store: Store, cells: Sequence[Cell], out: Path) -> dict[str, Result]:
    """Results in the store whose weights lie beside it."""
    return {key: result for key, result in store.results(cells).items() if _weights(out, result.cell).is_file()}


def _run(
    works: Sequence[Work], features: Features, store: Store, settings: FitSettings, console: Console
) -> dict[str, Result]:
    """Fit, write the files of each fit, record it. A failure is recorded, stops no other, and is raised at the end."""
    done: dict[str, Result] = {}
    failures: list[Failure] = []
    if not works:
        return done
    start = time.perf_counter()
    with track(console, "fits", len(works), "fits") as advance:
        for outcome in run_works(works, workers=settings.workers):
            config = cell_config(outcome.cell, features, settings.cache)
            if isinstance(outcome, Result):
                _write_run(outcome, config, settings.out)
                done[outcome.cell.id] = outcome
            else:
                failures.append(outcome)
            store.record(outcome, config)
            advance(1)
    if failures:
        cell, more = failures[0].cell, f" (and {len(failures) - 1} more fits)" if len(failures) > 1 else ""
        raise WorkError(f"{cell.setting.adapter}, seed {cell.seed}: {failures[0].reason}{more}; the others are kept")
    console.print(f"{len(works)} fits in {span(time.perf_counter() - start)}")
    return done


def _write_run(result: Result, config: Mapping[str, Any], out: Path) -> None:
    """The files of one cell; the store's record comes after them, so a recorded cell has its files."""
    folder = setting_folder(out, result.cell.setting)
    write_whole(folder / "config.json", _json(config))
    write_whole(folder / f"predictions-{result.cell.seed}.npz", _npz(result.predictions))
    write_whole(_weights(out, result.cell), result.weights or b"")


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


def _weights(out: Path, cell: Cell) -> Path:
    return setting_folder(out, cell.setting) / f"weights-{cell.seed}.safetensors"
