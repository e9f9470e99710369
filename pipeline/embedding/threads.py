"""How many threads the model computes with: as many as when its cache was begun.

Sums of a matrix product are made in another order with one thread than with several, and a rounded value may then be
its neighbour. The cores of a machine do not matter: two threads on one core give the bits of two threads.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from mma.cache import Header

THREADS = "threads"  # in a header's `source`


@contextmanager
def threads_of(header: Header) -> Iterator[None]:
    """Within, torch has the threads that the cache was begun with; its own number where that is not known."""
    before = torch.get_num_threads()
    torch.set_num_threads(header.source.get(THREADS) or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)
