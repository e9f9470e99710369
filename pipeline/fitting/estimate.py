"""How long cells take: by those most alike that were measured, in this run or in any before it.

A cell's time is the median of its own setting's; where that was never run, of its adapter on the same data with as
many shots; then with as many shots anywhere; then of its adapter. What is measured on the way is counted in at once.
"""

from __future__ import annotations

import time
from bisect import insort
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from mma.pipeline.fitting.cells import Setting

SETTLE = 2.0  # seconds until what has been done says how many cells are really done at once


@dataclass(frozen=True)
class Kind:
    """What the time of a cell depends on."""

    adapter: str
    shots: int
    data: str  # digest
    setting: str  # id

    @classmethod
    def of(cls, setting: Setting) -> Kind:
        """The kind of a setting's cells."""
        return cls(setting.name, setting.protocol.shots, setting.data.digest, setting.id)

    def likenesses(self) -> Iterator[tuple[Any, ...]]:
        """What other cells may share with it, from all to little."""
        yield self.setting, self.shots, self.data, self.adapter
        yield self.shots, self.data, self.adapter
        yield self.shots, self.adapter
        yield (self.adapter,)


class Durations:
    """What was measured, in seconds."""

    def __init__(self, measured: Iterable[tuple[Kind, float]] = ()) -> None:
        self._seconds: dict[tuple[Any, ...], list[float]] = {}  # sorted
        for kind, seconds in measured:
            self.add(kind, seconds)

    def add(self, kind: Kind, seconds: float) -> None:
        """Count a measurement in."""
        for likeness in kind.likenesses():
            insort(self._seconds.setdefault(likeness, []), seconds)

    def seconds(self, kind: Kind) -> float | None:
        """What a cell will take; None where nothing like it was measured."""
        for likeness in kind.likenesses():
            if known := self._seconds.get(likeness):
                return known[len(known) // 2]
        return None


class Pace:
    """What is left of a run on so many cores, in seconds: corrected as its cells are done."""

    def __init__(self, durations: Durations, settings: Iterable[Setting], cores: int) -> None:
        self._durations, self._cores = durations, cores
        self._waiting = Counter(Kind.of(setting) for setting in settings)
        self._began: float | None = None  # when the first was done: until then, processes are being started
        self._measured = 0.0  # the sum of the times of what has been done since

    def done(self, setting: Setting, seconds: float | None) -> None:
        """A cell is done, or has failed (None)."""
        kind = Kind.of(setting)
        self._waiting[kind] -= 1
        if seconds is not None:
            self._durations.add(kind, seconds)
        if self._began is None:
            self._began = time.monotonic()
        else:
            self._measured += seconds or 0.0

    def left(self) -> float | None:
        """Seconds; None where nothing like some of it was measured."""
        total = 0.0
        for kind, count in self._waiting.items():
            seconds = self._durations.seconds(kind)
            if count and seconds is None:
                return None
            total += count * (seconds or 0.0)
        passed = 0.0 if self._began is None else time.monotonic() - self._began
        if passed < SETTLE or not self._measured:
            return total / self._cores
        return total * passed / self._measured  # with the cores that there really are, and all that is beside the fits
