"""How long the statistics of 10,000 cells take: python tests/benchmarks/report_statistics.py

2,000 settings of five seeds on 2,500 test images: every accuracy and every difference to a baseline with its interval
and p-value, Holm's correction over all, McNemar's test of every cell; then the matrix of pairs of 50 settings.
"""

from __future__ import annotations

import resource
import time

import numpy as np

from mma.pipeline.reports.comparisons import difference, holm, mcnemar, pairwise
from mma.pipeline.reports.statistics import share_estimate


def main() -> None:
    rng = np.random.default_rng(0)
    hard = rng.random(2_500)
    cells = [((hard + 0.3 * rng.random((5, 2_500))) < 0.9).astype(np.uint8) for _ in range(2_000)]
    baseline = cells[0]
    start = time.perf_counter()
    for correct in cells:
        share_estimate(correct)
    accuracies = time.perf_counter()
    holm(np.array([difference(correct, baseline).p for correct in cells[1:]]))
    differences = time.perf_counter()
    for correct in cells:
        for ours, theirs in zip(correct, baseline, strict=True):
            mcnemar(ours, theirs)
    tests = time.perf_counter()
    pairwise(cells[:50])
    pairs = time.perf_counter()
    print(f"2,000 accuracies with intervals  {accuracies - start:.2f} s")
    print(f"1,999 differences, Holm          {differences - accuracies:.2f} s")
    print(f"10,000 McNemar tests             {tests - differences:.2f} s")
    print(f"1,225 pairs                      {pairs - tests:.2f} s")
    print(f"most memory                      {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024:.0f} MB")


if __name__ == "__main__":
    main()
