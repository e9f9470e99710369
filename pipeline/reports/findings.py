"""What do runs say? Settings of a results folder, compared like with like, with how sure each number is.

A table is one data set under one protocol. In it, two settings are compared only if they read the same bytes, were
drawn under the same conditions (shots, noise and whatever else the protocol has) and were scored on the same test rows,
and only over the seeds that both have. Nothing is averaged over a factor; what is missing is said.
"""

from __future__ import annotations

import shlex
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from mma.adapters import AdapterError
from mma.pipeline.errors import UsageError, nearest
from mma.pipeline.fitting.cells import RECIPE
from mma.pipeline.fitting.factors import as_typed, described, has_values
from mma.pipeline.fitting.protocols import PROTOCOLS
from mma.pipeline.reports.aggregates import average_of_datasets, h_of_means
from mma.pipeline.reports.comparisons import LEVEL, across_datasets, holm, verdict
from mma.pipeline.reports.metrics import balanced_is_main
from mma.pipeline.reports.pairing import (
    BALANCED,
    CONDITIONS,
    Conditions,
    baseline_of,
    compare,
    conditions_of,
    measure,
    swaps_of,
    values_of,
)
from mma.pipeline.reports.records import Folder, Recorded, read_folder
from mma.pipeline.reports.statistics import CONFIDENCE, Estimate, harmonic_values, mean_estimate
from mma.pipeline.reports.tables import FALLBACK, TEST_TIME, sees_test_rows

BEST, TIED = "best", "tied"  # tied: not distinguishable from the best


@dataclass(frozen=True, eq=False)
class Finding:
    """One row: a setting, what was measured in percent, and how it differs from the baseline in the main metric.

    `marks`, by metric: "best" and "tied" among settings under the same conditions. `p` is adjusted by Holm over the
    differences of its table. `swaps` are test images mended and broken against the baseline, mean over seeds, and
    the seeds in which McNemar's test finds the two runs to differ. `notes` are what a reader must know of it.
    """

    setting: Recorded
    method: str
    conditions: Conditions
    measures: Mapping[str, Estimate]
    marks: Mapping[str, str]
    change: Estimate | None
    p: float | None
    verdict: str
    swaps: tuple[float, float, int] | None
    notes: Sequence[str]
    command: str | None

    @property
    def is_oracle(self) -> bool:
        """Whether it was selected on the test rows: an upper bound, and no result."""
        return self.setting.select == "oracle"


@dataclass(frozen=True, eq=False)
class Group:
    """One table: a data set (from one cache) under a protocol. `family` is how many differences Holm corrects for."""

    dataset: str
    protocol: str
    cache: str
    title: str
    metrics: tuple[str, ...]
    main: str
    varying: tuple[str, ...]  # conditions that differ between rows
    rows: Sequence[Finding]
    family: int


@dataclass(frozen=True, eq=False)
class Average:
    """One method under one set of conditions, averaged over data sets; H is that of the mean base and the mean new.

    `won`, `lost`, `p_t` and `p_wilcoxon` compare it with the baseline over data sets; None where that is not possible.
    """

    protocol: str
    method: str
    conditions: Conditions
    rows: Mapping[str, Finding]  # by data set
    missing: tuple[str, ...]  # data sets of the protocol that it has no result on
    measures: Mapping[str, tuple[float, float, float]]  # mean, low, high in percent
    change: float | None
    p_t: float | None
    p_wilcoxon: float | None
    won: int
    lost: int


@dataclass(frozen=True, eq=False)
class Report:
    """Everything a report says; its forms only write it down."""

    folder: Path
    baseline: str
    headline: str
    groups: Sequence[Group]
    averages: Sequence[Average]
    notes: Sequence[str]
    versions: Mapping[str, Sequence[str]]


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
    groups = [_group(settings, names, wanted, key[0] in several) for key, settings in tables.items()]
    averages = _averages(groups)
    return Report(
        folder,
        baseline,
        _headline(groups, averages, baseline),
        groups,
        averages,
        _notes(found, groups, several, averages),
        found.versions,
    )


def _group(settings: Sequence[Recorded], names: Mapping[str, str], wanted: Mapping[str, str], several: bool) -> Group:
    kind = PROTOCOLS[settings[0].protocol]
    metrics = tuple(dict.fromkeys(name for setting in settings for name in setting.metrics))
    if any(balanced_is_main(s.scored["all"].test.label) for s in settings if "all" in s.scored):
        metrics += (BALANCED,)
    main = kind.main if kind.main in metrics else metrics[-1]
    ordered = sorted(settings, key=lambda s: (s.adapter != "zero-shot", _sortable(conditions_of(s)), names[s.id]))
    baselines = [setting for setting in ordered if has_values(setting.factors, wanted)]
    seeds: dict[tuple[str, Conditions], set[int]] = defaultdict(set)
    for setting in ordered:
        seeds[setting.digest, conditions_of(setting)] |= set(setting.seeds) if setting.seeded else set()
    rows = [
        _finding(s, names[s.id], metrics, main, baselines, seeds[s.digest, conditions_of(s)], wanted) for s in ordered
    ]
    rows = _corrected(_marked(rows, metrics), wanted)
    varying = tuple(name for name in CONDITIONS if len({s.factors[name] for s in settings if name in s.factors}) > 1)
    first = settings[0]
    where = f" ({first.cache}, data {first.digest})" if several else ""
    held = [f"{name} {as_typed(first_of(name, settings))}" for name in _worth_saying(settings, varying)]
    title = ", ".join([f"{first.dataset}{where}", first.protocol, *held])
    family = sum(row.p is not None for row in rows)
    return Group(first.dataset, first.protocol, first.cache, title, metrics, main, varying, rows, family)


def first_of(name: str, settings: Sequence[Recorded]) -> Any:
    """The value of a factor in the first setting that has it."""
    return next(setting.factors[name] for setting in settings if name in setting.factors)


def _worth_saying(settings: Sequence[Recorded], varying: Sequence[str]) -> list[str]:
    """Conditions that are the same in all rows and not what they always are: in the title of the table."""
    usual = {**{option: value for kind in PROTOCOLS.values() for option, value in kind().config().items()}}
    usual |= {"prompts": "default", "reduce": "unit"}
    there = [name for name in CONDITIONS if any(name in s.factors for s in settings) and name not in varying]
    return [name for name in there if name == "shots" or first_of(name, settings) != usual.get(name)]


def _finding(
    setting: Recorded,
    method: str,
    metrics: Sequence[str],
    main: str,
    baselines: Sequence[Recorded],
    seeds: set[int],
    wanted: Mapping[str, str],
) -> Finding:
    measures = {name: found for name in metrics if (found := measure(setting, name)) is not None}
    base = baseline_of(setting, baselines, wanted)
    change = compare(setting, base, main) if base else None
    swaps = swaps_of(setting, base, main) if base and change else None
    notes = _row_notes(setting, seeds)
    return Finding(
        setting, method, conditions_of(setting), measures, {}, change, None, "", swaps, notes, command_of(setting)
    )


def _marked(rows: Sequence[Finding], metrics: Sequence[str]) -> list[Finding]:
    """Rows with the best of each metric, and those not distinguishable from it, among rows under the same conditions.

    One family of comparisons (Holm) is one metric under one set of conditions. A row that goes with several sets, such
    as zero-shot with any number of shots, is marked where it is so in all of them.
    """
    blocks = list(dict.fromkeys(_block(row) for row in rows if row.setting.seeded)) or [_block(rows[0])]
    found: dict[str, list[dict[str, str]]] = defaultdict(list)
    for block in blocks:
        within = [row for row in rows if _goes_with(row, block) and not row.is_oracle]
        marks = {metric: marks_of(within, metric) for metric in metrics}
        for row in within:
            found[row.setting.id].append({metric: marks[metric].get(row.setting.id, "") for metric in metrics})
    return [
        replace(
            row,
            marks={
                metric: common[0] if len(common := list({each[metric] for each in found[row.setting.id]})) == 1 else ""
                for metric in metrics
                if found[row.setting.id]
            },
        )
        for row in rows
    ]


def marks_of(rows: Sequence[Finding], metric: str) -> dict[str, str]:
    """By setting: "best" for the highest mean, "tied" for what is not distinguishable from it after Holm's correction.

    Nothing is marked where there is nothing to choose between.
    """
    known = [row for row in rows if metric in row.measures]
    if len(known) < 2:
        return {}
    best = max(known, key=lambda row: row.measures[metric].mean)
    others = {row.setting.id: compare(best.setting, row.setting, metric) for row in known if row is not best}
    told = {at: change for at, change in others.items() if change is not None and not np.isnan(change.p)}
    adjusted = holm(np.array([change.p for change in told.values()]))
    tied = {at: TIED for at, p in zip(told, adjusted, strict=True) if p >= LEVEL}
    return {best.setting.id: BEST, **tied}


def marks_of_averages(averages: Sequence[Average], metric: str) -> dict[tuple[str, Conditions], str]:
    """As `marks_of`, for averages over data sets.

    A difference is the mean of the paired differences on each, its p-value a normal one: data sets are independent, and
    their half-widths, taken as normal ones, err on the safe side.
    """
    from scipy.special import ndtr, ndtri

    known = [average for average in averages if metric in average.measures]
    if len(known) < 2:
        return {}
    best = max(known, key=lambda average: average.measures[metric][0])
    told = {}
    for other in known:
        pairs = [compare(row.setting, other.rows[at].setting, metric) for at, row in best.rows.items()]
        changes = [pair for pair in pairs if pair is not None and not np.isnan(pair.p)]
        if other is not best and len(changes) == len(pairs):
            interval = average_of_datasets(changes)
            error = float(interval.high - interval.low) / 2 / float(ndtri(0.5 + CONFIDENCE / 2))
            p = 2 * float(ndtr(-abs(float(interval.value)) / error)) if error else float(interval.value == 0)
            told[other.method, other.conditions] = p
    adjusted = holm(np.array(list(told.values())))
    tied = {at: TIED for at, p in zip(told, adjusted, strict=True) if p >= LEVEL}
    return {(best.method, best.conditions): BEST, **tied}


def _corrected(rows: Sequence[Finding], wanted: Mapping[str, str]) -> list[Finding]:
    """Rows with their p-values adjusted over the table, and their verdicts."""
    told = [i for i, row in enumerate(rows) if row.change is not None and not np.isnan(row.change.p)]
    adjusted = dict(zip(told, holm(np.array([_p(rows[i]) for i in told])), strict=True))
    done = []
    for i, row in enumerate(rows):
        if i in adjusted and row.change is not None:
            done.append(replace(row, p=float(adjusted[i]), verdict=_in_words(row.change, adjusted[i], len(told))))
        elif has_values(row.setting.factors, wanted):
            done.append(replace(row, verdict="the baseline"))
        else:
            done.append(replace(row, verdict=_why_not(row, rows, wanted)))
    return done


def _p(row: Finding) -> float:
    assert row.change is not None
    return row.change.p


def _in_words(change: Estimate, p: float, family: int) -> str:
    if change.low == change.high == 0:
        return "no difference: right and wrong on the same test images"
    if change.images:
        return verdict(change, float(p), family)
    shown = f"{change.mean:+.1f} points, 95 % interval {change.low:.1f} to {change.high:.1f} (over seeds alone)"
    return f"{shown}: {('better' if change.mean > 0 else 'worse') if p < LEVEL else 'not distinguishable'}"


def _why_not(row: Finding, rows: Sequence[Finding], wanted: Mapping[str, str]) -> str:
    if row.change is not None:
        return "one seed, and no predictions were kept: nothing can be tested"
    if row.is_oracle and any(has_values(other.setting.factors, wanted) for other in rows):
        return "selected on the test rows: not compared"
    return "no baseline under the same conditions"


def _row_notes(setting: Recorded, expected: set[int]) -> list[str]:
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


def command_of(setting: Recorded) -> str | None:
    """The command that gives a row again; None for one that is scored on further caches."""
    if "targets" in setting.factors or not setting.cache:
        return None
    words = ["mma", "ablate", "--cache", setting.cache]
    own = {name: value for name, value in setting.factors.items() if name not in ("dataset", "code")}
    if own["select"] == "none":
        del own["select"]
    words += [f"{name}={_exact(value)}" for name, value in own.items() if value is not None or name not in RECIPE]
    if setting.seeded:
        words.append(f"seed={','.join(map(str, setting.seeds))}")
    return shlex.join(words)


def _exact(value: object) -> str:
    return repr(value) if isinstance(value, float) else as_typed(value)


def method_names(settings: Sequence[Recorded], without: str = "") -> dict[str, str]:
    """By setting: the adapter, with those of its own factors that differ between its settings: `mma lam=0.5`; but for
    one factor.
    """
    values: dict[tuple[str, str, str], set[str]] = defaultdict(set)
    for setting in settings:
        for name, value in setting.factors.items():
            values[setting.protocol, setting.adapter, name].add(as_typed(value))
    held = ("dataset", "adapter", "protocol", *CONDITIONS, without)
    return {
        setting.id: " ".join(
            [
                setting.adapter,
                *(
                    f"{name}={as_typed(value)}"
                    for name, value in setting.factors.items()
                    if name not in held and len(values[setting.protocol, setting.adapter, name]) > 1
                ),
            ]
        )
        for setting in settings
    }


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


def _block(row: Finding) -> Conditions:
    return (("data", row.setting.digest), *row.conditions)


def _goes_with(row: Finding, block: Conditions) -> bool:
    wanted = dict(block)
    return row.setting.digest == wanted["data"] and all(
        wanted.get(name, value) == value for name, value in row.conditions
    )


def _sortable(conditions: Conditions) -> tuple[tuple[float, str], ...]:
    return tuple((float(v) if isinstance(v, int | float) else 0.0, as_typed(v)) for _, v in conditions)


def _listed(seeds: Sequence[int]) -> str:
    return f"seed{'s' * (len(seeds) > 1)} {', '.join(map(str, seeds))}"


def _averages(groups: Sequence[Group]) -> list[Average]:
    """Every method under every set of conditions, over the data sets of its protocol, where there are two or more."""
    found = []
    for protocol in dict.fromkeys(group.protocol for group in groups):
        tables = {group.dataset: group for group in groups if group.protocol == protocol}
        if len(tables) < 2 or len(tables) < sum(group.protocol == protocol for group in groups):
            continue  # one data set; or several caches of one, which are no data sets to average over
        rows: dict[tuple[str, Conditions], dict[str, Finding]] = defaultdict(dict)
        for dataset, group in tables.items():
            for row in group.rows:
                rows[row.method, row.conditions][dataset] = row
        found += [_average(protocol, method, at, of, tables) for (method, at), of in rows.items()]
    return found


def _average(
    protocol: str, method: str, conditions: Conditions, of: Mapping[str, Finding], tables: Mapping[str, Group]
) -> Average:
    missing = tuple(dataset for dataset in tables if dataset not in of)
    main, rows = next(iter(tables.values())).main, list(of.values())
    whole = Average(protocol, method, conditions, of, missing, {}, None, None, None, 0, 0)
    if missing:
        return whole
    measures: dict[str, tuple[float, float, float]] = {}
    for metric in rows[0].measures:
        known = [row.measures[metric] for row in rows if metric in row.measures]
        if len(known) < len(rows):
            continue
        if metric == "H" and (parts := _h_parts(rows)):
            known = parts
        interval = average_of_datasets(known)
        value = float(interval.value)
        if metric == "H":
            base, new = (np.array([row.measures[name].mean for row in rows]) for name in ("base", "new"))
            value = h_of_means(base, new)
        measures[metric] = (value, float(interval.low), float(interval.high))
    changes = [row.change.mean for row in rows if row.change is not None]
    if len(changes) < len(rows):
        return replace(whole, measures=measures)
    ours = np.array([row.measures[main].mean for row in rows])
    over = across_datasets(ours, ours - np.array(changes))
    return replace(
        whole,
        measures=measures,
        change=over.mean,
        p_t=over.p_t,
        p_wilcoxon=over.p_wilcoxon,
        won=over.won,
        lost=over.lost,
    )


def _h_parts(rows: Sequence[Finding]) -> list[Estimate]:
    """One estimate per data set whose average is H of the mean base and the mean new, with its interval; empty without
    predictions.
    """
    base, new = (float(np.mean([row.measures[name].mean for row in rows])) / 100 for name in ("base", "new"))
    parts = []
    for row in rows:
        sides = [values_of(row.setting, name, row.setting.seeds) for name in ("base", "new")]
        if sides[0] is None or sides[1] is None:
            return []
        parts.append(mean_estimate(harmonic_values(sides[0], sides[1], at=(base, new))).scaled(100))
    return parts


def conditions_text(conditions: Conditions, varying: Sequence[str] = ("shots",)) -> str:
    """`8 shots, prompts photo`: those of the conditions that tell rows apart."""
    words = []
    for name, value in conditions:
        if name == "shots":
            words.append(f"{value} shot{'s' * (value != 1)}")
        elif name in varying:
            words.append(f"{name} {as_typed(value)}")
    return ", ".join(words)


def main_block(group: Group) -> tuple[Conditions, list[Finding]]:
    """The conditions under which most methods of a table were compared (of equals, those with the most shots), and
    their rows; without what was selected on the test rows.
    """
    known = [row for row in group.rows if not row.is_oracle and group.main in row.measures]
    conditions = dict.fromkeys(_block(row) for row in known if row.setting.seeded)
    blocks = {block: [row for row in known if _goes_with(row, block)] for block in conditions}
    return max(blocks.items(), key=lambda item: (len(item[1]), dict(item[0]).get("shots", 0)), default=((), []))


def _headline(groups: Sequence[Group], averages: Sequence[Average], baseline: str) -> str:
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


def _notes(found: Folder, groups: Sequence[Group], several: set[str], averages: Sequence[Average]) -> list[str]:
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
