"""Texts to embeddings, in batches."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from rich.console import Console

from mma.pipeline.embedding.clip import FrozenClip, Outputs
from mma.pipeline.errors import WorkError
from mma.pipeline.progress import track

TEXT_BATCH = 256


def encode_texts(console: Console, clip: FrozenClip, name: str, texts: Sequence[str]) -> Outputs:
    """What the model gives of the N texts of a prompt set. WorkError where they are no numbers."""
    parts: list[Outputs] = []
    with track(console, f"text {name}", len(texts), "texts") as advance:
        for start in range(0, len(texts), TEXT_BATCH):
            parts.append(clip.read(texts[start : start + TEXT_BATCH]))
            advance(len(parts[-1].embedding))
    embedding = np.concatenate([part.embedding for part in parts])
    before = [part.penultimate for part in parts if part.penultimate is not None]
    penultimate = np.concatenate(before) if before else None
    if not np.isfinite(embedding).all() or not (penultimate is None or np.isfinite(penultimate).all()):
        raise WorkError("the model returned NaN or infinity for a text: try `precision=fp32`")
    return Outputs(embedding, penultimate)
