"""How many rows are worked on at a time."""

from __future__ import annotations

from torch import Tensor

BLOCK_BYTES = 2**20  # of scores or hidden units made at a time: what is made of them stays in the processor's cache


def blocks(rows: int, one: Tensor, least: int = 1) -> list[slice]:
    """0..rows in runs of as many as fit BLOCK_BYTES, where a row takes as much as `one`; `least` at least."""
    size = max(least, BLOCK_BYTES // (one.numel() * one.element_size()))
    return [slice(start, start + size) for start in range(0, rows, size)]
