"""How often do 95 % intervals hold the truth, by five ways of making them: python tests/benchmarks/coverage.py [2000]

And how often does a table of methods that are all alike, after Holm's correction, say that one differs?

Simulated experiments with a known truth (tests/pipeline/reports/experiments.py): seeds that share test images, an
accuracy or a difference of two methods. Beside the interval that `mma` uses (Cochran and Cox): degrees of freedom by
Satterthwaite (1946), half-widths added as squares (Howe, 1974), the pigeonhole bootstrap (Owen, 2007: seeds and images
drawn independently, 400 times, percentiles), and Student's t over seeds alone. Takes about half an hour; with `alone`
as a second argument, the interval that `mma` uses alone, minutes.
"""

from __future__ import annotations

import importlib.util
import math
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
from scipy.special import stdtrit

from mma.pipeline.reports.comparisons import LEVEL, difference, holm
from mma.pipeline.reports.statistics import Estimate, mean_interval, share_estimate

SIZES = ((3, 300), (3, 2_000), (5, 300), (5, 2_000), (10, 1_000))
SPREADS = ((0.0, 1.0, 0.3), (0.02, 1.0, 0.3), (0.05, 1.0, 0.3), (0.1, 1.0, 0.3), (0.3, 1.0, 0.3), (0.0, 0.1, 1.0))
RESAMPLES = 400
METHODS = 10  # of a table: nine differences to a baseline


def load_experiments() -> ModuleType:
    path = Path(__file__).resolve().parents[1] / "pipeline" / "reports" / "experiments.py"
    spec = importlib.util.spec_from_file_location("experiments", path)
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules["experiments"] = module
    spec.loader.exec_module(module)
    return module


def others(values: np.ndarray, estimate: Estimate, rng: np.random.Generator) -> dict[str, tuple[float, float]]:
    """Intervals of the mean of values [S, N] by the ways that are not used."""
    (seeds, images), mean, spread = values.shape, float(values.mean()), estimate.spread
    ms_seed = images * float(np.var(values.mean(1), ddof=1))
    image = (seeds * images) * spread.image / images
    variance = (ms_seed + image) / (seeds * images)
    # Satterthwaite: of the mean squares as they stand, the image's with the rest in it
    freedom = (ms_seed + image) ** 2 / (
        ms_seed**2 / (seeds - 1)
        + (image + spread.rest) ** 2 / (images - 1)
        + spread.rest**2 / ((seeds - 1) * (images - 1))
    )
    by_seed = float(stdtrit(seeds - 1, 0.975)) * math.sqrt(ms_seed / (seeds * images))
    by_image = float(stdtrit(images - 1, 0.975)) * math.sqrt(image / (seeds * images))
    halves = {
        "satterthwaite": float(stdtrit(freedom, 0.975)) * math.sqrt(variance),
        "howe": math.hypot(by_seed, by_image),
        "seeds alone": mean_interval(values.mean(1).tolist())[1] or 0.0,
    }
    of_seed = rng.multinomial(seeds, np.full(seeds, 1 / seeds), size=RESAMPLES)  # [R, S]
    of_image = rng.multinomial(images, np.full(images, 1 / images), size=RESAMPLES)  # [R, N]
    drawn = ((of_seed @ values) * of_image).sum(1) / (seeds * images)
    low, high = np.quantile(drawn, [0.025, 0.975])
    return {**{name: (mean - half, mean + half) for name, half in halves.items()}, "pigeonhole": (low, high)}


def false_findings(simulated: ModuleType, experiments: int) -> None:
    """How often any of nine methods is told from a baseline that is exactly as good, after Holm's correction."""
    rng = np.random.default_rng(1)
    for seeds, images in SIZES:
        for spread in SPREADS:
            design = simulated.Design(seeds, images, *spread)
            any_false = 0
            for _ in range(experiments):
                correct, _ = simulated.methods(design, rng, (0.0,) * METHODS)
                p = holm(np.array([difference(ours, correct[0]).p for ours in correct[1:]]))
                any_false += bool((p < LEVEL).any())
            share = 100 * any_false / experiments
            print(f"false finding after Holm, {seeds} seeds, {images} images, spread {spread}: {share:.1f}", flush=True)


def main(experiments: int, alone: bool) -> None:
    simulated = load_experiments()
    rng = np.random.default_rng(0)
    for what, level in (("accuracy, about 83 %", 1.0), ("accuracy, about 97 %", 2.0), ("difference", 1.0)):
        for seeds, images in SIZES:
            for spread in SPREADS:
                design = simulated.Design(seeds, images, *spread, level=level)
                held: dict[str, int] = {}
                for _ in range(experiments):
                    correct, truths = simulated.methods(design, rng, (0.0, 0.05) if what == "difference" else (0.0,))
                    if what == "difference":
                        values, truth = 100.0 * (correct[1].astype(float) - correct[0]), 100 * (truths[1] - truths[0])
                        estimate = difference(correct[1], correct[0])
                    else:
                        values, truth = 100.0 * correct[0], 100 * truths[0]
                        estimate = share_estimate(correct[0])
                    ends = {"mma": (estimate.low, estimate.high), **({} if alone else others(values, estimate, rng))}
                    for name, (low, high) in ends.items():
                        held[name] = held.get(name, 0) + (low <= truth <= high)
                shown = ", ".join(f"{name} {100 * count / experiments:.1f}" for name, count in held.items())
                sizes = f"{seeds} seeds, {images} images, spread {spread}"
                print(f"{what}, {sizes}: {shown}", flush=True)
    false_findings(simulated, experiments)


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 2_000, "alone" in sys.argv[2:])
