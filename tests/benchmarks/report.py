"""How long a report of 10,000 cells takes, and how large its page is: python tests/benchmarks/report.py

2,000 settings of five seeds on 2,500 test images of 100 classes, recorded as a grid records them.
"""

from __future__ import annotations

import resource
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from mma.pipeline.fitting.cells import Cell, Choice, Data, resolve
from mma.pipeline.fitting.protocols import FewShot
from mma.pipeline.fitting.results import Predictions, Result
from mma.pipeline.fitting.store import Store
from mma.pipeline.reports.make_report import make_report
from mma.pipeline.reports.page import page
from mma.pipeline.reports.sheets import lay_out
from mma.pipeline.reports.written import as_csv, latex, markdown

CLASSES, EACH, SETTINGS, SEEDS = 100, 25, 2_000, 5


def fill(folder: Path, settings: int) -> None:
    """Record cells whose answers are right by chance, more often the larger lam is."""
    rng = np.random.default_rng(0)
    label = np.repeat(np.arange(CLASSES), EACH).astype(np.int32)
    rows, hard = np.arange(len(label), dtype=np.int32), rng.random(len(label))
    data = Data("many", "default", "unit", "0" * 12)
    choices = [(Choice("zero-shot", FewShot(shots=16)), 0.5)]
    for i in range(settings - 1):
        options = {"lam": round(i / settings, 6)}
        choices.append((Choice("mma", FewShot(shots=(1, 2, 4, 8, 16)[i % 5]), options), 0.5 + 0.2 * i / settings))
    details = {"new_is_zero_shot": False, "chosen": {}, "device": "cpu", "torch": "2", "mma": "0"}
    with Store(folder) as store:
        store._db.execute("pragma synchronous = off")
        for choice, right in choices:
            setting = resolve(choice, data)
            for seed in range(SEEDS if choice.adapter == "mma" else 1):
                correct = hard + 0.1 * rng.standard_normal(len(label)) < right
                predicted = np.where(correct, label, (label + 1) % CLASSES).astype(np.int32)
                metrics = {"accuracy": 100 * float(correct.mean())}
                result = Result(
                    Cell(setting, seed), metrics, details, 1.0, [Predictions("all", rows, label, predicted)]
                )
                store.record(result, {**setting.config(), "fingerprint": {}, "cache_path": "cache/many.zarr"})


def main(settings: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        fill(Path(folder), settings)
        start = time.perf_counter()
        layout = lay_out(make_report(Path(folder)))
        made = time.perf_counter()
        for form in (markdown, latex, lambda each: as_csv(each.report)):
            form(layout)
        written = time.perf_counter()
        text = page(layout)
        paged = time.perf_counter()
        if len(sys.argv) > 2:
            Path(sys.argv[2]).write_text(text, encoding="utf-8")
    print(f"read and compared                {made - start:.2f} s")
    print(f"Markdown, LaTeX, CSV             {written - made:.2f} s")
    print(f"page, {len(text) / 1e6:.1f} MB                    {paged - written:.2f} s")
    print(f"most memory                      {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024:.0f} MB")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else SETTINGS)
