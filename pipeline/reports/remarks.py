"""What must a reader be told in words: a headline, and notes on a row and on all of a report?"""

from __future__ import annotations

from collections.abc import Sequence

from mma.adapters import AdapterError
from mma.pipeline.reports.findings import (
    TIED,
    AverageFinding,
    Group,
    conditions_text,
    main_block,
)
from mma.pipeline.reports.marks import marks_of
from mma.pipeline.reports.records import Folder, Recorded
from mma.pipeline.reports.tables import FALLBACK, TEST_TIME, sees_test_rows


def headline_of(groups: Sequence[Group], averages: Sequence[AverageFinding], baseline: str) -> str:
    """One sentence: the best method where most methods were compared (with the most shots), and how sure that is."""
    group = max(groups, key=lambda group: len(group.rows))
    block, within = main_block(group)
    if not within:
        return f"{len(group.rows)} settings on {group.dataset}, none of which can be compared with another."
    told = conditions_text(block[1:], group.varying)
    where = f"{group.protocol}{', ' * bool(told)}{told}"
    whole = [a for a in averages if a.protocol == group.protocol and group.main in a.measures]
    whole = [a for a in whole if all(dict(block).get(name, value) == value for name, value in a.conditions)]
    if len(whole) > 1:
        best = max(whole, key=lambda average: average.measures[group.main][0])
        mean, low, high = best.measures[group.main]
        first = (
            f"Averaged over {len(best.rows)} data sets ({where}), {best.method} has the highest {group.main}: "
            f"{mean:.1f} %, 95 % interval {low:.1f} to {high:.1f}"
        )
        if best.change is None:
            return f"{first}."
        won = f"higher on {best.won} of {len(best.rows)} and lower on {best.lost}"
        return f"{first}; {best.change:+.1f} points against {baseline}, {won}."
    top = max(within, key=lambda row: row.measures[group.main].mean)
    estimate = top.measures[group.main]
    marks = marks_of(within, group.main)
    ties = [row.method for row in within if marks.get(row.setting.id) == TIED]
    sentence = (
        f"On {group.dataset} ({where}), {top.method} has the highest {group.main}: {estimate.mean:.1f} %, "
        f"95 % interval {estimate.low:.1f} to {estimate.high:.1f}"
    )
    if top.change is not None:
        sentence += f"; against {baseline} {top.verdict}"
    return f"{sentence}. Not distinguishable from it: {', '.join(ties)}." if ties else f"{sentence}."


def notes_of(
    found: Folder, groups: Sequence[Group], several: set[str], averages: Sequence[AverageFinding]
) -> list[str]:
    """What a reader of all the tables must know."""
    rows = [row for group in groups for row in group.rows]
    notes = [
        "Intervals are 95 %, over seeds and test images; differences are paired over both. p-values are corrected by "
        "Holm over the differences of one table. Tied: not distinguishable from the best under the same conditions."
    ]
    if any(row.setting.falls_back for row in rows):
        notes.append(f"{FALLBACK} has no weights for classes without shots: new classes are scored zero-shot")
    if any(_sees_test_rows(row.setting.adapter) for row in rows):
        notes.append(f"{TEST_TIME} learns from unlabelled test rows")
    oracles = sum(row.is_oracle for row in rows)
    if oracles:
        notes.append(f"ORACLE: {oracles} rows were selected on the test rows: upper bounds, never called best")
    notes += [
        f"failed: {each.adapter} on {each.dataset}, {_listed(each.seeds)}: {each.reason}" for each in found.failed
    ]
    if found.stale:
        notes.append(f"{found.stale:,} cells of an earlier version's numerics are stale and left out: run them again")
    notes += [
        f"{name} was read from several caches: each has its own table, and no average" for name in sorted(several)
    ]
    unequal = sum(bool(row.notes) and "missing" in row.notes[0] for row in rows)
    if unequal:
        notes.append(f"{unequal} rows lack seeds that others have: differences are over the seeds that both have")
    partly = [average for average in averages if average.missing]
    if partly:
        notes.append(f"{len(partly)} methods are not on every data set of their protocol: they have no average")
    return notes


def row_notes(setting: Recorded, expected: set[int]) -> list[str]:
    """What a reader must know of a row; `expected` are the seeds that any setting under its conditions has."""
    notes = []
    missing = sorted(expected - set(setting.seeds)) if setting.seeded else []
    if missing:
        notes.append(f"{len(setting.seeds)} of {len(expected)} seeds: {_listed(missing)} missing")
    if setting.seeded and len(setting.seeds) == 1:
        notes.append("one seed: the interval is over test images alone")
    if not setting.scored:
        notes.append("no predictions were kept: the interval is over seeds alone")
    if setting.select == "oracle":
        notes.append("selected on the test rows: an upper bound")
    if setting.falls_back:
        notes.append("new classes are scored zero-shot")
    if _sees_test_rows(setting.adapter):
        notes.append("learns from unlabelled test rows")
    return notes


def _sees_test_rows(adapter: str) -> bool:
    try:
        return sees_test_rows(adapter)
    except AdapterError:  # of another package, which is not here
        return False


def _listed(seeds: Sequence[int]) -> str:
    return f"seed{'s' * (len(seeds) > 1)} {', '.join(map(str, seeds))}"
