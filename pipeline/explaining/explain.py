"""`mma explain`: what a saved fit did with some test images, as words, arrays and pictures.

What can be looked into depends on the method: attention of the Multi-Modal Adapter (attention.py), RAda's mask
(channels.py), the shots of kernel methods (shots.py). For every method: what zero-shot and the adapter say, and which
classes trade images (trades.py).
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from rich.console import Console
from torch import Tensor

from mma.adapters import adapter_class
from mma.adapters.mma import MultiModalAdapter
from mma.adapters.rada import RAda
from mma.cache.durable import write_whole
from mma.pipeline.errors import UsageError
from mma.pipeline.explaining.attention import Attention, attention_of
from mma.pipeline.explaining.channels import Masked, masked_by
from mma.pipeline.explaining.looks import IMAGES, Answered, Look, answers_of, looks_at
from mma.pipeline.explaining.settings import ExplainSettings
from mma.pipeline.explaining.shots import rows_of_shots, said_by_shots
from mma.pipeline.explaining.trades import Trade, trades_of
from mma.pipeline.fitting.saved import SavedFit, saved_fit


@dataclass(frozen=True, eq=False)
class Shown:
    """One image, and what could be looked into: at most one of the three, and none where the answer is zero-shot's."""

    look: Look
    attention: Attention | None = None
    masked: Masked | None = None
    said: Tensor | None = None  # [N, C] by shots


@dataclass(frozen=True, eq=False)
class Explanation:
    """All that `mma explain` knows of a fit."""

    fit: SavedFit
    answers: Sequence[Answered]
    shown: Sequence[Shown]
    trades: Sequence[Trade]

    @property
    def classnames(self) -> Sequence[str]:
        """[C] of the data set."""
        return self.fit.features.classnames

    def shots(self, said: Tensor) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Rows of the train split and labels [N] that go with what shots said [N, C]."""
        support = self.fit.episode().support
        rows = rows_of_shots(self.fit.adapter, said, len(support.rows))
        return support.rows[rows], support.label[rows]

    def nearest_shots(self, look: Look, said: Tensor) -> tuple[list[int], Tensor]:
        """The shots of what was said [N, C], nearest to an image first; and the cosines [N] in the shots' own order."""
        rows, _ = self.shots(said)
        noise = self.fit.setting.protocol.train_noise
        shots = self.fit.features.images.images("train", noise)[torch.from_numpy(rows).to(look.image.device)]
        cosine = shots @ look.image
        order: list[int] = cosine.argsort(descending=True, stable=True).tolist()
        return order, cosine


def explain(settings: ExplainSettings) -> Explanation:
    """Read the fit and look into it. Raises UsageError, CacheError or AdapterError."""
    if settings.arrays and settings.arrays.suffix != ".npz":
        raise UsageError(f"`arrays={settings.arrays}`: arrays are kept as .npz")
    return explained(saved_fit(settings.run, settings.seed, settings.cache, "cpu"), settings.image)


def explained(fit: SavedFit, images: Sequence[str] = (), most: int = IMAGES) -> Explanation:
    """Look into a fit. Raises UsageError for an image that is not there, and where there is nothing to look into."""
    kind = adapter_class(fit.setting.adapter)
    if kind.transductive != "no" or kind.uses_views == "test":
        raise UsageError(
            f"{fit.setting.name} learns from the images that it is asked about, so no answer is of one image alone: "
            "there is nothing to explain"
        )
    answers = answers_of(fit)
    label = np.concatenate([each.label for each in answers])
    before = np.concatenate([each.said(each.zero_shot) for each in answers])
    after = np.concatenate([each.said(each.adapted) for each in answers])
    shown = [_shown(fit, look) for look in looks_at(fit, answers, images, most)]
    return Explanation(fit, answers, shown, trades_of(label, before, after))


def _shown(fit: SavedFit, look: Look) -> Shown:
    adapter, text = fit.adapter, look.of.text
    if not look.of.known:
        return Shown(look)
    if isinstance(adapter, MultiModalAdapter):
        return Shown(look, attention=attention_of(adapter, look.image, text))
    if isinstance(adapter, RAda):
        return Shown(look, masked=masked_by(adapter, look.image, text))
    return Shown(look, said=said_by_shots(adapter, look.image, text))


def arrays_of(explanation: Explanation) -> dict[str, NDArray[np.generic]]:
    """Everything that is shown, as plain arrays: `image<row>_<what>` for an image, and what is said of every row."""
    found: dict[str, NDArray[np.generic]] = {"classnames": np.array(list(explanation.classnames))}
    for answered in explanation.answers:
        numbers = {"rows": answered.rows, "label": answered.label, "classes": answered.classes}
        logits = {"zero_shot": answered.zero_shot.cpu().numpy(), "adapted": answered.adapted.cpu().numpy()}
        found |= {f"{answered.test}_{name}": array for name, array in (numbers | logits).items()}
    trades = explanation.trades
    found["trades"] = np.array([(t.before, t.after, t.images, t.mended, t.broken) for t in trades]).reshape(-1, 5)
    for shown in explanation.shown:
        parts: dict[str, Tensor] = {}
        if shown.attention:
            parts = vars(shown.attention)
        elif shown.masked:
            parts = vars(shown.masked)
        elif shown.said is not None:
            rows, label = explanation.shots(shown.said)
            found |= {"shot_rows": rows, "shot_label": label}
            parts = {"said_by_shots": shown.said}
        found |= {f"image{shown.look.row}_{name}": tensor.cpu().numpy() for name, tensor in parts.items()}
    return found


def write_arrays(explanation: Explanation, out: Path, console: Console) -> None:
    """The arrays as a .npz without pickle, whole or not at all."""
    stream = io.BytesIO()
    np.savez(stream, **arrays_of(explanation))  # type: ignore[arg-type]
    out.parent.mkdir(parents=True, exist_ok=True)
    write_whole(out, stream.getvalue())
    console.print(f"{out} is written")
