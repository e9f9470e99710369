"""A whole cache as plain arrays in memory: what exports are made from, and imports are made to.

A bundle has all that a cache has, so that a cache written from the bundle of another is that cache, byte for byte.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mma.cache.errors import CacheError
from mma.cache.journal import FailedRow
from mma.cache.layout import ManifestSplit
from mma.cache.reader import Cache, SplitData
from mma.cache.root import TEXT
from mma.cache.schema import (
    CONTENT,
    FEATURES,
    WITHOUT_FEATURES,
    Header,
    Status,
    check_name,
    header_fault,
    label_fault,
    text_fault,
)
from mma.cache.where import Location
from mma.cache.writer import CacheWriter


@dataclass(frozen=True)
class BundledText:
    """One prompt set."""

    templates: Sequence[str]  # [P]
    embedding: NDArray[np.float32]  # [C, P, D]
    texts: Sequence[Sequence[str]] | None = None  # [C][up to P], where the templates do not tell them


@dataclass(frozen=True)
class Bundle:
    """Everything of a cache."""

    header: Header
    splits: Mapping[str, SplitData]
    failures: Mapping[str, Sequence[FailedRow]]
    texts: Mapping[str, BundledText] = field(default_factory=dict)
    content: Mapping[str, NDArray[np.uint8]] = field(default_factory=dict)  # split -> [N, 32], where it is known

    def about(self) -> str:
        """All but the arrays, as JSON."""
        prompts = {name: {"templates": list(t.templates), "texts": t.texts} for name, t in self.texts.items()}
        return json.dumps({"header": self.header.to_attributes(), "failures": self.failures, "prompts": prompts})

    @classmethod
    def of(
        cls,
        about: str,
        splits: Mapping[str, SplitData],
        embeddings: Mapping[str, NDArray[np.float32]],
        content: Mapping[str, NDArray[np.uint8]],
        where: str,
    ) -> Bundle:
        """The bundle of `about` and its arrays; CacheError where they do not belong together."""
        try:
            known: dict[str, Any] = json.loads(about)
            json.dumps(known, ensure_ascii=False, allow_nan=False).encode()  # finite numbers, and text that is text
            header = Header.from_attributes(known["header"], where)
            fault = header_fault(header) or _about_fault(header, known)
            if fault:
                raise CacheError(f"{where} is a damaged export: {fault}")
            failures = {
                split: [(int(row), int(status), str(reason)) for row, status, reason in found]
                for split, found in known["failures"].items()
            }
            texts = {
                name: BundledText(prompts["templates"], embeddings[name], prompts["texts"])
                for name, prompts in known["prompts"].items()
            }
        except CacheError:
            raise
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise CacheError(f"{where} is a damaged export ({type(error).__name__}: {error})") from error
        if set(splits) != set(header.rows):
            raise CacheError(f"{where} has splits {', '.join(splits) or 'none'}, not {', '.join(header.rows)}")
        return cls(header, {split: splits[split] for split in header.rows}, failures, texts, content)


def _about_fault(header: Header, known: Mapping[str, Any]) -> str | None:
    """What is wrong with the failures and prompt sets of an export, or None."""
    if header.penultimate:
        return "it says that it has penultimate features, which exports have not"
    codes = set(Status) - {Status.OK, Status.PENDING}
    for split, found in known["failures"].items():
        rows = [row for row, _, _ in found]
        known_rows = all(type(row) is int and 0 <= row < header.rows.get(split, 0) for row in rows)
        if not known_rows or len(set(rows)) < len(rows) or any(code not in codes for _, code, _ in found):
            return f"failures of split {split!r} are not rows of it, with a status each"
    for name, prompts in known["prompts"].items():
        templates, texts = prompts["templates"], prompts["texts"]
        lists = [templates] if texts is None else [templates, *texts]
        if not templates or not all(isinstance(of, list) and all(isinstance(t, str) for t in of) for of in lists):
            return f"prompt set {name!r} has templates or texts that are no lists of text"
        if texts is not None and (len(texts) != len(header.classnames) or max(map(len, texts)) > len(templates)):
            return f"prompt set {name!r} has texts of other classes, or too many"
    return None


def read_bundle(cache: Cache) -> Bundle:
    """A whole cache, without its penultimate features. CacheError where it is not complete, or damaged."""
    if not cache.complete:
        raise CacheError(f"{cache.location} is not complete: finish it with the same `mma embed` first")
    texts = {}
    for name in cache.prompts:
        data = cache.text(name)
        texts[name] = BundledText(data.templates, data.embedding, cache.journal[TEXT + name].about.get("texts"))
    splits = {split: cache.split(split) for split in cache.header.rows}
    content = {split: cache.content(split) for split in cache.header.rows if cache.header.has_content}
    header = cache.header
    if header.penultimate:
        known = {name: value for name, value in header.fingerprint.items() if name != FEATURES}
        header = replace(header, penultimate=None, version=WITHOUT_FEATURES, fingerprint=known)
    return Bundle(header, splits, cache.failures(), texts, content)


def write_bundle(bundle: Bundle, out: Location) -> Location:
    """Write a complete cache at `out`. CacheError, and nothing written, where arrays and header do not fit."""
    header = bundle.header
    for split, data in bundle.splits.items():
        check_name("split", split)
        _check_split(split, data, header, bundle.failures.get(split, ()))
        content = bundle.content.get(split)
        if content is not None and (content.shape != (header.rows[split], CONTENT) or content.dtype != np.uint8):
            raise CacheError(f"split {split!r} has content {content.dtype} {content.shape}; uint8 [N, 32] is expected")
    for name, text in bundle.texts.items():
        check_name("prompt set", name)
        shape = (len(header.classnames), len(text.templates), header.dim)
        fault = text_fault(text.embedding) if text.embedding.shape == shape else f"are {text.embedding.shape}"
        if fault:
            raise CacheError(f"prompt set {name!r}: embeddings {fault}; [C, P, D] = {shape} is expected")
    manifest = {split: ManifestSplit(data.label, data.path) for split, data in bundle.splits.items()}
    with CacheWriter.create(out, header, manifest) as writer:
        for name, text in bundle.texts.items():
            writer.write_text(name, text.templates, text.embedding, text.texts)
        for chunk in writer.pending():
            rows = slice(chunk.start, chunk.stop)
            failed = [f for f in bundle.failures.get(chunk.split, ()) if chunk.start <= f[0] < chunk.stop]
            content = bundle.content[chunk.split][rows] if chunk.split in bundle.content else None
            writer.write(chunk, bundle.splits[chunk.split].embedding[rows], failed, content)
        writer.finish()
    return out


def _check_split(split: str, data: SplitData, header: Header, failures: Sequence[FailedRow]) -> None:
    rows = header.rows[split]
    shape = (rows, header.views[split], header.dim)
    if data.embedding.shape != shape or data.embedding.dtype != header.dtype:
        raise CacheError(
            f"split {split!r} is {data.embedding.dtype} {data.embedding.shape}; {header.dtype} {shape} is expected"
        )
    if data.label.shape != (rows,) or data.status.shape != (rows,) or len(data.path) != rows:
        raise CacheError(f"split {split!r} has {rows} rows, but other numbers of labels, statuses or paths")
    if data.label.dtype.kind not in "iu" or data.status.dtype != np.uint8:
        raise CacheError(f"split {split!r} has labels or statuses that are not whole numbers")
    status = np.zeros(rows, np.uint8)
    for row, code, _ in failures:
        status[row] = code
    if not np.array_equal(status, data.status):
        raise CacheError(f"split {split!r}: status and the list of failures disagree")
    if fault := label_fault(data.label, len(header.classnames)):
        raise CacheError(f"split {split!r} has {fault}")
    finite = np.isfinite(data.embedding).all(axis=(1, 2))
    if not np.array_equal(finite, data.status == Status.OK):
        row = int(np.flatnonzero(finite != (data.status == Status.OK))[0])
        raise CacheError(f"split {split!r}: row {row} is not finite, or is finite and counts as failed")
