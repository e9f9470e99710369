"""`mma embed --text-only`: prompt sets for a cache that is there, by its own model; no image is needed."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from rich.console import Console
from rich.text import Text

from mma.cache import CacheWriter, Header, Location, fingerprint_diff, open_cache, refuse_if_locked
from mma.pipeline.datasets import entries
from mma.pipeline.embedding.checks import cache_path, check_settings
from mma.pipeline.embedding.clip import FrozenClip
from mma.pipeline.embedding.header import load_chosen_clip
from mma.pipeline.embedding.plan import check_templates
from mma.pipeline.embedding.prompts import PHOTO, read_prompts
from mma.pipeline.embedding.run import disk_error, embed_text
from mma.pipeline.embedding.settings import FINAL, PENULTIMATE, EmbedSettings
from mma.pipeline.embedding.threads import computing_with, threads_of
from mma.pipeline.errors import UsageError

TEXT_MODEL = ("weights_sha256", "quick_gelu", "precision", "embedding")  # of the fingerprint: what decides a text


def add_text(settings: EmbedSettings, console: Console) -> Location:
    """Add prompt sets to a cache, and return its path. Raises UsageError or CacheError for what does not fit it."""
    check_settings(settings)
    path = cache_path(settings)
    cache = open_cache(path, partial=True)
    refuse_if_locked(path)
    header = cache.header
    if header.unlabelled:
        raise UsageError(f"{path} is unlabelled: it has no classes to make texts of")
    published = entries().get(header.dataset.partition("-limit")[0])
    own = published.templates if published else PHOTO
    prompts = read_prompts(settings.prompts, settings.templates, header.classnames, own)
    with CacheWriter.reopen(path) as writer:
        check_templates(path, prompts, writer.prompts)
        missing = [p for p in prompts if p.name not in writer.prompts]
        if missing:
            clip = load_chosen_clip(text_model_settings(settings, header, path))
            same_text_model(header.fingerprint, clip, str(path))
            if clip.dim != header.dim:
                raise UsageError(
                    f"{path} has D = {header.dim}, this model {clip.dim}: name the cache's by `model=NAME`"
                )
            if "weights_sha256" not in header.fingerprint:
                unsure = f"{path} was imported: it cannot be checked that its model is this one"
                console.print(Text(unsure, style="yellow"))
        try:
            with computing_with(threads_of(header)) as at_once:
                for prompt_set in missing:
                    embed_text(console, clip, writer, prompt_set, at_once)
        except OSError as error:
            raise disk_error(path, error) from error
        following = Text(f"mma fit --cache {shlex.quote(str(path))}", style="bold")
        console.print(f"{path}: prompts {', '.join(writer.prompts)}. Next:", following)
    return path


def same_text_model(stored: Mapping[str, Any], clip: FrozenClip, where: str) -> None:
    """UsageError where texts by this model do not belong with the images of a cache."""
    checked = {key: stored[key] for key in TEXT_MODEL if key in stored}
    differences = fingerprint_diff(checked, {key: clip.fingerprint[key] for key in checked})
    if differences:
        raise UsageError(
            f"{where} was made with another model; name it by `model=NAME` and `pretrained=TAG`:\n  "
            + "\n  ".join(differences)
        )


def text_model_settings(settings: EmbedSettings, header: Header, path: Location) -> EmbedSettings:
    """The settings, with the model that a cache was made with where they name none."""
    print_of = header.fingerprint
    known = {
        "quick_gelu": print_of.get("quick_gelu"),
        "precision": print_of.get("precision", settings.precision),
        "features": PENULTIMATE if header.penultimate else FINAL,
    }
    if settings.model is not None:
        return replace(settings, **{**known, "quick_gelu": settings.quick_gelu})
    if not header.source.get("model"):
        raise UsageError(f"{path} does not say which model made it: give `model=NAME` (and `pretrained=TAG`)")
    return replace(settings, **known, model=header.source["model"], pretrained=header.source["pretrained"])
