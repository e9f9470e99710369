"""`mma cache repair`: mend what the cache can mend by itself, and compute the rest again from data set and model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from rich.console import Console

from mma.cache import CacheError, CacheWriter, Header, ManifestSplit, Mended, mend, open_cache
from mma.pipeline.datasets import Dataset
from mma.pipeline.embed import (
    EmbedSettings,
    disk_error,
    embed_images,
    embed_text,
    load_dataset,
    load_model,
    make_encoding,
    make_header,
    manifest_hash,
    read_manifest,
    same_text_model,
)
from mma.pipeline.errors import UsageError
from mma.pipeline.prompts import PromptSet

EVERY = 2**63  # failures allowed: those that were there before


def repair_cache(path: Path, given: Mapping[str, Any], copy: Path | None, console: Console) -> Mended:
    """Repair a cache so that it ends with the bytes it had.

    `given` are settings of `mma embed` (dataset, root, model, ...) where those that made the cache no longer hold;
    None counts as not given. Raises CacheError or UsageError, in one line, where something is needed that is not there.
    """
    chosen = {name: value for name, value in given.items() if value is not None}

    def manifest(header: Header) -> Mapping[str, ManifestSplit]:
        dataset = _dataset(_settings(header, chosen))
        if manifest_hash(dataset) != header.fingerprint.get("manifest_sha256"):
            raise CacheError(f"{path} was made from other images than {chosen.get('dataset') or dataset.name} has now")
        return read_manifest(dataset)

    try:
        mended = mend(path, manifest, copy)
        if mended.to_compute:
            _compute(path, chosen, console)
    except OSError as error:
        raise disk_error(path, error) from error
    return mended


def _compute(path: Path, chosen: Mapping[str, Any], console: Console) -> None:
    """Do what is pending: chunks need data set and model, prompt sets the model alone."""
    header = open_cache(path, partial=True).header
    settings = _settings(header, chosen)
    with CacheWriter.reopen(path) as writer:
        pending, texts = writer.pending(), writer.pending_text()
    dataset = _dataset(settings) if pending else None
    clip = load_model(settings)
    if dataset is None:
        same_text_model(header.fingerprint, clip, str(path))
    if dataset is not None:  # its name may have changed with its place
        wanted = replace(make_header(dataset, clip, settings), dataset=header.dataset)
    with CacheWriter.resume(path, wanted) if dataset else CacheWriter.reopen(path) as writer:
        for name, (templates, of_class) in texts.items():
            embed_text(console, clip, writer, PromptSet(name, tuple(templates), tuple(map(tuple, of_class))))
        if dataset is not None:
            embed_images(console, clip, dataset, writer, make_encoding(clip, settings, header), EVERY)
        writer.finish()
        if writer.changed:
            console.print(
                f"[yellow]{', '.join(writer.changed)}: computed again, but not with the bytes that were lost[/yellow] "
                "(another machine, or other libraries than the fingerprint tells)"
            )


def _settings(header: Header, chosen: Mapping[str, Any]) -> EmbedSettings:
    """The settings that the cache was made with, and what is said otherwise."""
    if not header.source and "dataset" not in chosen:
        raise UsageError(
            f"{header.dataset} was imported: import it again beside, and repair with --from that copy; "
            "or give --dataset and --model"
        )
    source = {**header.source, "root": Path(header.source["root"]) if header.source.get("root") else None}
    about = header.fingerprint
    noise = about.get("image_noise", {})  # split -> the same noises
    stored = EmbedSettings(
        quick_gelu=about.get("quick_gelu"),
        precision=about.get("precision", "fp32"),
        dtype=header.dtype,
        views=about.get("views", 1),
        view_splits=",".join(about.get("view_splits", ["train"])),
        view_seed=about.get("view_seed") or 0,
        image_noise=",".join(next(iter(noise.values()), [])),
        noise_splits=",".join(noise) or "test",
        batch_size=header.batch,
        download=False,
        **source,
    )
    known = replace(stored, **chosen)
    return replace(known, quick_gelu=None) if "model" in chosen or str(known.model).startswith("local-dir:") else known


def _dataset(settings: EmbedSettings) -> Dataset:
    try:
        return load_dataset(settings)
    except UsageError as error:
        raise UsageError(f"the images are needed, and not where they were ({error}): give --dataset") from error
