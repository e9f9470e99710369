"""How long `mma predict` takes for 10,000 rows of an unlabelled cache, start included: `python predict_cache.py NPZ`.

NPZ is a file that `mma cache import` takes. The rows are drawn from its images with replacement. Prints the best wall
and processor time of some runs, each of them a process of its own.
"""

from __future__ import annotations

import resource
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import numpy as np

from mma.cache import import_npz, open_cache
from mma.cache.bundle import Bundle, write_bundle
from mma.cache.reader import SplitData

ROWS, RUNS = 10_000, 5


def unlabelled(cache: Path, out: Path) -> None:
    """A cache of one split without labels, of the same encoder."""
    known = open_cache(cache)
    image = np.concatenate([known.split(split).embedding for split in known.header.rows])
    drawn = image[np.random.default_rng(0).integers(len(image), size=ROWS)]
    split = SplitData(
        drawn, np.full(ROWS, -1, np.int32), np.zeros(ROWS, np.uint8), [f"{row}.jpg" for row in range(ROWS)]
    )
    header = replace(known.header, rows={"all": ROWS}, views={"all": drawn.shape[1]}, classnames=[])
    write_bundle(Bundle(header, {"all": split}, {}, {}), out)


def main(npz: str) -> None:
    """Import, export, then predict some times."""
    mma = [sys.executable, "-c", "from mma.pipeline.cli.main import main; main()"]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        cache = import_npz(Path(npz), folder / "known.zarr")
        unlabelled(cache, folder / "new.zarr")
        export = ["export", "--cache", str(cache), "--adapter", "gda", "--out", str(folder / "model")]
        subprocess.run([*mma, *export], check=True)
        wall, processor = [], []
        for run in range(RUNS):
            before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
            words = ["predict", str(folder / "model"), str(folder / "new.zarr"), "--out", str(folder / f"{run}.csv")]
            subprocess.run([*mma, *words], check=True, stderr=subprocess.DEVNULL)
            wall.append(time.perf_counter() - start)
            after = resource.getrusage(resource.RUSAGE_CHILDREN)
            processor.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
        assert len((folder / "0.csv").read_text().splitlines()) == 1 + ROWS
    print(f"{ROWS:,} rows: {min(wall):.2f} s wall, {min(processor):.2f} s of processors (the best of {RUNS} runs)")


if __name__ == "__main__":
    main(sys.argv[1])
