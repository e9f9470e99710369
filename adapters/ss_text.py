"""SS-Text and SS-Text+: class weights in closed form, from shots and text, without validation rows (arXiv 2506.06076,
2506.17500; jusiro/SS-Text at 4ff4897, solvers/sstext.py).

logit_k = s <x, unit(w_k)>     v_k = t_k + s / (N lam_k) sum_{i of k} x_i     N shots in all, n_k of class k
ss-text:  w = v                                   lam_k = 1 / N
ss-text+: w = v - unit(2 v - mean over classes v)  lam_k = 1 / n_k, so that a class with few shots stays near its text

A class without shots has v_k = t_k. lam_k is at least 1e-3. The papers' bodies were not at hand: this is the code.
"""

from __future__ import annotations

from typing import Annotated, Literal, get_args

import torch
from torch import Tensor

from mma.adapters.base import (
    PerClassAdapter,
    Shapes,
    Support,
    check_at_least,
    check_choice,
    class_sum,
    unit,
    zero_shot_logits,
)

Form = Literal["ss-text", "ss-text+"]
LEAST_LAM = 1e-3  # as released


class SimpleShotText(PerClassAdapter):
    """The sum of a class's shots added to its text, and for ss-text+ pushed off the mean class.

    Needs no validation rows, and takes uneven classes and classes without shots.
    """

    source = "SS-Text, arXiv 2506.06076 and 2506.17500; code jusiro/SS-Text at 4ff4897"
    trains = False
    weight: Tensor  # [C, D] unit(w)

    def __init__(
        self,
        *,
        form: Annotated[Form, "ss-text+ is the later one, for uneven classes"] = "ss-text+",
        share: Annotated[float, "multiplies the shots beside the text; published: 1"] = 1.0,
    ) -> None:
        super().__init__()
        check_choice("form", form, get_args(Form))
        check_at_least("share", share, 0)
        self.form, self.share = form, share

    def build(self, shapes: Shapes) -> None:
        """A weight vector for each class."""
        super().build(shapes)
        self.register_buffer("weight", torch.empty(shapes.classes, shapes.dim))

    def start(self, support: Support) -> None:
        """The weights, in float64."""
        super().start(support)
        self.weight = support.text
        if self.share == 0 and self.form == "ss-text":
            return  # zero-shot
        image, text = support.image.double(), support.text.double()
        rows, classes = len(image), len(text)
        shots = class_sum(torch.ones_like(image[:, 0]), support.label, classes)  # [C] n_k
        lam = (1 / shots if self.form == "ss-text+" else torch.full_like(shots, 1 / rows)).clamp(min=LEAST_LAM)
        sums = class_sum(image.mT, support.label, classes).mT  # [C, D]
        blended = text + self.share * support.logit_scale / (rows * lam[:, None]) * sums
        if self.form == "ss-text+":
            blended = blended - unit(2 * blended - blended.mean(0))
        self.weight = unit(blended).to(support.text)

    def forward(self, image: Tensor, text: Tensor) -> Tensor:
        """Logits [B, C] of unit `image` [B, D]; `text` [C, D] must be of the classes of the support."""
        self.check_classes(text)
        return zero_shot_logits(image, self.weight, self.logit_scale)
