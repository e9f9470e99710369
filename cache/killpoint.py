"""Kill points: places where a test ends the process at once, before and after each durable step.

    MMA_KILL_AT=journal.append:before      the first time this is reached
    MMA_KILL_AT=journal.append:before@3    the third time

With nothing armed a step costs one comparison.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager

STEPS = (
    "create.draft",  # arrays, labels and paths laid out beside the cache's place
    "create.rename",  # the draft becomes the cache
    "chunk.write",  # embeddings and status of a chunk
    "chunk.sync",
    "text.write",  # a prompt set, or the projections
    "text.sync",
    "journal.append",  # a unit is done
    "receipt.write",  # a unit of a shard is done
    "receipts.remove",  # they are in the journal now
    "journal.compact",  # the journal in its final order
    "journal.copy",  # its spare copy
    "root.publish",  # zarr.json: what readers see
    "repair.restore",  # a damaged file replaced by the right bytes
    "update.aside",  # where two names cannot be exchanged: the cache that is to be replaced is put aside
    "update.exchange",  # the cache made beside takes its place
    "update.discard",  # the old one is removed
)
POINTS = tuple(f"{step}:{side}" for step in STEPS for side in ("before", "after"))


def die() -> None:
    """End this process at once, as a power cut would."""
    os.kill(os.getpid(), signal.SIGKILL)


_armed, _, _times = os.environ.get("MMA_KILL_AT", "").partition("@")
_left = int(_times or 1)
_action: Callable[[], None] = die


def arm(point: str, action: Callable[[], None], times: int = 1) -> None:
    """Call `action` when `point` is reached for the `times`th time; an empty point disarms."""
    global _armed, _left, _action
    _armed, _left, _action = point, times, action


@contextmanager
def step(name: str) -> Iterator[None]:
    """A durable step: a kill point before it, and one after it."""
    _reach(name, "before")
    yield
    _reach(name, "after")


def _reach(name: str, side: str) -> None:
    global _left
    if _armed and _armed == f"{name}:{side}":
        _left -= 1
        if _left == 0:
            _action()
