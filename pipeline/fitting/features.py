"""A cache as stage two sees it: whole splits as unit tensors, and one text vector a class."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mma.adapters import unit
from mma.cache import Cache
from mma.pipeline.embedding.prompts import reduce_prompts
from mma.pipeline.errors import UsageError
from mma.pipeline.fitting.cells import digest
from mma.pipeline.fitting.episodes import NO_NOISE, Labels


@dataclass(frozen=True, eq=False)
class Features:
    """One cache under one prompt set, in memory."""

    dataset: str
    classnames: Sequence[str]
    image: dict[str, Tensor]  # split -> [N, D] unit float32; a row without an embedding is NaN, and never drawn
    label: dict[str, Tensor]  # split -> [N] int64
    labels: dict[str, Labels]  # split -> usable rows by class
    text: Tensor  # [C, D] unit float32
    logit_scale: float
    fingerprint: dict[str, Any]  # of the cache
    prompts: dict[str, Any]  # the prompt set: its name and templates
    views: dict[str, Tensor] = field(default_factory=dict)  # split -> [N, V, D] with the crops, where there are some
    noisy: dict[tuple[str, str], Tensor] = field(default_factory=dict)  # (split, noise) -> [N, D]
    failed: int = field(default=0)  # rows without an embedding

    @property
    def digest(self) -> str:
        """What a result depends on here: how the embeddings were made, and which prompts were used."""
        return digest({"fingerprint": self.fingerprint, "prompts": self.prompts, "logit_scale": self.logit_scale})

    def images(self, split: str, noise: str = NO_NOISE) -> Tensor:
        """The images [N, D] of a split, or their view with a noise. Raises UsageError where the cache has none."""
        if noise == NO_NOISE:
            return self.image[split]
        if (split, noise) not in self.noisy:
            there = ", ".join(sorted(word for of, word in self.noisy if of == split)) or "none"
            raise UsageError(
                f"the cache has no {noise!r} view of its {split} images (it has {there}): "
                "`mma embed --image-noise` makes them"
            )
        return self.noisy[split, noise]


def load_features(cache: Cache, prompts: str, device: torch.device, reduce: str = "unit") -> Features:
    """Load every split and one prompt set. Raises CacheError for what is damaged, UsageError for what fit lacks."""
    if "test" not in cache.header.rows:
        raise UsageError(f"{cache.location} has no split 'test'; it has {', '.join(cache.header.rows)}")
    text = cache.text(prompts)
    image, views, label, labels, failed = {}, {}, {}, {}, 0
    noisy: dict[tuple[str, str], Tensor] = {}
    for split in cache.header.rows:
        data = cache.split(split)
        every = unit(torch.from_numpy(data.embedding.astype(np.float32))).to(device)  # [N, V, D]
        image[split] = every[:, 0].contiguous()
        noises = cache.header.fingerprint.get("image_noise", {}).get(split, [])  # the last views, in this order
        clean = every.shape[1] - len(noises)
        noisy |= {(split, noise): every[:, clean + i].contiguous() for i, noise in enumerate(noises)}
        if clean > 1:
            views[split] = every[:, :clean]
        label[split] = torch.from_numpy(data.label.astype(np.int64)).to(device)
        labels[split] = Labels.of(data.label, data.ok, len(cache.header.classnames))
        failed += int((~data.ok).sum())
    return Features(
        dataset=cache.header.dataset,
        classnames=cache.header.classnames,
        image=image,
        label=label,
        labels=labels,
        text=torch.from_numpy(reduce_prompts(text.embedding, reduce)).to(device),
        logit_scale=cache.header.logit_scale,
        fingerprint=cache.header.fingerprint | ({} if cache.complete else {"chunks done": cache.progress()[0]}),
        prompts={"name": prompts, "templates": text.templates, "reduce": reduce},
        views=views,
        noisy=noisy,
        failed=failed,
    )
