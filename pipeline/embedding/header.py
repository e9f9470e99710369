"""What the cache of a data set under a model is to be: its header, its manifest, and how its images are encoded."""

from __future__ import annotations

import hashlib
import os

from mma.cache import VERSION, WITHOUT_FEATURES, Header, ManifestSplit
from mma.pipeline.datasets import Dataset
from mma.pipeline.embedding.checks import noise_of
from mma.pipeline.embedding.chunk import rows_in_chunk
from mma.pipeline.embedding.clip import FrozenClip, load_clip
from mma.pipeline.embedding.encode import Encoding
from mma.pipeline.embedding.image_noise import read_noise
from mma.pipeline.embedding.images import DECODER
from mma.pipeline.embedding.settings import USUAL_MODEL, EmbedSettings
from mma.pipeline.embedding.threads import OF_A_BATCH, THREADS
from mma.pipeline.embedding.views import CROP_AND_FLIP, Views, crop_and_flip
from mma.pipeline.errors import UsageError
from mma.pipeline.options import written

BATCH = {"cpu": 16, "cuda": 256, "mps": 64}  # images the model sees at once


def load_chosen_clip(settings: EmbedSettings) -> FrozenClip:
    """The model that the settings name."""
    return load_clip(
        settings.model or USUAL_MODEL,
        settings.pretrained,
        device=settings.device,
        precision=settings.precision,
        quick_gelu=settings.quick_gelu,
        features=settings.features,
    )


def manifest_hash(dataset: Dataset) -> str:
    """SHA-256 over every row's split, path and label, in order, and what made rows that are no files.

    What is in the files is not known yet: the cache has the SHA-256 of each row's bytes, see changes.py.
    """
    total = hashlib.sha256(f"{dataset.made_by}\n".encode())
    for name, split in dataset.splits.items():
        for path, label in zip(split.paths, split.labels, strict=True):
            total.update(f"{name}\t{path}\t{label}\n".encode())
    return total.hexdigest()


def read_manifest(dataset: Dataset) -> dict[str, ManifestSplit]:
    """Labels and paths of every split."""
    return {name: ManifestSplit(split.labels, split.paths) for name, split in dataset.splits.items()}


def make_header(dataset: Dataset, clip: FrozenClip, settings: EmbedSettings) -> Header:
    """What the cache of a data set under a model is to be. Raises UsageError for views of splits that are not there."""
    batch = settings.batch_size or BATCH[clip.device.type]
    several = settings.views > 1
    viewed = list(dict.fromkeys(settings.view_splits))
    if several and not any(split in dataset.splits for split in viewed):
        raise UsageError(
            f"{written('views', settings.views)}: {dataset.name} has no {' or '.join(viewed)} split "
            "(`view_splits=SPLIT`)"
        )
    noise = noise_of(settings, list(dataset.splits))
    views = {s: (settings.views if s in viewed else 1) + len(noise.get(s, ())) for s in dataset.splits}
    fingerprint = {
        **clip.fingerprint,
        "decoder": DECODER,
        "max_pixels": settings.max_pixels,
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
        "model": settings.model or USUAL_MODEL,
        "pretrained": settings.pretrained,
        "follow_links": settings.follow_links,
        **({"unlabelled": True} if settings.unlabelled else {}),
        THREADS: OF_A_BATCH,
    }
    return Header(
        dataset=dataset.name,
        classnames=list(dataset.classnames),
        rows={name: len(split.labels) for name, split in dataset.splits.items()},
        dim=clip.dim,
        views=views,
        dtype=settings.dtype,
        chunk=rows_in_chunk(batch, views),
        batch=batch,
        logit_scale=clip.logit_scale,
        fingerprint=fingerprint,
        notes=list(dataset.notes),
        source=source,
        penultimate=clip.widths,
        version=VERSION if clip.widths else WITHOUT_FEATURES,
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
            splits=settings.view_splits,
            seed=settings.view_seed,
            noise=noise,
        ),
        batch=header.batch,
        workers=workers_of(settings),
        max_pixels=settings.max_pixels,
        dtype=header.dtype,
        side=side if isinstance(side, int) else max(side),
    )


def workers_of(settings: EmbedSettings) -> int:
    """Threads that read and decode."""
    return settings.workers or os.cpu_count() or 1
