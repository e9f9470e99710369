"""What `mma embed` says before the work, and after it."""

from __future__ import annotations

import shlex

from rich.console import Console
from rich.text import Text

from mma.cache import Header, Location, Status, cache_bytes, open_cache
from mma.pipeline.embedding.place import image_bytes
from mma.pipeline.embedding.plan import EmbedPlan
from mma.pipeline.progress import size, span

SHOWN = 10  # failed images listed


def next_step(path: Location, header: Header) -> Text:
    """The command that goes on with a cache."""
    place = shlex.quote(str(path))
    return Text(f"mma predict MODEL {place}" if header.unlabelled else f"mma fit --cache {place}", style="bold")


def show_plan(plan: EmbedPlan, console: Console) -> None:
    """Say what will be done, and about how long it takes."""
    header, prompts = plan.header, plan.prompts
    rows = sum(chunk.stop - chunk.start for chunk in plan.pending)
    total = sum(header.rows.values())
    splits = ", ".join(f"{name} {count:,}" for name, count in header.rows.items())
    about = plan.clip.fingerprint
    model = about["model"] + (f" ({about['pretrained']})" if about["pretrained"] else "")
    todo = f"{rows:,} to do in {len(plan.pending)} chunks" if rows else "all done"
    if plan.shard:
        todo += f", as shard {plan.shard}"
    classes = "  classes   none: unlabelled\n"
    if header.classnames:
        classes = f"  classes   {len(header.classnames)}, the first {header.classnames[0]!r}\n"
    if prompts:
        sets = ", ".join(f"{p.name} ({len(p.templates)})" for p in prompts)
        classes += f"  prompts   {sets}, as {prompts[0].texts[0][0]!r}\n"
    console.print(
        Text(plan.dataset.name, style="bold"),
        f"-> {plan.path}\n"
        f"  images    {total:,} ({splits}), {todo}\n"
        f"{classes}"
        f"  model     {model} on {plan.clip.device.type}, {about['precision']}, D = {header.dim}\n"
        f"  cache     {size(image_bytes(header))} of {header.dtype}",
    )
    if max(header.views.values()) > 1:
        each = ", ".join(f"{views} of every {split} image" for split, views in header.views.items() if views > 1)
        console.print(f"  views     {each}, seed {plan.encoding.views.seed}")
    for note in (*plan.dataset.notes, *plan.notes):
        console.print(f"  note      {note}")
    if plan.pending:
        pictures = sum((chunk.stop - chunk.start) * header.views[chunk.split] for chunk in plan.pending)
        console.print(f"  time      about {span(pictures * plan.seconds)} ({1 / plan.seconds:,.0f} images/s)")


def show_shard(plan: EmbedPlan, console: Console) -> None:
    """Say that a shard is done, and what of the cache is not."""
    done, total = open_cache(plan.path, partial=True).progress()
    console.print(
        f"{plan.path}: shard {plan.shard} is done, and {done} of {total} chunks are: the shard that ends last "
        "makes the cache complete"
    )


def show_summary(plan: EmbedPlan, console: Console) -> None:
    """Say what the finished cache holds, and which images failed."""
    path, cache = plan.path, open_cache(plan.path)
    failed = [(split, *failure) for split, failures in cache.failures().items() for failure in failures]
    if failed:
        what = Text(f"{len(failed)} images have no embedding", style="yellow")
        console.print(what, f"(`mma cache info {path}` lists them):")
        for split, row, status, reason in failed[:SHOWN]:
            name = Status(status).name.lower().replace("_", " ")
            console.print(f"  {plan.dataset.splits[split].paths[row]}: {name}, {reason}")
    rows = sum(cache.header.rows.values())
    prompts = f"prompts {', '.join(cache.prompts)}" if cache.prompts else "unlabelled"
    console.print(f"{path}: {rows:,} images, {prompts}, {size(cache_bytes(path) or 0)}")
    console.print("Next:", next_step(path, cache.header))
