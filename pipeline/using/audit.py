"""`mma audit`: what is probably wrong with the data of a cache, from its embeddings.

Labels: GDA (arXiv 2402.04087) is fitted on four fifths of all rows and asked about the other, five times. The margin of
a row is the best logit of another class less that of its own: above 0, the row looks like the other class. Weight 1
adds the two log-likelihoods, that of the Gaussians and that of the texts, as they are.

Twins: rows with the same bytes by their SHA-256, and each row's nearest other one by cosine, exact, in blocks.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mma.adapters import Support, fit, predict
from mma.adapters.gda import GaussianDiscriminant
from mma.cache import open_cache
from mma.cache.durable import write_whole
from mma.pipeline.device import pick_device
from mma.pipeline.errors import UsageError
from mma.pipeline.fitting.features import ImageFeatures, load_text
from mma.pipeline.using.settings import AuditSettings
from mma.pipeline.using.sheet import SheetImage
from mma.pipeline.using.threads import one_thread

FOLDS = 5
SEED = 0  # parts the rows into folds
WEIGHT = 1.0  # of the Gaussians beside the texts
NEIGHBOURS = 5  # of which a row's distance from everything is the mean
FAR = 5.0  # standard deviations, from the median and the median absolute deviation
BLOCK = 1024  # rows that are compared with all others at a time

Kind = Literal["label", "same bytes", "near twin", "far", "texts"]
COLUMNS = ("kind", "split", "row", "path", "class", "looks_like", "other", "value")


@dataclass(frozen=True)
class AuditFinding:
    """One thing to look at. `value` is a margin in logits, a cosine, or a share, by `kind`."""

    kind: Kind
    classname: str
    value: float
    split: str = ""
    row: int | None = None  # of the split
    path: str = ""
    looks_like: str = ""  # a class
    other: str = ""  # split/path of a twin


@dataclass(frozen=True)
class Audit:
    """What was found, most suspicious first within each kind, and what could not be looked at."""

    findings: Sequence[AuditFinding]
    rows: int  # that were looked at
    notes: Sequence[str]

    def of(self, kind: Kind) -> list[AuditFinding]:
        """Those of a kind, in order."""
        return [finding for finding in self.findings if finding.kind == kind]


@dataclass(frozen=True)
class _Rows:
    """The usable rows of all splits, one after the other."""

    image: Tensor  # [N, D] unit
    label: NDArray[np.int64]  # [N]
    content: NDArray[np.uint8]  # [N, 32]; zeros where not known
    split: Sequence[str]  # [N]
    row: NDArray[np.int64]  # [N] within its split
    path: Sequence[str]  # [N]

    def place(self, at: int) -> str:
        """Where a row is, in a word."""
        return f"{self.split[at]}/{self.path[at]}"


def audit(settings: AuditSettings) -> Audit:
    """Look through a cache. Raises UsageError or CacheError for one that cannot be looked through."""
    images = ImageFeatures(open_cache(settings.cache), pick_device(settings.device))
    text = load_text(images, settings.prompts, settings.reduce).embedding
    scale, names = images.cache.header.logit_scale, images.classnames
    rows = _usable_rows(images)
    if len(rows.label) < 2:
        raise UsageError(f"{settings.cache} has {len(rows.label)} usable images: there is nothing to compare")
    notes = []
    with one_thread():
        margin, looks = wrong_labels(rows.image, rows.label, text, scale)
        cosine, nearest, mean = neighbours(rows.image)
        called = predict_zero_shot(rows.image, text)
    if (judged := np.isfinite(margin)).sum() < len(margin):
        notes.append(f"{(~judged).sum()} images are the only ones of their class: their labels were not judged")
    if not rows.content.any():
        notes.append("the cache does not know the bytes of its images: twins are by cosine alone")
    findings = [
        AuditFinding("label", names[rows.label[at]], float(margin[at]), looks_like=names[looks[at]], **_where(rows, at))
        for at in np.argsort(-margin, kind="stable")
        if margin[at] > 0
    ]
    same = dict(same_bytes(rows.content))
    twins = [(at, same[at], 1.0) for at in sorted(same)]
    findings += [_twin("same bytes", rows, names, *twin) for twin in twins]
    paired = {frozenset(twin[:2]) for twin in twins}
    near = [at for at in np.argsort(-cosine, kind="stable") if cosine[at] >= settings.near]
    for at in map(int, near):
        pair = frozenset((at, int(nearest[at])))
        if pair not in paired:
            paired.add(pair)
            findings.append(_twin("near twin", rows, names, max(pair), min(pair), float(cosine[at])))
    findings += [
        AuditFinding("far", names[rows.label[at]], float(mean[at]), **_where(rows, at)) for at in far_rows(mean)
    ]
    findings += [
        AuditFinding("texts", names[c], share, looks_like=names[other])
        for c, other, share in confused_texts(rows.label, called, len(names))
    ]
    return Audit(findings, len(rows.label), notes)


def wrong_labels(
    image: Tensor, label: NDArray[np.int64], text: Tensor, logit_scale: float
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Margins [N] of unit images [N, D] with labels [N], and the best other class of each [N].

    A margin is -inf for a row that is the only one of its class.
    """
    logits = out_of_fold(image, label, text, logit_scale)
    at = np.arange(len(label))
    own = logits[at, label]
    logits[at, label] = -np.inf
    margin = np.where(np.bincount(label, minlength=len(text))[label] > 1, logits.max(1) - own, -np.inf)
    return margin, logits.argmax(1)


def out_of_fold(image: Tensor, label: NDArray[np.int64], text: Tensor, logit_scale: float) -> NDArray[np.float64]:
    """Logits [N, C] of unit images [N, D], each by a fit that has not seen it."""
    fold = folds(label)
    logits = np.zeros((len(label), len(text)))
    labels = torch.from_numpy(label).to(image.device)
    for number in np.unique(fold):
        out = torch.from_numpy(fold == number).to(image.device)
        adapter = GaussianDiscriminant(alpha=WEIGHT)
        fit(adapter, Support(image[~out], labels[~out], text, logit_scale), adapter.recipe, seed=SEED)
        logits[fold == number] = predict(adapter, image[out], text).double().cpu().numpy()
    return logits


def folds(label: NDArray[np.int64]) -> NDArray[np.int64]:
    """The fold [N] of each row: every class is spread as evenly as it can be, beginning with a fold of its own."""
    fold, rng = np.zeros(len(label), np.int64), np.random.default_rng(SEED)
    for c in np.unique(label):
        rows = rng.permutation(np.flatnonzero(label == c))
        fold[rows] = (np.arange(len(rows)) + rng.integers(FOLDS)) % FOLDS
    return fold


def neighbours(image: Tensor) -> tuple[NDArray[np.float64], NDArray[np.int64], NDArray[np.float64]]:
    """Of each row of unit images [N, D]: the cosine [N] with the nearest other row, which one that is [N], and the mean
    cosine [N] with the five nearest.
    """
    count = min(NEIGHBOURS, len(image) - 1)
    best, which, mean = [], [], []
    for first in range(0, len(image), BLOCK):
        block = image[first : first + BLOCK]
        similar = block @ image.mT  # [B, N]
        own = torch.arange(len(block), device=image.device)
        similar[own, own + first] = -torch.inf
        value, index = similar.topk(count)  # [B, K]
        best.append(value[:, 0])
        which.append(index[:, 0])
        mean.append(value.mean(1))
    found = [torch.cat(each).cpu().numpy() for each in (best, which, mean)]
    return found[0].astype(np.float64), found[1], found[2].astype(np.float64)


def same_bytes(content: NDArray[np.uint8]) -> Iterator[tuple[int, int]]:
    """Rows of hashes [N, 32] that an earlier row has too: (row, the first row with it). Zeros are no hash."""
    seen: dict[bytes, int] = {}
    for at, known in enumerate(content):
        if known.any():
            first = seen.setdefault(known.tobytes(), at)
            if first != at:
                yield at, first


def far_rows(mean: NDArray[np.float64]) -> NDArray[np.int64]:
    """Rows whose mean cosine [N] is out of the ordinary, the farthest first."""
    median = np.median(mean)
    spread = 1.4826 * np.median(np.abs(mean - median))  # the standard deviation, where they are normal
    far = np.flatnonzero(mean < median - FAR * spread)
    return far[np.argsort(mean[far], kind="stable")]


def predict_zero_shot(image: Tensor, text: Tensor) -> NDArray[np.int64]:
    """What the texts [C, D] alone call unit images [N, D]: classes [N]."""
    return torch.cat([(block @ text.mT).argmax(1) for block in torch.split(image, BLOCK)]).cpu().numpy()


def confused_texts(label: NDArray[np.int64], called: NDArray[np.int64], classes: int) -> list[tuple[int, int, float]]:
    """Classes of which more images are called another class than their own: (class, that other, share of images)."""
    counts = np.zeros((classes, classes), np.int64)
    np.add.at(counts, (label, called), 1)
    found = []
    for c, row in enumerate(counts):
        other = int(row.argmax())
        if row[other] > row[c]:
            found.append((c, other, float(row[other] / row.sum())))
    return sorted(found, key=lambda each: -each[2])


def write_csv(found: Audit, out: Path) -> None:
    """All findings, one row for each."""
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(COLUMNS)
    for f in found.findings:
        row = "" if f.row is None else f.row
        writer.writerow([f.kind, f.split, row, f.path, f.classname, f.looks_like, f.other, f"{f.value:.6g}"])
    write_whole(out, stream.getvalue().encode())


def shown(findings: Sequence[AuditFinding]) -> list[SheetImage]:
    """Findings as images of a contact sheet."""
    return [SheetImage(f.path, (f.classname, f"looks like {f.looks_like}")) for f in findings]


def _usable_rows(images: ImageFeatures) -> _Rows:
    cache = images.cache
    parts = []
    for split in cache.header.rows:
        data = cache.split(split)
        row = np.flatnonzero(data.ok)
        image = images.images(split)[torch.from_numpy(row).to(images.device)]
        parts.append((split, row, image, data.label[row].astype(np.int64), cache.content(split)[row], data.path))
    return _Rows(
        torch.cat([image for _, _, image, _, _, _ in parts]),
        np.concatenate([label for _, _, _, label, _, _ in parts]),
        np.concatenate([content for _, _, _, _, content, _ in parts]),
        [split for split, row, *_ in parts for _ in row],
        np.concatenate([row for _, row, *_ in parts]),
        [path[int(at)] for _, row, _, _, _, path in parts for at in row],
    )


def _where(rows: _Rows, at: int) -> dict[str, Any]:
    return {"split": rows.split[at], "row": int(rows.row[at]), "path": rows.path[at]}


def _twin(kind: Kind, rows: _Rows, names: Sequence[str], at: int, first: int, cosine: float) -> AuditFinding:
    """A row and an earlier one; with another label, its class is what this one looks like."""
    differs = rows.label[at] != rows.label[first]
    other = names[rows.label[first]] if differs else ""
    return AuditFinding(
        kind, names[rows.label[at]], cosine, looks_like=other, other=rows.place(first), **_where(rows, at)
    )
