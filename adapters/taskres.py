"""TaskRes: a residual on each class's text embedding (arXiv 2211.10277; geekyutao/TaskRes).

t'_k = unit(t_k + alpha r_k)     logit_k = s <x, t'_k>     r = 0 at first
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, ClassVar

import torch
from torch import Tensor, nn

from mma.adapters.base import NamedRecipe, PerClassAdapter, Recipe, Shapes, check_at_least, unit, zero_shot_logits


class TaskRes(PerClassAdapter):
    """A residual on each class's text embedding that knows nothing of the text.

    Published: alpha = 0.5, and 1 on Flowers. The released code adds it to text embeddings that are not of unit length;
    here they are.
    """

    source = "TaskRes, arXiv 2211.10277; code geekyutao/TaskRes"
    uses_views = "train"
    recipes: ClassVar[Mapping[str, NamedRecipe]] = {
        "published": NamedRecipe(
            Recipe("adam", 2e-3, 5e-4, batch=256, epochs=100, patience=100, schedule="cosine", warmup=1),
            "geekyutao/TaskRes, configs/trainers/TaskRes/adam_lr2e-3_B256_ep100.yaml",
            select="last",
        ),
        "validated": NamedRecipe(
            Recipe("adam", 2e-3, 0.0, epochs=100, patience=20, monitor="loss"),
            "ours: a constant rate without decay, stopped on validation loss",
        ),
    }
    residual: nn.Parameter  # [C, D]

    def __init__(
        self,
        *,
        alpha: Annotated[float, "scale of the residual; 0 is zero-shot"] = 0.5,
    ) -> None:
        super().__init__()
        check_at_least("alpha", alpha, 0)
        self.alpha = alpha

    def build(self, shapes: Shapes) -> None:
        """r = 0: zero-shot."""
        super().build(shapes)
        self.residual = nn.Parameter(torch.zeros(shapes.classes, shapes.dim))

    def forward(self, image: Tensor, text: Tensor) -> Tensor:
        """Logits [B, C] of unit `image` [B, D]; `text` [C, D] must be of the classes of the support."""
        self.check_classes(text)
        if self.alpha:
            text = unit(text + self.alpha * self.residual)
        return zero_shot_logits(image, text, self.logit_scale)
