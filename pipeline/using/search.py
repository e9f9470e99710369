"""`mma search`: the images of a cache that are nearest to a text or to an image, by cosine; exact, block by block."""

from __future__ import annotations

import csv
import heapq
import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from rich.console import Console
from torch import Tensor

from mma.cache import Cache, open_cache
from mma.cache.durable import write_whole
from mma.pipeline.console import Column, show_table
from mma.pipeline.datasets.unlabelled import Listed, Unlabelled, is_image
from mma.pipeline.device import pick_device
from mma.pipeline.errors import UsageError
from mma.pipeline.json_text import to_json
from mma.pipeline.using.model import encoder_of
from mma.pipeline.using.settings import SearchSettings
from mma.pipeline.using.sheet import SheetImage
from mma.pipeline.using.source import Cached, Encoder, Images
from mma.pipeline.using.threads import one_thread

COLUMNS = ("rank", "cosine", "split", "row", "class", "path")


@dataclass(frozen=True)
class Hit:
    """An image that was found."""

    rank: int  # from 1
    cosine: float
    split: str
    row: int  # of the split
    path: str
    classname: str  # empty where the cache has none


def search(settings: SearchSettings) -> list[Hit]:
    """The nearest images, the nearest first. Raises UsageError or CacheError for what cannot be searched."""
    cache, device = open_cache(settings.cache), pick_device(settings.device)
    if settings.split is not None and settings.split not in cache.header.rows:
        raise UsageError(f"`split={settings.split}`: {settings.cache} has {', '.join(cache.header.rows)}")
    splits = [settings.split] if settings.split else list(cache.header.rows)
    query = encode_query(settings, cache, device)
    if len(query) != cache.header.dim:
        raise UsageError(f"{settings.cache} has embeddings of {cache.header.dim} dimensions, its model {len(query)}")
    found = nearest_rows(cache, splits, query, settings.top)
    hits = []
    data = {split: cache.split(split) for split in splits}
    for rank, (cosine, split, row) in enumerate(found, 1):
        label = int(data[split].label[row])
        name = cache.header.classnames[label] if label >= 0 else ""
        hits.append(Hit(rank, cosine, split, row, data[split].path[row], name))
    return hits


def encode_query(settings: SearchSettings, cache: Cache, device: torch.device) -> Tensor:
    """The query as a unit embedding [D], by the encoder that made the cache.

    A path with the suffix of an image is that image. UsageError where it cannot be read, or the encoder is not known.
    """
    header = cache.header
    known = encoder_of(header)
    source = header.source or {}
    encoder = Encoder(known, device, 1, settings.clip or source.get("model"), settings.pretrained)
    path = Path(settings.query).expanduser()
    with one_thread():
        if is_image(path):
            if not path.is_file():
                raise UsageError(f"there is no image {path}: give one, or words to search for")
            (batch,) = encoder.encode(Images(Unlabelled(Listed((str(path),)), ""), encoder), 0)
            if batch.reasons:
                raise UsageError(f"{path} cannot be used: {batch.reasons[0]}")
            return batch.image[0]
        text: Tensor = torch.from_numpy(encoder.encode_text([settings.query])[0]).to(device, torch.float32)
    return torch.nn.functional.normalize(text, dim=0)


def nearest_rows(cache: Cache, splits: Sequence[str], query: Tensor, count: int) -> list[tuple[float, str, int]]:
    """Cosine, split and row of the rows that are nearest to a unit query [D], in order; of equals the first."""
    best: list[tuple[float, str, int]] = []
    for split in splits:
        best = heapq.nlargest(count, [*best, *_cosines(cache, split, query, count)], key=lambda each: each[0])
    return best


def _cosines(cache: Cache, split: str, query: Tensor, count: int) -> Iterator[tuple[float, str, int]]:
    """The nearest rows of every block of a split."""
    first = 0
    for batch in Cached(cache, [split], query.device).batches(0):
        cosine = (batch.image @ query).nan_to_num(nan=-torch.inf)  # [B]; rows without an embedding are NaN
        value, at = cosine.sort(descending=True, stable=True)
        for c, row in zip(value[:count].tolist(), at[:count].tolist(), strict=True):
            if np.isfinite(c):
                yield c, split, first + row
        first += len(batch.image)


def show_hits(console: Console, hits: Sequence[Hit], title: str) -> None:
    """A table."""
    labelled = any(hit.classname for hit in hits)
    columns = [Column("rank", right=True), Column("cosine", right=True), Column("split")]
    columns += [Column("class")] if labelled else []
    lines = [
        [str(hit.rank), f"{hit.cosine:.4f}", hit.split, *([hit.classname] if labelled else []), hit.path]
        for hit in hits
    ]
    show_table(console, [*columns, Column("image")], lines, title)


def hits_csv(hits: Sequence[Hit]) -> str:
    """One row for each hit."""
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(COLUMNS)
    for hit in hits:
        writer.writerow([hit.rank, f"{hit.cosine:.6f}", hit.split, hit.row, hit.classname, hit.path])
    return stream.getvalue()


def hits_jsonl(hits: Sequence[Hit]) -> str:
    """One object for each hit, with the columns of the CSV."""
    lines = [
        to_json(dict(zip(COLUMNS, (h.rank, h.cosine, h.split, h.row, h.classname or None, h.path), strict=True)))
        for h in hits
    ]
    return "".join(f"{line}\n" for line in lines)


def write_hits(hits: Sequence[Hit], form: str, out: Path) -> None:
    """A file, whole or not at all."""
    write_whole(out, (hits_csv if form == "csv" else hits_jsonl)(hits).encode())


def shown(hits: Sequence[Hit]) -> list[SheetImage]:
    """The hits as images of a contact sheet."""
    return [SheetImage(hit.path, (f"{hit.rank}: {hit.cosine:.4f}", hit.classname or hit.path)) for hit in hits]
