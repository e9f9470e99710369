"""How many threads the model computes with: as many as when its cache was begun.

Sums of a matrix product are made in another order with one thread than with several, and a rounded value may then be
its neighbour. The cores of a machine do not matter: two threads on one core give the bits of two threads.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from mma.cache import Header

MOST = 1024  # threads; a larger number is no machine's
THREADS = "threads"  # in a header's `source`, and in what a model says of its encoder


def threads_of(header: Header) -> int | None:
    """How many threads a cache was begun with; None where that is not known."""
    count = header.source.get(THREADS)
    return count if type(count) is int and 0 < count <= MOST else None


@contextmanager
def computing_with(threads: int | None) -> Iterator[None]:
    """Within, torch has so many threads; its own number where None is said."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)
