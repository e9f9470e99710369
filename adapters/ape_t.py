"""APE-T: the trained form of APE (arXiv 2304.01195; yangyangyang127/APE at 20258ec, main.py and utils.py).

logits = s x (T + R)' + alpha exp(-beta (1 - x (K + R_y)')) diag(w) V     K [N, D] the shots, V their one-hot labels

R [C, D] is learned on the `share` of the channels with the largest  -v S_d + (1 - v) V_d,  v the `similarity`, S_d the
mean product between the texts of different classes and V_d their variance, and is 0 on the others; R_y is its row of a
shot's class. w [N] is learned too. R = 0 and w = 1 at first: Tip-Adapter. Nothing is made unit again.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated, ClassVar

import torch
from torch import Tensor, nn

from mma.adapters.ape import GRID, criterion
from mma.adapters.base import (
    NamedRecipe,
    PerClassAdapter,
    Recipe,
    Shapes,
    Support,
    check_at_least,
    check_share,
    class_sum,
    unit,
    zero_shot_logits,
)

START_BETA = 1.0  # published for every data set
EPS = 1e-3  # of AdamW; published: 0.001 to 0.005


class TrainedPriorRefinement(PerClassAdapter):
    """A residual that a class's text and its shots share, on the channels that tell classes apart, and shots' weights.

    Training uses what is given of alpha and beta. What is open starts from `start_alpha` and beta = 1, as published
    (`published.py` has the value of each data set), or, without that, from what Tip-Adapter would choose on the
    validation rows, and is chosen again after it.
    """

    source = "APE-T, arXiv 2304.01195; code yangyangyang127/APE at 20258ec"
    uses_views = "train"
    tunes: ClassVar[Mapping[str, Sequence[float]]] = {"alpha": GRID, "beta": GRID}
    recipes: ClassVar[Mapping[str, NamedRecipe]] = {
        "published": NamedRecipe(
            Recipe("adamw", 1e-3, 0.1, batch=256, epochs=30, patience=30, schedule="cosine"),
            "yangyangyang127/APE, configs: 20 to 200 epochs, 1e-4 on ImageNet, Food-101, Pets and SUN397",
        ),
    }
    channels: Tensor  # [D'] indices
    keys: Tensor  # [N, D]
    label: Tensor  # [N]
    residual: nn.Parameter  # [C, D']
    weight: nn.Parameter  # [N]

    def __init__(
        self,
        *,
        alpha: Annotated[float | None, "weight of the shots beside the texts"] = None,
        beta: Annotated[float | None, "sharpness: how fast a shot's say falls with distance"] = None,
        start_alpha: Annotated[float | None, "alpha while training; none: what Tip-Adapter would choose"] = None,
        share: Annotated[float, "share of the channels that learn, 0 to 1"] = 800 / 1024,
        similarity: Annotated[float, "weight of similarity when channels are chosen; the rest is variance"] = 0.2,
    ) -> None:
        super().__init__()
        for name, value in (("alpha", alpha), ("beta", beta), ("start_alpha", start_alpha)):
            check_at_least(name, value, 0)
        self.alpha, self.beta, self.start_alpha = alpha, beta, start_alpha
        self.share = check_share("share", share)
        self.similarity = check_share("similarity", similarity)

    def build(self, shapes: Shapes) -> None:
        """The shots, the residual and the shots' weights."""
        super().build(shapes)
        kept = max(1, round(self.share * shapes.dim))
        self.register_buffer("channels", torch.empty(kept, dtype=torch.int64))
        self.register_buffer("keys", torch.empty(shapes.rows, shapes.dim))
        self.register_buffer("label", torch.empty(shapes.rows, dtype=torch.int64))
        self.residual = nn.Parameter(torch.empty(shapes.classes, kept))
        self.weight = nn.Parameter(torch.empty(shapes.rows))

    @torch.no_grad()
    def start(self, support: Support) -> None:
        """Choose the channels by the texts alone, and keep the shots."""
        super().start(support)
        worth = criterion(support.text[:0], support.label[:0], support.text, self.similarity)
        self.channels = worth.topk(len(self.channels)).indices
        self.keys = support.image if support.views is None else unit(support.views.mean(dim=1))
        self.label = support.label
        nn.init.zeros_(self.residual)
        nn.init.ones_(self.weight)
        if self.start_alpha is not None:
            self.choose({"alpha": self.start_alpha, "beta": START_BETA})

    def forward(self, image: Tensor, text: Tensor) -> Tensor:
        """Logits [B, C] of unit `image` [B, D]; `text` [C, D] must be of the classes of the support."""
        self.check_classes(text)
        refined, affinity = self.refined(image, text)
        return refined + self.decided("alpha") * self.read(affinity, self.decided("beta"))

    def refined(self, image: Tensor, text: Tensor) -> tuple[Tensor, Tensor]:
        """s x (T + R)' [B, C], and x (K + R_y)' [B, N]."""
        texts = text.index_add(1, self.channels, self.residual)
        keys = self.keys.index_add(1, self.channels, self.residual[self.label])
        return zero_shot_logits(image, texts, self.logit_scale), image @ keys.mT

    def read(self, affinity: Tensor, beta: float) -> Tensor:
        """exp(-beta (1 - affinity)) diag(w) V: [B, N] -> [B, C]."""
        return class_sum(torch.exp(-beta * (1 - affinity)) * self.weight, self.label, len(self.classes))

    def combinations(self, image: Tensor, text: Tensor) -> Iterator[tuple[dict[str, float], Tensor]]:
        """Every beta with every alpha; the shots are read once for each beta."""
        refined, affinity = self.refined(image, text)
        for beta in self.tried("beta"):
            cache = self.read(affinity, beta)
            for alpha in self.tried("alpha"):
                yield {"alpha": alpha, "beta": beta}, refined + alpha * cache

    def tune_start(self, image: Tensor, text: Tensor, label: Tensor) -> None:
        """Search alpha and beta before training, unless they start from a given value."""
        if self.start_alpha is None:
            self.tune(image, text, label)

    def optimizer(self, recipe: Recipe) -> torch.optim.Optimizer:
        """AdamW with the published epsilon; any other optimiser as it is."""
        optimizer = super().optimizer(recipe)
        for group in optimizer.param_groups:
            if "eps" in group:
                group["eps"] = EPS
        return optimizer
