"""How far apart are two adapters on base and new classes, under each pair of their recipes? (docs/claims.md)

    mma ablate --cache CACHE adapter=mma,clip-adapter recipe=published,clip-mma,validated seed=0:10 --export cells.csv
    python tests/benchmarks/claims.py cells.csv mma clip-adapter

Differences are paired by seed: mean and half-width of the 95 % Student-t interval, in points.
"""

from __future__ import annotations

import csv
import sys
from pathlib import Path

from mma.pipeline.reports.statistics import mean_text

MEASURES = ("base", "new", "H")

Scores = dict[str, dict[str, float]]  # seed -> measure -> percent


def read_cells(path: str) -> dict[tuple[str, str, str], Scores]:
    """Exported cells by data set, adapter and recipe."""
    found: dict[tuple[str, str, str], Scores] = {}
    with Path(path).open(encoding="utf-8", newline="") as lines:
        for cell in csv.DictReader(lines):
            key = (cell["dataset"], cell["adapter"], cell["recipe"])
            found.setdefault(key, {})[cell["seed"]] = {name: float(cell[name]) for name in MEASURES}
    return found


def main(path: str, ours: str, theirs: str) -> None:
    """Print one line per data set and pair of recipes."""
    cells = read_cells(path)
    print(f"| data set | `{ours}` | `{theirs}` | base | new | H |\n|---|---|---|---|---|---|")
    for (dataset, adapter, recipe), one in cells.items():
        for (other_dataset, other_adapter, other_recipe), other in cells.items():
            if (adapter, other_adapter, other_dataset) != (ours, theirs, dataset):
                continue
            seeds = sorted(one.keys() & other.keys())
            changes = (mean_text([one[seed][name] - other[seed][name] for seed in seeds]) for name in MEASURES)
            print(f"| {dataset} | {recipe} | {other_recipe} | {' | '.join(changes)} |")


if __name__ == "__main__":
    main(*sys.argv[1:])
