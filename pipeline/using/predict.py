"""`mma predict`: a model's answers for images, folders, shards, manifests and caches, as they are computed.

Memory holds the names of what is asked about and some batches, whatever their number.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from rich.console import Console

from mma.cache.durable import sha256
from mma.pipeline.device import pick_device
from mma.pipeline.errors import UsageError
from mma.pipeline.progress import track
from mma.pipeline.using.model import Model, open_model
from mma.pipeline.using.output import Kept, Lines, Printed, Written
from mma.pipeline.using.score import Prediction, Scorer
from mma.pipeline.using.settings import PredictSettings, read_class_file
from mma.pipeline.using.source import Batch, Encoder, Source, find_sources


def predict(settings: PredictSettings, console: Console) -> None:
    """Answer for everything that is asked about, in order. What a reader must know goes to `console`.

    Raises UsageError, CacheError or AdapterError, before any work, for what cannot be done; and UsageError at the end
    where not one image could be used.
    """
    device = pick_device(settings.device)
    model = open_model(settings.model, device.type)
    encoder = Encoder(model.about.encoder, device, settings.workers, settings.clip, settings.pretrained)
    scorer = make_scorer(model, encoder, settings)
    sources = find_sources(settings, encoder, model.about.dim)
    total = sum(len(source.paths) for source in sources)
    lines = Lines(settings.written_as, scorer)
    out: Printed | Written
    if settings.out:
        paths = itertools.chain.from_iterable(source.paths for source in sources)
        out = Written(settings.out, lines, _note(model, scorer, settings), paths, force=settings.force)
        if out.done:
            console.print(f"{settings.out}: {out.done:,} of {total:,} are there, and it continues", markup=False)
    else:
        out = Printed(lines)
    kept = (
        Kept(settings.embeddings, total, model.about.dim, out.done, force=settings.force)
        if settings.embeddings
        else None
    )
    quiet = console if settings.out else Console(quiet=True)
    unread, first, abstained = 0, "", 0
    with track(quiet, "images", total - out.done, "images") as advance:
        for batch in batches(sources, out.done):
            answers = scorer.score(batch.paths, batch.image, batch.reasons)
            if kept:
                kept.write(batch.image)
            out.write(answers)
            first = first or next((f"{a.path}: {a.reason}" for a in answers if a.reason), "")
            unread += len(batch.reasons)
            abstained += sum(answer.abstained for answer in answers)
            advance(len(answers))
    if kept:
        kept.close()
    out.close()
    _say(console, scorer, total, unread, first, abstained)
    if unread == total:
        raise UsageError(f"not one of {total:,} images could be used; {first}")


def make_scorer(model: Model, encoder: Encoder, settings: PredictSettings) -> Scorer:
    """A model with what is asked of it. Raises UsageError for what it cannot say."""
    asked: dict[str, Any] = {
        "top": settings.top,
        "threshold": settings.threshold,
        "coverage": settings.coverage,
        "why": settings.why,
    }
    if settings.classes is None:
        return Scorer(model, model.about.classnames, model.text, **asked)
    names = read_class_file(settings.classes)
    if not model.class_free:
        raise UsageError(
            f"{model.about.adapter} has weights for its {len(model.about.classnames)} classes and cannot score others: "
            f"leave out `classes={settings.classes}`, or export an adapter that takes new classes (`mma adapters`)"
        )
    return Scorer(model, names, encode_classes(model, encoder, names), own=False, **asked)


def encode_classes(model: Model, encoder: Encoder, names: tuple[str, ...]) -> torch.Tensor:
    """Unit texts [C, D] of other class names, by the templates that the model's own were made with."""
    from mma.pipeline.embedding.prompt_noise import is_noise
    from mma.pipeline.embedding.prompts import filled
    from mma.pipeline.fitting.features import reduce_prompts

    about = model.about
    if is_noise(about.prompts.rpartition("-")[2]) or any(template.count("{}") != 1 for template in about.templates):
        raise UsageError(
            f"the model's texts are of the prompt set {about.prompts!r}, which are not templates: other class names "
            "cannot be put into them"
        )
    prompts = filled(about.prompts, about.templates, names)
    embedding = prompts.shaped(encoder.encode_text(prompts.flat()))
    return torch.from_numpy(reduce_prompts(embedding, about.reduce)).to(model.text)


def batches(sources: list[Source], start: int) -> Iterator[Batch]:
    """The rows of all sources from one on."""
    for source in sources:
        count = len(source.paths)
        if start < count:
            yield from source.batches(start)
        start = max(0, start - count)


def answers_for(settings: PredictSettings, model: Model, encoder: Encoder) -> list[Prediction]:
    """All answers, in memory: what the library gives."""
    scorer = make_scorer(model, encoder, settings)
    found = batches(find_sources(settings, encoder, model.about.dim), 0)
    return [answer for batch in found for answer in scorer.score(batch.paths, batch.image, batch.reasons)]


def _note(model: Model, scorer: Scorer, settings: PredictSettings) -> dict[str, Any]:
    """What decides answers, beside what is asked about."""
    texts = scorer.text.cpu().numpy().astype(np.float16).tobytes()
    return {
        "model": model.about.weights_sha256,
        "classes": list(scorer.classnames),
        "texts": sha256(texts),
        "top": settings.top,
        "threshold": settings.threshold,
        "coverage": settings.coverage,
        "why": settings.why,
        "embeddings": settings.embeddings.name if settings.embeddings else None,
    }


def _say(console: Console, scorer: Scorer, total: int, unread: int, first: str, abstained: int) -> None:
    if unread:
        console.print(f"{unread:,} of {total:,} images could not be used, such as {first}", markup=False)
    if abstained:
        console.print(f"{abstained:,} answers are below the threshold: it abstains", markup=False)
    if scorer.why and scorer.model.shots is None:
        console.print("note: the model holds no shots: it was fitted on none, or they were left out", markup=False)
    if scorer.temperature is None:
        why = (
            "of other classes than the model's" if not scorer.own else "its validation images determine no temperature"
        )
        console.print(f"note: the numbers are scores, not probabilities: {why}", markup=False)
