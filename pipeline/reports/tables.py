"""Results as a person reads them (a table on stdout) and as a machine does (JSON)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import Any

from rich.console import Console

from mma.adapters import adapter_class, options_of
from mma.pipeline.console import Column, show_table
from mma.pipeline.fitting.cells import NO_SELECTION, Setting
from mma.pipeline.fitting.results import Grid, Row, setting_folder
from mma.pipeline.json_text import to_json
from mma.pipeline.reports.aggregates import worst_tenth
from mma.pipeline.reports.answers import Answers, answers_of, estimate_of
from mma.pipeline.reports.averages import MISSING, Average, averages, flat_averages
from mma.pipeline.reports.averages import columns as averaged
from mma.pipeline.reports.fit_measures import half_width, measures, scalar, show_measures
from mma.pipeline.reports.metrics import IMBALANCE, imbalance
from mma.pipeline.reports.pairing import BALANCED
from mma.pipeline.reports.statistics import Estimate, mean_interval, mean_text

FALLBACK = "*"
TEST_TIME = "†"
TIME = Column("time", right=True, spare=True)
ONE_SUPPORT = "‡"


def show_fitted(console: Console, fitted: Grid, metrics: Sequence[str] = ()) -> None:
    """One table for each cache and protocol, one row per adapter, zero-shot first; means with the half-widths of their
    95 % intervals over seeds and test images, in percent. `metrics` of METRICS are shown below.
    """
    for at in dict.fromkeys((row.cache, row.setting.protocol.name) for row in fitted.rows):
        _show_cache(console, [row for row in fitted.rows if (row.cache, row.setting.protocol.name) == at])
    for protocol in dict.fromkeys(row.setting.protocol.name for row in fitted.rows):
        _show_averages(console, [row for row in fitted.rows if row.setting.protocol.name == protocol])
    for note in fit_notes(fitted):
        console.print(note)
    if metrics:
        show_measures(console, fitted, metrics)


def _show_averages(console: Console, rows: Sequence[Row]) -> None:
    """One row per setting: its averages over data sets, where there are several."""
    found = averages(rows)
    if not found:
        return
    title = f"average of {len({row.cache for row in rows})} data sets, {protocol_text([row.setting for row in rows])}"
    metrics = averaged(rows[0].metrics)
    lines = [
        [label(average.rows[0].setting), *(average.text(metric) + star(average.rows[0], metric) for metric in metrics)]
        for average in found
    ]
    show_table(console, [Column("adapter"), *(Column(metric, right=True) for metric in metrics)], lines, title)


def _show_cache(console: Console, rows: Sequence[Row]) -> None:
    settings = [row.setting for row in rows]
    recipes = list(dict.fromkeys(s.recipe_name for s in settings if s.recipe_name))
    selections = list(dict.fromkeys(s.select for s in settings if s.select != NO_SELECTION))
    words = [settings[0].data.dataset, protocol_text(settings), seeds_text(rows)]
    words += [f"recipe {recipes[0]}"] if len(recipes) == 1 else []
    words += [selection_text(selections[0])] if len(selections) == 1 else []
    differing = [name for name, found in (("recipe", recipes), ("select", selections)) if len(found) > 1]
    answers = answers_of(rows)
    metrics = list(rows[0].metrics)
    if (times := _differ(rows, answers)) > 1:
        metrics.insert(0 if times > IMBALANCE else 1, BALANCED)
    columns = [Column("adapter"), *(Column(name, right=True) for name in metrics), TIME, *map(Column, differing)]
    lines = []
    for row, of_row in zip(rows, answers, strict=True):
        told = {"recipe": row.setting.recipe_name or "", "select": row.setting.select}
        name = " ".join([marked(row.setting), *changes(row.setting)])
        values = [*(_estimate_text(row, of_row, metric) for metric in metrics), f"{row.seconds:.2f} s"]
        lines.append([name, *values, *(told[name] if told[name] != NO_SELECTION else "" for name in differing)])
    show_table(console, columns, lines, ", ".join(word for word in words if word))


def _estimate_text(row: Row, answers: Mapping[str, Answers], metric: str) -> str:
    """As `metric_text`, with the half-width over seeds and test images where it is known what was predicted."""
    estimate = _estimate(row, answers, metric)
    if estimate is None:
        return metric_text(row, metric)
    mark = ONE_SUPPORT if row.one_support else ""
    mean = estimate.mean if metric == BALANCED else mean_interval(row.values(metric))[0]  # of H: not H of the means
    return f"{mean:.2f} ± {half_width(estimate):.2f}{mark}{star(row, metric)}"


def _estimate(row: Row, answers: Mapping[str, Answers], metric: str) -> Estimate | None:
    if metric != BALANCED:
        return estimate_of(row, answers, metric)
    found = scalar(answers["all"], "balanced") if "all" in answers else None
    return found if isinstance(found, Estimate) else None


def _differ(rows: Sequence[Row], answers: Sequence[Mapping[str, Answers]]) -> float:
    """How many times the test classes of a few-shot table differ in size; 0 where that is not asked, or not known."""
    if any("all" not in of_row for of_row in answers):
        return 0.0
    return max((imbalance(of_row["all"].label) for of_row in answers), default=0.0)


def fit_notes(fitted: Grid) -> list[str]:
    """What a reader of the table of a fit must know."""
    found = ["± is a 95 % interval over seeds and test images together"]
    if averages(fitted.rows):
        found[0] += "; of averages, over seeds alone"
    told: dict[str, None] = {}
    for row, of_row in zip(fitted.rows, answers_of(fitted.rows), strict=True):
        if "all" in of_row and (times := imbalance(of_row["all"].label)) > IMBALANCE:
            told[
                f"{row.setting.data.dataset}: test classes differ in size up to {times:.1f} times, so balanced "
                "accuracy (the mean recall of classes) is the main metric"
            ] = None
    one = (
        f"one support: all seeds draw the same shots and count as one; ±{ONE_SUPPORT} is over test images, and says "
        "nothing of other shots"
    )
    return [*found, *told, *notes(fitted, one)]


def seeds_text(rows: Sequence[Row]) -> str:
    """`seeds 0, 1, 2`, or `seeds 0 to 9`; nothing where no row has seeds, as zero-shot has none."""
    of_rows = (
        [result.cell.seed for result in row.results] for row in rows if adapter_class(row.setting.adapter).seeded
    )
    seeds = max(of_rows, key=len, default=[])
    if not seeds:
        return ""
    if len(seeds) > 3 and seeds == list(range(seeds[0], seeds[0] + len(seeds))):
        return f"seeds {seeds[0]} to {seeds[-1]}"
    return f"seed{'s' * (len(seeds) > 1)} {', '.join(map(str, seeds))}"


def metric_text(row: Row, metric: str) -> str:
    """Mean and half-width, marked where that is over one support; starred where new classes are scored zero-shot for
    want of weights.
    """
    return interval_text(row.values(metric), [row]) + star(row, metric)


def star(row: Row, metric: str) -> str:
    """A star where a metric is of new classes that are scored zero-shot for want of weights."""
    return FALLBACK if metric not in ("base", "source") and falls_back(row) else ""


def interval_text(values: Sequence[float], rows: Sequence[Row]) -> str:
    """Mean and half-width of values that come from some rows, marked where the seeds of one drew no support each."""
    text = mean_text(values)
    return text + ONE_SUPPORT if "±" in text and any(row.one_support for row in rows) else text


def falls_back(row: Row) -> bool:
    """Whether the row's adapter has no weights for new classes."""
    return any(result.details["new_is_zero_shot"] for result in row.results)


OVER_TRAINING = (
    f"one support: all seeds draw the same shots; ±{ONE_SUPPORT} is over training seeds alone (weights, "
    "batches, validation rows), not over draws of shots"
)


def notes(grid: Grid, of_one_support: str = OVER_TRAINING) -> list[str]:
    """What a reader of a table must know; where seeds had one support, with that."""
    rows, found = grid.rows, []
    if any(falls_back(row) for row in rows):
        found.append(f"{FALLBACK} has no weights for classes without shots: new classes are scored zero-shot")
    if any(not average.values for average in _every_average(rows)):
        found.append(f"{MISSING} no average: it is not there on every data set")
    if any(sees_test_rows(row.setting.adapter) for row in rows):
        found.append(f"{TEST_TIME} learns from unlabelled test rows: one by one, as a stream, or all at once")
    if any(row.one_support for row in rows):
        found.append(of_one_support)
    if any(row.setting.select == "oracle" for row in rows):
        found.append("ORACLE: epochs were selected on the test rows; these numbers are upper bounds, not results")
    return [*found, *grid.notes]


def _every_average(rows: Sequence[Row]) -> list[Average]:
    protocols = dict.fromkeys(row.setting.protocol.name for row in rows)
    return [each for name in protocols for each in averages([r for r in rows if r.setting.protocol.name == name])]


def average_records(grid: Grid) -> list[dict[str, Any]]:
    """One flat record for every average over data sets, of every protocol; none where there is one data set."""
    return flat_averages(_every_average(grid.rows))


def label(setting: Setting) -> str:
    """The adapter, its recipe and those of its options that are not the default: `mma lam=0.5`; marked if it sees test
    rows.
    """
    name, first = setting.recipe_name, next(iter(adapter_class(setting.adapter).recipes))
    recipe = [f"recipe={name}"] if name and name != first else []
    return " ".join([marked(setting), *recipe, *changes(setting)])


def changes(setting: Setting) -> list[str]:
    """Options that are not the default, and values that are not those of the named recipe: `lam=0.5`, `lr=0.01`."""
    defaults = {option.name: option.default for option in options_of(adapter_class(setting.adapter))}
    changed = [f"{name}={value}" for name, value in setting.options if value != defaults[name]]
    if setting.recipe and setting.recipe_name:
        own = adapter_class(setting.adapter).recipes[setting.recipe_name].recipe
        changed += [
            f"{f.name}={value}"
            for f in fields(own)
            if (value := getattr(setting.recipe, f.name)) != getattr(own, f.name)
        ]
    return changed


def columns_of(row: Row) -> dict[str, Any]:
    """A row's factors by name, and the cache."""
    return {**row.setting.flat(), "cache": row.cache}


def data_name(row: Row, rows: Sequence[Row]) -> str:
    """What to call a row's data among some rows: the data set, or the cache where several are of one data set."""
    alike = {other.cache for other in rows if other.setting.data.dataset == row.setting.data.dataset}
    return row.cache if len(alike) > 1 else row.setting.data.dataset


def marked(setting: Setting) -> str:
    """What the adapter is called, with a dagger if it looks at unlabelled test rows."""
    return setting.name + TEST_TIME if sees_test_rows(setting.adapter) else setting.name


def sees_test_rows(adapter: str) -> bool:
    """Whether an adapter looks at unlabelled test rows beyond the one it scores. Raises AdapterError."""
    kind = adapter_class(adapter)
    return kind.transductive != "no" or kind.uses_views == "test"


def protocol_text(settings: Sequence[Setting]) -> str:
    """`base-to-new, 16 shots`, with whatever else is not the default."""
    setting = settings[-1]
    protocol, data = setting.protocol, setting.data
    shots = max(setting.protocol.shots for setting in settings)
    words = [protocol.name] + ([f"{shots} shot{'s' * (shots > 1)}"] if shots else [])
    for field in fields(protocol):
        value = getattr(protocol, field.name)
        if field.name != "shots" and value != field.default:
            words.append(f"{field.name} {value}")
    words += [
        f"{name} {value}"
        for name, value in (("prompts", data.prompts), ("reduce", data.reduce))
        if value not in ("default", "unit")
    ]
    return ", ".join(words)


def selection_text(select: str) -> str:
    """How the epoch was chosen, in words."""
    return {
        "val": "selected on validation",
        "classes": "selected on held-out classes",
        "last": "last epoch",
        "oracle": "selected on TEST (oracle)",
    }[select]


def fitted_json(fitted: Grid, metrics: Sequence[str] = ()) -> str:
    """The table as JSON: means, 95 % intervals over seeds and test images (null where predictions were not kept; the
    half-width is the longer side) and half-widths over seeds alone (null for one seed), the worst tenth of seeds, every
    seed, where the files lie, and averages over data sets; `metrics` of METRICS as `measures`, by test.
    """
    answers = answers_of(fitted.rows)

    def row_data(row: Row, of_row: Mapping[str, Answers]) -> dict[str, Any]:
        data: dict[str, Any] = {**row.setting.config(), "cache": row.cache}
        for metric in row.metrics:
            mean, half = mean_interval(row.values(metric))
            worst = worst_tenth(row.values(metric))
            found = estimate_of(row, of_row, metric)
            both = {"half_width": half_width(found), "low": found.low, "high": found.high} if found else {}
            unknown = {"half_width": half, "low": None, "high": None}
            over = {**(both or unknown), "half_width_of_seeds": half}
            data[metric] = {"mean": mean, **over, "worst_tenth": worst, "seeds": row.values(metric)}
        data["new_is_zero_shot"] = falls_back(row)
        data["one_support"] = row.one_support
        data["seconds"] = row.seconds
        if metrics:
            data["measures"] = measures(row, of_row, metrics)
        return {**data, "folder": str(setting_folder(row.out, row.setting)) if row.out else None}

    rows = [row_data(row, of_row) for row, of_row in zip(fitted.rows, answers, strict=True)]
    whole = {"rows": rows, "averages": average_records(fitted), "chosen": dict(fitted.chosen)}
    return to_json({**whole, "notes": fit_notes(fitted)}, indent=2)
