"""LP++: a linear probe with a learned blend of the text embedding per class (arXiv 2404.02285; FewShot-CLIP-Strong-
Baseline). Its step sizes and starting point come from the data, so nothing is searched.

logit_k = <x, w_k + alpha_k t_k>
start:  w_k = sum of the class's shots,  alpha_k = 250 mean_k (mean over the class's shots of <x_i, t_k>)
steps:  full batch;  w: 4 N / largest eigenvalue of X'X, momentum 0.9;  alpha: N / (4 max_k sum_i <x_i, t_k>^2), every
        tenth step. The recipe's learning rate multiplies both.

derived     as above: alpha steps along the gradient of the loss
released    alpha's gradient is never cleared, so its n-th step is along the sum of all 10 n gradients so far, and alpha
            moves; and a bias b_k is added to the logits, which starts at torch's draw for a linear layer, and steps
            with w
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Annotated, Any, ClassVar, Literal, get_args

import torch
from torch import Tensor, nn

from mma.adapters.base import (
    AdapterError,
    NamedRecipe,
    PerClassAdapter,
    Recipe,
    Shapes,
    Support,
    check_choice,
    class_sum,
)

ALPHA_EVERY = 10  # steps
ALPHA_START = 250.0


Form = Literal["derived", "released"]


class LinearProbePlusPlus(PerClassAdapter):
    """A visual prototype and a text weight per class, by block coordinate descent with step sizes from the data."""

    source = "LP++, arXiv 2404.02285; code FereshteShakeri/FewShot-CLIP-Strong-Baseline"
    recipes: ClassVar[Mapping[str, NamedRecipe]] = {
        "published": NamedRecipe(
            Recipe("sgd", 1.0, 0.0, batch=1_000_000_000, epochs=300, patience=300),
            "FereshteShakeri/FewShot-CLIP-Strong-Baseline, methods/linear_probe_p2.py",
        ),
    }
    weight: nn.Parameter  # [C, D]
    alpha: nn.Parameter  # [C]
    bias: nn.Parameter  # [C], of the released form
    steps: Tensor  # [2] step sizes of w and of alpha

    def __init__(
        self,
        *,
        form: Annotated[
            Form, "the paper's derivation, or the released code, which differs: see docs/methods.md"
        ] = "derived",
    ) -> None:
        super().__init__()
        check_choice("form", form, get_args(Form))
        self.form = form

    def check(self, dim: int, recipe: Recipe) -> None:
        """Refuse another optimiser: the steps are the method's own."""
        if recipe.optimizer != "sgd":
            raise AdapterError(f"optimizer = {recipe.optimizer!r}: lp++ has its own, block gradient descent (sgd)")

    def build(self, shapes: Shapes) -> None:
        """A prototype and a text weight for each class; the bias is drawn as torch does for a linear layer."""
        super().build(shapes)
        self.weight = nn.Parameter(torch.empty(shapes.classes, shapes.dim))
        self.alpha = nn.Parameter(torch.empty(shapes.classes))
        if self.form == "released":
            self.bias = nn.Parameter((2 * torch.rand(shapes.classes) - 1) / math.sqrt(shapes.dim))
        self.register_buffer("steps", torch.empty(2, dtype=torch.float64))

    @torch.no_grad()
    def start(self, support: Support) -> None:
        """Prototypes, text weights and step sizes from the support."""
        super().start(support)
        image, text, classes = support.image, support.text, len(support.text)
        similarity = image @ text.mT  # [N, C]
        shots = class_sum(torch.ones_like(image[:, 0]), support.label, classes).clamp(min=1)
        own = similarity.gather(1, support.label[:, None]).squeeze(1)  # [N]
        agreement = (class_sum(own, support.label, classes) / shots).mean()
        self.weight.copy_(class_sum(image.mT, support.label, classes).mT)
        self.alpha.fill_(ALPHA_START * agreement)
        largest = torch.linalg.matrix_norm(image.double(), ord=2) ** 2
        steps = [4 * len(image) / float(largest), len(image) / (4 * float(similarity.square().sum(0).max()))]
        self.steps = torch.tensor(steps, dtype=torch.float64)

    def forward(self, image: Tensor, text: Tensor) -> Tensor:
        """Logits [B, C] of unit `image` [B, D]; `text` [C, D] must be of the classes of the support."""
        self.check_classes(text)
        logits = image @ (self.weight + self.alpha[:, None] * text).mT
        return logits + self.bias if self.form == "released" else logits

    def optimizer(self, recipe: Recipe) -> torch.optim.Optimizer:
        """Gradient descent with a step size for each block."""
        step_weight, step_alpha = (recipe.lr * float(step) for step in self.steps)
        released = self.form == "released"
        blocks = [
            {"params": [self.weight, *([self.bias] if released else [])], "lr": step_weight, "momentum": 0.9},
            {"params": [self.alpha], "lr": step_alpha, "momentum": 0.0},
        ]
        return BlockDescent(blocks, lr=recipe.lr, weight_decay=recipe.weight_decay, accumulate=released)


class BlockDescent(torch.optim.SGD):
    """Gradient descent whose last block is one tensor, and steps only every tenth time: along its gradient then, or
    along the sum of all its gradients so far (`accumulate`).
    """

    def __init__(self, blocks: list[dict[str, Any]], lr: float, weight_decay: float, *, accumulate: bool) -> None:
        super().__init__(blocks, lr=lr, weight_decay=weight_decay)
        self.count, self.total = 0, torch.zeros(()) if accumulate else None

    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """One step of the first block, and at every tenth of the last."""
        self.count += 1
        (last,) = self.param_groups[-1]["params"]
        if self.total is not None:
            self.total = last.grad = self.total.to(last) + last.grad
        if self.count % ALPHA_EVERY:
            last.grad = None
        super().step(closure)
