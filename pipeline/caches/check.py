"""`mma cache verify` and `mma cache diff`, as people read them."""

from __future__ import annotations

import shlex
import time
from dataclasses import asdict

from rich.console import Console
from rich.text import Text

from mma.cache import cache_bytes, diff_caches, open_cache, verify
from mma.pipeline.console import Column, show_table
from mma.pipeline.json_text import to_json
from mma.pipeline.progress import size, span, track

SHOWN = 50  # faults listed


def verify_cache(location: str, stdout: Console, stderr: Console) -> bool:
    """Verify a cache and print what is wrong with it; whether nothing is."""
    start = time.monotonic()
    with track(stderr, "verify", cache_bytes(location) or 0, "bytes") as advance:
        checked = verify(location, advance)
    seconds = time.monotonic() - start
    for fault in checked.faults[:SHOWN]:
        stdout.print(str(fault))
    if len(checked.faults) > SHOWN:
        stdout.print(f"and {len(checked.faults) - SHOWN} more")
    for name in checked.strangers:
        stderr.print(f"note: {name} is no part of the cache")
    state = "complete" if checked.complete else f"unfinished, {checked.done} of {checked.total} chunks done"
    rate = f"{checked.files} files, {size(checked.size)} in {span(seconds)}"
    if checked.faults:
        files = len({fault.file for fault in checked.faults})
        damaged = Text(f"{files} files are damaged", style="red")
        stdout.print(f"{location}:", damaged, f"({rate}): run mma cache repair {shlex.quote(location)}")
    else:
        stdout.print(f"{location}: every byte is as it was written; {state} ({rate})")
    return not checked.faults


def show_diff(a: str, b: str, console: Console, *, as_json: bool) -> bool:
    """Print how two caches differ; whether they are the same."""
    found = diff_caches(open_cache(a), open_cache(b))
    if as_json:
        print(to_json({"same": found.same, **asdict(found)}, indent=2))
        return found.same
    for title, lines in (
        ("fingerprint", found.fingerprint),
        ("header", found.header),
        ("classes", found.classes),
        ("rows", found.rows),
    ):
        for line in lines:
            console.print(f"{title}: {line}")
    names = ("embeddings", "rows in both", "differ", "largest difference", "smallest cosine", "at")
    rows = []
    for name, gap in found.embeddings.items():
        where = gap.where if gap.differ else ""
        rows.append([name, str(gap.compared), str(gap.differ), f"{gap.largest:.3g}", f"{gap.cosine:.6f}", where])
    show_table(console, [Column(name) for name in names], rows)
    console.print("the caches hold the same" if found.same else "the caches differ")
    return found.same
