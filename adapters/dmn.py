"""DMN, zero-shot form: a dynamic memory of the test stream (arXiv 2403.17589, "Dual Memory Networks"; YBZh/DMN).

v_k = unit(sum_m exp(-beta (1 - <x, m>)) m)  over t_k and class k's memory: the 50 rows of lowest entropy seen so far
p = softmax(s x T') + weight softmax(s <x, v_k>)     logit_k = log p_k (+ a number per row: weight 0 is zero-shot)

A row is remembered, before it is scored, under the class that its most certain views choose. With one view that is its
own zero-shot class, which then holds the row itself: where a class has fewer rows than slots, memory echoes zero-shot.
"""

from __future__ import annotations

import math
from typing import Annotated

import torch
from torch import Tensor

from mma.adapters.base import Adapter, check_at_least, unit, zero_shot_logits
from mma.adapters.memory import Memory, confident_views, entropy_of, first_views, stream_order, vote


class DynamicMemory(Adapter):
    """Zero-shot that remembers the test stream: each class by all it has seen, read by similarity.

    A row's logits depend on the rows before it, and on no label. The published results choose `weight` on the test
    rows, among 0.001 to 1000; 1 is our setting. The published number of views is 64. The released code shuffles.
    """

    source = "DMN (zero-shot form), arXiv 2403.17589; code YBZh/DMN"
    trains = False
    few_shot = False
    seeded = False
    transductive = "stream"
    uses_views = "test"

    def __init__(
        self,
        *,
        weight: Annotated[float, "weight of the memory beside zero-shot; 0 is zero-shot"] = 1.0,
        beta: Annotated[float, "sharpness of reading the memory"] = 5.5,
        slots: Annotated[int, "rows remembered per class, those of lowest entropy"] = 50,
        test_views: Annotated[int | None, "views that vote on a row's class; none: as many as there are"] = None,
        shuffle: Annotated[bool, "whether rows come in one fixed random order, or as they stand"] = True,
    ) -> None:
        super().__init__()
        check_at_least("weight", weight, 0)
        check_at_least("beta", beta, 0)
        check_at_least("slots", slots, 1)
        check_at_least("test_views", test_views, 1)
        self.weight, self.beta, self.slots = weight, beta, slots
        self.test_views, self.shuffle = test_views, shuffle

    def forward(self, image: Tensor, text: Tensor) -> Tensor:
        """Logits [B, C] of a stream of unit images [B, D], or of view 0 of views [B, V, D], against unit `text` [C, D],
        from an empty memory.
        """
        views = first_views(image, self.test_views)
        image = views[:, 0]
        logits = zero_shot_logits(image, text, self.logit_scale)
        confident = confident_views(views, text, self.logit_scale)
        voted = vote(zero_shot_logits(confident, text, self.logit_scale))  # [B, C]
        entropy, pseudo = entropy_of(voted), voted.argmax(dim=-1).tolist()
        from_text = torch.exp(-self.beta * (1 - image @ text.mT))  # [B, C]
        memory = Memory(text, self.slots)
        remembered = torch.empty_like(logits)
        for i in stream_order(len(image), self.shuffle):
            memory.put(pseudo[i], image[i], entropy[i])
            weights = memory.weights(image[i], self.beta)  # [C, S]
            prototype = (weights[:, None] @ memory.row)[:, 0] + from_text[i, :, None] * text  # [C, D]
            remembered[i] = self.logit_scale * unit(prototype) @ image[i]
        log_weight = math.log(self.weight) if self.weight else -math.inf
        return torch.logaddexp(logits, log_weight + remembered.log_softmax(-1) + logits.logsumexp(-1, keepdim=True))
