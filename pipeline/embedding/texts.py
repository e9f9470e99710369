"""Texts to embeddings, in batches."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from rich.console import Console

from mma.pipeline.embedding.clip import FrozenClip, Outputs
from mma.pipeline.embedding.threads import side_by_side
from mma.pipeline.errors import WorkError
from mma.pipeline.progress import track

TEXT_BATCH = 256


def encode_texts(console: Console, clip: FrozenClip, name: str, texts: Sequence[str], at_once: int = 1) -> Outputs:
    """What the model gives of N texts, so many batches at once. WorkError where these are no numbers."""
    batches = [texts[start : start + TEXT_BATCH] for start in range(0, len(texts), TEXT_BATCH)]
    parts: list[Outputs] = []
    with track(console, f"text {name}", len(texts), "texts") as advance:
        for part in side_by_side(clip.read, batches, at_once if clip.device.type == "cpu" else 1, clip.model):
            parts.append(part)
            advance(len(part.embedding))
    embedding = np.concatenate([part.embedding for part in parts])
    before = [part.penultimate for part in parts if part.penultimate is not None]
    penultimate = np.concatenate(before) if before else None
    if not np.isfinite(embedding).all() or not (penultimate is None or np.isfinite(penultimate).all()):
        raise WorkError("the model returned NaN or infinity for a text: try `precision=fp32`")
    return Outputs(embedding, penultimate)
