"""How do the rows of a grid differ from a baseline? Like with like, seed by seed, or not at all."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from mma.pipeline.fitting.factors import described, matches
from mma.pipeline.fitting.results import Grid, Row
from mma.pipeline.reports.pairing import most_like, same_conditions
from mma.pipeline.reports.tables import interval_text

BySeed = Mapping[int | None, float]  # of a result that no seed decides, under None
Key = tuple[str, str]


def key_of(row: Row) -> Key:
    """What tells a row of a grid from all others: its cache and its setting."""
    return row.cache, row.setting.id


def differences(rows: Sequence[Row], baseline: str) -> dict[Key, tuple[Row, dict[int | None, float]]]:
    """By row: its baseline, and the row minus the baseline in the main metric, in points, for the seeds that both have.

    A result that no seed decides stands for every seed. Rows that pair with nothing, and the baseline, are left out.
    """
    wanted = described(baseline, [row.setting.adapter for row in rows])
    candidates = [row for row in rows if matches(row.setting, wanted)]
    found = {}
    for row in rows:
        base = find_baseline(row, candidates, wanted)
        if base is None or base is row:
            continue
        metric = row.setting.protocol.main
        pairs = seed_by_seed([row.by_seed(metric), base.by_seed(metric)])
        if pairs:
            found[key_of(row)] = base, {seed: of_row - of_base for seed, (of_row, of_base) in pairs.items()}
    return found


def find_baseline(row: Row, candidates: Sequence[Row], named: Collection[str] = ()) -> Row | None:
    """The baseline of a row: of the candidates on the same cache and under the same conditions, but for conditions that
    the baseline's description names, the one most like the row. None where there is none, and where it is of several
    conditions.
    """
    own = row.setting.flat()
    fitting = [r for r in candidates if r.cache == row.cache and same_conditions(own, r.setting.flat(), named)]
    return most_like(own, fitting, lambda other: other.setting.flat())


def seed_by_seed(results: Sequence[BySeed]) -> dict[int | None, list[float]]:
    """Several results side by side, for the seeds that all have; one that no seed decides stands for every seed."""
    seeds: dict[int | None, None] = dict.fromkeys(seed for result in results for seed in result if seed is not None)
    side_by_side = {seed: [each.get(seed, each.get(None)) for each in results] for seed in seeds or [None]}
    return {
        seed: whole
        for seed, values in side_by_side.items()
        if len(whole := [value for value in values if value is not None]) == len(results)
    }


def difference_text(row: Row, base: Row, change: Mapping[int | None, float]) -> str:
    """`+1.20 ± 0.40`: mean and half-width over the seeds of a difference."""
    text = interval_text(list(change.values()), [row, base])
    return text if text.startswith("-") else f"+{text}"


def records_of(grid: Grid, baseline: str) -> list[dict[str, Any]]:
    """One flat record for every cell, each with its difference to the baseline in the main metric; None where none
    pairs.
    """
    found = differences(grid.rows, baseline)
    changes = [found[key_of(row)][1] if key_of(row) in found else {} for row in grid.rows for _ in row.results]
    return [
        {**record, "baseline": baseline, "difference": change.get(record["seed"], change.get(None))}
        for record, change in zip(grid.records(), changes, strict=True)
    ]
