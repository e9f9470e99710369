"""RLA, the regularised linear adapter: a D x D map of the image embeddings, held to the identity (arXiv 2410.05270 v4;
astra-vision/ProLIP at b43e795, methods/RegLinearAdapter.py).

logit_k = s <unit(W x), t_k>     loss = cross-entropy + lam |W - I|^2 (sum of squares)     W = I at first, lam = 1 / N

N is the number of shots of a class: the fewer there are, the closer W stays. No validation rows are needed.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from mma.adapters.base import (
    Adapter,
    NamedRecipe,
    Recipe,
    Shapes,
    Support,
    check_at_least,
    unit,
    zero_shot_logits,
)

EPS = 1e-4  # of Adam, as released; with torch's 1e-8 the first steps would move every entry of W by the learning rate
ALL_ROWS = 1 << 30  # a batch that no support fills: every step sees all rows, as released
RELEASED = Recipe("adam", 1e-5, 0.0, batch=ALL_ROWS, epochs=300, patience=300, schedule="cosine")  # of ProLIP, too


class RegularisedLinear(Adapter):
    """A linear map of the image embeddings that starts at the identity and is held to it."""

    source = "RLA, arXiv 2410.05270 v4; code astra-vision/ProLIP at b43e795"
    uses_views = "train"
    recipes: ClassVar[Mapping[str, NamedRecipe]] = {
        "published": NamedRecipe(
            RELEASED,
            "astra-vision/ProLIP at b43e795, configs/base.yaml; its RLA is run at 1e-5, 1e-4, 1e-3 and 1e-2",
            select="last",
        ),
    }
    map: nn.Parameter  # [D, D] W

    def __init__(
        self,
        *,
        lam: Annotated[float | None, "weight of |W - I|^2; none: 1 / (shots of a class), as published"] = None,
    ) -> None:
        super().__init__()
        check_at_least("lam", lam, 0)
        self.lam = lam

    def build(self, shapes: Shapes) -> None:
        """The map."""
        super().build(shapes)
        self.map = nn.Parameter(torch.empty(shapes.dim, shapes.dim))

    @torch.no_grad()
    def start(self, support: Support) -> None:
        """W = I."""
        super().start(support)
        nn.init.eye_(self.map)

    def forward(self, image: Tensor, text: Tensor) -> Tensor:
        """Logits [B, C] of unit `image` [B, D] against unit `text` [C, D]."""
        return zero_shot_logits(unit(image @ self.map.mT), text, self.logit_scale)

    def loss(self, image: Tensor, text: Tensor, label: Tensor) -> Tensor:
        """Mean cross-entropy + lam |W - I|^2."""
        drift = (self.map - torch.eye(len(self.map)).to(self.map)).square().sum()
        lam = self.shapes.classes / self.shapes.rows if self.lam is None else self.lam
        return functional.cross_entropy(self(image, text), label) + lam * drift

    def optimizer(self, recipe: Recipe) -> torch.optim.Optimizer:
        """Adam with the released epsilon; any other optimiser as it is."""
        return with_released_epsilon(super().optimizer(recipe))


def with_released_epsilon(optimizer: torch.optim.Optimizer) -> torch.optim.Optimizer:
    """The optimiser, with the released epsilon if it is Adam, of RLA and of ProLIP."""
    for group in optimizer.param_groups:
        if "eps" in group:
            group["eps"] = EPS
    return optimizer
