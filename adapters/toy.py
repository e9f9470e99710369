"""A small problem: classes as clusters on the sphere, texts near their centres."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from mma.adapters.base import Projection, Projections, Support, unit
from mma.adapters.training import Labelled


@dataclass(frozen=True)
class Toy:
    """Support, validation and test rows of one problem, and texts and test rows of classes that have no shots."""

    support: Support
    validation: Labelled
    test: Labelled
    new_text: Tensor  # [C', D]
    new_test: Labelled  # labels in 0..C'-1


def toy(
    classes: int = 5,
    shots: int = 3,
    dim: int = 32,
    *,
    views: int | None = None,
    dtype: torch.dtype = torch.float32,
    noise: float = 1.8,
) -> Toy:
    """The same problem every time; rows are at `noise` from their class's centre."""
    draw = torch.Generator().manual_seed(0)

    def gaussian(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=draw, dtype=torch.float64)

    centre = unit(gaussian(classes + 4, dim))

    def rows(each: int, centre: Tensor) -> Labelled:
        label = torch.arange(len(centre)).repeat_interleave(each)
        return Labelled(unit(centre[label] + noise * unit(gaussian(len(label), dim))).to(dtype), label)

    text = unit(centre + 1.2 * unit(gaussian(classes + 4, dim))).to(dtype)
    train, validation, test = (rows(each, centre[:classes]) for each in (shots, 2, 4))
    seen = None
    if views is not None:
        others = train.image[:, None].double() + 0.3 * gaussian(len(train.label), views - 1, dim) / dim**0.5
        seen = torch.cat([train.image[:, None], unit(others).to(dtype)], dim=1)
    layers = Projections(identity(dim, dtype), identity(dim, dtype))  # so all rows are penultimate features, too
    support = Support(train.image, train.label, text[:classes], 100.0, seen, projections=layers)
    return Toy(support, validation, test, text[classes:], rows(4, centre[classes:]))


def identity(dim: int, dtype: torch.dtype) -> Projection:
    """The layer that changes nothing."""
    return Projection(torch.eye(dim, dtype=dtype), torch.zeros(dim, dtype=dtype))
