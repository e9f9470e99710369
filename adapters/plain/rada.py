"""RAda as its paper writes it (arXiv 2507.15480; code khufia/RAda, 5d419c0): attention masks the channels of f * h_k.

R_k = s f * h_k [C, D]     key, value = Wk R, Wv R     queries: Wq1 sqrt(s) f (image), Wq2 sqrt(s) h_k (text), Wq3 R
P_i = C softmax over all C x C entries of (q_i key' / sqrt(D / H) / T), a head     O = Wo ((mean_i P_i) value)
M = ReLU(1 + O)     logit_k = sum_d M[k, d] R[k, d]     loss = cross-entropy + alpha max |M - 1| (or mean (M - 1)^2)

Wo and its bias start at zero, so M = 1 and RAda starts exactly at zero-shot.

Every token of every image is projected, and every image has C x C maps of its own: `mma.adapters.rada` gives the same
numbers from the same weights at less work.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Annotated, ClassVar, Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional

from mma.adapters.base import Adapter, AdapterError, NamedRecipe, Recipe, Shapes, check_at_least, check_choice

QUERIES = ("image", "text", "rational")
Regulariser = Literal["linf", "l2"]

# The options that all forms of RAda have.
Queries = Annotated[str, "which are averaged, joined by +: any of image, text and rational"]
Heads = Annotated[int, "heads of attention; they share D"]
Temperature = Annotated[float, "divides the scores of attention"]
Penalty = Annotated[Regulariser, "the mask's largest distance from 1, or its mean square"]
Alpha = Annotated[float, "weight of the regulariser"]


class PlainRAda(Adapter):
    """A mask on the channels of f * h_k, from attention across the candidate classes.

    The regulariser keeps the mask near 1. The values of the learning rate, batch, epochs, alpha and temperature behind
    the published numbers are unknown: those here are our setting. A class's logit depends on which other classes are
    candidates.
    """

    source = "RAda, arXiv 2507.15480; code khufia/RAda at 5d419c0"
    uses_views: ClassVar[Literal["no", "train", "test"]] = "train"  # the test-time form: "test"
    recipes: ClassVar[Mapping[str, NamedRecipe]] = {
        "validated": NamedRecipe(
            Recipe("adam", 3.5e-3, 5e-4, batch=32, epochs=5, schedule="cosine", monitor="loss"),
            "the released one with a larger batch, no warm-up, stopped on validation loss",
        ),
        "released": NamedRecipe(
            Recipe("adam", 3.5e-3, 5e-4, batch=4, epochs=5, patience=5, schedule="cosine", warmup=1),
            "khufia/RAda at 5d419c0: defaults of train.py, which override its configuration; not those of the tables",
            select="last",
        ),
    }
    q_image: nn.Linear
    q_text: nn.Linear
    q_rational: nn.Linear
    key: nn.Linear
    value: nn.Linear
    out: nn.Linear

    def __init__(
        self,
        *,
        queries: Queries = "image+text+rational",
        heads: Heads = 8,
        temperature: Temperature = 1.0,
        regulariser: Penalty = "linf",
        alpha: Alpha = 0.1,
    ) -> None:
        super().__init__()
        named = queries.split("+")
        for name in named:
            check_choice("queries", name, QUERIES)
        if len(set(named)) < len(named):
            raise AdapterError(f"queries = {queries!r} names a query twice")
        check_at_least("heads", heads, 1)
        check_at_least("alpha", alpha, 0)
        if not 0 < temperature < math.inf:
            raise AdapterError(f"temperature = {temperature} is not above 0 and finite")
        check_choice("regulariser", regulariser, get_args(Regulariser))
        self.queries, self.heads, self.temperature = queries, heads, temperature
        self.regulariser, self.alpha = regulariser, alpha

    def check(self, dim: int, recipe: Recipe) -> None:
        """Refuse heads that do not divide the embeddings."""
        if dim % self.heads:
            raise AdapterError(f"heads = {self.heads} does not divide the {dim} dimensions of the embeddings")

    def build(self, shapes: Shapes) -> None:
        """Draw the projections as torch does; the output's are zero."""
        super().build(shapes)
        dim, named = shapes.dim, self.queries.split("+")
        for name in QUERIES:
            if name in named:
                setattr(self, f"q_{name}", nn.Linear(dim, dim))
        self.key, self.value, self.out = nn.Linear(dim, dim), nn.Linear(dim, dim), nn.Linear(dim, dim)
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)

    def forward(self, image: Tensor, text: Tensor) -> Tensor:
        """Logits [B, C] of unit `image` [B, D] against unit `text` [C, D]."""
        return self.masked(image, text, regularised=False)[0]

    def loss(self, image: Tensor, text: Tensor, label: Tensor) -> Tensor:
        """Mean cross-entropy + alpha * the mean distance of the mask from 1."""
        logits, distance = self.masked(image, text, regularised=self.alpha > 0)
        return functional.cross_entropy(logits, label) + self.alpha * distance.mean()

    def embed(self, image: Tensor, text: Tensor) -> tuple[Tensor, Tensor]:
        """The embeddings that attention sees: as they are."""
        return image, text

    def masked(self, image: Tensor, text: Tensor, *, regularised: bool) -> tuple[Tensor, Tensor]:
        """Logits [B, C], and the distance of each image's mask from 1 [B]."""
        image, text = self.embed(image, text)
        b, c = len(image), len(text)
        rational = image[:, None] * text[None]
        root = self.logit_scale**0.5
        tokens = {
            "image": root * image[:, None].repeat(1, c, 1),
            "text": root * text[None].repeat(b, 1, 1),
            "rational": self.logit_scale * rational,
        }
        key, value = (
            layer(tokens["rational"]).view(b, c, self.heads, -1).transpose(1, 2) for layer in (self.key, self.value)
        )
        maps = []
        for name in self.queries.split("+"):
            query = getattr(self, f"q_{name}")(tokens[name]).view(b, c, self.heads, -1).transpose(1, 2)
            scores = query @ key.mT / query.shape[-1] ** 0.5
            maps.append(functional.softmax(scores.flatten(2) / self.temperature, dim=-1).view_as(scores) * c)
        attended = (sum(maps, torch.zeros(())) / len(maps) @ value).transpose(1, 2).flatten(2)
        mask = torch.relu(torch.ones_like(attended) + self.out(attended))
        distance = (mask - torch.ones_like(mask)).abs().flatten(1).max(dim=1).values
        if self.regulariser == "l2":
            distance = functional.mse_loss(mask, torch.ones_like(mask), reduction="none").flatten(1).mean(1)
        return self.logit_scale * (mask * rational).sum(-1), distance
