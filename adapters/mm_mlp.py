"""MM-MLP: two small networks on the pair (image, prompt), blended into both (arXiv 2409.02958; code dqmis/clip-mma).

x'_k = unit((1 - lam) x + lam f([x; t_k]))     t'_k = unit((1 - lam) t_k + lam g([x; t_k]))     logit_k = s <x'_k, t'_k>
f, g = ReLU(W2 ReLU(W1 .)), no biases

W1 [x; t_k] = W1x x + W1t t_k: the image and the prompt are each projected once, and 32 numbers are added for a pair.
The released model lets its logit scale fall to 4.6052 (facts: `pipelines/train.py` clamps it); here it is the model's.
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
    check_at_least,
    check_reduction,
    check_share,
    zero_shot_logits,
)
from mma.adapters.blocks import in_blocks


class MultiModalMLP(Adapter):
    """An image and a prompt, each adapted by what the pair says: the ablation of attention."""

    source = "MM-MLP, arXiv 2409.02958; code dqmis/clip-mma"
    recipes: ClassVar[Mapping[str, NamedRecipe]] = {
        "validated": NamedRecipe(
            Recipe("adam", 5e-3, 1e-4, batch=256, epochs=200, patience=20, monitor="loss"),
            "the published one, stopped on validation loss",
        ),
        "published": NamedRecipe(
            Recipe("adam", 5e-3, 1e-4, batch=256, epochs=200, patience=10), "dqmis/clip-mma at 1287cb5, notebooks"
        ),
    }
    image_mlp: nn.Sequential
    text_mlp: nn.Sequential

    def __init__(
        self,
        *,
        lam: Annotated[float, "weight of the adaptation, 0 (zero-shot) to 1"] = 0.2,
        reduction: Annotated[int, "the hidden dimension is 2 D // reduction"] = 32,
    ) -> None:
        super().__init__()
        check_at_least("reduction", reduction, 1)
        self.lam = check_share("lam", lam)
        self.reduction = reduction

    def check(self, dim: int, recipe: Recipe) -> None:
        """Refuse a hidden layer of nothing."""
        check_reduction(self.reduction, 2 * dim)

    def build(self, shapes: Shapes) -> None:
        """Draw the weights as the released code does: torch's defaults for a linear layer."""
        super().build(shapes)
        dim, hidden = shapes.dim, 2 * shapes.dim // self.reduction
        self.image_mlp, self.text_mlp = (
            nn.Sequential(nn.Linear(2 * dim, hidden, bias=False), nn.ReLU(), nn.Linear(hidden, dim, bias=False))
            for _ in range(2)
        )

    def forward(self, image: Tensor, text: Tensor) -> Tensor:
        """Logits [B, C] of unit `image` [B, D] against unit `text` [C, D]."""
        if self.lam == 0:
            return zero_shot_logits(image, text, self.logit_scale)

        def logits(image: Tensor) -> tuple[Tensor]:
            adapted_image = self.adapt(self.image_mlp, image, text, image[:, None])
            adapted_text = self.adapt(self.text_mlp, image, text, text)
            lengths = torch.linalg.vector_norm(adapted_image, dim=-1) * torch.linalg.vector_norm(adapted_text, dim=-1)
            return (self.logit_scale * (adapted_image * adapted_text).sum(-1) / lengths,)

        return in_blocks(logits, (image,), 8 * text.numel())[0]

    def adapt(self, mlp: nn.Sequential, image: Tensor, text: Tensor, x: Tensor) -> Tensor:
        """(1 - lam) x + lam mlp([image; text]), not yet unit: [B, C, D]."""
        first, last = (parameter for parameter in mlp.parameters())
        of_image, of_text = torch.split(first, image.shape[1], dim=1)  # [hidden, D] each
        hidden = functional.relu((image @ of_image.mT)[:, None] + text @ of_text.mT)  # [B, C, hidden]
        return (1 - self.lam) * x + self.lam * functional.relu(hidden @ last.mT)
