"""What stage two leaves: the result of a cell, and the rows of a table."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from html import escape
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mma.adapters import Adapter, adapter_class, from_bytes, short_name
from mma.pipeline.errors import UsageError
from mma.pipeline.fitting.cells import Cell, Setting
from mma.pipeline.fitting.row_scores import RowScores


@dataclass(frozen=True)
class Predictions:
    """What an adapter said of the rows of one test; classes count within the data set."""

    test: str
    rows: NDArray[np.int32]  # [N] of the test split
    label: NDArray[np.int32]  # [N]
    predicted: NDArray[np.int32]  # [N]
    scores: RowScores | None = None  # of its probabilities; None in results of before they were kept


@dataclass(frozen=True)
class Result:
    """One finished cell."""

    cell: Cell
    metrics: dict[str, float]  # percent
    details: dict[str, Any]  # of training, where it ran, and whether new classes are scored zero-shot
    seconds: float
    predictions: list[Predictions]
    weights: bytes | None = None  # safetensors, where they were asked for


@dataclass(frozen=True)
class Failure:
    """A cell that could not be run, and why."""

    cell: Cell
    reason: str
    trace: str = ""  # the traceback where it happened, which may be another process; not kept in the store


@dataclass(frozen=True)
class Row:
    """One row of a table: a setting, and its result for every seed."""

    setting: Setting
    results: Sequence[Result]
    cache: str  # where the fitted cache lies: two caches may be of one data set
    out: Path | None = None  # the results folder, where weights were kept

    @property
    def seconds(self) -> float:
        """Mean time of a cell: fit and scoring."""
        return sum(result.seconds for result in self.results) / len(self.results)

    @property
    def metrics(self) -> tuple[str, ...]:
        """What was measured, in the order of a table."""
        return self.setting.metrics

    def values(self, metric: str) -> list[float]:
        """A metric of every seed, in percent."""
        return [result.metrics[metric] for result in self.results]

    @property
    def one_support(self) -> bool:
        """Whether several seeds drew one and the same support, as 16 shots of 16 rows are."""
        supports = {result.details.get("support") for result in self.results}
        return len(self.results) > 1 and len(supports) == 1 and None not in supports

    def by_seed(self, metric: str) -> dict[int | None, float]:
        """A metric by seed; by None where the seed decides nothing."""
        seeded = adapter_class(self.setting.adapter).seeded
        return {result.cell.seed if seeded else None: result.metrics[metric] for result in self.results}

    def adapter(self, seed: int = 0) -> Adapter:
        """The fitted adapter of a seed, a torch module in evaluation mode. Raises UsageError where none was kept."""
        cells = {result.cell.seed: result.cell for result in self.results}
        if self.out is None or seed not in cells:
            raise UsageError(f"no weights of seed {seed} were kept; seeds are {', '.join(map(str, cells))}")
        return from_bytes(weights_file(self.out, cells[seed]).read_bytes())


@dataclass(frozen=True)
class Grid:
    """A finished fit or grid: its rows, zero-shot first, the cells that failed, and what a reader must know of them."""

    rows: Sequence[Row]
    failures: Sequence[Failure] = ()
    notes: Sequence[str] = field(default_factory=list)
    undrawn: Mapping[Setting, str] = field(default_factory=dict)  # what could not be drawn on its cache, and why
    chosen: Mapping[str, str] = field(default_factory=dict)  # by cache, the adapter that `adapter=auto` chose

    def __getitem__(self, adapter: str) -> Row:
        """The one row of an adapter. Raises UsageError where there is none, or are several."""
        rows = [row for row in self.rows if row.setting.name == short_name(adapter)]
        if len(rows) != 1:
            names = ", ".join(dict.fromkeys(row.setting.name for row in self.rows))
            raise UsageError(f"{len(rows)} rows are of {adapter!r}: the adapters here are {names}; see .rows")
        return rows[0]

    def __iter__(self) -> Iterator[Row]:
        return iter(self.rows)

    def _repr_html_(self) -> str:
        """What a notebook shows: one row per setting, means over its seeds; nothing of it is markup from outside."""
        names = list(dict.fromkeys(metric for row in self.rows for metric in row.metrics))
        varying = [
            name
            for name in dict.fromkeys(name for row in self.rows for name in row.setting.flat())
            if name != "adapter" and len({str(row.setting.flat().get(name, "")) for row in self.rows}) > 1
        ]
        heads = ["adapter", *varying, *names, "seeds"]
        lines = [f"<tr>{''.join(f'<th>{escape(head)}</th>' for head in heads)}</tr>"]
        for row in self.rows:
            flat = row.setting.flat()
            words = [row.setting.adapter, *(str(flat.get(name, "")) for name in varying)]
            means = [f"{float(np.mean(row.values(name))):.2f}" if name in row.metrics else "" for name in names]
            cells = [*words, *means, str(len(row.results))]
            lines.append(f"<tr>{''.join(f'<td>{escape(cell)}</td>' for cell in cells)}</tr>")
        return f"<table>{''.join(lines)}</table>"

    def records(self) -> list[dict[str, Any]]:
        """One flat record for every cell: its factors, metrics in percent, what was chosen, where it comes from."""
        return [
            {
                **row.setting.flat(),
                "seed": result.cell.seed,
                **result.metrics,
                **{name: result.details.get(name) for name in ("new_is_zero_shot", "best_epoch", "support")},
                **{f"chosen_{name}": value for name, value in result.details["chosen"].items()},
                "seconds": result.seconds,
                "cell": result.cell.id,
                "cache": row.cache,
            }
            for row in self.rows
            for result in row.results
        ]


def setting_folder(out: Path, setting: Setting) -> Path:
    """Where the files of a setting lie."""
    return out / f"{setting.name}-{setting.id}"


def weights_file(out: Path, cell: Cell) -> Path:
    """Where the weights of a cell lie."""
    return setting_folder(out, cell.setting) / f"weights-{cell.seed}.safetensors"
