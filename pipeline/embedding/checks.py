"""Every check of what `mma embed` is told that needs neither the data set nor the model's weights."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from mma.cache import Location, as_location, is_url
from mma.pipeline.datasets import cache_name
from mma.pipeline.embedding.clip import check_clip
from mma.pipeline.embedding.image_noise import read_noise
from mma.pipeline.embedding.place import check_cache_place
from mma.pipeline.embedding.prompts import DEFAULT, check_prompts
from mma.pipeline.embedding.settings import USUAL_MODEL, EmbedSettings
from mma.pipeline.errors import UsageError
from mma.pipeline.options import written


def check_settings(settings: EmbedSettings) -> None:
    """Raise UsageError for settings that cannot work, before anything is opened."""
    check_prompts(settings.prompts, settings.templates)
    noise_of(settings, ())
    if settings.text_only and not (settings.cache or settings.dataset):
        raise UsageError("`text_only=True` adds to a cache: name it with `cache=PATH`")
    if settings.unlabelled and (settings.text_only or settings.templates or settings.prompts != DEFAULT):
        raise UsageError(
            "images that are `unlabelled=True` have no classes to make texts of: leave out prompts and templates"
        )
    if settings.shard and (settings.text_only or settings.update):
        other = "text_only" if settings.text_only else "update"
        raise UsageError(f"`{other}=True` is for one run: leave out {written('shard', settings.shard)}")
    if settings.shard and settings.features == "penultimate":
        raise UsageError(f"{written('features', settings.features)} is written by one run: leave out `shard=I/N`")
    if settings.dataset is None and not settings.text_only:
        raise UsageError("`dataset=NAME` is missing: a data set's name, or a path to images")
    path = cache_path(settings)
    if settings.update and is_url(path):
        raise UsageError(f"`update=True` is for a cache on a disk: embed the images as they are now beside {path}")
    check_cache_place(path)
    if settings.model or not settings.text_only:
        model = settings.model or USUAL_MODEL
        check_clip(
            model, settings.pretrained, settings.device, settings.precision, settings.quick_gelu, settings.features
        )


def cache_path(settings: EmbedSettings) -> Location:
    """Where the cache is, or is to be: as was said, or cache/<data set>.zarr."""
    if settings.cache:
        return as_location(settings.cache)
    return Path("cache") / f"{cache_name(settings.dataset or '', settings.limit)}.zarr"


def noise_of(settings: EmbedSettings, splits: Sequence[str]) -> dict[str, list[str]]:
    """The noises of each split, in the order of their views: after view 0 and the crops. Raises UsageError."""
    words = list(dict.fromkeys(settings.image_noise))
    read_noise(words, 1)  # raises for one that is not known
    return {split: words for split in dict.fromkeys(settings.noise_splits) if split in splits and words}
