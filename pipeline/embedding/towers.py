"""The last linear layer of each tower of a CLIP, taken off, so that one pass gives what comes before it and after it.

A vision transformer projects its pooled token, a ResNet what its attention pooling has gathered (the layer that ProLIP
trains, arXiv 2410.05270), a text transformer the token at the end of a text. Other towers end otherwise: SigLIP's pools
by attention and projects nothing, and CoCa's returns unit vectors.
"""

from __future__ import annotations

import copy
import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import open_clip
import torch
from open_clip.model import CLIP, CustomTextCLIP
from open_clip.modified_resnet import AttentionPool2d, ModifiedResNet
from open_clip.timm_model import TimmModel
from open_clip.transformer import TextTransformer, VisionTransformer
from torch import Tensor, nn

from mma.cache import Projection
from mma.pipeline.errors import UsageError

Split = Callable[[Tensor], tuple[Tensor, Tensor]]


@dataclass(frozen=True)
class LastLayer:
    """The last linear layer of a tower from which it was taken."""

    weight: Tensor  # [W, D]
    bias: Tensor | None  # [D]
    split: Split  # what the tower gives without it -> embedding [B, D], by the tower's own sums, and penultimate [B, W]

    def stored(self) -> Projection:
        """As a cache keeps it."""
        weight = self.weight.detach().float().cpu().contiguous()
        bias = weight.new_zeros(weight.shape[1]) if self.bias is None else self.bias.detach().float().cpu()
        return Projection(weight.numpy(), bias.numpy())


def take_off(model: nn.Module, name: str) -> tuple[LastLayer, LastLayer]:
    """Take the last layers off the image and the text tower of a model, which then returns what they were given.

    Raises UsageError where a tower has none, or has it where `mma` does not know.
    """
    if type(model) not in (CLIP, CustomTextCLIP):
        raise _refused(name, f"what a {type(model).__name__} returns is no linear layer's")
    visual = model.visual
    if isinstance(visual, VisionTransformer) and visual.proj is not None:
        image = _of(_taken(visual, "proj"))
    elif isinstance(visual, ModifiedResNet):
        image = _of_attention(visual.attnpool)
        visual.attnpool = nn.Identity()
    elif isinstance(visual, TimmModel) and isinstance(getattr(visual.head, "proj", None), nn.Linear):
        image = _of(visual.head.proj)
        visual.head.proj = nn.Identity()
    else:
        raise _refused(name, f"its image tower ({type(visual).__name__}) does not end in one")
    tower: Any = model.text if isinstance(model, CustomTextCLIP) else model
    if not isinstance(tower, CLIP | TextTransformer) or tower.text_projection is None:
        raise _refused(name, f"its text tower ({type(tower).__name__}) does not end in one")
    return image, _of(_taken(tower, "text_projection"))


def check_towers(name: str) -> None:
    """Refuse a model whose towers have no such layers, before its weights are looked for. Raises UsageError."""
    logging.disable(logging.WARNING)  # open_clip warns of the weights that it is not given
    try:
        with torch.device("meta"):
            model = open_clip.create_model(name, load_weights=False, device="meta")
    except Exception:  # what is wrong with it is said where it is loaded
        return
    finally:
        logging.disable(logging.NOTSET)
    take_off(model, name)


def _refused(name: str, why: str) -> UsageError:
    return UsageError(
        f"`features=penultimate` stores what comes before the last linear layer of both towers, and {name} lacks that: "
        f"{why}; leave it out, or take another model"
    )


def _taken(module: nn.Module, name: str) -> Any:
    layer = getattr(module, name)
    setattr(module, name, None)
    return layer


def _of(layer: nn.Linear | Tensor) -> LastLayer:
    """A layer that is a module, or a bare matrix."""
    if isinstance(layer, nn.Linear):
        return LastLayer(layer.weight.mT, layer.bias, lambda x: (layer(x), x))
    return LastLayer(layer, None, lambda x: (x @ layer, x))


def _of_attention(pool: AttentionPool2d) -> LastLayer:
    """Attention pooling ends in a linear layer, inside one function of torch. A copy with the identity in its place
    gives what comes before it; the pooling as it is gives the embedding, to the bit.
    """
    layer, bare = pool.c_proj, copy.deepcopy(pool)
    width = layer.in_features
    identity = torch.eye(width, dtype=layer.weight.dtype, device=layer.weight.device)
    bare.c_proj = nn.Linear(width, width, bias=True, dtype=layer.weight.dtype, device=layer.weight.device)
    bare.c_proj.weight, bare.c_proj.bias = (
        nn.Parameter(identity, False),
        nn.Parameter(torch.zeros_like(identity[0]), False),
    )
    return LastLayer(layer.weight.mT, layer.bias, lambda x: (pool(x), bare(x)))
