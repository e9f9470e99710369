"""`mma cache info`: what is in a cache, by which model, how complete, how large."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from mma.cache import Cache, Status, open_cache
from mma.pipeline.progress import size

SHOWN = 20  # failed images listed; --json has all


def show_cache_info(location: str, console: Console) -> None:
    """Print what a person wants to know of a cache."""
    info = _info(open_cache(location, partial=True))
    table = Table(show_header=False, box=None, title=f"[bold]{location}[/bold]", title_justify="left")
    done, total = info["chunks"]
    table.add_row("data set", f"{info['dataset']}, {len(info['classnames'])} classes")
    table.add_row("state", "complete" if info["complete"] else f"[yellow]{done} of {total} chunks are done[/yellow]")
    table.add_row("images", ", ".join(f"{split} {rows:,}" for split, rows in info["rows"].items()))
    table.add_row(
        "embeddings", f"D = {info['dim']}, {max(info['views'].values())} view, {info['dtype']}, not normalised"
    )
    for name, templates in info["prompts"].items():
        table.add_row("prompt set", f"{name}: {len(templates)} templates, the first {templates[0]!r}")
    table.add_row("logit scale", f"{info['logit_scale']:g}")
    if info["bytes"] is not None:
        table.add_row("on disk", size(info["bytes"]))
    for key, value in info["fingerprint"].items():
        if key != "classnames":
            table.add_row(key.replace("_", " "), str(value))
    for note in info["notes"]:
        table.add_row("note", note)
    console.print(table)
    failed = info["failed"]
    if failed:
        console.print(f"[yellow]{len(failed)} images have no embedding:[/yellow]")
        for row in failed[:SHOWN]:
            console.print(f"  {row['path']}: {row['status']}, {row['reason']}", markup=False)
        if len(failed) > SHOWN:
            console.print(f"  and {len(failed) - SHOWN} more (--json lists all)")


def cache_info_json(location: str) -> str:
    """The same as JSON."""
    return json.dumps(_info(open_cache(location, partial=True)), indent=2)


def _info(cache: Cache) -> dict[str, Any]:
    header = cache.header
    failed = []
    for split, failures in cache.failures().items():
        paths = cache.split(split).path if failures else []
        failed += [
            {"split": split, "row": row, "path": paths[row], "status": Status(code).name.lower(), "reason": reason}
            for row, code, reason in failures
        ]
    local = Path(cache.location)
    return {
        "dataset": header.dataset,
        "complete": cache.complete,
        "chunks": cache.progress(),
        "classnames": header.classnames,
        "rows": header.rows,
        "dim": header.dim,
        "views": header.views,
        "dtype": header.dtype,
        "logit_scale": header.logit_scale,
        "prompts": {name: cache.text(name).templates for name in cache.prompts},
        "fingerprint": header.fingerprint,
        "notes": header.notes,
        "bytes": sum(f.stat().st_size for f in local.rglob("*") if f.is_file()) if local.exists() else None,
        "failed": failed,
    }
