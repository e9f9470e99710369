"""Results folders for tests: outcomes recorded as runs record them, with answers drawn from a known chance of being
right, so that no fit is needed.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mma.pipeline.fitting.cells import Cell, Choice, Data, Setting, resolve
from mma.pipeline.fitting.protocols import BaseToNew, Classes, FewShot, Protocol
from mma.pipeline.fitting.results import Failure, Predictions, Result
from mma.pipeline.fitting.store import Store

CLASSES, EACH = 4, 60  # of the test split
NAMES = [f"class {i}" for i in range(CLASSES)]


def setting_of(
    adapter: str,
    dataset: str = "birds",
    protocol: Protocol | None = None,
    digest: str = "d1",
    select: str = "val",
    **more: Any,
) -> Setting:
    data = Data(dataset, "default", "unit", f"{dataset}-{digest}")
    return resolve(Choice(adapter, protocol or FewShot(shots=4), more, select=select), data)


def predictions(setting: Setting, seed: int, right: float) -> list[Predictions]:
    """One answer for every test row. What is hard is hard for every method and seed, as it is for real ones."""
    found = []
    for test in setting.protocol.tests([Classes(setting.data.dataset, NAMES)]):
        label = np.repeat(test.classes, EACH).astype(np.int32)
        rows = np.flatnonzero(np.isin(np.repeat(np.arange(CLASSES), EACH), test.classes)).astype(np.int32)
        hard = np.random.default_rng([len(setting.data.dataset), len(rows)]).random(len(rows))
        noise = np.random.default_rng([seed, len(rows), int(1000 * right)]).normal(0, 0.05, len(rows))
        wrong = np.roll(test.classes, 1)[np.searchsorted(test.classes, label)]
        predicted = np.where(hard + noise < right, label, wrong).astype(np.int32)
        found.append(Predictions(test.name, rows, label, predicted))
    return found


def record(
    folder: Path,
    setting: Setting,
    seeds: Sequence[int],
    right: float,
    *,
    keep: bool = True,
    numerics: int | None = None,
    fingerprint: dict[str, Any] | None = None,
    cache: str = "cache/birds.zarr",
) -> None:
    config = {**setting.config(), "fingerprint": fingerprint or {}, "cache_path": cache}
    if numerics is not None:
        config["numerics"] = numerics
    with Store(folder) as store:
        for seed in seeds:
            answers = predictions(setting, seed, right)
            accuracy = {p.test: float(np.mean(p.label == p.predicted)) * 100 for p in answers}
            details = {"new_is_zero_shot": False, "chosen": {}, "device": "cpu", "torch": "2", "mma": "0.1"}
            result = Result(Cell(setting, seed), setting.protocol.score(accuracy), details, 0.5, answers)
            store.record(result, config, predictions=keep)


def fail(folder: Path, setting: Setting, seed: int, reason: str) -> None:
    with Store(folder) as store:
        store.record(Failure(Cell(setting, seed), reason), {**setting.config(), "fingerprint": {}, "cache_path": "c"})


def usual(folder: Path) -> Path:
    """Two data sets, few-shot at two numbers of shots and base-to-new; clip-adapter is much better than zero-shot."""
    for dataset in ("birds", "boats & <b>cars</b>"):
        record(folder, setting_of("zero-shot", dataset, FewShot()), [0], 0.5)
        record(folder, setting_of("zero-shot", dataset, BaseToNew()), [0], 0.5)
        for shots, right in ((2, 0.6), (8, 0.8)):
            record(folder, setting_of("clip-adapter", dataset, FewShot(shots=shots)), range(3), right)
            record(folder, setting_of("taskres", dataset, FewShot(shots=shots)), range(3), right - 0.005)
            record(folder, setting_of("linear-probe", dataset, FewShot(shots=shots)), range(3), right - 0.2)
        for lam in (0.1, 0.5):
            record(folder, setting_of("mma", dataset, BaseToNew(shots=8), lam=lam), range(3), 0.5 + lam / 2)
    return folder
