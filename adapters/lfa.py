"""LFA, linear feature alignment: an orthogonal map from images to texts, refined by a re-ranking loss.

arXiv 2304.01752; saic-fi/LFA at cb8c99d.

logit_k = s <unit(W' x), t_k>
start   W = (1 - beta) P + beta I     P = argmin sum_i |P' x_i - t_yi|^2 over orthogonal maps (Procrustes): P = U V' of
        X' T_y = U S V'
refined by AdamW on the adaptive re-ranking loss, the mean over rows i and the `nearest` classes j of
        max(0, |x'_i - t_y| + (1 - <t_j, t_y>) / scale - |x'_i - t_j|)     x' = unit(W' x)
        so that a class has to stay the farther away, the less its text is like that of the row's own class

X' T_y has at most rank C. What P is outside of it leaves the sum as it is, and is whatever an SVD ends with; here it is
as near to the identity as an orthogonal map can be there, so that a fit is a function of its data.
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
    Support,
    check_at_least,
    check_share,
    unit,
    zero_shot_logits,
)

ALL_ROWS = 1 << 30  # a batch that no support fills: every step sees all rows
BETAS = torch.linspace(0, 1, 25, dtype=torch.float64)  # tried, as released
BETA_FOR_NEW = 0.9  # released for base-to-new
SPLITS, HELD_OUT = 3, 0.2  # random divisions of the support that beta is chosen on, and the part that is left out


class LinearFeatureAlignment(Adapter):
    """An orthogonal map of images to their texts, pulled towards the identity and refined by a re-ranking loss.

    What beta is left open is chosen on left-out rows of the support, as released, and is 0.9 where new classes will be
    scored; validation rows are not needed.
    """

    source = "LFA, arXiv 2304.01752; code saic-fi/LFA at cb8c99d"
    uses_views = "train"
    recipes: ClassVar[Mapping[str, NamedRecipe]] = {
        "published": NamedRecipe(
            Recipe("adamw", 5e-4, 5e-4, batch=ALL_ROWS, epochs=200, patience=200, schedule="cosine"),
            "saic-fi/LFA at cb8c99d, defaults; steps per data set: 30 to 2000",
            select="last",
        ),
        "base-to-new": NamedRecipe(
            Recipe("adamw", 5e-4, 5e-4, batch=ALL_ROWS, epochs=50, patience=50, schedule="cosine"),
            "the same, its README: 50 steps on five of eleven data sets, 10 to 100 on the others",
            select="last",
        ),
    }
    map: nn.Parameter  # [D, D] W
    used: Tensor  # [] float64, beta as given or chosen
    seed: int  # of the noise; set by `start`
    steps: int  # taken so far; set by `start`

    def __init__(
        self,
        *,
        beta: Annotated[float | None, "share of the identity at the start, 0 to 1; none: chosen on the support"] = None,
        nearest: Annotated[int, "classes nearest to a row that the loss compares"] = 3,
        scale: Annotated[float, "divides the margin between classes"] = 4.0,
        noise: Annotated[float, "deviation of the noise on each coordinate, in every other step"] = 0.035,
        dropout: Annotated[float, "share of coordinates dropped, in every other step"] = 0.05,
    ) -> None:
        super().__init__()
        self.beta = None if beta is None else check_share("beta", beta)
        check_at_least("nearest", nearest, 1)
        check_at_least("scale", scale, 1e-6)
        check_at_least("noise", noise, 0)
        self.nearest, self.scale, self.noise, self.dropout = nearest, scale, noise, check_share("dropout", dropout)

    def build(self, shapes: Shapes) -> None:
        """The map."""
        super().build(shapes)
        self.map = nn.Parameter(torch.empty(shapes.dim, shapes.dim))
        self.register_buffer("used", torch.empty((), dtype=torch.float64))

    @torch.no_grad()
    def start(self, support: Support) -> None:
        """Choose beta if it is open, and solve, in float64."""
        super().start(support)
        self.seed, self.steps = support.seed or 0, 0
        beta = self.beta
        if beta is None:
            beta = BETA_FOR_NEW if support.new_classes else choose_beta(support)
        views = support.image[:, None] if support.views is None else support.views
        text = support.text[support.label].repeat_interleave(views.shape[1], dim=0)
        self.map.copy_(blended(procrustes(views.flatten(0, 1).double(), text.double()), beta))
        self.used = torch.tensor(beta, dtype=torch.float64)

    def forward(self, image: Tensor, text: Tensor) -> Tensor:
        """Logits [B, C] of unit `image` [B, D] against unit `text` [C, D]."""
        return zero_shot_logits(unit(image @ self.map), text, self.logit_scale)

    def loss(self, image: Tensor, text: Tensor, label: Tensor) -> Tensor:
        """The adaptive re-ranking loss, on noisy rows while it trains."""
        cosine = unit(self.disturbed(image) @ self.map) @ text.mT  # [B, C]
        near = cosine.topk(min(self.nearest, len(text))).indices  # [B, k]
        margin = (1 - (text @ text.mT)[label].gather(1, near)) / self.scale
        own = distance(cosine.gather(1, label[:, None]))  # [B, 1]
        return functional.relu(own + margin - distance(cosine.gather(1, near))).mean()

    def disturbed(self, image: Tensor) -> Tensor:
        """Rows [B, D] with the noise of this step, which follows from the seed and the number of the step alone."""
        draw = torch.Generator().manual_seed((self.seed * 1_000_003 + self.steps) % 2**63)
        noisy, dropping = (torch.rand(2, generator=draw) > 0.5).tolist()
        if noisy and self.noise:
            image = image + self.noise * torch.randn(image.shape, generator=draw).to(image)
        if dropping and self.dropout:
            kept = (torch.rand(image.shape, generator=draw) >= self.dropout).to(image)
            image = image * kept / max(1 - self.dropout, 1e-6)
        return image

    def optimizer(self, recipe: Recipe) -> torch.optim.Optimizer:
        """The recipe's, which counts its steps."""
        optimizer = super().optimizer(recipe)
        optimizer.register_step_post_hook(self.count)
        return optimizer

    def count(self, *_: object) -> None:
        """A step has been taken."""
        self.steps += 1

    def choices(self) -> dict[str, float]:
        """The beta that `start` chose."""
        return {} if self.beta is not None else {"beta": float(self.used)}


def choose_beta(support: Support) -> float:
    """The first of `BETAS` whose maps are right most often on rows of the support that they were not fitted to.

    Fewer than five rows leave none to score: the published value for new classes.
    """
    image, label, text = support.image.double(), support.label, support.text.double()
    rows = len(image)
    fitted = int(rows * (1 - HELD_OUT))
    if rows < 5:
        return BETA_FOR_NEW
    draw = torch.Generator().manual_seed(0)
    right = torch.zeros(len(BETAS), dtype=torch.int64)
    for _ in range(SPLITS):
        order = torch.randperm(rows, generator=draw).to(label.device)
        train, left = order[:fitted], order[fitted:]
        aligned = procrustes(image[train], text[label[train]])
        for i, beta in enumerate(BETAS.tolist()):
            logits = image[left] @ blended(aligned, beta) @ text.mT  # unit or not: the same order of classes
            right[i] += (logits.argmax(dim=-1) == label[left]).sum().cpu()
    return float(BETAS[int(right.argmax())])


def blended(aligned: Tensor, beta: float) -> Tensor:
    """(1 - beta) P + beta I [D, D]."""
    return (1 - beta) * aligned + beta * torch.eye(len(aligned)).to(aligned)


# P = U V' = U1 V1' + U2 Q V2', U1 and V1 of the r singular values that are not zero; every orthogonal Q gives the same
# sum. The one nearest to I maximises tr P, so tr (Q V2' U2): it is A B' of the decomposition U2' V2 = A S B'.
def procrustes(source: Tensor, target: Tensor) -> Tensor:
    """The orthogonal P [D, D] with the least |source P - target|^2, rows [N, D]; of all these, the nearest to I."""
    u, s, vh = torch.linalg.svd(source.mT @ target)
    rank = int((s > s[0] * len(s) * torch.finfo(s.dtype).eps).sum())
    a, _, bh = torch.linalg.svd(u[:, rank:].mT @ vh[rank:].mT)
    nearest: Tensor = torch.cat([u[:, :rank], u[:, rank:] @ a @ bh], dim=1) @ vh
    return nearest


def distance(cosine: Tensor) -> Tensor:
    """Between unit vectors; with a gradient where they are the same."""
    return (2 - 2 * cosine).clamp(min=1e-12).sqrt()
