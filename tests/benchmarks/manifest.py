"""How long a large manifest takes to be listed, checked and hashed: python tests/benchmarks/manifest.py

100,000 images as real (empty) files, and a manifest of 1,000,000 rows of which one file exists; beside each, the time
that reading the same CSV takes with the standard library alone.
"""

from __future__ import annotations

import csv
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from mma.pipeline.datasets import Lookup, find_dataset
from mma.pipeline.embedding.header import manifest_hash


def timed(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def read_plainly(path: Path) -> int:
    with path.open(newline="") as file:
        return sum(1 for _ in csv.DictReader(file))


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        for count, one_file in ((100_000, False), (1_000_000, True)):
            at = root / str(count)
            at.mkdir()
            with (at / "images.csv").open("w", newline="") as file:
                writer = csv.writer(file)
                writer.writerow(["path", "label", "split"])
                for n in range(count):
                    path = f"{n}.jpg"
                    if n == 0 or not one_file:
                        (at / path).touch()
                    writer.writerow([path, f"class {n % 500}", "train" if n % 4 else "test"])
            manifest = at / "images.csv"
            plain = timed(lambda manifest=manifest: read_plainly(manifest))
            found = []
            listed = timed(lambda manifest=manifest, found=found: found.append(find_dataset(str(manifest), Lookup())))
            hashed = timed(lambda found=found: manifest_hash(found[0]))
            print(
                f"{count:>9,} rows: listed and checked {listed:.2f} s, hashed {hashed:.2f} s; "
                f"the CSV alone {plain:.2f} s ({(listed + hashed) / plain:.1f}x)"
            )


if __name__ == "__main__":
    main()
