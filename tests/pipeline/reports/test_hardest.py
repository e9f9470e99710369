"""The hardest images are those that the fewest fits have right, and every setting counts alike."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from mma.pipeline.fitting.cells import Cell
from mma.pipeline.fitting.protocols import FewShot
from mma.pipeline.fitting.results import Predictions, Result
from mma.pipeline.fitting.store import Store
from mma.pipeline.reports.hardest import hardest
from mma.pipeline.reports.make_report import make_report

from . import runs

DETAILS = {"new_is_zero_shot": False, "chosen": {}}


def record(folder: Path, adapter: str, answers: list[list[int]]) -> None:
    """Answers of each seed for rows 10 to 14, which are of classes 0, 1, 1, 2, 2."""
    label = np.array([0, 1, 1, 2, 2], np.int32)
    rows = np.arange(10, 15, dtype=np.int32)
    setting = runs.setting_of(adapter, protocol=FewShot(shots=4))
    config = {**setting.config(), "fingerprint": {"classnames": list("abc")}, "cache_path": "cache/birds.zarr"}
    with Store(folder) as store:
        for seed, said in enumerate(answers):
            found = [Predictions("all", rows, label, np.array(said, np.int32))]
            store.record(Result(Cell(setting, seed), {"accuracy": 50.0}, DETAILS, 0.1, found), config)


def test_the_fewest_right_come_first_and_then_those_whose_wrong_answers_agree(tmp_path: Path) -> None:
    record(tmp_path, "taskres", [[0, 2, 0, 2, 1], [0, 2, 2, 2, 1], [0, 2, 2, 2, 1]])
    record(tmp_path, "gda", [[0, 2, 2, 2, 2]])
    group = make_report(tmp_path, "gda").groups[0]
    found = [
        (each.row, each.classname, round(each.right), each.said, round(each.agreed))
        for each in hardest(tmp_path, group)
    ]
    assert found == [(11, "b", 0, "c", 100), (12, "b", 0, "c", 83), (14, "c", 50, "b", 50)]
