"""`mma audit --next K`: which images to label next, those that a model is unsure of, and that differ from one another.

BADGE (Ash et al., Deep Batch Active Learning by Diverse, Uncertain Gradient Lower Bounds, ICLR 2020, arXiv 1906.03671,
algorithm 1). An image stands for the gradient that its label would give the last layer, were it what the model calls
it: g = (p - onehot(argmax p)) outer x, for probabilities p [C] and a unit embedding x [D]. |g| is large where the model
is unsure, and two such gradients are far from each other where images or doubts differ. k-means++ (Arthur and
Vassilvitskii, 2007) draws K of them: the largest first, as the authors' code does, then each with a probability in
proportion to its squared distance from the nearest that is drawn. g is never built:

    <g_i, g_j> = <a_i, a_j> <x_i, x_j>,  a = p - onehot(argmax p)
"""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from rich.console import Console
from scipy.special import softmax
from torch import Tensor

from mma.adapters import fit, predict
from mma.adapters.gda import GaussianDiscriminant
from mma.cache import Cache, open_cache
from mma.cache.durable import write_whole
from mma.pipeline.console import Column, show_table
from mma.pipeline.device import pick_device
from mma.pipeline.errors import UsageError
from mma.pipeline.fitting.features import Address, Loader
from mma.pipeline.reports.calibration import fit_temperature
from mma.pipeline.using.audit import WEIGHT, out_of_fold
from mma.pipeline.using.export import every_labelled_row
from mma.pipeline.using.model import Model, encoder_of, open_model, refuse_other_encoder
from mma.pipeline.using.score import Scorer
from mma.pipeline.using.settings import AuditSettings
from mma.pipeline.using.sheet import SheetImage
from mma.pipeline.using.source import Cached
from mma.pipeline.using.threads import one_thread

SEED = 0
ROUNDING = 1e-12  # of a squared distance, which is 8 at most: what is left of it between the same rows
COLUMNS = ("rank", "split", "row", "path", "looks_like", "share", "or", "share_of_or")


@dataclass(frozen=True)
class Next:
    """An image to label. Shares are what the model gives the two likeliest classes."""

    rank: int  # from 1
    split: str
    row: int  # of the split
    path: str
    looks_like: str
    share: float
    other: str
    share_of_other: float


def next_labels(settings: AuditSettings) -> list[Next]:
    """The images to label next, in order. Raises UsageError or CacheError for what cannot be asked."""
    assert settings.next is not None
    cache, device = open_cache(settings.cache), pick_device(settings.device)
    with one_thread():
        rows, image = _usable(cache, device)
        names, probability = _probability(settings, cache, image)
        chosen = badge(probability, image, settings.next)
    found = []
    for rank, at in enumerate(chosen, 1):
        split, row, path = rows[at]
        first, second = np.argsort(-probability[at], kind="stable")[:2]
        likeliest = names[first], float(probability[at, first]), names[second], float(probability[at, second])
        found.append(Next(rank, split, row, path, *likeliest))
    return found


def badge(probability: NDArray[np.float64], image: Tensor, count: int) -> list[int]:
    """Rows to label, at most so many, of probability [N, C] and unit image [N, D]; fewer where of all others the model
    is sure, or they are the same as one of these.
    """
    a, image = (
        torch.from_numpy(probability).to(image.device, copy=True),
        torch.nn.functional.normalize(image.double(), dim=1),
    )
    a[torch.arange(len(a)), a.argmax(1)] -= 1  # [N, C]
    size = a.square().sum(1)  # [N] |g|^2: x is of length 1
    rng = np.random.default_rng(SEED)
    chosen = [int(size.argmax())]
    distance = size.new_full((len(a),), torch.inf)
    while len(chosen) < min(count, len(a)):
        last = chosen[-1]
        with_last = (a @ a[last]) * (image @ image[last])  # [N]
        distance = torch.minimum(distance, (size + size[last] - 2 * with_last).clamp_min(0))
        distance[last] = 0
        weight = distance.cpu().numpy()
        weight[weight < ROUNDING] = 0
        if not weight.any():
            break
        chosen.append(int(rng.choice(len(weight), p=weight / weight.sum())))
    return chosen


def show_next(console: Console, found: Sequence[Next], first: int) -> None:
    """A table of the first ones."""
    lines = [
        [
            str(n.rank),
            n.split,
            n.path,
            f"{n.looks_like} {100 * n.share:.0f} %",
            f"{n.other} {100 * n.share_of_other:.0f} %",
        ]
        for n in found[:first]
    ]
    columns = [Column("rank", right=True), Column("split"), Column("image"), Column("looks like"), Column("or")]
    more = f" ({min(first, len(found))} of {len(found)})" if len(found) > first else f" ({len(found)})"
    show_table(console, columns, lines, f"images to label next{more}")


def write_next(found: Sequence[Next], out: Path) -> None:
    """All of them as CSV."""
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(COLUMNS)
    for n in found:
        share, of_other = f"{n.share:.4f}", f"{n.share_of_other:.4f}"
        writer.writerow([n.rank, n.split, n.row, n.path, n.looks_like, share, n.other, of_other])
    write_whole(out, stream.getvalue().encode())


def shown(found: Sequence[Next]) -> list[SheetImage]:
    """As images of a contact sheet."""
    return [SheetImage(n.path, (f"{n.rank}: {n.looks_like}", f"or {n.other}")) for n in found]


def _usable(cache: Cache, device: torch.device) -> tuple[list[tuple[str, int, str]], Tensor]:
    """Split, row and path of every usable row, and their unit embeddings [N, D]."""
    rows, images = [], []
    for split in cache.header.rows:
        at = 0
        for batch in Cached(cache, [split], device).batches(0):
            kept = [row for row in range(len(batch.paths)) if row not in batch.reasons]
            rows += [(split, at + row, batch.paths[row]) for row in kept]
            images.append(batch.image[torch.tensor(kept, dtype=torch.long, device=device)])
            at += len(batch.paths)
    if len(rows) < 2:
        raise UsageError(f"{cache.location} has {len(rows)} usable images: there is nothing to choose from")
    return rows, torch.cat(images)


def _probability(settings: AuditSettings, cache: Cache, image: Tensor) -> tuple[Sequence[str], NDArray[np.float64]]:
    """Class names and probabilities [N, C] of unit images [N, D]: of a model, or of GDA on a labelled cache, at
    the temperature that fits which have not seen a row find for it.
    """
    header = cache.header
    ours = encoder_of(header)
    if settings.model is not None:
        model: Model = open_model(settings.model, image.device.type)
        refuse_other_encoder(model.about.encoder, ours, settings.cache)
        _check_dim(settings.cache, header.dim, str(settings.model), model.about.dim)
        return model.about.classnames, Scorer(model, model.about.classnames, model.text).probability(image)
    labelled = str(settings.labelled)
    features = Loader().features(Address(labelled, settings.prompts, settings.reduce, image.device.type))
    theirs = features.images.cache.header
    refuse_other_encoder(encoder_of(theirs), ours, settings.cache)
    _check_dim(settings.cache, header.dim, labelled, features.dim)
    support, text = every_labelled_row(features), features.text.embedding
    label = support.label.cpu().numpy()
    held_out = out_of_fold(support.image, label, text, features.logit_scale)
    temperature = fit_temperature(label, held_out).value
    adapter = GaussianDiscriminant(alpha=WEIGHT)
    fit(adapter, support, adapter.recipe, seed=SEED)
    logits = predict(adapter, image, text).double().cpu().numpy()
    return features.classnames, softmax(logits / temperature, axis=1)


def _check_dim(cache: str, dim: int, other: str, wanted: int) -> None:
    if dim != wanted:
        raise UsageError(f"{cache} has embeddings of {dim} dimensions, and {other} of {wanted}")
