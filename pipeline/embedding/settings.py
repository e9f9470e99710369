"""What `mma embed` can be told, and every check of it that needs neither the data set nor the model's weights."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mma.pipeline.datasets import cache_name
from mma.pipeline.embedding.clip import check_clip
from mma.pipeline.embedding.image_noise import read_noise
from mma.pipeline.embedding.images import MAX_PIXELS
from mma.pipeline.embedding.place import check_place
from mma.pipeline.embedding.prompts import check_prompts
from mma.pipeline.errors import UsageError

MODEL = "ViT-B-16"
DTYPES = ("float16", "float32")
LARGEST = 2**31 - 1  # of every whole number that can be said


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
    follow_links: bool = False
    update: bool = False


def check_settings(settings: EmbedSettings) -> None:
    """Raise UsageError for a value that cannot be, before anything is opened."""
    check_prompts(settings.prompts, settings.templates)
    for name, value in (
        ("--batch-size", settings.batch_size),
        ("--workers", settings.workers),
        ("--limit", settings.limit),
        ("--views", settings.views),
        ("--max-pixels", settings.max_pixels),
    ):
        if value is not None and not 1 <= value <= LARGEST:
            raise UsageError(f"{name} {value} must be at least 1, and at most {LARGEST:,}")
    noise_of(settings, ())
    split_names("--view-splits", settings.view_splits)
    for name, seed in (("--view-seed", settings.view_seed), ("--split-seed", settings.split_seed)):
        if not 0 <= seed <= LARGEST:
            raise UsageError(f"{name} {seed} must be at least 0, and at most {LARGEST:,}")
    failure_limit(settings.max_failures, 0)
    if settings.dtype not in DTYPES:
        raise UsageError(f"unknown dtype {settings.dtype!r}: {' or '.join(DTYPES)}")
    if settings.text_only and not (settings.cache or settings.dataset):
        raise UsageError("--text-only adds to a cache: name it with --cache")
    if settings.dataset is None and not settings.text_only:
        raise UsageError("--dataset is missing: a data set's name, or a path to images")
    check_place(cache_path(settings))
    if settings.model or not settings.text_only:
        check_clip(
            settings.model or MODEL, settings.pretrained, settings.device, settings.precision, settings.quick_gelu
        )


def cache_path(settings: EmbedSettings) -> Path:
    """Where the cache is, or is to be: as was said, or cache/<data set>.zarr."""
    return settings.cache or Path("cache") / f"{cache_name(settings.dataset or '', settings.limit)}.zarr"


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
