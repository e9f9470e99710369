"""Tip-Adapter and Tip-Adapter-F: a cache of the shots, read by similarity (arXiv 2207.09519; gaopengcuhk/Tip-Adapter).

logits = s x T' + alpha exp(-beta (1 - x K')) V     K [N, D] the shots, V their one-hot labels

Where a cache has views, a key is the unit mean of its shot's views (published: 10). Tip-Adapter-F trains K from there.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated, ClassVar

import torch
from torch import Tensor, nn

from mma.adapters.base import (
    NamedRecipe,
    PerClassAdapter,
    Recipe,
    Shapes,
    Support,
    check_at_least,
    class_sum,
    unit,
    zero_shot_logits,
)

GRID = [0.1 + i * (13 - 0.1) / 20 for i in range(20)]  # published for DTD: 0.1 to 13, alpha in 20 steps and beta in 200

START_BETA = 1.0  # of Tip-Adapter-F; published for every data set


class TipAdapter(PerClassAdapter):
    """A cache of the shots, read by similarity, beside zero-shot.

    What is not given is chosen on validation rows.
    """

    source = "Tip-Adapter, arXiv 2207.09519; code gaopengcuhk/Tip-Adapter"
    trains = False
    uses_views = "train"
    tunes: ClassVar[Mapping[str, Sequence[float]]] = {"alpha": GRID, "beta": GRID}
    keys: Tensor  # [N, D]
    label: Tensor  # [N]

    def __init__(
        self,
        *,
        alpha: Annotated[float | None, "weight of the cache beside zero-shot; 0 is zero-shot"] = None,
        beta: Annotated[float | None, "sharpness: how fast a shot's say falls with distance"] = None,
    ) -> None:
        super().__init__()
        check_at_least("alpha", alpha, 0)
        check_at_least("beta", beta, 0)
        self.alpha, self.beta = alpha, beta

    def build(self, shapes: Shapes) -> None:
        """A key for each shot, which learns if the adapter trains, and its label."""
        super().build(shapes)
        keys = torch.empty(shapes.rows, shapes.dim)
        if self.trains:
            self.keys = nn.Parameter(keys)
        else:
            self.register_buffer("keys", keys)
        self.register_buffer("label", torch.empty(shapes.rows, dtype=torch.int64))

    @torch.no_grad()
    def start(self, support: Support) -> None:
        """Keep the shots."""
        super().start(support)
        self.keys.copy_(support.image if support.views is None else unit(support.views.mean(dim=1)))
        self.label = support.label

    def forward(self, image: Tensor, text: Tensor) -> Tensor:
        """Logits [B, C] of unit `image` [B, D]; `text` [C, D] must be of the classes of the support."""
        self.check_classes(text)
        cache = self.read(image @ self.keys.mT, self.decided("beta"))
        return zero_shot_logits(image, text, self.logit_scale) + self.decided("alpha") * cache

    def read(self, affinity: Tensor, beta: float) -> Tensor:
        """exp(-beta (1 - affinity)) V: [B, N] -> [B, C]."""
        return class_sum(torch.exp(-beta * (1 - affinity)), self.label, len(self.classes))

    def combinations(self, image: Tensor, text: Tensor) -> Iterator[tuple[dict[str, float], Tensor]]:
        """Every beta with every alpha; the cache is read once for each beta."""
        zero_shot = zero_shot_logits(image, text, self.logit_scale)
        affinity = image @ self.keys.mT
        for beta in self.tried("beta"):
            cache = self.read(affinity, beta)
            for alpha in self.tried("alpha"):
                yield {"alpha": alpha, "beta": beta}, zero_shot + alpha * cache


class TipAdapterF(TipAdapter):
    """Tip-Adapter with trained keys; then `alpha` and `beta` are chosen as there.

    Training uses what is given. What is open starts from `start_alpha` and beta = 1, as published (`published.py` has
    the value of each data set), or, without that, from what Tip-Adapter would choose on the validation rows. The
    released code keeps the epoch that is best on the test rows; here it is the best on validation.
    """

    source = "Tip-Adapter-F, arXiv 2207.09519; code gaopengcuhk/Tip-Adapter"
    trains = True
    recipes: ClassVar[Mapping[str, NamedRecipe]] = {
        "published": NamedRecipe(
            Recipe("adamw", 1e-3, 0.01, batch=256, epochs=20, patience=20, schedule="cosine"),
            "gaopengcuhk/Tip-Adapter, main.py and configs (EuroSAT: 100 epochs)",
        ),
    }

    def __init__(
        self,
        *,
        alpha: Annotated[float | None, "weight of the cache beside zero-shot; 0 is zero-shot"] = None,
        beta: Annotated[float | None, "sharpness: how fast a shot's say falls with distance"] = None,
        start_alpha: Annotated[float | None, "alpha while training; none: what Tip-Adapter would choose"] = None,
    ) -> None:
        super().__init__(alpha=alpha, beta=beta)
        check_at_least("start_alpha", start_alpha, 0)
        self.start_alpha = start_alpha

    def start(self, support: Support) -> None:
        """Keys that learn, from the shots."""
        super().start(support)
        if self.start_alpha is not None:
            self.choose({"alpha": self.start_alpha, "beta": START_BETA})

    def tune_start(self, image: Tensor, text: Tensor, label: Tensor) -> None:
        """Search alpha and beta before training, unless they start from a given value."""
        if self.start_alpha is None:
            self.tune(image, text, label)

    def optimizer(self, recipe: Recipe) -> torch.optim.Optimizer:
        """AdamW with the published eps, 1e-4."""
        optimizer = super().optimizer(recipe)
        for group in optimizer.param_groups:
            if "eps" in group:
                group["eps"] = 1e-4
        return optimizer
