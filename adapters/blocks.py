"""Work on some images at a time, so that memory does not grow with the batch."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

KEPT = 1 << 27  # numbers that all blocks may hold for the backward pass: half a GiB in float32
BLOCK = 1 << 23  # numbers of a block: its tensors stay well below the 32 MiB from which each is new pages of the kernel


def in_blocks(
    work: Callable[..., tuple[Tensor, ...]], images: Sequence[Tensor], floats_per_image: int
) -> tuple[Tensor, ...]:
    """`work` on blocks of rows of `images`, tensors [B, ...] with a row for each image; its outputs [b, ...] joined.

    Where gradients are asked for and all blocks together would hold too much, a block keeps only its inputs and is
    worked out again in the backward pass. Where one image alone exceeds a block, blocks are as large as may be: tensors
    of about 32 MiB, taken and given back between small ones, would leave holes that no later one fits.
    """
    if torch.compiler.is_compiling():  # traced for an export, where the number of rows is open
        return work(*images)
    size = max(1, (BLOCK if floats_per_image <= BLOCK else KEPT) // floats_per_image)
    if len(images[0]) <= size:
        return work(*images)
    blocks = list(zip(*(torch.split(rows, size) for rows in images), strict=True))
    if torch.is_grad_enabled() and len(images[0]) * floats_per_image > KEPT:
        done = [checkpoint(work, *block, use_reentrant=False, preserve_rng_state=False) for block in blocks]
    else:
        done = [work(*block) for block in blocks]
    return tuple(torch.cat(parts) for parts in zip(*done, strict=True))
