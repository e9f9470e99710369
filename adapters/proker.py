"""ProKeR: kernel ridge regression with zero-shot as its prior (arXiv 2501.11175, CVPR 2025).

f(x) = f0(x) + k(x, X) a     f0(x) = x T' (cosines)     k(x, x') = exp(-beta (1 - <x, x'>))     logits = s f

X [N, D] the shots, Y their one-hot labels. The coefficients `a` have two forms:

derived     (K + lam I)^-1 (Y - f0(X)): the least-squares fit with the penalty lam |f - f0|^2 in the kernel's space
released    (K / lam + I)^-1 (Y - f0(X)): lam times as much. A small lam now means a small correction, not a loose one

The released form is that of the authors' commits (in the history of omarnust/BReg-Adapter, up to f2ecb3d), and so most
likely that of the published numbers. Their search is linear and its ranges are per data set: 0.1 to 10 for beta and
0.001 to 10 for lam where they are widest (DTD, Flowers).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated, ClassVar, Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional

from mma.adapters.base import (
    AdapterError,
    PerClassAdapter,
    Shapes,
    Support,
    check_at_least,
    check_choice,
    zero_shot_logits,
)

Form = Literal["released", "derived"]


class ProximalKernelRidge(PerClassAdapter):
    """Kernel ridge regression on the shots, with zero-shot as its prior.

    The `derived` form goes to zero-shot as lam goes to infinity, the `released` form as it goes to 0. What is not given
    is chosen on validation rows: over the widest published ranges, in steps of a factor of 1.3 to 3.
    """

    source = "ProKeR, arXiv 2501.11175; code omarnust/BReg-Adapter up to f2ecb3d"
    trains = False
    uses_views = "train"
    tunes: ClassVar[Mapping[str, Sequence[float]]] = {
        "beta": [0.1, 0.3, 0.6, 1.0, 1.5, 2.0, 3.0, 5.0, 10.0],
        "lam": [0.001, 0.003, 0.01, 0.03, 0.1, 0.2, 0.5, 1.0, 3.0, 10.0],
    }
    shots: Tensor  # [N, D]
    residual: Tensor  # [N, C] Y - f0(X)
    coefficient: Tensor  # [N, C] a

    def __init__(
        self,
        *,
        beta: Annotated[float | None, "sharpness of the kernel"] = None,
        lam: Annotated[float | None, "how the fit is held to zero-shot: see form"] = None,
        form: Annotated[Form, "released: a small lam is a small correction; derived: a loose one"] = "released",
    ) -> None:
        super().__init__()
        check_at_least("beta", beta, 0)
        if lam is not None and not lam > 0:
            raise AdapterError(f"lam = {lam} is not above 0")
        check_choice("form", form, get_args(Form))
        self.beta, self.lam, self.form = beta, lam, form

    def build(self, shapes: Shapes) -> None:
        """The shots, all views of them, and their coefficients; the residual is of use while fitting alone."""
        super().build(shapes)
        self.register_buffer("shots", nn.UninitializedBuffer())
        self.register_buffer("residual", nn.UninitializedBuffer(), persistent=False)
        self.register_buffer("coefficient", nn.UninitializedBuffer())

    def start(self, support: Support) -> None:
        """Keep the shots and what zero-shot leaves to explain; solve for the coefficients where nothing is open."""
        super().start(support)
        views = support.image[:, None] if support.views is None else support.views
        shots, label = views.flatten(0, 1), support.label.repeat_interleave(views.shape[1])
        target = functional.one_hot(label, len(support.text)).to(shots)
        self.shots, self.residual = shots, target - shots @ support.text.mT
        self.coefficient = torch.zeros_like(self.residual)
        if not self.open_options():
            self.coefficient = self.solve(self.kernel(shots, self.decided("beta")), self.decided("lam"))

    def forward(self, image: Tensor, text: Tensor) -> Tensor:
        """Logits [B, C] of unit `image` [B, D]; `text` [C, D] must be of the classes of the support."""
        self.check_classes(text)
        correction = self.kernel(image, self.decided("beta")) @ self.coefficient
        return zero_shot_logits(image, text, self.logit_scale) + self.logit_scale * correction

    def kernel(self, image: Tensor, beta: float) -> Tensor:
        """k(image, X): [B, N]."""
        return torch.exp(-beta * (1 - image @ self.shots.mT))

    def solve(self, kernel: Tensor, lam: float) -> Tensor:
        """The coefficients [N, C], in float64."""
        system = kernel.double() / lam
        system.diagonal().add_(1)
        solution = torch.cholesky_solve(self.residual.double(), torch.linalg.cholesky(system))
        if self.form == "derived":
            solution = solution / lam
        return solution.to(self.residual).contiguous()

    def combinations(self, image: Tensor, text: Tensor) -> Iterator[tuple[dict[str, float], Tensor]]:
        """Every beta with every lam; the kernels are computed once for each beta."""
        for beta in self.tried("beta"):
            of_shots, of_image = self.kernel(self.shots, beta), self.kernel(image, beta)
            for lam in self.tried("lam"):
                yield {"beta": beta, "lam": lam}, image @ text.mT + of_image @ self.solve(of_shots, lam)

    @torch.no_grad()
    def tune(self, image: Tensor, text: Tensor, label: Tensor) -> None:
        """Choose what is open, then solve with it."""
        super().tune(image, text, label)
        self.coefficient = self.solve(self.kernel(self.shots, self.decided("beta")), self.decided("lam"))
