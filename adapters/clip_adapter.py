"""CLIP-Adapter (arXiv 2110.04544): a bottleneck of two layers on an embedding, blended into it.

    e' = unit(ratio f(e) + (1 - ratio) e)     f(e) = ReLU(W2 ReLU(W1 e)), no biases, not normalised before the blend

The released codes (gaopengcuhk/CLIP-Adapter, dqmis/clip-mma) adapt the image side; the paper also has the text side.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, ClassVar, Literal, get_args

from torch import Tensor, nn

from mma.adapters.base import (
    Adapter,
    AdapterError,
    NamedRecipe,
    Recipe,
    Shapes,
    check_at_least,
    check_choice,
    check_reduction,
    check_share,
    unit,
    zero_shot_logits,
)

Side = Literal["image", "text", "both"]


class ClipAdapter(Adapter):
    """A bottleneck of two layers on the image side, the text side, or one on each, blended into the embedding."""

    source = "CLIP-Adapter, arXiv 2110.04544; code gaopengcuhk/CLIP-Adapter"
    recipes: ClassVar[Mapping[str, NamedRecipe]] = {
        "published": NamedRecipe(
            Recipe("sgd", 2e-3, 5e-4, batch=32, epochs=200, patience=200, schedule="cosine", warmup=1),
            "gaopengcuhk/CLIP-Adapter: a trainer for CoOp's code, with CoOp's recipe of 200 epochs",
            select="last",
        ),
        "clip-mma": NamedRecipe(
            Recipe("adam", 5e-3, 1e-4, batch=256, epochs=200, patience=10),
            "dqmis/clip-mma: its reproduction, notebooks",
        ),
    }
    image_bottleneck: nn.Sequential
    text_bottleneck: nn.Sequential

    def __init__(
        self,
        *,
        reduction: Annotated[int, "the inner dimension is D // reduction"] = 4,
        ratio: Annotated[float, "weight of the adaptation, 0 (zero-shot) to 1"] = 0.2,
        side: Annotated[Side, "which side is adapted"] = "image",
        text_ratio: Annotated[float | None, "the text side's ratio; none: the same as ratio"] = None,
    ) -> None:
        super().__init__()
        check_at_least("reduction", reduction, 1)
        check_choice("side", side, get_args(Side))
        if side == "image" and text_ratio is not None:
            raise AdapterError(f"text_ratio = {text_ratio} is of the text side, and side = {side!r} adapts the other")
        self.reduction = reduction
        self.ratio = check_share("ratio", ratio)
        self.side = side
        self.text_ratio = None if text_ratio is None else check_share("text_ratio", text_ratio)

    def check(self, dim: int, recipe: Recipe) -> None:
        """Refuse a bottleneck of nothing."""
        check_reduction(self.reduction, dim)

    def build(self, shapes: Shapes) -> None:
        """Draw the weights as the released code does: torch's defaults for a linear layer."""
        super().build(shapes)
        if self.side != "text":
            self.image_bottleneck = bottleneck(shapes.dim, shapes.dim // self.reduction)
        if self.side != "image":
            self.text_bottleneck = bottleneck(shapes.dim, shapes.dim // self.reduction)

    def forward(self, image: Tensor, text: Tensor) -> Tensor:
        """Logits [B, C] of unit `image` [B, D] against unit `text` [C, D]."""
        text_ratio = self.ratio if self.text_ratio is None else self.text_ratio
        if self.side != "text" and self.ratio:
            image = unit(self.ratio * self.image_bottleneck(image) + (1 - self.ratio) * image)
        if self.side != "image" and text_ratio:
            text = unit(text_ratio * self.text_bottleneck(text) + (1 - text_ratio) * text)
        return zero_shot_logits(image, text, self.logit_scale)


def bottleneck(dim: int, inner: int) -> nn.Sequential:
    """dim -> inner -> dim, ReLU after each, no biases."""
    return nn.Sequential(nn.Linear(dim, inner, bias=False), nn.ReLU(), nn.Linear(inner, dim, bias=False), nn.ReLU())
