"""Run one cell: draw the episode, fit the adapter, score the test rows."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from functools import cache, lru_cache
from importlib.metadata import version
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mma.adapters import Adapter, History, Labelled, Support, adapter_class, fit, predict, to_bytes, zero_shot_logits
from mma.pipeline.errors import UsageError
from mma.pipeline.fitting.cells import Cell, Setting
from mma.pipeline.fitting.episodes import NO_NOISE, Draw, Episode, Protocol, Test, draw_episode
from mma.pipeline.fitting.features import Features

METRICS = {"base-to-new": ("base", "new", "H"), "few-shot": ("accuracy",)}


@dataclass(frozen=True)
class Predictions:
    """What an adapter said of the rows of one test; classes count within the data set."""

    test: str
    rows: NDArray[np.int32]  # [N] of the test split
    label: NDArray[np.int32]  # [N]
    predicted: NDArray[np.int32]  # [N]


@dataclass(frozen=True)
class Result:
    """One finished cell."""

    cell: Cell
    metrics: dict[str, float]  # percent
    details: dict[str, Any]  # of training, where it ran, and whether new classes are scored zero-shot
    seconds: float
    predictions: list[Predictions]
    weights: bytes | None = None  # safetensors, where they were asked for


def draw(cell: Cell, features: Features) -> Episode:
    """The episode of a cell. Raises UsageError where the cache has too few rows or views for it, AdapterError where the
    adapter's options do not go with its embeddings.
    """
    kind, protocol = adapter_class(cell.setting.adapter), cell.setting.protocol
    kind(**dict(cell.setting.options)).check(features.text.shape[1], cell.setting.recipe or kind.recipe)
    wanted, views = dict(cell.setting.options).get("test_views"), _test_views(features, protocol.test_noise)
    have = 1 if views is None else views.shape[1]
    if wanted is not None and wanted > have:
        raise UsageError(
            f"{cell.setting.adapter}: test_views = {wanted}, and there are {have} of a test image: make a cache with "
            f"mma embed --views {wanted} --view-splits test"
        )
    episode = _draw(features, protocol, cell.seed, cell.setting.select == "val")
    if protocol.shots:
        features.images("train", protocol.train_noise)
    features.images("test", protocol.test_noise)
    return episode


@lru_cache(maxsize=1024)
def _draw(features: Features, protocol: Protocol, seed: int, validate: bool) -> Episode:
    return draw_episode(features.labels, features.classnames, protocol, seed, validate=validate)


def run_cell(cell: Cell, features: Features, *, keep_weights: bool = False) -> Result:
    """Fit and evaluate. The same cell on the same machine gives the same result, whatever runs before or beside it."""
    setting = cell.setting
    episode = draw(cell, features)
    _warm_up()
    start = time.perf_counter()
    adapter = adapter_class(setting.adapter)(**dict(setting.options))
    support = _support(features, episode, setting.protocol)
    validation = _validation(features, episode, setting)
    recipe = setting.recipe or adapter.recipe
    if setting.select == "oracle":  # an upper bound: no epoch is missed by stopping early
        recipe = replace(recipe, patience=recipe.epochs)
    history = fit(adapter, support, recipe, seed=cell.seed, validation=validation)
    predictions = [_score(adapter, features, episode, test, setting.protocol.test_noise) for test in episode.tests]
    seconds = time.perf_counter() - start
    new_is_zero_shot = not adapter.class_free and any(test.name == "new" for test in episode.tests)
    return Result(
        cell,
        score(setting.protocol.name, predictions),
        {**_history(history), "new_is_zero_shot": new_is_zero_shot, **_where(features)},
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


def score(protocol: str, predictions: list[Predictions]) -> dict[str, float]:
    """Top-1 accuracies in percent, and H, the harmonic mean of base and new."""
    correct = {p.test: float(np.mean(p.label == p.predicted)) * 100 for p in predictions}
    if protocol == "few-shot":
        return {"accuracy": correct["all"]}
    base, new = correct["base"], correct["new"]
    return {"base": base, "new": new, "H": 2 * base * new / (base + new) if base + new else 0.0}


def _support(features: Features, episode: Episode, protocol: Protocol) -> Support:
    labelled = _labelled(features, episode.support, episode.classes, protocol.train_noise)
    text = features.text[_index(features, episode.classes)]
    cropped = "train" in features.views and protocol.train_noise == NO_NOISE  # the crops are of clean images
    views = features.views["train"][_index(features, episode.support.rows)] if cropped else None
    new_classes = any(not np.array_equal(test.classes, episode.classes) for test in episode.tests)
    return Support(labelled.image, labelled.label, text, features.logit_scale, views, new_classes)


def _validation(features: Features, episode: Episode, setting: Setting) -> Labelled | None:
    """The rows that selection looks at: validation rows, none, or (oracle) the test rows of the classes trained on."""
    if setting.select == "oracle":
        rows = episode.tests[0].rows
        label = features.label["test"][_index(features, rows)].cpu().numpy()
        return _labelled(features, Draw("test", rows, label), episode.classes, setting.protocol.test_noise)
    return _labelled(features, episode.validation, episode.classes) if episode.validation else None


def _labelled(features: Features, draw: Draw, classes: NDArray[np.int64], noise: str = NO_NOISE) -> Labelled:
    """Rows with their labels counted within `classes`."""
    within = np.searchsorted(classes, draw.label)
    images = features.images(draw.split, noise) if len(draw.rows) else features.text[:0]
    return Labelled(images[_index(features, draw.rows)], _index(features, within))


def _score(adapter: Adapter, features: Features, episode: Episode, test: Test, noise: str) -> Predictions:
    image = features.images("test", noise)
    if adapter.uses_views == "test":
        views = _test_views(features, noise)
        image = image[:, None] if views is None else views
    image = image[_index(features, test.rows)]
    text = features.text[_index(features, test.classes)]
    logits = _logits(adapter, image, text, np.array_equal(test.classes, episode.classes))
    predicted = test.classes[logits.argmax(dim=-1).cpu().numpy()]
    label = features.label["test"].cpu().numpy()[test.rows]
    return Predictions(test.name, test.rows.astype(np.int32), label.astype(np.int32), predicted.astype(np.int32))


def _test_views(features: Features, noise: str) -> Tensor | None:
    """Crops of the test images [N, V, D], which are clean; None where there are none, or noisy images are scored."""
    return features.views.get("test") if noise == NO_NOISE else None


def _logits(adapter: Adapter, image: Tensor, text: Tensor, trained_on: bool) -> Tensor:
    """An adapter with weights for its classes knows no others: for new classes it is zero-shot CLIP, and says so."""
    if trained_on or adapter.class_free:
        return predict(adapter, image, text)
    return zero_shot_logits(image, text, adapter.logit_scale)


def _index(features: Features, values: NDArray[np.int64]) -> Tensor:
    return torch.from_numpy(values).to(features.text.device)


def _where(features: Features) -> dict[str, str]:
    """What may move a last bit and is no part of a cell's name: results of two machines compare by it."""
    return {"device": features.text.device.type, "torch": str(torch.__version__), "mma": version("mma")}


def _history(history: History) -> dict[str, Any]:
    return {
        "epochs": len(history.loss),
        "best_epoch": history.best_epoch,
        "loss": [round(value, 6) for value in history.loss],
        "validation": [round(value, 6) for value in history.validation],
        "chosen": history.chosen,
    }
