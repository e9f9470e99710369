"""What `mma embed` says before work and after it, and the checks of the place it writes to."""

from __future__ import annotations

import shutil
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from rich.console import Console

from mma.cache import CacheWriter, Chunk, Header, Status, open_cache
from mma.pipeline.datasets import Dataset
from mma.pipeline.embedding.clip import FrozenClip
from mma.pipeline.embedding.encode import Encoding, encode_chunks
from mma.pipeline.embedding.prompts import PromptSet
from mma.pipeline.errors import UsageError
from mma.pipeline.progress import size, span

PROBE = 16  # images timed before the plan, for its estimate
SHOWN = 10  # failed images listed


def check_place(path: Path) -> None:
    """Refuse a place where no cache can be, before anything is loaded."""
    if path.is_file():
        raise UsageError(f"--cache {path} is a file: a cache is a folder, such as cache/{path.stem}.zarr")
    blocked = next((parent for parent in path.absolute().parents if parent.exists()), None)
    if blocked is not None and not blocked.is_dir():
        raise UsageError(f"--cache {path}: {blocked} is a file, not a folder")
    if path.exists():
        open_cache(path, partial=True)  # raises where it is something else


def check_space(path: Path, header: Header, templates: int) -> None:
    """Refuse a disk on which the cache does not fit."""
    wanted = _image_bytes(header) + sum(header.rows.values()) * 128
    wanted += len(header.classnames) * templates * header.dim * 4 + 1_000_000
    at = next(parent for parent in path.absolute().parents if parent.exists())
    free = shutil.disk_usage(at).free
    if free < wanted:
        raise UsageError(f"no disk space for {path}: it needs {size(wanted)}, {at} has {size(free)} free")


def show_plan(
    console: Console,
    path: Path,
    dataset: Dataset,
    clip: FrozenClip,
    header: Header,
    how: Encoding,
    pending: Sequence[Chunk],
    prompts: Sequence[PromptSet],
) -> None:
    """Say what will be done, and about how long it takes by a short probe on the first images."""
    rows = sum(chunk.stop - chunk.start for chunk in pending)
    total = sum(header.rows.values())
    splits = ", ".join(f"{name} {count:,}" for name, count in header.rows.items())
    about = clip.fingerprint
    model = about["model"] + (f" ({about['pretrained']})" if about["pretrained"] else "")
    todo = f"{rows:,} to do in {len(pending)} chunks" if rows else "all done"
    console.print(
        f"[bold]{dataset.name}[/bold] -> {path}\n"
        f"  images    {total:,} ({splits}), {todo}\n"
        f"  classes   {len(header.classnames)}, the first {header.classnames[0]!r}\n"
        f"  prompts   {', '.join(f'{p.name} ({len(p.templates)})' for p in prompts)}, as {prompts[0].texts[0][0]!r}\n"
        f"  model     {model} on {clip.device.type}, {about['precision']}, D = {header.dim}\n"
        f"  cache     {size(_image_bytes(header))} of {header.dtype}",
    )
    if max(header.views.values()) > 1:
        each = ", ".join(f"{views} of every {split} image" for split, views in header.views.items() if views > 1)
        console.print(f"  views     {each}, seed {how.views.seed}")
    for note in dataset.notes:
        console.print(f"  note      {note}")
    if pending:
        seconds = _probe(clip, dataset, pending[0], how)
        pictures = sum((chunk.stop - chunk.start) * header.views[chunk.split] for chunk in pending)
        console.print(f"  time      about {span(pictures * seconds)} ({1 / seconds:,.0f} images/s)")


def show_summary(console: Console, path: Path, writer: CacheWriter, paths: Mapping[str, Sequence[str]]) -> None:
    """Say what the cache holds, and which images of `paths` (by split) failed."""
    failed = [(split, *failure) for split, failures in writer.failures().items() for failure in failures]
    if failed:
        console.print(f"[yellow]{len(failed)} images have no embedding[/yellow] (`mma cache info {path}` lists them):")
        for split, row, status, reason in failed[:SHOWN]:
            name = Status(status).name.lower().replace("_", " ")
            console.print(f"  {paths[split][row]}: {name}, {reason}", markup=False)
    rows = sum(writer.header.rows.values())
    bytes_on_disk = sum(file.stat().st_size for file in path.rglob("*") if file.is_file())
    console.print(
        f"{path}: {rows:,} images, prompts {', '.join(writer.prompts)}, {size(bytes_on_disk)}\n"
        f"Next: [bold]mma fit --cache {path}[/bold]",
    )


def _image_bytes(header: Header) -> int:
    pictures = sum(rows * header.views[split] for split, rows in header.rows.items())
    return pictures * header.dim * np.dtype(header.dtype).itemsize


def _probe(clip: FrozenClip, dataset: Dataset, chunk: Chunk, how: Encoding) -> float:
    """Seconds a picture, from a few images encoded twice: the first time warms up."""
    views = how.views.of(chunk.split)
    few = replace(chunk, stop=min(chunk.stop, chunk.start + max(1, min(how.batch, PROBE) // views)))
    seconds = 0.0
    for _ in range(2):
        start = time.perf_counter()
        for _ in encode_chunks(clip, dataset, [few], how):
            seconds = time.perf_counter() - start
    return seconds / ((few.stop - few.start) * views)
