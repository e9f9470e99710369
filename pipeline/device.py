"""Which device to compute on."""

from __future__ import annotations

import torch

from mma.pipeline.errors import UsageError, nearest

DEVICES = ("auto", "cpu", "cuda", "mps")


def pick_device(name: str) -> torch.device:
    """`auto` is CUDA, else Apple's MPS, else the CPU. Raises UsageError for a device this machine does not have."""
    if name not in DEVICES:
        raise UsageError(f"unknown device {name!r}: {nearest(name, DEVICES)}")
    available = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if name == "auto":
        return torch.device(next(kind for kind, there in available.items() if there))
    if not available[name]:
        raise UsageError(f"device {name} is not available on this machine: use `device=auto`")
    return torch.device(name)
