"""What does a results folder hold? Its settings, each with the seeds that are done, as matrices of right and wrong."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mma.adapters import AdapterError, adapter_class
from mma.pipeline.errors import UsageError
from mma.pipeline.fitting.cells import NUMERICS, OF_SUPPORT, short_digest
from mma.pipeline.fitting.store import FILE, Store


@dataclass(frozen=True, eq=False)
class TestRows:
    """The rows of one test, shared by all cells that were scored on it: two of them are the same object."""

    name: str  # "all", "base", "new", or what a protocol calls it
    rows: NDArray[np.int32]  # [N] of the test split
    label: NDArray[np.int32]  # [N]


Answered = tuple[TestRows, NDArray[np.bool_]]  # which rows of a test one cell had right, [N]


@dataclass(frozen=True, eq=False)
class Scored:
    """What a setting said of one test, seed by seed."""

    test: TestRows
    correct: NDArray[np.bool_]  # [S, N]


@dataclass(frozen=True, eq=False)
class Recorded:
    """One setting of a results folder, with those of its seeds that are done.

    `factors` are everything that decides its result, by name. `seeds` go with the rows of `scored` and of `metrics`.
    """

    id: str
    dataset: str
    adapter: str
    protocol: str
    source: str  # which cache, as a digest of what its images are; tells caches of one data set apart
    digest: str  # of the bytes that were read: images, labels and texts
    cache: str  # where the cache was
    factors: Mapping[str, Any]
    seeds: tuple[int, ...]
    seeded: bool  # whether the seed decides anything
    metrics: Mapping[str, NDArray[np.float64]]  # [S] in percent
    scored: Mapping[str, Scored]  # by test; empty where predictions were not kept
    seconds: float  # mean of a cell
    falls_back: bool  # whether new classes are scored zero-shot for want of weights
    cells: tuple[str, ...]  # [S]
    classnames: tuple[str, ...]  # [C], or none where the cache did not say them

    @property
    def select(self) -> str:
        """How the epoch, or an open option, was chosen."""
        return str(self.factors["select"])


@dataclass(frozen=True)
class Failed:
    """Seeds of a setting that failed for one reason."""

    dataset: str
    adapter: str
    seeds: tuple[int, ...]
    reason: str


@dataclass(frozen=True)
class Folder:
    """All that a results folder has."""

    path: Path
    settings: Sequence[Recorded]
    failed: Sequence[Failed]
    stale: int  # records of older numerics, which are left out
    versions: Mapping[str, Sequence[str]] = field(default_factory=dict)  # of what computed the results


def read_folder(path: Path) -> Folder:
    """Read every record of a results folder. Raises UsageError where there is none."""
    if not (path / FILE).is_file():
        raise UsageError(f"{path} has no {FILE}: give the results folder of `mma fit` or `mma ablate`")
    with Store(path) as store:
        done: dict[str, list[dict[str, Any]]] = defaultdict(list)
        failed: dict[tuple[str, str, str], list[int]] = defaultdict(list)
        versions: dict[str, set[str]] = defaultdict(set)
        stale = 0
        for record in store.rows():
            if record["status"] == "failed":
                failed[record["dataset"], record["adapter"], record["reason"]].append(record["seed"])
            elif record["status"] == "done" and record["config"].get("numerics") != NUMERICS:
                stale += 1
            elif record["status"] == "done":
                done[record["setting"]].append(record)
                for name in ("mma", "torch", "device"):
                    versions[name].add(str(record["details"].get(name, "unknown")))
        answered = _answered(store, {record["id"] for records in done.values() for record in records})
        settings = [_setting(records, answered) for records in done.values()]
    return Folder(
        path,
        settings,
        [Failed(dataset, adapter, tuple(seeds), reason) for (dataset, adapter, reason), seeds in failed.items()],
        stale,
        {name: sorted(found) for name, found in versions.items()},
    )


def factors_of(config: Mapping[str, Any]) -> dict[str, Any]:
    """A recorded setting as factors by name, as `Setting.flat` has them."""
    protocol = dict(config["protocol"])
    name = protocol.pop("name")
    if not protocol["shots"]:
        protocol = {option: value for option, value in protocol.items() if option not in OF_SUPPORT}
    data = config["data"]
    head = {"dataset": data["dataset"], "prompts": data["prompts"], "reduce": data["reduce"]}
    code = {"code": config["code"]} if config.get("code") else {}
    targets = config.get("targets", ())
    more = {"targets": ", ".join(target["dataset"] for target in targets)} if targets else {}
    tail = {"select": config["select"], **(config["recipe"] or {}), **more, **code}
    return {**head, "adapter": config["adapter"], **config["options"], "protocol": name, **protocol, **tail}


def predicted(path: Path, setting: Recorded, test: str) -> NDArray[np.int32]:
    """What a setting predicted of one test: classes [S, N]."""
    with Store(path) as store:
        found = [each.predicted for cell in setting.cells for each in store.predictions(cell) if each.test == test]
    return np.stack(found)


def _setting(records: Sequence[dict[str, Any]], answered: Mapping[str, Sequence[Answered]]) -> Recorded:
    first = records[0]
    config = first["config"]
    factors = factors_of(config)
    names = [name for name in first["metrics"] if all(name in record["metrics"] for record in records)]
    return Recorded(
        id=first["setting"],
        dataset=first["dataset"],
        adapter=first["adapter"],
        protocol=factors["protocol"],
        source=short_digest({"fingerprint": config.get("fingerprint", {})}),
        digest=first["data"],
        cache=str(config.get("cache_path", "")),
        factors=factors,
        seeds=tuple(record["seed"] for record in records),
        seeded=_seeded(first["adapter"], factors),
        metrics={name: np.array([record["metrics"][name] for record in records]) for name in names},
        scored=_scored([answered.get(record["id"], ()) for record in records]),
        seconds=float(np.mean([record["seconds"] for record in records])),
        falls_back=any(record["details"].get("new_is_zero_shot") for record in records),
        cells=tuple(record["id"] for record in records),
        classnames=tuple(map(str, config.get("fingerprint", {}).get("classnames", ()))),
    )


def _seeded(adapter: str, factors: Mapping[str, Any]) -> bool:
    try:
        return adapter_class(adapter).seeded
    except AdapterError:  # of another package, which is not here: what draws a support is seeded
        return "shots" in factors


def _answered(store: Store, cells: Collection[str]) -> dict[str, list[Answered]]:
    """By cell, its tests and which of their rows were right, in one pass over the store."""
    tests = {test: TestRows(*values) for test, values in store.tests().items()}
    found: dict[str, list[Answered]] = defaultdict(list)
    for cell, test, predicted in store.answers():
        if cell in cells and test in tests:
            found[cell].append((tests[test], predicted == tests[test].label))
    return found


def _scored(answers: Sequence[Sequence[Answered]]) -> dict[str, Scored]:
    """The tests that every cell of a setting has predictions for, on the same rows."""
    found: dict[str, list[Answered]] = defaultdict(list)
    for of_cell in answers:
        for test, correct in of_cell:
            found[test.name].append((test, correct))
    return {
        name: Scored(pairs[0][0], np.stack([correct for _, correct in pairs]))
        for name, pairs in found.items()
        if len(pairs) == len(answers) and all(test is pairs[0][0] for test, _ in pairs)
    }
