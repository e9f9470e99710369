"""Multi-Modal Adapter as its paper writes it (arXiv 2409.02958; code dqmis/clip-mma): a sequence for every image.

    Z = down([t_1 .. t_C; x])     A = MHA(Z, mask)     delta = up(A)     d = unit(delta)
    t'_k = unit(lam d_k + (1 - lam) t_k)     x' = unit(lam d_x + (1 - lam) x)     logit_k = logit_scale <x', t'_k>

Torch's own attention over sequences [B, C + 1, width], and prompts adapted to [B, C, D]: memory grows as B (C + 1)^2
and B C D. `mma.adapters.mma` gives the same logits from the same weights without either.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, ClassVar, Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional

from mma.adapters.base import (
    Adapter,
    AdapterError,
    NamedRecipe,
    Recipe,
    Shapes,
    blend,
    check_at_least,
    check_choice,
    check_share,
    zero_shot_logits,
)

Mask = Literal["cross", "pair", "bias", "none", "within"]


class PlainMultiModalAdapter(Adapter):
    """One attention layer over the prompts and the image, whose output is blended into both.

    `mask` says who sees whom:

    - `cross`: a prompt sees the image only, the image sees the prompts only (the paper)
    - `pair`: as `cross`, for one prompt at a time: the logit of class k comes from the sequence [t_k; x]
    - `bias`: everyone sees everyone, +1 on the text-image scores (the released code)
    - `none`: everyone sees everyone
    - `within`: a prompt sees the prompts, the image sees itself
    """

    source = "Multi-Modal Adapter, arXiv 2409.02958; code dqmis/clip-mma"
    recipes: ClassVar[Mapping[str, NamedRecipe]] = {
        "validated": NamedRecipe(
            Recipe("adam", 5e-3, 1e-4, batch=256, epochs=200, patience=20, monitor="loss"),
            "the published one, stopped on validation loss",
        ),
        "published": NamedRecipe(
            Recipe("adam", 5e-3, 1e-4, batch=256, epochs=200, patience=10), "dqmis/clip-mma at 1287cb5, notebooks"
        ),
    }
    down_in: nn.Linear
    down_out: nn.Linear | None
    mha: nn.MultiheadAttention
    up_in: nn.Linear
    up_out: nn.Linear

    def __init__(
        self,
        *,
        lam: Annotated[float, "weight of the adaptation on both sides, 0 (zero-shot) to 1"] = 0.2,
        lam_text: Annotated[float | None, "the text side's; none: lam"] = None,
        lam_image: Annotated[float | None, "the image side's; none: lam"] = None,
        mask: Annotated[Mask, "who sees whom in attention"] = "cross",
        heads: Annotated[int, "heads of attention; they share width"] = 4,
        rank: Annotated[int | None, "inner dimension of the projection down; none: one linear layer"] = 32,
        width: Annotated[int, "dimension of attention"] = 128,
        hidden: Annotated[int, "inner dimension of the projection up"] = 32,
    ) -> None:
        super().__init__()
        check_choice("mask", mask, get_args(Mask))
        if heads < 1 or width < 1 or width % heads:
            raise AdapterError(f"heads = {heads} does not divide width = {width}")
        check_at_least("rank", rank, 1)
        check_at_least("hidden", hidden, 1)
        self.lam = check_share("lam", lam)
        self.lam_text = None if lam_text is None else check_share("lam_text", lam_text)
        self.lam_image = None if lam_image is None else check_share("lam_image", lam_image)
        self.mask, self.heads, self.rank, self.width, self.hidden = mask, heads, rank, width, hidden

    def build(self, shapes: Shapes) -> None:
        """Draw the weights as the released code does: torch's defaults for every layer."""
        super().build(shapes)
        self.down_in = nn.Linear(shapes.dim, self.rank or self.width)
        self.down_out = nn.Linear(self.rank, self.width) if self.rank else None
        self.mha = nn.MultiheadAttention(self.width, self.heads)
        self.up_in, self.up_out = nn.Linear(self.width, self.hidden), nn.Linear(self.hidden, shapes.dim)

    def shares(self) -> tuple[float, float]:
        """(lambda of the image side, lambda of the text side)."""
        lam_image = self.lam if self.lam_image is None else self.lam_image
        lam_text = self.lam if self.lam_text is None else self.lam_text
        return lam_image, lam_text

    def forward(self, image: Tensor, text: Tensor) -> Tensor:
        """Logits [B, C] of unit `image` [B, D] against unit `text` [C, D]."""
        lam_image, lam_text = self.shares()
        if lam_image == lam_text == 0:
            return zero_shot_logits(image, text, self.logit_scale)
        delta_image, delta_text = self.deltas(image, text)
        adapted_image = blend(delta_image, image[:, None], lam_image) if lam_image else image[:, None]  # [B, 1 or C, D]
        adapted_text = blend(delta_text, text, lam_text) if lam_text else text  # [B, C, D] or [C, D]
        if lam_text and self.mask != "pair":
            return self.logit_scale * (adapted_image @ adapted_text.mT)[:, 0]
        return self.logit_scale * (adapted_image * adapted_text).sum(-1)

    def deltas(self, image: Tensor, text: Tensor) -> tuple[Tensor, Tensor]:
        """up(MHA(down(.))): of the image [B, 1, D] (`pair`: [B, C, D], for each prompt), of the prompts [B, C, D]."""
        b, c = image.shape[0], text.shape[0]  # not len, which an export would take for constant
        z_text = self.lower(text).expand(b, c, self.width)
        z_image = self.lower(image)[:, None]  # [B, 1, W]
        if self.mask == "pair":
            z = torch.stack([z_text, z_image.expand_as(z_text)], 2).flatten(0, 1).transpose(0, 1)  # [2, B C, W]
        else:
            z = torch.cat([z_text, z_image], 1).transpose(0, 1)  # [C + 1, B, W]
        attended = self.mha(z, z, z, attn_mask=score_mask(self.mask, z.shape[0]).to(z), need_weights=False)[0]
        delta = self.up_out(functional.gelu(self.up_in(attended.transpose(0, 1))))
        if self.mask == "pair":
            delta = delta.unflatten(0, (b, c))  # [B, C, 2, D]
            return delta[:, :, 1], delta[:, :, 0]
        return delta[:, c:], delta[:, :c]

    def lower(self, embedding: Tensor) -> Tensor:
        """[N, D] -> [N, width]."""
        low: Tensor = self.down_in(embedding)
        return low if self.down_out is None else functional.linear(low, self.down_out.weight, self.down_out.bias)


def score_mask(mask: Mask, length: int) -> Tensor:
    """What is added to the attention scores of `length` tokens, the last of them the image: [length, length]."""
    is_image = torch.arange(length) == length - 1
    crosses = is_image[:, None] != is_image[None]  # [L, L] one of the two is the image
    zero = torch.zeros(length, length)
    if mask == "bias":
        return zero.masked_fill(crosses, 1.0)
    if mask == "none":
        return zero
    return zero.masked_fill(crosses if mask == "within" else ~crosses, -torch.inf)
