"""TDA: caches of the test stream, one of what a row is and one of what it is not (arXiv 2403.18293; kdiAAA/TDA).

logits = s x T' + alpha exp(-beta (1 - x Q')) L - negative_alpha exp(-negative_beta (1 - x Q~')) L~

Q: per pseudo-class, the 3 rows of lowest entropy seen so far, L their pseudo-labels. Q~: the 2 of lowest entropy among
rows of middling entropy (nats over log2 C, as released, 0.2 to 0.5), L~ the classes given a probability of 0.03 to 1.
With several views, x is the mean of the most certain ones, as released for ImageNet.
"""

from __future__ import annotations

import math
from typing import Annotated

from torch import Tensor

from mma.adapters.base import Adapter, check_at_least, zero_shot_logits
from mma.adapters.memory import Memory, confident_views, entropy_of, first_views, stream_order, vote

MIDDLING = (0.2, 0.5)  # entropy / log2 C of what the negative cache takes
PLAUSIBLE = (0.03, 1.0)  # probabilities that its labels mark


class TrainingFreeDynamicAdapter(Adapter):
    """Zero-shot that remembers the test stream, by one cache of what a row is and one of what it is not.

    A row's logits depend on the rows before it, and on no label. Defaults are the released ones for ImageNet, but for
    `test_views`: 1, as on the other data sets (ImageNet: 64). The released code shuffles; a test set stored class by
    class is another problem.
    """

    source = "TDA, arXiv 2403.18293; code kdiAAA/TDA"
    trains = False
    few_shot = False
    seeded = False
    transductive = "stream"
    uses_views = "test"

    def __init__(
        self,
        *,
        alpha: Annotated[float, "weight of the cache of what a row is"] = 2.0,
        beta: Annotated[float, "sharpness of that cache"] = 5.0,
        slots: Annotated[int, "rows per class of that cache"] = 3,
        negative_alpha: Annotated[float, "weight of the cache of what a row is not"] = 0.117,
        negative_beta: Annotated[float, "sharpness of that cache"] = 1.0,
        negative_slots: Annotated[int, "rows per class of that cache"] = 2,
        test_views: Annotated[int | None, "views of an image that are looked at; none: as many as there are"] = 1,
        shuffle: Annotated[bool, "whether rows come in one fixed random order, or as they stand"] = True,
    ) -> None:
        super().__init__()
        for name, value in (("alpha", alpha), ("beta", beta)):
            check_at_least(name, value, 0)
        for name, value in (("negative_alpha", negative_alpha), ("negative_beta", negative_beta)):
            check_at_least(name, value, 0)
        for name, count in (("slots", slots), ("negative_slots", negative_slots)):
            check_at_least(name, count, 1)
        self.alpha, self.beta, self.slots = alpha, beta, slots
        self.negative_alpha, self.negative_beta, self.negative_slots = negative_alpha, negative_beta, negative_slots
        check_at_least("test_views", test_views, 1)
        self.test_views, self.shuffle = test_views, shuffle

    def forward(self, image: Tensor, text: Tensor) -> Tensor:
        """Logits [B, C] of a stream of unit images [B, D], or views [B, V, D], against unit `text` [C, D], from empty
        caches.
        """
        views = confident_views(first_views(image, self.test_views), text, self.logit_scale)  # [B, n, D]
        voted = vote(zero_shot_logits(views, text, self.logit_scale))  # [B, C]
        image = views.mean(1)
        logits = zero_shot_logits(image, text, self.logit_scale)
        probability = voted.exp()
        entropy, pseudo = entropy_of(voted), logits.argmax(dim=-1).tolist()
        share = entropy / max(math.log2(len(text)), 1e-9)
        middling = ((share > MIDDLING[0]) & (share < MIDDLING[1])).tolist()
        plausible = ((probability > PLAUSIBLE[0]) & (probability < PLAUSIBLE[1])).to(text)  # [B, C]
        positive, negative = Memory(text, self.slots), Memory(text, self.negative_slots)
        denied = text.new_zeros(len(text), self.negative_slots, len(text))  # [C, S, C] L~
        adapted = logits.clone()
        for i in stream_order(len(image), self.shuffle):
            positive.put(pseudo[i], image[i], entropy[i])
            if middling[i]:
                slot = negative.put(pseudo[i], image[i], entropy[i])
                if slot is not None:
                    denied[pseudo[i], slot] = plausible[i]
            adapted[i] += self.alpha * positive.weights(image[i], self.beta).sum(-1)
            against = negative.weights(image[i], self.negative_beta).flatten() @ denied.flatten(0, 1)
            adapted[i] -= self.negative_alpha * against
        return adapted
