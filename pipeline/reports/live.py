"""A grid while it runs: a live table of the settings that changed last, over a progress bar; in a log, lines."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager

from rich.console import Console, Group
from rich.live import Live
from rich.progress import BarColumn, MofNCompleteColumn, Progress
from rich.table import Table

from mma.pipeline.fitting.ablate import Shown, plain_bar
from mma.pipeline.fitting.cells import Setting
from mma.pipeline.fitting.factors import as_typed
from mma.pipeline.fitting.grid import Outcome
from mma.pipeline.fitting.plan import GridPlan
from mma.pipeline.fitting.protocols import OPTIONS
from mma.pipeline.fitting.results import Result
from mma.pipeline.progress import Left, Rate, Remaining
from mma.pipeline.reports.tables import label, metric_text

LIVE_ROWS = 12  # settings shown while running, those that changed last


@contextmanager
def live_table(
    console: Console, plan: GridPlan, outcomes: Mapping[str, Outcome], total: int, left: Remaining
) -> Iterator[Shown]:
    """Running means of the settings that changed last."""
    if not console.is_terminal:
        with plain_bar(console, plan, dict(outcomes), total, left) as shown:
            yield shown
        return
    bar = Progress(BarColumn(), MofNCompleteColumn(), Rate("cells"), Left(left))
    task = bar.add_task("cells", total=total)
    recent: dict[Setting, None] = {}
    apart = telling_apart(plan)
    with Live(bar, console=console, refresh_per_second=4, transient=True) as live:

        def advance(outcome: Outcome) -> None:
            bar.advance(task)
            recent.pop(outcome.cell.setting, None)
            recent[outcome.cell.setting] = None
            live.update(Group(running(list(recent)[-LIVE_ROWS:], plan, outcomes, apart), bar))

        yield advance


def running(
    settings: Sequence[Setting], plan: GridPlan, outcomes: Mapping[str, Outcome], apart: Collection[str]
) -> Table:
    """Settings with what is known of them so far, and with what tells them `apart`."""
    done = {key: outcome for key, outcome in outcomes.items() if isinstance(outcome, Result)}
    table = Table(box=None)
    for name in ("setting", *apart, "seeds", "metrics"):
        table.add_column(name, overflow="fold")
    for setting in settings:
        row = plan.row(setting, done)
        if row:
            metrics = "  ".join(f"{name} {metric_text(row, name)}" for name in row.metrics)
            seeds = f"{len(row.results)}/{len(plan.rows[setting])}"
            values = {**setting.flat(), "cache": plan.cache(setting)}
            texts = [as_typed(values[name]) if name in values else "" for name in apart]
            table.add_row(label(setting), *texts, seeds, metrics)
    return table


def telling_apart(plan: GridPlan) -> list[str]:
    """The factors in which settings of a plan differ; without an adapter's own, which stand in its label."""
    rows = [{**setting.flat(), "cache": plan.cache(setting)} for setting in plan.rows]
    names = dict.fromkeys(name for row in rows for name in row)
    datasets = {row["dataset"] for row in rows}
    of_data = ["dataset"] if len(datasets) == len({row["cache"] for row in rows}) else ["dataset", "cache"]
    wanted = [*of_data, "prompts", "reduce", "protocol", *OPTIONS, "select"]
    compared = [row for row in rows if row["adapter"] != "zero-shot"] or rows
    return [
        name for name in wanted if name in names and len({as_typed(row[name]) for row in compared if name in row}) > 1
    ]
