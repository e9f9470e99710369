"""RAda + adapter: a residual bottleneck on each side, then RAda's mask (arXiv 2507.15480; khufia/RAda,
`eft/trainers/clip_adapter.py`).

f' = unit(f + A_image(f))     h'_k = unit(h_k + A_text(h_k))     A(e) = W2 ReLU(W1 e), D -> D / 4 -> D, W2 = 0 at first

The released code has one more ReLU after W2. At W2 = 0 that ReLU's gradient is zero, so its bottlenecks never move and
the method is RAda with a mean-square regulariser; it is left out here, so that they learn.
"""

from __future__ import annotations

from typing import Annotated

from torch import Tensor, nn

from mma.adapters.base import Recipe, Shapes, check_at_least, check_reduction, unit
from mma.adapters.plain.rada import Alpha, Heads, Penalty, Queries, Temperature
from mma.adapters.rada import ALL_UP_TO, CANDIDATES, AllUpTo, Candidates, RAda


class RAdaAdapter(RAda):
    """RAda on embeddings that a bottleneck adapts on each side."""

    source = "RAda with an adapter, arXiv 2507.15480; code khufia/RAda, eft/trainers/clip_adapter.py"

    image_bottleneck: nn.Sequential
    text_bottleneck: nn.Sequential

    def __init__(
        self,
        *,
        queries: Queries = "image+text+rational",
        heads: Heads = 8,
        temperature: Temperature = 1.0,
        regulariser: Penalty = "l2",
        alpha: Alpha = 0.1,
        reduction: Annotated[int, "the bottleneck's inner dimension is D // reduction"] = 4,
        candidates: Candidates = CANDIDATES,
        all_up_to: AllUpTo = ALL_UP_TO,
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
        check_at_least("reduction", reduction, 1)
        self.reduction = reduction

    def check(self, dim: int, recipe: Recipe) -> None:
        """Refuse a bottleneck of nothing, too."""
        super().check(dim, recipe)
        check_reduction(self.reduction, dim)

    def build(self, shapes: Shapes) -> None:
        """Draw RAda's projections and the bottlenecks' first layers; what comes out of either is zero at first."""
        super().build(shapes)
        dim = shapes.dim
        self.image_bottleneck, self.text_bottleneck = (
            nn.Sequential(
                nn.Linear(dim, dim // self.reduction, bias=False),
                nn.ReLU(),
                nn.Linear(dim // self.reduction, dim, bias=False),
            )
            for _ in range(2)
        )
        for bottleneck in (self.image_bottleneck, self.text_bottleneck):
            nn.init.zeros_(list(bottleneck.parameters())[-1])

    def embed(self, image: Tensor, text: Tensor) -> tuple[Tensor, Tensor]:
        """Both sides adapted: [B, D] and [C, D], unit."""
        return unit(image + self.image_bottleneck(image)), unit(text + self.text_bottleneck(text))
