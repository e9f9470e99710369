"""ProLIP: the projection of the image tower, trained and held to what it was (arXiv 2410.05270; astra-vision/ProLIP at
b43e795, methods/ProLIP.py).

logit_k = s <unit(f W + b), t_k>     loss = cross-entropy + lam |W - W0|^2 (sum of squares)     W = W0 at first
f: the pooled features of an image before the projection [W_image]; b, of a ResNet, stays as it is

lam = 1 / N, or 1 / N^2 by `rule`, with N the number of shots of a class: the fewer there are, the closer W stays. No
validation rows are needed.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, ClassVar, Literal, get_args

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
    check_choice,
    unit,
    zero_shot_logits,
)
from mma.adapters.rla import RELEASED, with_released_epsilon

Rule = Literal["1/n", "1/n^2"]


class ProLIP(Adapter):
    """The last layer of the image tower, which starts as it is and is held to that."""

    source = "ProLIP, arXiv 2410.05270; code astra-vision/ProLIP at b43e795"
    uses_views = "train"
    reads = "penultimate"
    recipes: ClassVar[Mapping[str, NamedRecipe]] = {
        "published": NamedRecipe(
            RELEASED,
            "astra-vision/ProLIP at b43e795, configs/base.yaml",
            select="last",
        ),
    }
    projection: nn.Parameter  # [W_image, D] W
    first: Tensor  # [W_image, D] W0
    bias: Tensor  # [D] b
    text_weight: Tensor  # [W_text, D]
    text_bias: Tensor  # [D]

    def __init__(
        self,
        *,
        lam: Annotated[float | None, "weight of |W - W0|^2; none: by the rule, as published"] = None,
        rule: Annotated[Rule, "lam where it is not given, n: the shots of a class"] = "1/n",
    ) -> None:
        super().__init__()
        check_at_least("lam", lam, 0)
        check_choice("rule", rule, get_args(Rule))
        self.lam, self.rule = lam, rule

    def build(self, shapes: Shapes) -> None:
        """The layers."""
        super().build(shapes)
        image, text = shapes.widths or (shapes.dim, shapes.dim)
        self.projection = nn.Parameter(torch.empty(image, shapes.dim))
        self.register_buffer("first", torch.empty(image, shapes.dim))
        self.register_buffer("bias", torch.empty(shapes.dim))
        self.register_buffer("text_weight", torch.empty(text, shapes.dim))
        self.register_buffer("text_bias", torch.empty(shapes.dim))

    @torch.no_grad()
    def start(self, support: Support) -> None:
        """W = W0."""
        super().start(support)
        layers = support.projections
        assert layers is not None  # `start` of every adapter that reads penultimate features refuses that
        self.projection.copy_(layers.image.weight)
        self.first, self.bias = layers.image.weight, layers.image.bias
        self.text_weight, self.text_bias = layers.text.weight, layers.text.bias

    def forward(self, image: Tensor, text: Tensor) -> Tensor:
        """Logits [B, C] of features before the projections: `image` [B, W_image], `text` [C, W_text]."""
        embedding = unit(image @ self.projection + self.bias)
        return zero_shot_logits(embedding, unit(text @ self.text_weight + self.text_bias), self.logit_scale)

    def loss(self, image: Tensor, text: Tensor, label: Tensor) -> Tensor:
        """Mean cross-entropy + lam |W - W0|^2."""
        drift = (self.projection - self.first).square().sum()
        return functional.cross_entropy(self(image, text), label) + self.weight_of_drift() * drift

    def weight_of_drift(self) -> float:
        """lam, as given or by the rule."""
        if self.lam is not None:
            return self.lam
        share = self.shapes.classes / self.shapes.rows  # 1 / N
        return share if self.rule == "1/n" else share**2

    def optimizer(self, recipe: Recipe) -> torch.optim.Optimizer:
        """Adam with the released epsilon; any other optimiser as it is."""
        return with_released_epsilon(super().optimizer(recipe))
