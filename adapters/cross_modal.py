"""Cross-modal linear probe: the class texts are training samples too (arXiv 2301.06267;
linzhiqiu/cross_modal_adaptation).

logits = s x W', W = the text embeddings at first
loss = (1 - text_share) mean cross-entropy of the images + text_share mean cross-entropy of the texts

The released code draws as many texts as images for each step (text_share 1/2); here every step has all C texts,
which is what that draw is on average.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from mma.adapters.base import NamedRecipe, PerClassAdapter, Recipe, Shapes, Support, check_share


class CrossModalProbe(PerClassAdapter):
    """One weight vector per class, for which the class's text is one more training sample.

    The released code searches lr {1e-3, 1e-4}, decay {0, 1e-4, 1e-2} and batch {8, 32} over 12,800 steps, with a
    warm-up; the recipe takes one point of that grid, 100 epochs without a warm-up, and stops on validation.
    """

    source = "Cross-modal adaptation, arXiv 2301.06267; code linzhiqiu/cross_modal_adaptation"
    uses_views = "train"
    recipes: ClassVar[Mapping[str, NamedRecipe]] = {
        "validated": NamedRecipe(
            Recipe("adamw", 1e-3, 0.01, batch=32, epochs=100, patience=20, schedule="cosine", monitor="loss"),
            "one point of the published search (linzhiqiu/cross_modal_adaptation), stopped on validation loss",
        ),
    }
    weight: nn.Parameter  # [C, D]

    def __init__(
        self,
        *,
        text_share: Annotated[float, "weight of the texts in the loss, 0 to 1"] = 0.5,
    ) -> None:
        super().__init__()
        self.text_share = check_share("text_share", text_share)

    def build(self, shapes: Shapes) -> None:
        """A weight vector for each class."""
        super().build(shapes)
        self.weight = nn.Parameter(torch.empty(shapes.classes, shapes.dim))

    @torch.no_grad()
    def start(self, support: Support) -> None:
        """W = the text embeddings."""
        super().start(support)
        self.weight.copy_(support.text)

    def forward(self, image: Tensor, text: Tensor) -> Tensor:
        """Logits [B, C] of unit `image` [B, D]; `text` [C, D] must be of the classes of the support."""
        self.check_classes(text)
        return self.logit_scale * image @ self.weight.mT

    def loss(self, image: Tensor, text: Tensor, label: Tensor) -> Tensor:
        """Cross-entropy of the images and of the texts."""
        of_image = functional.cross_entropy(self(image, text), label)
        of_text = functional.cross_entropy(self(text, text), torch.arange(len(text), device=text.device))
        return (1 - self.text_share) * of_image + self.text_share * of_text
