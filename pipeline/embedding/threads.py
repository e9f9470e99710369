"""How many threads a batch is computed with, and how many batches side by side.

Sums of a matrix product are made in another order with one thread than with several, and a rounded value may then be
its neighbour. So each batch of a new cache is computed with one thread, and as many batches side by side as torch would
have threads: an embedding has the same bits whatever cores a machine has, no thread waits for another in the middle of
a layer, and decoding takes what time is over. A cache that was begun with more threads is continued with as many.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from threading import Event
from typing import TypeVar

import torch
from torch import nn

from mma.cache import Header

In = TypeVar("In")
Out = TypeVar("Out")

MOST = 1024  # threads; a larger number is no machine's
THREADS = "threads"  # in a header's `source`, and in what a model says of its encoder
OF_A_BATCH = 1  # threads of torch, in a new cache


def threads_of(header: Header) -> int | None:
    """How many threads a cache was begun with; None where that is not known."""
    count = header.source.get(THREADS)
    return count if type(count) is int and 0 < count <= MOST else None


@contextmanager
def computing_with(threads: int | None) -> Iterator[int]:
    """Within, torch has so many threads; its own number where None is said. Gives how many batches fit side by side."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads or before)
    try:
        yield max(1, before // (threads or before))
    finally:
        torch.set_num_threads(before)


def side_by_side(compute: Callable[[In], Out], given: Iterable[In], at_once: int, model: nn.Module) -> Iterator[Out]:
    """`compute` of everything given, in order, so many at once in threads; one more waits, so that no thread does.

    Where the caller leaves (an interruption, an error), what is under way ends at the next block of `model`.
    """
    if at_once == 1:
        yield from map(compute, given)
        return
    running: deque[Future[Out]] = deque()
    with _stoppable(model) as stop, ThreadPoolExecutor(at_once, thread_name_prefix="model") as pool:
        try:
            for each in given:
                running.append(pool.submit(compute, each))
                if len(running) > at_once:
                    yield running.popleft().result()
            while running:
                yield running.popleft().result()
        finally:
            stop.set()
            pool.shutdown(cancel_futures=True)


class _Stopped(Exception):
    """Nobody waits for this batch any more."""


@contextmanager
def _stoppable(model: nn.Module) -> Iterator[Event]:
    """Within, no block of the model begins once the event is set."""
    stop = Event()

    def check(*_: object) -> None:
        if stop.is_set():
            raise _Stopped

    rows = [part for part in model.modules() if isinstance(part, (nn.ModuleList, nn.Sequential))]
    hooks = [block.register_forward_pre_hook(check) for row in rows for block in row]
    try:
        yield stop
    finally:
        for hook in hooks:
            hook.remove()
