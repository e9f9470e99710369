"""Run one cell: draw the episode, fit the adapter, score the test rows."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import asdict, replace
from functools import cache
from importlib.metadata import version
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mma.adapters import (
    Adapter,
    History,
    Labelled,
    Support,
    adapter_class,
    fit,
    predict,
    to_bytes,
    unit,
    zero_shot_logits,
)
from mma.adapters.blame import blaming
from mma.pipeline.errors import UsageError
from mma.pipeline.fitting.cells import Cell, Setting, short_digest
from mma.pipeline.fitting.episodes import Draw, Episode, Test
from mma.pipeline.fitting.features import Features
from mma.pipeline.fitting.protocols import NO_NOISE, Protocol
from mma.pipeline.fitting.results import Predictions, Result
from mma.pipeline.fitting.row_scores import score_rows
from mma.pipeline.fitting.selection import check_division, fit_by_classes, holds_classes


def check_cell(cell: Cell, data: Sequence[Features]) -> None:
    """Refuse, before any work, a cell that cannot be run on these data (the fitted one, then the targets).

    Raises UsageError where a cache has too few rows or views for it, AdapterError where the adapter's options do not go
    with its embeddings.
    """
    setting, features = cell.setting, data[0]
    kind, protocol = adapter_class(setting.adapter), setting.protocol
    if kind.reads == "penultimate":
        for each in data:
            each.images.check_penultimate()
    with blaming(kind):
        kind(**dict(setting.options)).check(features.dim, setting.recipe or kind.recipe)
    wanted = dict(setting.options).get("test_views")
    have = 1
    if protocol.test_noise == NO_NOISE:
        have = min(each.images.count_views("test") for each in data)
    if wanted is not None and wanted > have:
        raise UsageError(
            f"{setting.name}: test_views = {wanted}, and there are {have} of a test image: make a cache with "
            f"`mma embed --views {wanted} --view-splits test`"
        )
    episode = draw_cell(cell, data)
    if setting.select == "classes":
        counts = np.bincount(np.searchsorted(episode.classes, episode.support.label), minlength=len(episode.classes))
        new_classes = any(not _known(test, episode) for test in episode.tests)
        check_division(counts, classes=holds_classes(kind, new_classes))
    if protocol.shots:
        features.images.check_noise("train", protocol.train_noise)
    for each in data:
        each.images.check_noise("test", protocol.test_noise)


def draw_cell(cell: Cell, data: Sequence[Features]) -> Episode:
    """The episode of a cell. Raises UsageError where a cache has too few rows for it."""
    images, *targets = (features.images for features in data)
    return images.episode(cell.setting.protocol, cell.seed, cell.setting.select == "val", tuple(targets))


def run_cell(cell: Cell, data: Sequence[Features], *, keep_weights: bool = False) -> Result:
    """Fit on the first of `data`, and score the tests.

    The same cell on the same machine gives the same result, whatever runs before or beside it.
    """
    setting = cell.setting
    episode = draw_cell(cell, data)
    data = [features.read_by(adapter_class(setting.adapter)) for features in data]
    features = data[0]
    _warm_up()
    start = time.perf_counter()
    adapter = adapter_class(setting.adapter)(**dict(setting.options))
    support = support_of(features, episode, setting.protocol)
    validation = _validation(features, episode, setting)
    recipe = setting.recipe or adapter.recipe
    if setting.select == "oracle":  # an upper bound of accuracy: no epoch is missed by stopping early
        recipe = replace(recipe, patience=recipe.epochs, monitor="accuracy")
    held_out: dict[str, Any] = {}
    if setting.select == "classes":
        history, found = fit_by_classes(adapter, support, recipe, seed=cell.seed)
        held_out = {"held_out": asdict(found)}
    else:
        history = fit(adapter, support, recipe, seed=cell.seed, validation=validation)
    predictions = [_score(adapter, data, episode, test, setting.protocol.test_noise) for test in episode.tests]
    seconds = time.perf_counter() - start
    falls_back = not adapter.class_free and any(not _known(test, episode) for test in episode.tests)
    accuracy = {p.test: float(np.mean(p.label == p.predicted)) * 100 for p in predictions}
    return Result(
        cell,
        setting.protocol.score(accuracy),
        {
            **_history(history),
            **held_out,
            "support": _digest(episode),
            "new_is_zero_shot": falls_back,
            **_where(features),
        },
        seconds,
        predictions,
        to_bytes(adapter) if keep_weights else None,
    )


@cache
def _warm_up() -> None:
    """torch imports a good part of itself, more than a second's worth, at an optimiser's first step: no cell's time."""
    weight = torch.zeros(1, requires_grad=True)
    weight.sum().backward()  # type: ignore[no-untyped-call]
    torch.optim.Adam([weight], fused=True).step()


def support_of(features: Features, episode: Episode, protocol: Protocol) -> Support:
    """What an adapter is fitted on in an episode."""
    drawn = labelled(features, episode.support, episode.classes, protocol.train_noise)
    text = features.text.embedding[_index(features, episode.classes)]
    clean = len(episode.support.rows) > 0 and protocol.train_noise == NO_NOISE  # the crops are of clean images
    views = features.images.views("train") if clean else None
    if views is not None:
        views = views[_index(features, episode.support.rows)]
    new_classes = any(not _known(test, episode) for test in episode.tests)
    scale, layers = features.logit_scale, features.projections
    return Support(drawn.image, drawn.label, text, scale, views, new_classes, projections=layers)


def _validation(features: Features, episode: Episode, setting: Setting) -> Labelled | None:
    """The rows that selection looks at: validation rows, none, or (oracle) the test rows of the classes trained on."""
    if setting.select == "oracle":
        rows = episode.tests[0].rows
        label = features.labels["test"].label[rows].astype(np.int64)
        return labelled(features, Draw("test", rows, label), episode.classes, setting.protocol.test_noise)
    return labelled(features, episode.validation, episode.classes) if episode.validation else None


def labelled(features: Features, draw: Draw, classes: NDArray[np.int64], noise: str = NO_NOISE) -> Labelled:
    """Rows with their labels counted within `classes`."""
    within = np.searchsorted(classes, draw.label)
    images = features.images.images(draw.split, noise) if len(draw.rows) else features.text.embedding[:0]
    return Labelled(images[_index(features, draw.rows)], _index(features, within))


def _score(adapter: Adapter, data: Sequence[Features], episode: Episode, test: Test, noise: str) -> Predictions:
    features, classes = data[test.candidates.data], test.candidates.classes
    image = features.images.images("test", noise)
    if adapter.uses_views == "test":
        views = features.images.views("test") if noise == NO_NOISE else None
        image = image[:, None] if views is None else views
    image = image[_index(features, test.rows)]
    same = test.candidates.same
    if same is None:
        text = features.text.embedding[_index(features, classes)]
    else:  # classes that were fitted keep the texts that they were fitted with
        text = data[0].text.embedding[_index(features, same)]
    if adapter.class_free or (same is None and _known(test, episode)):
        logits = predict(adapter, image, text)
    elif same is not None:  # weights for each class: the columns of these
        logits = predict(adapter, image, data[0].text.embedding)[:, _index(features, same)]
    else:  # an adapter with weights for its classes knows no others: for new classes it is zero-shot CLIP, and says so
        if features.projections:
            image, text = unit(features.projections.image(image)), unit(features.projections.text(text))
        logits = zero_shot_logits(image, text, adapter.logit_scale)
    predicted = classes[logits.argmax(dim=-1).cpu().numpy()]
    label = features.labels["test"].label[test.rows]
    scores = score_rows(logits, _index(features, np.searchsorted(classes, label).astype(np.int64)))
    return Predictions(
        test.name, test.rows.astype(np.int32), label.astype(np.int32), predicted.astype(np.int32), scores
    )


def _known(test: Test, episode: Episode) -> bool:
    """Whether a test's classes are those of the support, or some of them under a shift of domain."""
    if test.candidates.same is not None:
        return True
    return test.candidates.data == 0 and np.array_equal(test.candidates.classes, episode.classes)


def _index(features: Features, values: NDArray[np.int64]) -> Tensor:
    return torch.from_numpy(values).to(features.device)


def _where(features: Features) -> dict[str, str]:
    """What may move a last bit and is no part of a cell's name: results of two machines compare by it."""
    return {"device": features.device.type, "torch": str(torch.__version__), "mma": version("mma")}


def _digest(episode: Episode) -> str | None:
    """Which shots were drawn, whatever their order: seeds that drew the same ones are no draws of their own."""
    rows, label = episode.support.rows.tolist(), episode.support.label.tolist()
    return short_digest({"rows": sorted(zip(rows, label, strict=True))}) if rows else None


def _history(history: History) -> dict[str, Any]:
    return {
        "epochs": len(history.loss),
        "best_epoch": history.best_epoch,
        "loss": [_rounded(value) for value in history.loss],
        "validation": [_rounded(value) for value in history.validation],
        "chosen": history.chosen,
    }


def _rounded(value: float) -> float | None:
    """For JSON, which has no NaN and no infinity: None where training ran away."""
    return round(value, 6) if math.isfinite(value) else None
