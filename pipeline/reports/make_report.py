"""From a results folder to a report: its settings in tables, compared like with like, with how sure each number is."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

from mma.pipeline.errors import UsageError, nearest
from mma.pipeline.fitting.factors import described, has_values
from mma.pipeline.reports.average_findings import averages_of
from mma.pipeline.reports.compared import group_of
from mma.pipeline.reports.findings import (
    Report,
)
from mma.pipeline.reports.naming import method_names
from mma.pipeline.reports.records import Recorded, read_folder
from mma.pipeline.reports.remarks import headline_of, notes_of


def make_report(folder: Path, baseline: str = "zero-shot") -> Report:
    """Read a results folder and compare every setting with the baseline, `adapter key=value ...`. Raises UsageError."""
    found = read_folder(folder)
    wanted = described(baseline, [setting.adapter for setting in found.settings])
    if not found.settings:
        raise UsageError(f"{folder} holds no finished cell of this version of mma: run mma fit or mma ablate first")
    if not any(has_values(setting.factors, wanted) for setting in found.settings):
        known = sorted({setting.adapter for setting in found.settings})
        raise UsageError(f"`baseline={baseline}` is no setting of {folder}: {nearest(wanted['adapter'], known)}")
    names = method_names(found.settings)
    caches = _cache_keys(found.settings)
    tables: dict[tuple[str, str, str], list[Recorded]] = defaultdict(list)
    for setting in found.settings:
        tables[setting.dataset, setting.protocol, caches[setting.id]].append(setting)
    several = {dataset for dataset, protocol, _ in tables if sum(key[:2] == (dataset, protocol) for key in tables) > 1}
    groups = [group_of(settings, names, wanted, key[0] in several) for key, settings in tables.items()]
    averages = averages_of(groups)
    return Report(
        folder,
        baseline,
        headline_of(groups, averages, baseline),
        groups,
        averages,
        notes_of(found, groups, several, averages),
        found.versions,
    )


def _cache_keys(settings: Sequence[Recorded]) -> dict[str, str]:
    """By setting: what tells caches of one data set apart. That is what its images are said to be; and, where other
    bytes answer the same question (a cache made again), the bytes.
    """
    digests: dict[tuple, set[str]] = defaultdict(set)
    for setting in settings:
        digests[setting.dataset, setting.source, setting.factors["prompts"], setting.factors["reduce"]].add(
            setting.digest
        )
    made_again = {key[:2] for key, found in digests.items() if len(found) > 1}
    return {s.id: f"{s.source} {s.digest}" if (s.dataset, s.source) in made_again else s.source for s in settings}
