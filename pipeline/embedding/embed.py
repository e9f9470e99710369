"""Stage one, `mma embed`: run the frozen towers once over a data set, and write a cache.

Threads decode ahead while the model encodes; each finished chunk is written and journalled at once, so a run that is
interrupted loses the chunk in flight, and the same command continues.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.console import Console

from mma.cache import CacheWriter, Header, ManifestSplit, fingerprint_diff, open_cache, refuse_if_locked
from mma.pipeline.datasets import Dataset, Source, Split, entries, find_dataset, known
from mma.pipeline.datasets.folder import dataset_name
from mma.pipeline.embedding.clip import FrozenClip, load_clip
from mma.pipeline.embedding.encode import Encoding, encode_chunks
from mma.pipeline.embedding.image_noise import read_noise
from mma.pipeline.embedding.images import DECODER, MAX_PIXELS, allow_pixels
from mma.pipeline.embedding.plan import check_place, check_space, show_plan, show_summary
from mma.pipeline.embedding.prompts import PHOTO, PromptSet, check_prompts, read_prompts
from mma.pipeline.embedding.views import CROP_AND_FLIP, Views, crop_and_flip
from mma.pipeline.errors import UsageError, WorkError
from mma.pipeline.progress import track

CHUNK_ROWS = 1024  # pictures in a unit of work, rounded up to whole batches: about 1 MB, and what a crash can lose
BATCH = {"cpu": 64, "cuda": 256, "mps": 64}  # images the model sees at once
TEXT_BATCH = 256
MODEL = "ViT-B-16"
TEXT_MODEL = ("weights_sha256", "quick_gelu", "precision", "embedding")  # of the fingerprint: what decides a text


@dataclass(frozen=True)
class EmbedSettings:
    """What `mma embed` can be told; the command line's options, by name."""

    dataset: str | None = None
    cache: Path | None = None
    root: Path | None = None
    download: bool = True
    model: str | None = None  # None: ViT-B-16, or the cache's own for text
    pretrained: str = "openai"
    quick_gelu: bool | None = None
    prompts: str = "default"
    templates: Sequence[str] = ()
    text_only: bool = False
    device: str = "auto"
    precision: str = "fp32"
    dtype: str = "float16"
    views: int = 1
    view_splits: str = "train"
    view_seed: int = 0
    image_noise: str = ""
    noise_splits: str = "test"
    batch_size: int | None = None
    workers: int | None = None
    limit: int | None = None
    split_seed: int = 0
    max_pixels: int = MAX_PIXELS
    max_failures: str = "50%"


@dataclass(frozen=True)
class Limited:
    """Some rows of a split."""

    split: Split
    rows: NDArray[np.int64]

    @property
    def paths(self) -> Sequence[str]:
        """Where the chosen rows come from."""
        return [self.split.paths[row] for row in self.rows]

    @property
    def labels(self) -> NDArray[np.int32]:
        """The chosen rows' labels."""
        return self.split.labels[self.rows]

    def size(self, row: int) -> int:
        """Bytes of a chosen row."""
        return self.split.size(int(self.rows[row]))

    def read(self, row: int) -> bytes | NDArray[np.uint8]:
        """A chosen row."""
        return self.split.read(int(self.rows[row]))


def embed(settings: EmbedSettings, console: Console) -> Path:
    """Make or continue the cache of a data set, and return its path. Plan, progress and summary go to `console`."""
    _check_settings(settings)
    if settings.text_only:
        return _add_text(settings, console)
    dataset = load_dataset(settings)
    prompts = read_prompts(settings.prompts, settings.templates, dataset.classnames, dataset.templates)
    path = settings.cache or Path("cache") / f"{dataset.name}.zarr"
    check_place(path)
    refuse_if_locked(path)
    clip = load_model(settings)
    header = make_header(dataset, clip, settings)
    most = failure_limit(settings.max_failures, sum(header.rows.values()))
    with ExitStack() as stack:
        writer = stack.enter_context(CacheWriter.resume(path, header)) if path.exists() else None
        _check_prompts(path, prompts, writer)
        if writer and writer.complete and {p.name for p in prompts} <= set(writer.prompts):
            console.print(f"{path} is complete: nothing to do. Next: [bold]mma fit --cache {path}[/bold]")
            return path
        how = make_encoding(clip, settings, writer.header if writer else header)
        pending = writer.pending() if writer else list(header.chunks())
        show_plan(console, path, dataset, clip, header, how, pending, prompts)
        try:
            if writer is None:
                check_space(path, header, sum(len(p.templates) for p in prompts))
                writer = stack.enter_context(CacheWriter.create(path, header, read_manifest(dataset)))
            for prompt_set in prompts:
                if prompt_set.name not in writer.prompts:
                    embed_text(console, clip, writer, prompt_set)
            embed_images(console, clip, dataset, writer, how, most)
            if not writer.complete:
                writer.finish()
        except OSError as error:
            raise disk_error(path, error) from error
        show_summary(console, path, writer, {name: split.paths for name, split in dataset.splits.items()})
    return path


def load_dataset(settings: EmbedSettings) -> Dataset:
    """The data set that the settings name, limited as they say."""
    if settings.dataset is None:
        raise UsageError("--dataset is missing: a data set's name, or a path to images")
    source = Source(settings.root, settings.download, settings.split_seed)
    return limit(find_dataset(settings.dataset, source), settings.limit)


def limit(dataset: Dataset, count: int | None) -> Dataset:
    """At most `count` images a split, spread evenly over the classes; its cache is named after the limit."""
    if count is None:
        return dataset
    splits = {}
    for name, split in dataset.splits.items():
        nth = np.zeros(len(split.labels), np.int64)  # how many of its class come before a row
        for label in np.unique(split.labels):
            of_class = np.flatnonzero(split.labels == label)
            nth[of_class] = np.arange(len(of_class))
        splits[name] = Limited(split, np.sort(np.argsort(nth, kind="stable")[:count]))
    note = f"limited to {count} images a split, spread over the classes"
    return replace(dataset, name=f"{dataset.name}-limit{count}", splits=splits, notes=(*dataset.notes, note))


def load_model(settings: EmbedSettings) -> FrozenClip:
    """The model that the settings name; Pillow is told how many pixels may be opened."""
    allow_pixels(settings.max_pixels)
    return load_clip(
        settings.model or MODEL,
        settings.pretrained,
        device=settings.device,
        precision=settings.precision,
        quick_gelu=settings.quick_gelu,
    )


def manifest_hash(dataset: Dataset) -> str:
    """SHA-256 over every row's split, path, bytes and label, in order: what the rows of a cache are."""
    total = hashlib.sha256()
    for name, split in dataset.splits.items():
        for row, (path, label) in enumerate(zip(split.paths, split.labels, strict=True)):
            total.update(f"{name}\t{path}\t{split.size(row)}\t{label}\n".encode())
    return total.hexdigest()


def read_manifest(dataset: Dataset) -> dict[str, ManifestSplit]:
    """Labels and paths of every split."""
    return {name: ManifestSplit(split.labels, split.paths) for name, split in dataset.splits.items()}


def make_header(dataset: Dataset, clip: FrozenClip, settings: EmbedSettings) -> Header:
    """What the cache of a data set under a model is to be."""
    batch = settings.batch_size or BATCH[clip.device.type]
    several = settings.views > 1
    viewed = split_names("--view-splits", settings.view_splits)
    if several and not any(split in dataset.splits for split in viewed):
        raise UsageError(f"--views {settings.views}: {dataset.name} has no {' or '.join(viewed)} split (--view-splits)")
    noise = noise_of(settings, list(dataset.splits))
    fingerprint = {
        **clip.fingerprint,
        "decoder": DECODER,
        "dtype": settings.dtype,
        "manifest_sha256": manifest_hash(dataset),
        "classnames": list(dataset.classnames),
        "views": settings.views,
        "view_seed": settings.view_seed if several else None,
        "augmentation": CROP_AND_FLIP if several else None,
        **({"view_splits": viewed} if several and viewed != ["train"] else {}),
        **({"image_noise": noise, "view_seed": settings.view_seed} if noise else {}),
    }
    source = {
        "dataset": settings.dataset,
        "root": str(settings.root) if settings.root else None,
        "split_seed": settings.split_seed,
        "limit": settings.limit,
        "model": settings.model or MODEL,
        "pretrained": settings.pretrained,
    }
    return Header(
        dataset=dataset.name,
        classnames=list(dataset.classnames),
        rows={name: len(split.labels) for name, split in dataset.splits.items()},
        dim=clip.dim,
        views={s: (settings.views if s in viewed else 1) + len(noise.get(s, ())) for s in dataset.splits},
        dtype=settings.dtype,
        chunk=-(-CHUNK_ROWS // (settings.views * batch)) * batch,
        batch=batch,
        logit_scale=clip.logit_scale,
        fingerprint=fingerprint,
        notes=list(dataset.notes),
        source=source,
    )


def make_encoding(clip: FrozenClip, settings: EmbedSettings, header: Header) -> Encoding:
    """How the images of a cache are encoded: its own batches and number type."""
    side = clip.fingerprint["preprocess"]["size"]
    noise = {
        split: list(read_noise(words, side).values()) for split, words in noise_of(settings, list(header.rows)).items()
    }
    return Encoding(
        views=Views(
            clip.preprocess,
            [crop_and_flip(side)] * (settings.views - 1),
            splits=split_names("--view-splits", settings.view_splits),
            seed=settings.view_seed,
            noise=noise,
        ),
        batch=header.batch,
        workers=settings.workers or os.cpu_count() or 1,
        max_pixels=settings.max_pixels,
        dtype=header.dtype,
    )


def noise_of(settings: EmbedSettings, splits: Sequence[str]) -> dict[str, list[str]]:
    """The noises of each split, in the order of their views: after view 0 and the crops. Raises UsageError."""
    words = [word.strip() for word in settings.image_noise.split(",") if word.strip()]
    read_noise(words, 1)  # raises for one that is not known
    wanted = split_names("--noise-splits", settings.noise_splits)
    return {split: list(dict.fromkeys(words)) for split in wanted if split in splits and words}


def split_names(flag: str, text: str) -> list[str]:
    """The splits that an option names. Raises UsageError."""
    named = [split.strip() for split in text.split(",") if split.strip()]
    if not named or not set(named) <= {"train", "val", "test"}:
        raise UsageError(f"{flag} {text!r}: train, val or test, with commas between")
    return list(dict.fromkeys(named))


def failure_limit(text: str, rows: int) -> int:
    """How many rows may fail, by `--max-failures`: a count, or a percentage of all `rows`. Raises UsageError."""
    number, percent, rest = text.strip().partition("%")
    try:
        value = float(number) if percent else int(number)
    except ValueError:
        value = -1
    if rest or not 0 <= value <= (100 if percent else np.inf):
        raise UsageError(f"--max-failures {text!r} is neither a count nor a percentage, such as 20 or 5%")
    return int(rows * value / 100) if percent else int(value)


def embed_text(console: Console, clip: FrozenClip, writer: CacheWriter, prompts: PromptSet) -> None:
    """Encode a prompt set and store it."""
    texts = prompts.flat()
    parts = []
    with track(console, f"text {prompts.name}", len(texts), "texts") as advance:
        for start in range(0, len(texts), TEXT_BATCH):
            parts.append(clip.encode_text(texts[start : start + TEXT_BATCH]))
            advance(len(parts[-1]))
    embedding = np.concatenate(parts)
    if not np.isfinite(embedding).all():
        raise WorkError("the model returned NaN or infinity for a text: try --precision fp32")
    writer.write_text(prompts.name, prompts.templates, prompts.shaped(embedding), prompts.texts)


def embed_images(
    console: Console, clip: FrozenClip, dataset: Dataset, writer: CacheWriter, how: Encoding, most: int
) -> None:
    """Encode the chunks still to do and store them. WorkError where more than `most` rows of the cache have failed."""
    pending = writer.pending()
    failed = sum(map(len, writer.failures().values()))
    with track(console, "images", sum(chunk.stop - chunk.start for chunk in pending), "images") as advance:
        for chunk, embedding, failures in encode_chunks(clip, dataset, pending, how, advance):
            failed += len(failures)
            if failed > most:
                row, _, reason = failures[-1]
                raise WorkError(
                    f"{failed:,} images have failed, and --max-failures allows {most:,} (the last is "
                    f"{dataset.splits[chunk.split].paths[row]}: {reason}); what is done is kept: mend the data set, "
                    "or allow more"
                )
            writer.write(chunk, embedding, failures)


def disk_error(path: Path, error: OSError) -> WorkError:
    """A cache that cannot be written, in one line."""
    return WorkError(f"{path}: {error.strerror or error}; what is done is kept: run the same command again")


def same_text_model(stored: Mapping[str, Any], clip: FrozenClip, where: str) -> None:
    """UsageError where texts by this model do not belong with the images of a cache."""
    checked = {key: stored[key] for key in TEXT_MODEL if key in stored}
    differences = fingerprint_diff(checked, {key: clip.fingerprint[key] for key in checked})
    if differences:
        raise UsageError(
            f"{where} was made with another model; name it by --model and --pretrained:\n  " + "\n  ".join(differences)
        )


def _add_text(settings: EmbedSettings, console: Console) -> Path:
    """Add prompt sets to a cache that is there; the images are not needed."""
    path = settings.cache or Path("cache") / f"{_name(settings)}.zarr"
    cache = open_cache(path, partial=True)
    refuse_if_locked(path)
    header = cache.header
    published = entries().get(header.dataset.partition("-limit")[0])
    own = published.templates if published else PHOTO
    prompts = read_prompts(settings.prompts, settings.templates, header.classnames, own)
    with CacheWriter.reopen(path) as writer:
        _check_prompts(path, prompts, writer)
        missing = [p for p in prompts if p.name not in writer.prompts]
        if missing:
            clip = load_model(text_model_settings(settings, header, path))
            same_text_model(header.fingerprint, clip, str(path))
            if clip.dim != header.dim:
                raise UsageError(f"{path} has D = {header.dim}, this model {clip.dim}: name the cache's by --model")
            if "weights_sha256" not in header.fingerprint:
                console.print(f"[yellow]{path} was imported: it cannot be checked that its model is this one[/yellow]")
        try:
            for prompt_set in missing:
                embed_text(console, clip, writer, prompt_set)
        except OSError as error:
            raise disk_error(path, error) from error
        console.print(f"{path}: prompts {', '.join(writer.prompts)}. Next: [bold]mma fit --cache {path}[/bold]")
    return path


def text_model_settings(settings: EmbedSettings, header: Header, path: Path) -> EmbedSettings:
    """The settings, with the model that a cache was made with where they name none."""
    print_of = header.fingerprint
    known = {"quick_gelu": print_of.get("quick_gelu"), "precision": print_of.get("precision", settings.precision)}
    if settings.model is not None:
        return replace(settings, **{**known, "quick_gelu": settings.quick_gelu})
    if not header.source.get("model"):
        raise UsageError(f"{path} does not say which model made it: give --model (and --pretrained)")
    return replace(settings, **known, model=header.source["model"], pretrained=header.source["pretrained"])


def _check_settings(settings: EmbedSettings) -> None:
    check_prompts(settings.prompts, settings.templates)
    for name, value in (
        ("--batch-size", settings.batch_size),
        ("--workers", settings.workers),
        ("--limit", settings.limit),
        ("--views", settings.views),
        ("--max-pixels", settings.max_pixels),
    ):
        if value is not None and value < 1:
            raise UsageError(f"{name} {value} must be at least 1")
    noise_of(settings, ())
    split_names("--view-splits", settings.view_splits)
    if settings.view_seed < 0:
        raise UsageError(f"--view-seed {settings.view_seed} must be at least 0")
    failure_limit(settings.max_failures, 0)
    if settings.dtype not in ("float16", "float32"):
        raise UsageError(f"unknown dtype {settings.dtype!r}: float16 or float32")
    if settings.text_only and not (settings.cache or settings.dataset):
        raise UsageError("--text-only adds to a cache: name it with --cache")


def _name(settings: EmbedSettings) -> str:
    """What the data set is called, without reading it."""
    name = settings.dataset or ""
    name = name if name in known() else dataset_name(Path(name).expanduser())
    return name if settings.limit is None else f"{name}-limit{settings.limit}"


def _check_prompts(path: Path, prompts: Sequence[PromptSet], writer: CacheWriter | None) -> None:
    stored_sets = [p for p in prompts if writer and p.name in writer.prompts]
    for prompt_set in stored_sets:
        stored = open_cache(path, partial=True).text(prompt_set.name).templates
        if stored != list(prompt_set.templates):
            raise UsageError(
                f"prompt set {prompt_set.name!r} of {path} has other templates (the first is {stored[0]!r}): "
                "name another with --prompts"
            )
