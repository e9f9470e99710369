"""TaskRes: a residual on each class's text embedding (arXiv 2211.10277; geekyutao/TaskRes).

t'_k = unit(t_k + alpha r_k)     logit_k = s <x, t'_k>     r = 0 at first
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from mma.adapters.base import PerClassAdapter, Recipe, Shapes, check_at_least, unit, zero_shot_logits


class TaskRes(PerClassAdapter):
    """A prior-independent residual per class, scaled by `alpha` (published: 0.5; 1 on Flowers).

    The released code adds it to text embeddings that are not of unit length; here they are.
    """

    uses_views = "train"
    recipe = Recipe(optimizer="adam", lr=2e-3, weight_decay=0.0, epochs=100)
    residual: nn.Parameter  # [C, D]

    def __init__(self, *, alpha: float = 0.5) -> None:
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
