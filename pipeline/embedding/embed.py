"""Stage one, `mma embed`: run the frozen towers once over a data set, and write a cache.

    make_plan     plan.py    what is to be done: data set, model, header, the chunks that are still to do
    show_plan     show.py    say it, with an estimate of the time
    run_plan      run.py     encode (encode.py), write each finished chunk, and journal it
    grow          grow.py    of a data set that has other rows now: copy what is known, encode the rest

A run that is interrupted loses the chunk in flight, and the same command continues.
"""

from __future__ import annotations

from rich.console import Console

from mma.cache import Location
from mma.pipeline.embedding.add_text import add_text
from mma.pipeline.embedding.grow import grow
from mma.pipeline.embedding.plan import make_plan
from mma.pipeline.embedding.run import run_plan
from mma.pipeline.embedding.settings import EmbedSettings
from mma.pipeline.embedding.show import next_step, show_plan, show_shard, show_summary

__all__ = ["EmbedSettings", "embed"]


def embed(settings: EmbedSettings, console: Console) -> Location:
    """Make or continue the cache of a data set, and return its path. Plan, progress and summary go to `console`."""
    if settings.text_only:
        return add_text(settings, console)
    plan = make_plan(settings, console)
    if plan.complete:
        console.print(f"{plan.path} is complete: nothing to do. Next:", next_step(plan.path, plan.header))
    else:
        show_plan(plan, console)
        if plan.growth:
            grow(plan, plan.growth, console)
            show_summary(plan, console)
        elif run_plan(plan, console):
            show_summary(plan, console)
        else:
            show_shard(plan, console)
    return plan.path
