"""Experiments with a known truth: methods that are right or wrong on test images, over seeds that share the images.

A prediction is right where a normal score is above zero. The score is the sum of what the method, the seed, the image,
and the prediction alone bring, so the true accuracy is that of a normal of their summed variance.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.special import ndtr


@dataclass(frozen=True)
class Design:
    """Sizes, the standard deviations of the score's parts, and its mean."""

    seeds: int
    images: int
    seed: float
    image: float
    rest: float
    level: float = 1.0
    alike: float = 0.9  # correlation of two methods' images: what is hard for one is hard for the other

    @property
    def total(self) -> float:
        return float(np.sqrt(self.seed**2 + self.image**2 + self.rest**2))


def methods(
    design: Design, rng: np.random.Generator, better: tuple[float, ...] = (0.0,)
) -> tuple[list[np.ndarray], list[float]]:
    """Correct [S, N] and the true accuracy (share) of one method per number, by which its score is better."""
    shared = rng.standard_normal(design.images)
    correct, truth = [], []
    for more in better:
        own = rng.standard_normal(design.images)
        image = design.image * (design.alike * shared + np.sqrt(1 - design.alike**2) * own)
        score = design.level + more + image + design.seed * rng.standard_normal((design.seeds, 1))
        score += design.rest * rng.standard_normal((design.seeds, design.images))
        correct.append((score > 0).astype(np.uint8))
        truth.append(float(ndtr((design.level + more) / design.total)))
    return correct, truth
