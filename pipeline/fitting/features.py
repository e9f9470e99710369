"""A cache as stage two sees it: the images of its splits as unit tensors, and one text vector for every class.

Images are loaded once for each cache, and when they are first asked for; texts once for each prompt set and reduction.
"""

from __future__ import annotations

import copy
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mma.adapters import Adapter, Projection, Projections
from mma.cache import Cache, as_location, open_cache
from mma.pipeline.device import pick_device
from mma.pipeline.errors import UsageError, nearest
from mma.pipeline.fitting.cells import Data, short_digest
from mma.pipeline.fitting.episodes import Episode, Labels, draw_episode
from mma.pipeline.fitting.protocols import NO_NOISE, Classes, Protocol
from mma.pipeline.options import numbers

REDUCTIONS = ("unit", "raw")
EPISODES = 256  # of a cache that are remembered

Reads = Literal["final", "penultimate"]


@dataclass(frozen=True)
class Address:
    """Where features come from: enough for a worker to load them, wherever it was started."""

    cache: str  # an absolute path, or a URL
    prompts: str = "default"
    reduce: str = "unit"  # how the templates of a class become one vector
    device: str = "cpu"
    partial: bool = False  # whether an unfinished cache will do

    def __post_init__(self) -> None:
        at = as_location(self.cache)
        object.__setattr__(self, "cache", str(at.absolute()) if isinstance(at, Path) else at)


class ImageFeatures:
    """The images of one cache."""

    def __init__(self, cache: Cache, device: torch.device) -> None:
        if cache.header.unlabelled:
            raise UsageError(
                f"{cache.location} is unlabelled: it has no classes to fit; "
                f"`mma predict MODEL {cache.location}` asks a model about it"
            )
        self.cache, self.device = cache, device
        self.dataset, self.classnames = cache.header.dataset, cache.header.classnames
        self.failed = 0  # rows without an embedding
        self.labels = {split: self._labels(split) for split in cache.header.rows}
        self.episode = lru_cache(maxsize=EPISODES)(self._episode)
        self.reads: Reads = "final"
        self._all: dict[str, Tensor] = {}  # split -> [N, V, D] unit float32; a row without an embedding is NaN
        self._loading = threading.Lock()

    @cached_property
    def penultimate(self) -> ImageFeatures:
        """The same images by their features before the projection [N, V, W], as they are. UsageError without such."""
        self.check_penultimate()
        other = copy.copy(self)
        other.reads, other._all, other._loading = "penultimate", {}, threading.Lock()
        return other

    def check_penultimate(self) -> None:
        """UsageError where the cache has no features before the projection."""
        if self.cache.header.penultimate is None:
            raise UsageError(
                f"{self.cache.location} has no features before the projection: make a cache with them, "
                "`mma embed --features penultimate`"
            )

    def images(self, split: str, noise: str = NO_NOISE) -> Tensor:
        """The images [N, D] of a split, or their view with a noise. Raises UsageError where the cache has none."""
        self.check_noise(split, noise)
        view = 0 if noise == NO_NOISE else self._clean(split) + self._noises(split).index(noise)
        return self._load(split)[:, view]

    def views(self, split: str) -> Tensor | None:
        """The clean views [N, V, D] of a split, view 0 first; None where there is one alone."""
        clean = self._clean(split)
        return self._load(split)[:, :clean] if clean > 1 else None

    def count_views(self, split: str) -> int:
        """How many clean views an image of a split has."""
        return self._clean(split) if split in self.cache.header.rows else 1

    def check_noise(self, split: str, noise: str) -> None:
        """Refuse a noisy view that the cache does not have. Raises UsageError."""
        if noise != NO_NOISE and noise not in self._noises(split):
            there = ", ".join(sorted(self._noises(split))) or "none"
            raise UsageError(
                f"the cache has no {noise!r} view of its {split} images (it has {there}): "
                "`mma embed --image-noise` makes them"
            )

    def _episode(self, protocol: Protocol, seed: int, validate: bool, targets: tuple[ImageFeatures, ...]) -> Episode:
        """What a seed draws here, with tests here and on the targets; cells of one seed share it. Raises UsageError."""
        every = (self, *targets)
        classes = [Classes(images.dataset, images.classnames) for images in every]
        return draw_episode([images.labels for images in every], classes, protocol, seed, validate=validate)

    def _noises(self, split: str) -> list[str]:
        """The noises of a split: its last views, in this order."""
        return self.cache.header.noises(split)

    def _clean(self, split: str) -> int:
        return self.cache.header.views[split] - len(self._noises(split))

    def _labels(self, split: str) -> Labels:
        data = self.cache.split(split)
        self.failed += int((~data.ok).sum())
        return Labels.of(data.label, data.ok, len(self.classnames))

    def _load(self, split: str) -> Tensor:
        """Unit embeddings [N, V, D], made in place: one copy in memory beside what the disk gave."""
        with self._loading:
            if split not in self._all and self.reads == "penultimate":
                stored = torch.from_numpy(self.cache.penultimate(split))
                self._all[split] = stored.to(self.device, torch.float32)
            elif split not in self._all:
                self._all[split] = unit_images(self.cache.split(split).embedding, self.device)
            return self._all[split]


@dataclass(frozen=True, eq=False)
class TextFeatures:
    """A prompt set of a cache under a reduction."""

    prompts: str
    reduce: str
    templates: Sequence[str]
    embedding: Tensor  # [C, D] unit float32
    penultimate: Tensor | None = None  # [C, W] whose projection points where `embedding` does; None: there are none


@dataclass(frozen=True, eq=False)
class Features:
    """Images and texts that belong together: what a cell is fitted on, or scored on."""

    images: ImageFeatures
    text: TextFeatures

    projections: Projections | None = None  # of the view that `read_by` gives to an adapter of penultimate features

    def read_by(self, kind: type[Adapter]) -> Features:
        """These as an adapter reads them: embeddings, or features before the projection. UsageError without such."""
        return self._penultimate if kind.reads == "penultimate" else self

    @cached_property
    def _penultimate(self) -> Features:
        images, text = self.images.penultimate, self.text.penultimate
        assert text is not None  # a cache has them of both sides
        layers = {
            side: Projection(*(torch.from_numpy(part).to(self.device) for part in (layer.weight, layer.bias)))
            for side, layer in self.images.cache.projections().items()
        }
        return Features(images, replace(self.text, embedding=text), Projections(**layers))

    @cached_property
    def data(self) -> Data:
        """How results name these features."""
        return Data(self.images.dataset, self.text.prompts, self.text.reduce, self._digest())

    @property
    def labels(self) -> Mapping[str, Labels]:
        """Usable rows by class, of every split."""
        return self.images.labels

    @property
    def classnames(self) -> Sequence[str]:
        """[C] in label order."""
        return self.images.classnames

    @property
    def logit_scale(self) -> float:
        """exp(logit_scale) of the model."""
        return self.images.cache.header.logit_scale

    @property
    def dim(self) -> int:
        """D."""
        return self.text.embedding.shape[1]

    @property
    def device(self) -> torch.device:
        """Where the tensors are."""
        return self.images.device

    def config(self) -> dict[str, Any]:
        """What is worth keeping with a result of how these features were made, as plain data."""
        return {"templates": list(self.text.templates), "fingerprint": self.images.cache.header.fingerprint}

    def _digest(self) -> str:
        """Of the bytes that were read, and how they were put together: never of what a fingerprint says alone."""
        cache, text = self.images.cache, self.text
        return short_digest({"bytes": cache.digest(cache.header.rows, text.prompts), "reduce": text.reduce})


class Loader:
    """The features of a run, each loaded once. May be used from several threads."""

    def __init__(self) -> None:
        self._images: dict[tuple[str, str, bool], ImageFeatures] = {}
        self._features: dict[Address, Features] = {}
        self._loading = threading.Lock()

    def features(self, address: Address) -> Features:
        """The features at an address. CacheError for what is damaged, UsageError for what stage two lacks."""
        key = (address.cache, address.device, address.partial)
        with self._loading:
            if key not in self._images:
                self._images[key] = load_images(address)
            if address not in self._features:
                text = load_text(self._images[key], address.prompts, address.reduce)
                self._features[address] = Features(self._images[key], text)
            return self._features[address]

    def drop(self, cache: str) -> None:
        """Let go of what was loaded of a cache."""
        with self._loading:
            self._images = {key: images for key, images in self._images.items() if key[0] != cache}
            self._features = {address: found for address, found in self._features.items() if address.cache != cache}


def load_images(address: Address) -> ImageFeatures:
    """The images of the cache at an address. Raises as `Loader.features`."""
    cache = open_cache(address.cache, partial=address.partial)
    if not cache.header.unlabelled and "test" not in cache.header.rows:
        raise UsageError(f"{cache.location} has no split 'test'; it has {', '.join(cache.header.rows)}")
    return ImageFeatures(cache, pick_device(address.device))


def load_text(images: ImageFeatures, prompts: str, reduce: str) -> TextFeatures:
    """A prompt set of the same cache under a reduction. Raises as `Loader.features`."""
    text = images.cache.text(prompts)
    reduced = torch.from_numpy(reduce_prompts(text.embedding, reduce)).to(images.device)
    before = None
    if images.cache.header.penultimate:
        features = images.cache.text_penultimate(prompts)
        before = torch.from_numpy(reduce_penultimate(features, text.embedding, reduce)).to(images.device)
    return TextFeatures(prompts, reduce, text.templates, reduced, before)


def load_features(
    cache: str | Path, prompts: str = "default", *, reduce: str = "unit", device: str = "cpu", partial: bool = False
) -> Features:
    """The features of one cache: unit images [N, D] of every split, and unit texts [C, D].

    Raises CacheError for what is damaged, UsageError for what stage two lacks.

    >>> features = mma.load_features(cache)
    >>> features.text.embedding.shape
    torch.Size([7, 32])
    """
    return Loader().features(Address(str(cache), prompts, reduce, device, partial))


def unit_images(stored: NDArray[np.floating], device: torch.device) -> Tensor:
    """Unit float32 rows [..., D] of embeddings as the model gives them; a row of NaN stays one."""
    x = torch.from_numpy(stored).to(device, torch.float32, copy=True)
    return x.div_(torch.linalg.vector_norm(x, dim=-1, keepdim=True).clamp_min_(1e-12))


def reduce_prompts(text: NDArray[np.floating], how: str | int = "unit") -> NDArray[np.float32]:
    """One unit vector for every class, [C, P, D] -> [C, D], from texts as the model gives them; rows of NaN do not
    count.

    "unit": the mean of the unit texts (Radford et al., 2021, and open_clip). "raw": the mean of the texts as they are
    (as CLAP's code does). A number: that template alone, from 0. UsageError where there is no such template.
    """
    chosen = text.astype(np.float32)
    if str(how).isdecimal():
        number = numbers("reduce", [how])[0]
        if number >= text.shape[1] or np.isnan(chosen[:, number]).any():
            raise UsageError(f"template {how} is not there for every class; they are numbered 0 to {text.shape[1] - 1}")
        return _unit(chosen[:, number])
    if how not in REDUCTIONS:
        raise UsageError(f"unknown reduction {how!r} of templates: {nearest(str(how), REDUCTIONS)}, or a number")
    return _unit(np.nanmean(_unit(chosen) if how == "unit" else chosen, axis=1))


def reduce_penultimate(
    penultimate: NDArray[np.floating], text: NDArray[np.floating], how: str = "unit"
) -> NDArray[np.float32]:
    """One vector for every class, [C, P, W] -> [C, W], of texts [C, P, D] before the projection.

    The mean of unit embeddings, sum_p (g_p V + c) / |t_p|, points where (g V + c) does with g the mean of g_p weighed
    by 1 / |t_p|: so the projection of what is returned, made unit, is what `reduce_prompts` gives. Where the projection
    is trained, the weights stay those of the model.
    """
    weight = np.ones(text.shape[:2]) if how != "unit" else 1 / np.linalg.norm(text, axis=-1)  # [C, P]
    if how.isdecimal():
        weight = np.zeros_like(weight)
        weight[:, int(how)] = 1
    weight = np.where(np.isnan(text[..., 0]), 0, weight)
    total = np.einsum("cp,cpw->cw", weight, np.nan_to_num(penultimate, nan=0.0))
    mean: NDArray[np.float32] = (total / weight.sum(axis=1, keepdims=True)).astype(np.float32)
    return mean


def _unit(vectors: NDArray[np.float32]) -> NDArray[np.float32]:
    unit: NDArray[np.float32] = vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)
    return unit
