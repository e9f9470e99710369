"""Data sets by name or by path. `find_dataset` is the one way in."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from mma.pipeline.datasets.base import Dataset, Pixels, Split
from mma.pipeline.datasets.catalog import entries, imagenet_labels
from mma.pipeline.datasets.contents import Contents, read_contents
from mma.pipeline.datasets.folder import dataset_name
from mma.pipeline.errors import UsageError, nearest
from mma.pipeline.regular_files import expanded

DATA = Path("data")  # the root where none is given


@dataclass(frozen=True)
class Lookup:
    """Where a data set may be found, and how."""

    root: Path | None = None  # the folder below which data sets lie; for a manifest, below which its paths are
    download: bool = False  # fetch a published data set that is not there
    seed: int = 0  # draws the splits of a data set that has none
    follow_links: bool = False  # read images that are links out of the data set's folder
    contents: Contents = read_contents  # of rows whose split is drawn by them


def known() -> list[str]:
    """The names that `find_dataset` knows."""
    return [*entries(), "shapes"]


def cache_name(name: str, limit: int | None) -> str:
    """What `find_dataset` will call a data set of which `limit` rows per split are taken, without opening it."""
    if name not in known():
        name = dataset_name(expanded(name.removeprefix("hf:")))
    return name if limit is None else f"{name}-limit{limit}"


def find_dataset(name: str, lookup: Lookup, console: Console | None = None) -> Dataset:
    """The data set called `name`, or one's own at that path. Raises UsageError, or WorkError where a download fails.

    A download is shown on `console`, or not at all.

    One's own is a folder of images, a manifest (.csv, .tsv, .jsonl, .parquet), WebDataset shards (a .tar or a folder of
    them), or Hugging Face `datasets` (hf:NAME, or a folder that was saved).
    """
    if name in entries():
        from mma.pipeline.datasets.published import published

        quiet = console or Console(quiet=True)
        shown = quiet if lookup.download else None
        root = lookup.root or DATA
        return published(entries()[name], root, lookup.seed, lookup.contents, lookup.follow_links, shown)
    if name == "shapes":
        from mma.pipeline.datasets.shapes import shapes

        return shapes(lookup.seed)
    if name.startswith("hf:"):
        from mma.pipeline.datasets.hub import hub

        return hub(name.removeprefix("hf:"), lookup.seed, lookup.contents)
    path = expanded(name)
    if path.exists():
        return _own(path, lookup)
    if re.search(r"[/\\.~]", name):
        raise UsageError(f"there is no folder {name}, and no file: check the path")
    raise UsageError(f"unknown data set {name!r}, and no folder of that name: {nearest(name, known())}")


def _own(path: Path, lookup: Lookup) -> Dataset:
    """One's own data, by what lies at the path."""
    from mma.pipeline.datasets import folder, hub, manifest, shards

    if path.is_file():
        if path.suffix.lower() in manifest.SUFFIXES:
            return manifest.manifest(path, lookup.root, lookup.seed, lookup.contents, lookup.follow_links)
        if path.suffix.lower() == ".tar":
            return shards.shards(path, lookup.seed, lookup.contents)
        raise UsageError(
            f"{path} is not a kind of data set that is known: a folder of images, a manifest "
            f"({', '.join(sorted(manifest.SUFFIXES))}), .tar shards; a compressed tar is to be decompressed first"
        )
    if hub.is_saved(path):
        return hub.hub(str(path), lookup.seed, lookup.contents)
    if shards.find_shards(path):
        return shards.shards(path, lookup.seed, lookup.contents)
    return folder.folder(path, lookup.seed, lookup.contents, lookup.follow_links)


__all__ = [
    "Contents",
    "Dataset",
    "Lookup",
    "Pixels",
    "Split",
    "cache_name",
    "entries",
    "find_dataset",
    "imagenet_labels",
    "known",
    "read_contents",
]
