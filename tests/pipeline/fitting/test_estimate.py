from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path

import pytest

from mma.pipeline.fitting.cells import Cell, Data, Setting
from mma.pipeline.fitting.estimate import Durations, Kind, Pace
from mma.pipeline.fitting.protocols import FewShot
from mma.pipeline.fitting.results import Result
from mma.pipeline.fitting.store import Store

CHEAP = Setting(Data("data", "default", "unit", "one"), "gda", (), FewShot(shots=4), "val", None)
DEAR = replace(CHEAP, adapter="mma", protocol=FewShot(shots=16))
DETAILS = {"new_is_zero_shot": False, "chosen": {}}


def stored(folder: Path, *measured: tuple[Setting, float]) -> Store:
    store = Store(folder)
    for seed, (setting, seconds) in enumerate(measured):
        cell = Cell(setting, seed)
        store.record(Result(cell, {"accuracy": 1.0}, DETAILS, seconds, []), setting.config())
    return store


def test_a_grid_of_cheap_and_dear_cells_is_estimated_by_the_times_that_the_store_has(tmp_path: Path) -> None:
    store = stored(tmp_path, (CHEAP, 0.01), (CHEAP, 0.02), (CHEAP, 5.0), (DEAR, 8.0), (DEAR, 10.0), (DEAR, 11.0))
    pace = Pace(Durations(store.times()), [CHEAP] * 1000 + [DEAR] * 50, cores=2)
    truth = (1000 * 0.02 + 50 * 10) / 2
    left = pace.left()
    assert left is not None
    assert truth / 2 < left < truth * 2


def test_a_time_is_that_of_the_most_alike(tmp_path: Path) -> None:
    lam = replace(DEAR, options=(("lam", 0.5),))
    few = replace(DEAR, protocol=FewShot(shots=1))
    estimate = Durations(stored(tmp_path, (DEAR, 10.0), (lam, 20.0), (few, 1.0), (CHEAP, 0.1)).times())
    assert estimate.seconds(Kind.of(lam)) == 20.0
    assert estimate.seconds(Kind.of(replace(few, options=(("lam", 0.5),)))) == 1.0
    other = Data("other", "default", "unit", "two")
    assert estimate.seconds(Kind.of(replace(few, data=other))) == 1.0
    assert estimate.seconds(Kind.of(replace(CHEAP, adapter="ape"))) is None


def test_what_is_left_is_corrected_by_what_is_done(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    pace = Pace(Durations([(Kind.of(DEAR), 1.0)]), [DEAR] * 100, cores=4)
    assert pace.left() == 25.0
    for _ in range(51):  # cells take as long as was thought, but one core does all the work
        pace.done(DEAR, 1.0)
        now += 1.0
    assert pace.left() == pytest.approx(49.0, rel=0.05)


def test_nothing_is_estimated_of_what_nothing_is_known() -> None:
    assert Pace(Durations([(Kind.of(CHEAP), 1.0)]), [CHEAP, DEAR], cores=1).left() is None
