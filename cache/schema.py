"""What a cache is, on disk: one Zarr v3 group for one data set under one frozen model.

    food101.zarr/                       attributes: see root.py
      journal.jsonl                     what is done, and the SHA-256 of every other file: see journal.py
      journal.copy.jsonl                the same again, once the cache is complete
      image/<split>/embedding           [N, V, D] float16 or float32, as the model gives it: not normalised
      image/<split>/label               [N] int32, index into the class names; all -1 where the header has no classes
      image/<split>/status              [N] uint8, see Status
      image/<split>/path                [N] string, where the row came from, relative to the data set's root
      image/<split>/content             [N, 32] uint8, SHA-256 of the row's encoded bytes as they were read; 0: unknown
      text/<prompt set>/embedding       [C, P, D] float32, one row per class and template, not normalised; a class with
                                        fewer sentences than others has rows of NaN at its end

With penultimate features, what the two towers give before their last linear layer (see projection.py), there are also

      image/<split>/penultimate         [N, V, W_image], of the number type of `embedding`; NaN where that is NaN
      text/<prompt set>/penultimate     [C, P, W_text] float32, likewise
      projection/<side>/weight          [W, D] float32, of `image` and of `text`
      projection/<side>/bias            [D] float32; 0 where the layer has none

One chunk of `embedding`, `status`, `content` and `penultimate` is one unit of work: a fixed number of rows, written
once. Chunks are uncompressed with a CRC-32C behind each. What is not written reads as NaN, -1 or `Status.PENDING`,
never as a value.

Version 1 had no `content`; version 3 has penultimate features, and version 2 has none. Each is read, mended and
continued as what it is, and a cache without penultimate features is written as version 2.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from enum import IntEnum
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mma.cache.errors import CacheError

SCHEMA = "mma-cache"
VERSION = 3  # the newest that is read
WITHOUT_FEATURES = 2  # of a cache without penultimate features
CONTENT = 32  # bytes of a row's content hash
SIDES = ("image", "text")  # the two towers

FEATURES = "features"  # of a fingerprint: "penultimate", where a cache has such

Fingerprint = Mapping[str, Any]  # plain JSON data: everything that decides the embeddings


class Status(IntEnum):
    """What became of a row's image. A row that is not OK keeps its place, with NaN for its embedding."""

    OK = 0
    UNREADABLE = 1  # the file is not an image, or is damaged
    TOO_LARGE = 2  # more pixels than allowed, refused before decoding
    NON_FINITE = 3  # the model returned NaN or infinity
    MISSING = 4  # the file is gone, or may not be read
    PENDING = 255  # not yet written


@dataclass(frozen=True)
class Header:
    """What a cache holds, fixed when it is created."""

    dataset: str
    classnames: list[str]  # none: the images are unlabelled, every label is -1, and there are no texts
    rows: dict[str, int]  # split -> images
    dim: int  # D
    views: dict[str, int]  # split -> V; view 0 is the model's own preprocessing
    dtype: str  # of image embeddings: "float16" or "float32"
    chunk: int  # rows in a unit of work
    batch: int  # images the model sees at once; a chunk is whole batches, so that a resumed run repeats them
    logit_scale: float  # exp(logit_scale) of the model
    fingerprint: dict[str, Any]
    notes: list[str]  # what a reader should know, e.g. how the splits were made
    source: dict[str, Any]  # how to find the images and the model again, for `mma cache repair`; decides nothing
    penultimate: dict[str, int] | None = None  # side ("image", "text") -> W; None: there are no penultimate features
    version: int = WITHOUT_FEATURES  # of the schema

    @classmethod
    def from_attributes(cls, attributes: Mapping[str, Any], where: str) -> Header:
        """Read the header of a stored cache, or raise CacheError naming `where`."""
        if attributes.get("schema") != SCHEMA:
            raise CacheError(f"{where} is not an mma cache")
        version = attributes.get("version")
        if type(version) is int and version > VERSION:
            raise CacheError(
                f"{where} has cache schema {version}; this mma reads up to {VERSION}: install a newer mma to use it"
            )
        if type(version) is not int or version < 1:
            raise CacheError(
                f"{where} has cache schema {str(version)[:40]}, which this mma does not read (1 to {VERSION}): "
                "embed or import it again"
            )
        names = [f.name for f in fields(cls) if f.name != "penultimate" or version > WITHOUT_FEATURES]
        missing = [name for name in names if name not in attributes]
        if missing:
            lacking = ", ".join(missing)
            raise CacheError(f"{where} is damaged, its attributes lack {lacking}: run `mma cache verify` on it")
        return cls(**{name: attributes[name] for name in names})

    def to_attributes(self) -> dict[str, Any]:
        """The header as plain JSON data, with the schema's name and version."""
        known = asdict(self)
        if self.penultimate is None:
            del known["penultimate"]
        return {"schema": SCHEMA, "version": self.version, **known}

    @property
    def unlabelled(self) -> bool:
        """Whether the images have no classes."""
        return not self.classnames

    @property
    def has_content(self) -> bool:
        """Whether the cache keeps a hash of each row's bytes."""
        return self.version >= 2

    def noises(self, split: str) -> list[str]:
        """The noises of a split's last views, in the order of these views; none where the cache was made without."""
        return list(self.fingerprint.get("image_noise", {}).get(split, []))

    def chunks(self) -> Iterator[Chunk]:
        """Every unit of work, in the order it is done."""
        for split, rows in self.rows.items():
            for index, start in enumerate(range(0, rows, self.chunk)):
                yield Chunk(split, index, start, min(start + self.chunk, rows))


@dataclass(frozen=True)
class Chunk:
    """One unit of work: rows start..stop of one split."""

    split: str
    index: int
    start: int
    stop: int

    @property
    def unit(self) -> str:
        """Its name in the journal."""
        return f"image/{self.split}/{self.index}"

    def files(self, header: Header) -> dict[str, str]:
        """Array -> its file, of the arrays that a unit of work writes."""
        folder = f"image/{self.split}"
        files = {"embedding": f"{folder}/embedding/c/{self.index}/0/0", "status": f"{folder}/status/c/{self.index}"}
        if header.has_content:
            files["content"] = f"{folder}/content/c/{self.index}/0"
        if header.penultimate:
            files["penultimate"] = f"{folder}/penultimate/c/{self.index}/0/0"
        return files


@dataclass(frozen=True)
class Shard:
    """One of `count` parts of a cache's chunks: every `count`th chunk, from the `index`th, counted from 1."""

    index: int
    count: int

    def __str__(self) -> str:
        return f"{self.index}/{self.count}"

    def chunks(self, header: Header) -> list[Chunk]:
        """Its units of work, in the order they are done."""
        return list(header.chunks())[self.index - 1 :: self.count]


def header_fault(header: Header) -> str | None:
    """What is wrong with a header that came from outside, or None: every field of its type and within its bounds."""

    def counts(value: object) -> bool:
        return isinstance(value, dict) and bool(value) and all(map(count, value.values()))

    def count(value: object) -> bool:
        return type(value) is int and 1 <= value < 2**31

    def texts(value: object) -> bool:
        return isinstance(value, list) and all(isinstance(text, str) for text in value)

    scale = header.logit_scale
    sound = {
        "dataset": isinstance(header.dataset, str),
        "classnames": texts(header.classnames) and len(set(header.classnames)) == len(header.classnames),
        "rows": counts(header.rows),
        "views": counts(header.views) and counts(header.rows) and header.views.keys() == header.rows.keys(),
        "dim": count(header.dim),
        "dtype": header.dtype in ("float16", "float32"),
        "chunk": count(header.chunk),
        "batch": count(header.batch),
        "logit_scale": type(scale) in (int, float) and 0 < scale < float("inf"),
        "fingerprint": isinstance(header.fingerprint, dict),
        "notes": texts(header.notes),
        "source": isinstance(header.source, dict),
        "penultimate": header.penultimate is None
        or (counts(header.penultimate) and header.penultimate.keys() == set(SIDES)),
    }
    wrong = [name for name, right in sound.items() if not right]
    return f"its header has no usable {', '.join(wrong)}" if wrong else None


def label_fault(label: NDArray[np.integer], classes: int) -> str | None:
    """What is wrong with labels [N], or None: they count within the classes; where there are none, they are -1."""
    if not classes:
        return "labels, and the cache has no classes" if (label != -1).any() else None
    outside = len(label) and (label.min() < 0 or label.max() >= classes)
    return f"labels outside 0..{classes - 1}" if outside else None


def names_of(classnames: Sequence[str], label: NDArray[np.integer]) -> NDArray[Any]:
    """The class name of each label [N]; "" for -1."""
    names: NDArray[Any] = np.array([*classnames, ""], dtype=object)
    return names.take(label)


def text_fault(embedding: NDArray[np.floating]) -> str | None:
    """What is wrong with text embeddings [C, P, D], or None. A row may be NaN as a whole, a class may not."""
    finite = np.isfinite(embedding)
    row = finite.all(axis=2)  # [C, P]
    if (finite.any(axis=2) != row).any():
        return "have rows that are not finite"
    if not row.any(axis=1).all():
        return "have classes without a sentence"
    if (np.linalg.norm(embedding, axis=2)[row] == 0).any():
        return "have rows that are zero"
    return None


def check_name(kind: str, name: str) -> str:
    """A name that becomes part of a path: letters, digits, `_`, `-` and `.`, not starting with a dot; or CacheError."""
    if not re.fullmatch(r"[A-Za-z0-9_-][A-Za-z0-9_.-]{0,99}", name):
        raise CacheError(f"{kind} {name!r} is not a usable name: use letters, digits, '_', '-' and '.'")
    return name


def fingerprint_diff(stored: Fingerprint, wanted: Fingerprint) -> list[str]:
    """How two fingerprints differ, one line per entry: `model: ViT-B-16 (stored), ViT-L-14 (asked for)`."""

    def short(value: object) -> str:
        text = "none" if value is None else str(value)
        return text if len(text) <= 60 else text[:57] + "..."

    return [
        f"{key}: {short(stored.get(key))} (stored), {short(wanted.get(key))} (asked for)"
        for key in sorted(stored.keys() | wanted.keys())
        if stored.get(key) != wanted.get(key)
    ]
