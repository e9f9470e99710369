"""`mma cache info`: what is in a cache, by which model, how complete, how large."""

from __future__ import annotations

from typing import Any

from rich.console import Console
from rich.text import Text

from mma.cache import Cache, Status, cache_bytes, open_cache
from mma.pipeline.console import Cell, show_pairs
from mma.pipeline.json_text import to_json
from mma.pipeline.progress import size

SHOWN = 20  # failed images listed; cache_info_json has all


def show_cache_info(location: str, console: Console) -> None:
    """Print what a person wants to know of a cache."""
    info = _info(open_cache(location, partial=True))
    done, total = info["chunks"]
    state = "complete" if info["complete"] else Text(f"{done} of {total} chunks are done", style="yellow")
    views = max(info["views"].values())
    pairs: list[tuple[str, Cell]] = [
        ("data set", f"{info['dataset']}, {len(info['classnames'])} classes"),
        ("state", state),
        ("images", ", ".join(f"{split} {rows:,}" for split, rows in info["rows"].items())),
        ("embeddings", f"D = {info['dim']}, {views} view{'s' * (views > 1)}, {info['dtype']}, not normalised"),
    ]
    for name, templates in info["prompts"].items():
        many = f"{len(templates)} template{'s' * (len(templates) > 1)}"
        pairs.append(("prompt set", f"{name}: {many}, the first {templates[0]!r}"))
    pairs.append(("logit scale", f"{info['logit_scale']:g}"))
    if info["bytes"] is not None:
        pairs.append(("on disk", size(info["bytes"])))
    about = info["fingerprint"].items()
    pairs += [(key.replace("_", " "), str(value)) for key, value in about if key != "classnames"]
    pairs += [("note", note) for note in info["notes"]]
    console.print(Text(location, style="bold"))
    show_pairs(console, pairs)
    failed = info["failed"]
    if failed:
        console.print(Text(f"{len(failed)} images have no embedding:", style="yellow"))
        for row in failed[:SHOWN]:
            console.print(f"  {row['path']}: {row['status']}, {row['reason']}")
        if len(failed) > SHOWN:
            console.print(f"  and {len(failed) - SHOWN} more (`mma cache info --json` lists all)")


def cache_info_json(location: str) -> str:
    """The same as JSON."""
    return to_json(_info(open_cache(location, partial=True)), indent=2)


def _info(cache: Cache) -> dict[str, Any]:
    header = cache.header
    failed = []
    for split, failures in cache.failures().items():
        paths = cache.split(split).path if failures else []
        failed += [
            {"split": split, "row": row, "path": paths[row], "status": Status(code).name.lower(), "reason": reason}
            for row, code, reason in failures
        ]
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
        "bytes": cache_bytes(cache.location),
        "failed": failed,
    }
