"""What a model is asked about: images of all kinds, or a cache; as unit embeddings, some rows at a time."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from typing import Protocol as Interface

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mma.adapters.training import EVAL_BATCH
from mma.cache import STORES, Cache, Chunk, Status, cache_exists, open_cache
from mma.pipeline.datasets.base import Dataset
from mma.pipeline.datasets.names import shown_path
from mma.pipeline.datasets.remote import find_remote
from mma.pipeline.datasets.unlabelled import Listed, Unlabelled, find_unlabelled, is_image
from mma.pipeline.embedding.threads import THREADS, computing_with
from mma.pipeline.errors import UsageError
from mma.pipeline.fitting.features import unit_images
from mma.pipeline.regular_files import MOST_LINE, expanded
from mma.pipeline.using.model import encoder_of, refuse_other_encoder
from mma.pipeline.using.settings import PredictSettings

if TYPE_CHECKING:
    from mma.pipeline.embedding.clip import FrozenClip

STDIN = "-"
SPLIT = "asked"  # what the images are called on their way through stage one


@dataclass(frozen=True)
class Batch:
    """Some rows, in order."""

    paths: Sequence[str]  # [B]
    image: Tensor  # [B, D] unit float32; NaN where there is a reason
    reasons: Mapping[int, str]  # within the batch: why a row has no embedding


class Source(Interface):
    """Rows in an order that never changes."""

    @property
    def paths(self) -> Sequence[str]:
        """[N] what each row is called."""

    def batches(self, start: int) -> Iterator[Batch]:
        """The rows from `start` on."""


@dataclass(frozen=True)
class Images:
    """Images that are still to be encoded."""

    found: Unlabelled
    encoder: Encoder

    @property
    def paths(self) -> Sequence[str]:
        """As they were asked for."""
        return [self.found.where + path for path in self.found.split.paths]

    def batches(self, start: int) -> Iterator[Batch]:
        """In batches of stage one, which begin where they always do: a run that continues has the same bits."""
        return self.encoder.encode(self, start)


@dataclass(frozen=True)
class Cached:
    """The rows of a cache, split by split."""

    cache: Cache
    splits: Sequence[str]
    device: torch.device
    paths: Sequence[str] = field(init=False)

    def __post_init__(self) -> None:
        paths = [path for split in self.splits for path in self.cache.split(split).path]
        object.__setattr__(self, "paths", paths)

    def batches(self, start: int) -> Iterator[Batch]:
        """In blocks as evaluation takes them."""
        failures = self.cache.failures()
        before = 0
        for split in self.splits:
            data = self.cache.split(split)
            reasons = {row: reason for row, _, reason in failures[split]}
            for first in range(0, len(data.path), EVAL_BATCH):
                rows = np.arange(max(first, start - before), min(first + EVAL_BATCH, len(data.path)))
                if len(rows):
                    bad = {
                        int(at): reasons.get(int(rows[at]), Status(int(data.status[rows[at]])).name.lower())
                        for at in np.flatnonzero(data.status[rows] != Status.OK)
                    }
                    image = unit_images(data.embedding[rows, 0], self.device)
                    yield Batch([data.path[int(row)] for row in rows], image, bad)
            before += len(data.path)


class Encoder:
    """The frozen CLIP that made embeddings, loaded when it is first needed, and checked then.

    `known` is what `encoder_of` says of it; {} where it is not known, and nothing can be encoded.
    """

    def __init__(
        self, known: Mapping[str, Any], device: torch.device, workers: int | None, clip: str | None, tag: str | None
    ):
        self.known, self.device, self.workers = known, device, workers or os.cpu_count() or 1
        self._named, self._tag = clip, tag
        self._clip: FrozenClip | None = None

    @property
    def clip(self) -> FrozenClip:
        """The encoder. UsageError where it is not the one that the model was fitted with."""
        if self._clip is None:
            self._clip = self._load()
        return self._clip

    def encode(self, images: Images, start: int) -> Iterator[Batch]:
        """Batches of the images from a row on."""
        from mma.pipeline.embedding.encode import Encoding, encode_chunks
        from mma.pipeline.embedding.views import Views

        known, split = self.known, images.found.split
        side, step = known["preprocess"]["size"], known["batch"]
        count = len(split.paths)
        firsts = range(start - start % step, count, step)
        chunks = (Chunk(SPLIT, first // step, first, min(first + step, count)) for first in firsts)
        dataset = Dataset(SPLIT, (), (), {SPLIT: split})
        # threads as of the cache, so that an image has the bits that it has there
        with computing_with(known.get(THREADS)) as at_once:
            how = Encoding(
                views=Views(self.clip.preprocess),
                batch=step,
                workers=self.workers,
                max_pixels=known["max_pixels"],
                dtype=known["dtype"],
                side=side if isinstance(side, int) else max(side),
                at_once=at_once,
            )
            for encoded in encode_chunks(self.clip, dataset, chunks, how):
                chunk = encoded.chunk
                skip = max(0, start - chunk.start)
                reasons = {row - chunk.start - skip: reason for row, _, reason in encoded.failures}
                embedding = encoded.embedding[skip:, 0].copy()  # [B, D]
                for row in reasons:
                    if row >= 0:
                        embedding[row] = np.nan
                paths = [images.found.where + split.paths[row] for row in range(chunk.start + skip, chunk.stop)]
                yield Batch(paths, unit_images(embedding, self.device), {r: w for r, w in reasons.items() if r >= 0})

    def encode_text(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Embeddings [T, D] of texts, as the model gives them."""
        with computing_with(self.known.get(THREADS)):
            return self.clip.encode_text(texts)

    def _load(self) -> FrozenClip:
        from mma.pipeline.embedding.clip import LOCAL, load_clip

        known = self.known
        if not known:
            raise UsageError(
                "the embeddings were imported, and nothing says which encoder made them: no image and no text can be "
                "encoded; a model of them can be asked about a cache, or embeddings in Python"
            )
        name = self._named or known["model"].replace(f"{LOCAL}tiny", "tiny")
        if name.startswith(LOCAL) and not self._named:
            raise UsageError(f"the encoder is {name}: say where that is with `clip=local-dir:FOLDER`")
        tag = self._tag or known.get("pretrained") or ""
        clip = load_clip(
            name, tag, device=self.device.type, precision=known["precision"], quick_gelu=known["quick_gelu"]
        )
        refuse_other_encoder(known, clip.fingerprint, f"{name} {tag}".strip())
        return clip


def find_sources(settings: PredictSettings, encoder: Encoder, dim: int) -> list[Source]:
    """Everything that is asked about, in order; images named one by one are together. UsageError for what is not there.

    `dim` is the model's. The encoder is loaded, and a cache's compared with it, before any row is looked at.
    """
    sources: list[Source] = []
    listed: list[str] = []

    def gather() -> None:
        if listed:
            sources.append(Images(Unlabelled(Listed(tuple(listed)), ""), encoder))
            listed.clear()

    for what in settings.what:
        path = expanded(what)
        if what == STDIN:
            listed += _read_stdin()
        elif "://" in what and not _is_stored(what) and (remote := find_remote(what)):
            gather()
            sources.append(Images(remote, encoder))
        elif "://" in what or (path / "zarr.json").is_file():
            gather()
            sources.append(_cached(what, settings, encoder, dim))
        elif is_image(path):
            if not path.exists():
                raise UsageError(f"there is no {path}: give images, folders, manifests, .tar shards or caches")
            listed.append(shown_path(str(path)))
        else:
            gather()
            sources.append(Images(find_unlabelled(path, settings.root, settings.follow_links), encoder))
    gather()
    if not sources:
        raise UsageError("there is nothing to predict: no path came on standard input")
    if settings.split and not any(isinstance(source, Cached) for source in sources):
        raise UsageError(f"`split={settings.split}` is of a cache, and none is named")
    if any(isinstance(source, Images) for source in sources):
        _ = encoder.clip
    return sources


def _is_stored(url: str) -> bool:
    """Whether a cache is at a URL of an object store."""
    return url.partition("://")[0] in STORES and cache_exists(url)


def _cached(what: str, settings: PredictSettings, encoder: Encoder, dim: int) -> Cached:
    cache = open_cache(what)
    header = cache.header
    refuse_other_encoder(encoder.known, encoder_of(header), what)
    if header.dim != dim:
        raise UsageError(f"{what} has embeddings of {header.dim} dimensions, and the model {dim}")
    if settings.split is not None and settings.split not in header.rows:
        raise UsageError(f"`split={settings.split}`: {what} has {', '.join(header.rows)}")
    return Cached(cache, [settings.split] if settings.split else list(header.rows), encoder.device)


def _read_stdin() -> list[str]:
    """Paths, one on a line. UsageError for a line without an end."""
    found = []
    while line := sys.stdin.buffer.readline(MOST_LINE + 1):
        if len(line) > MOST_LINE:
            raise UsageError(f"standard input has a line of more than {MOST_LINE:,} bytes: give paths, one on a line")
        found.append(os.fsdecode(line.rstrip(b"\r\n")))
    return [shown_path(path) for path in found if path]
