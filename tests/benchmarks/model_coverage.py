"""How calibrated are the answers of an exported model, on a test split: `python model_coverage.py CACHE ADAPTER`.

Fits with 8 shots, exports, and compares what the model says with the labels: docs/use.md has the numbers.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import numpy as np
from rich.console import Console
from scipy.special import softmax

from mma.cache import open_cache
from mma.pipeline.fitting.features import load_features
from mma.pipeline.reports.calibration import conformal_sets, covered
from mma.pipeline.reports.metrics import reliability
from mma.pipeline.using.export import export
from mma.pipeline.using.model import METHODS, open_model
from mma.pipeline.using.score import Scorer
from mma.pipeline.using.settings import ExportSettings

COVERAGE = 0.9


def main(cache: str, adapter: str) -> None:
    """Print one line: accuracy, calibration error before and after (in %), coverage (in %) and mean size of sets."""
    label = open_cache(cache).split("test").label
    image = load_features(cache).images.images("test")
    with tempfile.TemporaryDirectory() as folder:
        settings = ExportSettings(cache=cache, adapter=adapter, shots="8", out=Path(folder) / "model", device="cpu")
        model = open_model(export(settings, Console(quiet=True)))
    scorer = Scorer(model, model.about.classnames, model.text, coverage=COVERAGE)
    probability = scorer.probability(image)
    errors = [
        reliability(p.max(1), p.argmax(1) == label).error for p in (softmax(scorer.logits(image), axis=1), probability)
    ]
    words = [
        f"accuracy {100 * np.mean(probability.argmax(1) == label):.1f}",
        f"error {errors[0]:.1f} -> {errors[1]:.1f}",
    ]
    for method in METHODS:
        sets = conformal_sets(probability, scorer.quantiles[method], method)
        words.append(f"{method} {100 * covered(sets, label):.1f}, size {sets.sum(1).mean():.2f}")
    print(f"{cache} {adapter}: {'; '.join(words)}")


if __name__ == "__main__":
    main(*sys.argv[1:])
