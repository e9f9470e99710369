"""Which shots speak for which class? What each shot of a kernel method adds to the logits of one image.

The methods that keep their shots are sums over them: logits = zero-shot + the sum of what the shots say.
"""

from __future__ import annotations

import torch
from torch import Tensor

from mma.adapters import Adapter
from mma.adapters.ape import AdaptivePriorRefinement
from mma.adapters.base import same_classes
from mma.adapters.kron_ridge import LANDMARKS, KroneckerRidge, kernel, spread
from mma.adapters.proker import ProximalKernelRidge
from mma.adapters.tip_adapter import TipAdapter


@torch.no_grad()
def said_by_shots(adapter: Adapter, image: Tensor, text: Tensor) -> Tensor | None:
    """What shot i adds to the logit of class k, [N, C], for a unit image [D] among unit texts [C, D].

    None of a method that keeps no shots. With views of the shots a row is a view; see `rows_of_shots`.
    """
    image = image[None]
    match adapter:
        case TipAdapter():
            weight = torch.exp(-adapter.decided("beta") * (1 - image @ adapter.keys.mT))[0]
            return _on_own_class(adapter.decided("alpha") * weight, adapter.label, len(text))
        case AdaptivePriorRefinement():
            farness = adapter.decided("beta") * (1 - adapter.affinity(image)[0])
            weight = torch.exp(adapter.decided("gamma") * adapter.surprise - farness)
            return _on_own_class(adapter.decided("alpha") * weight, adapter.label, len(text))
        case ProximalKernelRidge():
            near = adapter.kernel(image, adapter.decided("beta"))[0]
            return adapter.logit_scale * near[:, None] * adapter.coefficient
        case KroneckerRidge():
            beta = float(adapter.setting[0])
            if beta == 0:  # a linear kernel is kept as its axes
                return None
            near = kernel(image, adapter.points, beta)[0]
            weights = adapter.own if same_classes(text, adapter.classes) else adapter.of_classes(text)
            return adapter.logit_scale * near[:, None] * weights
    return None


def rows_of_shots(adapter: Adapter, said: Tensor, support: int) -> list[int]:
    """Which of the `support` rows each row of what was said [N, C] is of: views stand together, landmarks are some."""
    if isinstance(adapter, KroneckerRidge) and support > LANDMARKS:
        places: list[int] = spread(torch.arange(support), LANDMARKS).tolist()
        return places
    views = len(said) // support
    return [row // views for row in range(len(said))]


def _on_own_class(weight: Tensor, label: Tensor, classes: int) -> Tensor:
    """[N] weights as [N, C], each on the class of its shot."""
    said = weight.new_zeros(len(weight), classes)
    said[torch.arange(len(weight)), label] = weight
    return said
