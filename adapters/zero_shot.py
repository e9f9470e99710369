"""Zero-shot CLIP: the row every other row is compared with. Nothing is learned."""

from __future__ import annotations

from torch import Tensor

from mma.adapters.base import Adapter, zero_shot_logits


class ZeroShot(Adapter):
    """CLIP without training: logit_scale times the cosine."""

    source = "CLIP, Radford et al. 2021, arXiv 2103.00020, section 3.1"
    trains = False
    few_shot = False
    seeded = False

    def forward(self, image: Tensor, text: Tensor) -> Tensor:
        """Logits [B, C] of unit `image` [B, D] against unit `text` [C, D]."""
        return zero_shot_logits(image, text, self.logit_scale)
