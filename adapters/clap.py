"""CLAP: a zero-shot-initialised linear probe held to the text embeddings (arXiv 2312.12730; jusiro/CLAP).

logit_k = s <x, unit(w_k)>     loss = cross-entropy + mean_k lam_k |w_k - u_k|^2     w = u = 8 t at first
lam_k = the mean zero-shot probability of class k over its own shots: one outer step of the augmented Lagrangian, taken
before training. No validation rows are needed.

u_k: the text embeddings as the model gives them, which the released code starts from. Ours are unit, so their length is
put back: without it the rate of 0.1 and the penalty would both weigh 64 times as much.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional

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

TEXT_LENGTH = 8.0  # about that of CLIP's text embeddings (our setting: caches of unit embeddings do not tell)


class ClassAdaptiveProbe(PerClassAdapter):
    """A probe that strays from a text embedding only as far as zero-shot was unsure of its class."""

    source = "CLAP, arXiv 2312.12730; code jusiro/CLAP"
    uses_views = "train"
    recipes: ClassVar[Mapping[str, NamedRecipe]] = {
        "published": NamedRecipe(
            Recipe("sgd", 0.1, 0.0, batch=256, epochs=300, patience=300, schedule="cosine", warmup=1),
            "jusiro/CLAP, configs/trainers/SGD_lr1e-1_B256_ep300.yaml",
            select="last",
        ),
    }
    weight: nn.Parameter  # [C, D]
    confidence: Tensor  # [C] lam_k

    def __init__(
        self,
        *,
        penalty: Annotated[float, "multiplies the pull of every class to its text; published: 1"] = 1.0,
    ) -> None:
        super().__init__()
        check_at_least("penalty", penalty, 0)
        self.penalty = penalty

    def build(self, shapes: Shapes) -> None:
        """A weight vector and a lam for each class."""
        super().build(shapes)
        self.weight = nn.Parameter(torch.empty(shapes.classes, shapes.dim))
        self.register_buffer("confidence", torch.empty(shapes.classes))

    @torch.no_grad()
    def start(self, support: Support) -> None:
        """w = u; lam from the zero-shot probabilities of the support."""
        super().start(support)
        classes = len(support.text)
        probability = zero_shot_logits(support.image, support.text, support.logit_scale).softmax(dim=-1)
        own = probability.gather(1, support.label[:, None]).squeeze(1)  # [N]
        shots = class_sum(torch.ones_like(own), support.label, classes).clamp(min=1)
        self.confidence = class_sum(own, support.label, classes) / shots
        self.weight.copy_(TEXT_LENGTH * support.text)

    def forward(self, image: Tensor, text: Tensor) -> Tensor:
        """Logits [B, C] of unit `image` [B, D]; `text` [C, D] must be of the classes of the support."""
        self.check_classes(text)
        return zero_shot_logits(image, unit(self.weight), self.logit_scale)

    def loss(self, image: Tensor, text: Tensor, label: Tensor) -> Tensor:
        """Mean cross-entropy + penalty mean_k lam_k |w_k - u_k|^2."""
        drift = (self.weight - TEXT_LENGTH * text).square().sum(-1)  # [C]
        return functional.cross_entropy(self(image, text), label) + self.penalty * (self.confidence * drift).mean()
