"""Linear probe: one weight vector per class on the frozen image embedding (Radford et al., 2021, section 3.2).

logits = logit_scale * x W', W [C, D] starting from the text embeddings (as in LP++ and CLAP's ZS-LP) or from zero.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, ClassVar, Literal, get_args

import torch
from torch import Tensor, nn

from mma.adapters.base import NamedRecipe, PerClassAdapter, Recipe, Shapes, Support, check_choice

Init = Literal["zero-shot", "zero"]


class LinearProbe(PerClassAdapter):
    """One weight vector per class on the image embedding: it knows the classes of its support and no others."""

    source = "Linear probe, Radford et al. 2021, arXiv 2103.00020, section 3.2"
    recipes: ClassVar[Mapping[str, NamedRecipe]] = {
        "validated": NamedRecipe(
            Recipe("adam", 1e-3, 0.0, patience=20, monitor="loss"),
            "ours: the published L-BFGS with a search of the penalty is another method",
        ),
    }
    weight: nn.Parameter  # [C, D]

    def __init__(
        self,
        *,
        init: Annotated[Init, "where the weights start: at the text embeddings, or at zero"] = "zero-shot",
    ) -> None:
        super().__init__()
        check_choice("init", init, get_args(Init))
        self.init = init

    def build(self, shapes: Shapes) -> None:
        """W = 0."""
        super().build(shapes)
        self.weight = nn.Parameter(torch.zeros(shapes.classes, shapes.dim))

    @torch.no_grad()
    def start(self, support: Support) -> None:
        """W = the text embeddings, unless it is to start from zero."""
        super().start(support)
        if self.init == "zero-shot":
            self.weight.copy_(support.text)

    def forward(self, image: Tensor, text: Tensor) -> Tensor:
        """Logits [B, C] of unit `image` [B, D]; `text` [C, D] must be of the classes of the support."""
        self.check_classes(text)
        return self.logit_scale * image @ self.weight.mT
