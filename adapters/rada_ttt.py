"""RAda at test time: for each image, a step that makes its views agree (arXiv 2507.15480, test-time training).

loss = H(mean over the most certain views of softmax(logits))     Wo, its bias: `steps` of AdamW from zero, then view 0

Which loss, steps and views were used is not published: this is TPT's recipe (arXiv 2209.07511: entropy of the mean over
the most certain tenth of the views, one step at 5e-3) on RAda. At Wo = 0 a first step moves Wo and its bias alone; here
later ones do too, so attention is worked out once per image. Every image starts anew: rows do not depend on each other.
"""

from __future__ import annotations

from typing import Annotated

import torch
from torch import Tensor
from torch.nn import functional

from mma.adapters.base import check_at_least, check_share
from mma.adapters.memory import CONFIDENT, confident_views, entropy_of, first_views, vote
from mma.adapters.plain.rada import Heads, Queries, Temperature
from mma.adapters.rada import RAda

BLOCK = 32  # images adapted together, each with its own Wo


class RAdaTestTime(RAda):
    """RAda without shots, adapted to every test image by the entropy over its views.

    With a single view the step lowers that view's entropy, which sharpens a prediction and seldom changes it.
    """

    source = "RAda at test time, arXiv 2507.15480, by the recipe of TPT, arXiv 2209.07511"
    trains = False
    few_shot = False
    uses_views = "test"

    def __init__(
        self,
        *,
        queries: Queries = "image+text+rational",
        heads: Heads = 8,
        temperature: Temperature = 1.0,
        step_size: Annotated[float, "step size of AdamW"] = 5e-3,
        steps: Annotated[int, "steps of AdamW for each image; 0: zero-shot"] = 1,
        confident: Annotated[float, "share of the views kept, those of lowest entropy"] = CONFIDENT,
        test_views: Annotated[int | None, "how many views there must be; none: as many as there are"] = None,
    ) -> None:
        super().__init__(queries=queries, heads=heads, temperature=temperature, alpha=0.0, candidates=None)
        check_at_least("step_size", step_size, 0)
        check_at_least("steps", steps, 0)
        check_at_least("test_views", test_views, 1)
        self.step_size, self.steps, self.test_views = step_size, steps, test_views
        self.confident = check_share("confident", confident)

    def forward(self, image: Tensor, text: Tensor) -> Tensor:
        """Logits [B, C] of unit views [B, V, D], or of single images [B, D], against unit `text` [C, D]."""
        views = first_views(image, self.test_views)
        return torch.cat([self.adapt(block, text) for block in torch.split(views, BLOCK)])

    def adapt(self, views: Tensor, text: Tensor) -> Tensor:
        """Logits [b, C] of view 0 after the steps, from views [b, V, D]."""
        b, dim = len(views), views.shape[2]
        confident = confident_views(views, text, self.logit_scale, self.confident)
        chosen = torch.cat([views[:, :1], confident], 1)  # [b, 1 + n, D]
        with torch.no_grad():
            attended, rational = self.attention(text)(chosen.flatten(0, 1))
        attended, rational = attended.view(b, -1, *attended.shape[1:]), rational.view(b, -1, *rational.shape[1:])
        weight = torch.zeros(b, dim, dim).to(text).requires_grad_()  # Wo' of each image
        bias = torch.zeros(b, 1, 1, dim).to(text).requires_grad_()
        optimizer = torch.optim.AdamW([weight, bias], lr=self.step_size)
        for _ in range(self.steps):
            with torch.enable_grad():
                each = masked_logits(attended[:, 1:], rational[:, 1:], weight, bias)  # [b, n, C]
                loss = entropy_of(vote(each)).sum()
                weight.grad, bias.grad = torch.autograd.grad(loss, [weight, bias])
            optimizer.step()
        with torch.no_grad():
            return masked_logits(attended[:, :1], rational[:, :1], weight, bias)[:, 0]


def masked_logits(attended: Tensor, rational: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Logits [b, n, C] of views with the image's own output projection: [b, n, C, D], [b, D, D], [b, 1, 1, D]."""
    mask = functional.relu(1 + attended @ weight[:, None] + bias)
    return (mask * rational).sum(-1)
