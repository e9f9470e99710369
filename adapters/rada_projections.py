"""RAda with the projections of both towers trained together with the mask: the paper's "updating encoders" as far as
features before the projections reach (arXiv 2507.15480; khufia/RAda, 5d419c0).

f' = unit(f W + b)     h'_k = unit(g_k V + c)     then RAda's mask on f' * h'_k     W, V as the model has them at first

The paper's recipe for encoders is not known. The projections take steps of `share` of the mask's learning rate: by
default 5e-5 / 3.5e-3, the rate of the released configuration over that of its command line. No weight decay pulls them
to zero, and b and c stay as they are.
"""

from __future__ import annotations

from typing import Annotated

import torch
from torch import Tensor, nn

from mma.adapters.base import Recipe, Shapes, Support, check_at_least, unit
from mma.adapters.plain.rada import Alpha, Heads, Penalty, Queries, Temperature
from mma.adapters.rada import ALL_UP_TO, CANDIDATES, AllUpTo, Candidates, RAda

SHARE = 5e-5 / 3.5e-3


class RAdaProjections(RAda):
    """RAda with the last layers of both towers trained, too."""

    source = "RAda, arXiv 2507.15480, encoders updated up to their last layer; code khufia/RAda at 5d419c0"
    reads = "penultimate"
    image_projection: nn.Parameter  # [W_image, D]
    text_projection: nn.Parameter  # [W_text, D]
    image_bias: Tensor  # [D]
    text_bias: Tensor  # [D]

    def __init__(
        self,
        *,
        queries: Queries = "image+text+rational",
        heads: Heads = 8,
        temperature: Temperature = 1.0,
        regulariser: Penalty = "linf",
        alpha: Alpha = 0.1,
        candidates: Candidates = CANDIDATES,
        all_up_to: AllUpTo = ALL_UP_TO,
        share: Annotated[float, "the projections' learning rate as a share of the mask's; by default 1/70"] = SHARE,
    ) -> None:
        super().__init__(
            queries=queries,
            heads=heads,
            temperature=temperature,
            regulariser=regulariser,
            alpha=alpha,
            candidates=candidates,
            all_up_to=all_up_to,
        )
        check_at_least("share", share, 0)
        self.share = share

    def build(self, shapes: Shapes) -> None:
        """RAda's layers, and the projections."""
        super().build(shapes)
        image, text = shapes.widths or (shapes.dim, shapes.dim)
        self.image_projection = nn.Parameter(torch.empty(image, shapes.dim))
        self.text_projection = nn.Parameter(torch.empty(text, shapes.dim))
        self.register_buffer("image_bias", torch.empty(shapes.dim))
        self.register_buffer("text_bias", torch.empty(shapes.dim))

    @torch.no_grad()
    def start(self, support: Support) -> None:
        """The projections as the model has them."""
        super().start(support)
        layers = support.projections
        assert layers is not None  # `start` of every adapter that reads penultimate features refuses that
        self.image_projection.copy_(layers.image.weight)
        self.text_projection.copy_(layers.text.weight)
        self.image_bias, self.text_bias = layers.image.bias, layers.text.bias

    def masked(
        self, image: Tensor, text: Tensor, *, regularised: bool, label: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """As `RAda`, of features before the projections: `image` [B, W_image], `text` [C, W_text]."""
        embedding = unit(image @ self.image_projection + self.image_bias)
        classes = unit(text @ self.text_projection + self.text_bias)
        return super().masked(embedding, classes, regularised=regularised, label=label)

    def optimizer(self, recipe: Recipe) -> torch.optim.Optimizer:
        """The recipe's, with smaller steps for the projections."""
        optimizer = super().optimizer(recipe)
        (group,) = optimizer.param_groups
        slow = [self.image_projection, self.text_projection]
        group["params"] = [weight for weight in group["params"] if not any(weight is other for other in slow)]
        optimizer.add_param_group({**group, "params": slow, "lr": recipe.lr * self.share, "weight_decay": 0.0})
        return optimizer
