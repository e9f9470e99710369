"""The texts of a cache that grows: those of its classes are kept, and only texts that it does not have are encoded."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from rich.console import Console

from mma.cache import Cache, CacheWriter
from mma.pipeline.embedding.clip import FrozenClip
from mma.pipeline.embedding.prompts import PromptSet, filled
from mma.pipeline.embedding.texts import encode_texts
from mma.pipeline.errors import UsageError


def grown_prompts(cache: Cache, asked: Sequence[PromptSet], classnames: Sequence[str]) -> tuple[PromptSet, ...]:
    """Every prompt set that the cache has, for these classes, and then what else is asked for.

    UsageError for a set that is asked for with other templates, and for sentences that a new class has none of.
    """
    given = {prompts.name: prompts for prompts in asked}
    kept = tuple(_grown(cache, name, given.get(name), classnames) for name in cache.prompts)
    return (*kept, *(prompts for prompts in asked if prompts.name not in cache.prompts))


def embed_grown_text(
    console: Console, clip: FrozenClip, cache: Cache, writer: CacheWriter, prompts: PromptSet, at_once: int
) -> None:
    """Store a prompt set, with the embeddings of the texts that the cache has already. Raises as `embed_text`."""
    known: dict[str, tuple[NDArray[np.float32], ...]] = {}  # text -> [D], and [W] where the model gives such
    if prompts.name in cache.prompts:
        stored = [cache.text(prompts.name).embedding]  # [C, P, D]
        if cache.header.penultimate:
            stored.append(cache.text_penultimate(prompts.name))  # [C, P, W]
        for texts, *rows in zip(_texts(cache, prompts.name), *stored, strict=True):
            known |= dict(zip(texts, zip(*rows, strict=True), strict=False))  # NaN at the end of a class with fewer
    new = [text for text in dict.fromkeys(prompts.flat()) if text not in known]
    if new:
        found = encode_texts(console, clip, prompts.name, new, at_once)
        arrays = [found.embedding] if found.penultimate is None else [found.embedding, found.penultimate]
        known |= dict(zip(new, zip(*arrays, strict=True), strict=True))
    shaped = [prompts.shaped(np.stack(rows)) for rows in zip(*(known[text] for text in prompts.flat()), strict=True)]
    writer.write_text(prompts.name, prompts.templates, shaped[0], prompts.texts, *shaped[1:])


def _grown(cache: Cache, name: str, asked: PromptSet | None, classnames: Sequence[str]) -> PromptSet:
    templates, sentences = cache.text(name).templates, cache.sentences(name)
    if asked is not None and (sentences is not None or list(asked.templates) == templates):
        return asked
    if asked is not None:
        raise UsageError(
            f"prompt set {name!r} of {cache.location} has other templates (the first is {templates[0]!r}): give them "
            "with `templates=TEXT`, or name another with `prompts=NAME`"
        )
    if sentences is None:
        return filled(name, templates, classnames)
    of_class = dict(zip(cache.header.classnames, sentences, strict=True))
    missing = [called for called in classnames if called not in of_class]
    if missing:
        raise UsageError(
            f"prompt set {name!r} has sentences of its own for every class, and {missing[0]!r} is new: give it again, "
            f"such as `prompts={name}=FILE.json`"
        )
    return PromptSet(name, tuple(templates), tuple(tuple(of_class[called]) for called in classnames))


def _texts(cache: Cache, name: str) -> Sequence[Sequence[str]]:
    return cache.sentences(name) or filled(name, cache.text(name).templates, cache.header.classnames).texts
