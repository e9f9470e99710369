"""`mma export`: a model folder from a cache, or from a seed of a run.

From a cache, with `--shots all`, in two steps. First the choices, as `fit` makes them: a fit on the train rows, whose
epoch and open hyper-parameters are chosen on the val rows (where there is no val split, on a fifth of every class).
Then a fit on all labelled rows with these choices. What is measured is the first fit, since the second leaves no rows.
With `--shots K` the model is the one that `mma fit --protocol few-shot --shots K` makes of that seed.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from rich.console import Console
from torch import Tensor

from mma.adapters import Adapter, Labelled, Support, adapter_class, fit, from_bytes, options_of
from mma.adapters.gda import GaussianDiscriminant
from mma.cache.durable import sha256
from mma.pipeline.device import pick_device
from mma.pipeline.errors import UsageError, nearest
from mma.pipeline.fitting.cells import RECIPE, Cell, Choice, Setting, resolve
from mma.pipeline.fitting.features import Address, Features, Loader
from mma.pipeline.fitting.protocols import FewShot
from mma.pipeline.fitting.run import check_cell, labelled, run_cell, support_of
from mma.pipeline.fitting.saved import saved_fit
from mma.pipeline.fitting.settings import AUTO, FACTORS
from mma.pipeline.using.auto import FAST, Pick, pick_for
from mma.pipeline.using.calibrate import calibrate
from mma.pipeline.using.card import model_card
from mma.pipeline.using.model import (
    Model,
    Shots,
    check_place,
    encoder_of,
    make_about,
    refuse_unservable,
    write_model,
)
from mma.pipeline.using.onnx_file import COMPARED, OnnxFile, check_onnx, make_onnx
from mma.pipeline.using.replaced import changes_in_words, changes_since, model_there
from mma.pipeline.using.settings import ALL, ExportSettings
from mma.pipeline.using.source import Encoder
from mma.pipeline.using.threads import one_thread

HELD_OUT = 5  # one row in so many of a class is validation where there is no val split
LABELLED = ("train", "val")
MOST_SHOTS = 2**26  # bytes of the shots that a model keeps: 65,536 of 512 dimensions

RowsBySplit = Mapping[str, NDArray[np.int64]]  # by split


@dataclass(frozen=True)
class Fitted:
    """A fitted adapter, how it was fitted, and what it can be measured by."""

    adapter: Adapter
    classes: NDArray[np.int64]  # it was fitted on, of the data set
    how: dict[str, Any]
    measured: Adapter  # the same, or the one that made its choices
    rows: RowsBySplit  # that did not train `measured`
    selected_on: bool  # whether `measured` chose something on them
    support: RowsBySplit  # that `adapter` was fitted on


def export(settings: ExportSettings, console: Console) -> Path:
    """Write the model folder. Raises UsageError, CacheError or AdapterError for what cannot be done."""
    check_place(settings.out, force=settings.force)
    if settings.onnx and settings.adapter not in (None, AUTO):
        check_onnx(settings.adapter, settings.class_texts)
    with one_thread():
        features, fitted = _from_run(settings) if settings.run else _from_cache(settings, console)
        name = fitted.how["adapter"]
        text = features.text.embedding[torch.from_numpy(fitted.classes).to(features.device)]
        measuring = labelled_rows(features, fitted.rows, fitted.classes)
        calibration, figures, scores = calibrate(fitted.measured, measuring, text, selected_on=fitted.selected_on)
    header = features.images.cache.header
    about = make_about(
        fitted.adapter,
        name,
        classnames=[features.classnames[c] for c in fitted.classes],
        prompts=features.text.prompts,
        templates=list(features.text.templates),
        reduce=features.text.reduce,
        encoder=encoder_of(header),
        fitted={"dataset": features.images.dataset, "digest": features.data.digest, **fitted.how},
        validation=figures,
        calibration=calibration,
    )
    shots = None if settings.without_shots else shots_of(features, fitted)
    if replaced := model_there(settings.out):
        changes = changes_since(replaced, about)
        about = replace(about, fitted={**about.fitted, "replaces": changes})
    model, onnx = Model(about, fitted.adapter, text, scores, shots), None
    if settings.onnx:
        check_onnx(name, settings.class_texts)
        onnx = _onnx(model, settings, features)
        about = replace(about, onnx={**onnx.about, "sha256": sha256(onnx.data)})
        model = replace(model, about=about)
    card = model_card(about, scores, shots)
    write_model(model, card, settings.out, force=settings.force, onnx=onnx.data if onnx else None)
    console.print(f"{settings.out} is written: {name}, {len(fitted.classes)} classes", markup=False)
    if replaced:
        console.print("against the model it replaces: " + "; ".join(changes_in_words(changes)), markup=False)
    return settings.out


def _onnx(model: Model, settings: ExportSettings, features: Features) -> OnnxFile:
    """The model as ONNX, compared on images of the cache. It is made on the CPU."""
    clip = None
    if settings.onnx == "pixels":
        clip = Encoder(model.about.encoder, torch.device("cpu"), None, settings.clip, settings.pretrained).clip
    split = next(iter(features.labels))
    rows = np.concatenate([rows[:COMPARED] for rows in features.labels[split].rows if len(rows)])
    compared = features.images.images(split)[torch.from_numpy(rows[:COMPARED]).to(features.device)]
    return make_onnx(model, compared, settings.class_texts, clip)


def shots_of(features: Features, fitted: Fitted) -> Shots | None:
    """The images that a model was fitted on, in half precision; None where there are none, or they are too many."""
    count = _count(fitted.support)
    if not 0 < count * features.text.embedding.shape[1] * 2 <= MOST_SHOTS:
        return None
    found = labelled_rows(features, fitted.support, fitted.classes)
    splits = features.images.cache.split
    paths = [splits(split).path[int(row)] for split, rows in fitted.support.items() for row in rows]
    return Shots(found.image.half(), found.label, paths)


def labelled_rows(features: Features, rows: RowsBySplit, classes: NDArray[np.int64]) -> Labelled:
    """Some rows of several splits, split by split, with their labels counted within `classes`."""
    images, labels = [features.text.embedding[:0]], [np.zeros(0, np.int64)]
    for split, chosen in rows.items():
        if len(chosen):
            images.append(features.images.images(split)[torch.from_numpy(chosen).to(features.device)])
            labels.append(np.searchsorted(classes, features.labels[split].label[chosen]).astype(np.int64))
    return Labelled(torch.cat(images), torch.from_numpy(np.concatenate(labels)).to(features.device))


def every_labelled_row(features: Features) -> Support:
    """The rows of train and val, to fit a closed form on. Raises UsageError where a class has none."""
    classes = np.arange(len(features.classnames))
    _choosing_rows(features, classes, 0)
    rows = {split: _usable(features, split, classes) for split in LABELLED if split in features.labels}
    return _support(features, GaussianDiscriminant, rows, classes)


def _from_cache(settings: ExportSettings, console: Console) -> tuple[Features, Fitted]:
    address = Address(str(settings.cache), settings.prompts, settings.reduce, pick_device(settings.device).type)
    features = Loader().features(address)
    if settings.adapter == AUTO:
        found = _pick(features, settings)
        console.print(str(found), markup=False)
        features, fitted = _from_cache(replace(settings, adapter=found.name), console)
        how = {**fitted.how, "auto": found.plain()}
        return features, replace(fitted, how=how, selected_on=fitted.selected_on or settings.shots == ALL)
    refuse_unservable(str(settings.adapter))
    kind = adapter_class(str(settings.adapter))
    options, recipe = _options(settings)
    few_shot = settings.shots != ALL and kind.few_shot
    protocol = FewShot(shots=int(settings.shots) if few_shot else 1)
    setting = resolve(Choice(str(settings.adapter), protocol, options, recipe, settings.select), features.data)
    if few_shot:
        cell = Cell(setting, settings.seed)
        check_cell(cell, [features])
        result = run_cell(cell, [features], keep_weights=True)
        return features, _of_cell(features, setting, settings.seed, from_bytes(result.weights or b""), result.details)
    return features, _on_all(features, setting, settings)


def _pick(features: Features, settings: ExportSettings) -> Pick:
    """The fast adapter that the rows which choose here choose."""
    if settings.options or settings.select == "last":
        given = next(iter(settings.options), "select")
        raise UsageError(f"{given} cannot be given with `adapter=auto`: leave it out, or name an adapter")
    seed = settings.seed
    if settings.shots == ALL:
        classes = np.arange(len(features.classnames))
        first, chosen = _choosing_rows(features, classes, seed)
        support = {name: _support(features, adapter_class(name), first, classes) for name in FAST}
        return pick_for(support, labelled_rows(features, chosen, classes), seed=seed)
    protocol = FewShot(shots=int(settings.shots))
    episode = features.images.episode(protocol, seed, True, ())
    assert episode.validation is not None
    validation = labelled(features, episode.validation, episode.classes)
    return pick_for(dict.fromkeys(FAST, support_of(features, episode, protocol)), validation, seed=seed)


def _options(settings: ExportSettings) -> tuple[dict[str, Any], dict[str, Any]]:
    """Options of the adapter, and of its recipe, as values. Raises UsageError for one that neither has."""
    known = {option.name: option for option in options_of(adapter_class(str(settings.adapter)))}
    options, recipe = {}, {}
    for name, given in settings.options.items():
        if name in known:
            options[name] = known[name].value(given)
        elif name in RECIPE and adapter_class(str(settings.adapter)).trains:
            recipe[name] = FACTORS[name].value(given)
        else:
            raise UsageError(f"{name} is an option of neither export nor {settings.adapter}: {nearest(name, known)}")
    return options, recipe


def _from_run(settings: ExportSettings) -> tuple[Features, Fitted]:
    """A seed of a run, and the data it was fitted on. Raises UsageError where either is not what it was."""
    saved = saved_fit(Path(settings.run or ""), settings.seed, settings.cache, settings.device)
    refuse_unservable(saved.setting.adapter)
    features, setting = saved.features, saved.setting
    return features, _of_cell(features, setting, settings.seed, saved.adapter, saved.details)


def _of_cell(features: Features, setting: Setting, seed: int, adapter: Adapter, details: Mapping[str, Any]) -> Fitted:
    """What a cell fitted. It is measured by labelled rows that it has not seen; where few are left, by those that it
    chose on.
    """
    selects = setting.select == "val"
    episode = features.images.episode(setting.protocol, seed, selects, ())
    seen = {"train": episode.support.rows}
    validation: RowsBySplit = {}
    if episode.validation is not None:
        split = episode.validation.split
        validation = {split: episode.validation.rows}
        seen[split] = np.concatenate([seen.get(split, episode.validation.rows[:0]), episode.validation.rows])
    unseen = {
        s: np.setdiff1d(_usable(features, s, episode.classes), seen.get(s, []))
        for s in LABELLED
        if s in features.labels
    }
    enough = _count(unseen) >= _count(validation)
    how = _how(
        setting,
        seed,
        shots=setting.protocol.shots,
        protocol=setting.protocol.config(),
        rows={"train": len(episode.support.rows)},
        best_epoch=details.get("best_epoch"),
        chosen=dict(details.get("chosen", {})),
    )
    support = {"train": episode.support.rows} if len(episode.support.rows) else {}
    return Fitted(adapter, episode.classes, how, adapter, unseen if enough else validation, not enough, support)


def _on_all(features: Features, setting: Setting, settings: ExportSettings) -> Fitted:
    """Choices on train and val rows, then a fit on all labelled rows."""
    kind, seed = adapter_class(setting.adapter), settings.seed
    classes = np.arange(len(features.classnames))
    if not kind.few_shot:
        return _without_shots(features, setting, classes, seed)
    first, validation = _choosing_rows(features, classes, seed)
    options = dict(setting.options)
    chooser = kind(**options)
    recipe = setting.recipe or chooser.recipe
    selects = setting.select == "val" and _count(validation) > 0
    if selects != (setting.select == "val"):
        raise UsageError("no class has an image to spare for validation: use `select=last`")
    support = _support(features, kind, first, classes)
    chosen_on = labelled_rows(features, validation, classes) if selects else None
    history = fit(chooser, support, recipe, seed=seed, validation=chosen_on)
    splits = (*LABELLED, "test") if settings.with_test else LABELLED
    every = {split: _usable(features, split, classes) for split in splits if split in features.labels}
    how = _how(
        setting,
        seed,
        shots=ALL,
        rows={split: len(rows) for split, rows in every.items()},
        best_epoch=history.best_epoch,
        chosen=history.chosen,
        refitted=True,
    )
    adapter = kind(**{**options, **history.chosen})
    recipe = replace(recipe, epochs=history.best_epoch or recipe.epochs)
    fit(adapter, _support(features, kind, every, classes), recipe, seed=seed)
    return Fitted(adapter, classes, how, chooser, validation, selects, every)


def _how(setting: Setting, seed: int, **more: Any) -> dict[str, Any]:
    """How a model was fitted, as plain data."""
    recipe = asdict(setting.recipe) if setting.recipe else None
    head = {"adapter": setting.adapter, "seed": seed, "select": setting.select, "recipe": recipe}
    usual: dict[str, Any] = {"protocol": None, "best_epoch": None, "chosen": {}, "refitted": False}
    return {**head, **usual, **more}


def _without_shots(features: Features, setting: Setting, classes: NDArray[np.int64], seed: int) -> Fitted:
    """An adapter that looks at no shots: every labelled row can measure it."""
    adapter = adapter_class(setting.adapter)(**dict(setting.options))
    fit(adapter, _support(features, type(adapter), {}, classes), setting.recipe or adapter.recipe, seed=seed)
    how = _how(setting, seed, shots=0, rows={})
    rows = {split: _usable(features, split, classes) for split in LABELLED if split in features.labels}
    return Fitted(adapter, classes, how, adapter, rows, selected_on=False, support={})


def _choosing_rows(features: Features, classes: NDArray[np.int64], seed: int) -> tuple[RowsBySplit, RowsBySplit]:
    """Rows that train and rows that choose. UsageError where a class has none that trains."""
    if "train" not in features.labels:
        raise UsageError("the cache has no train split to fit on")
    labels = features.labels["train"]
    for c in classes:
        if not len(labels.rows[c]):
            raise UsageError(f"class {features.classnames[c]!r} has no usable training image")
    if "val" in features.labels:
        return {"train": labels.all(classes)}, {"val": _usable(features, "val", classes)}
    ordered = [labels.order(c, seed) for c in classes]
    held = [rows[: max(1, len(rows) // HELD_OUT) if len(rows) > 1 else 0] for rows in ordered]
    out = np.sort(np.concatenate(held))
    return {"train": np.setdiff1d(labels.all(classes), out)}, {"train": out}


def _support(features: Features, kind: type[Adapter], rows: RowsBySplit, classes: NDArray[np.int64]) -> Support:
    chosen = labelled_rows(features, rows if kind.few_shot else {}, classes)
    text = features.text.embedding[torch.from_numpy(classes).to(features.device)]
    return Support(chosen.image, chosen.label, text, features.logit_scale, _views(features, kind, rows))


def _views(features: Features, kind: type[Adapter], rows: RowsBySplit) -> Tensor | None:
    """The views of the rows [N, V, D], where the adapter is fitted on views and every split has as many."""
    if kind.uses_views != "train" or len({features.images.count_views(split) for split in rows}) != 1:
        return None
    found = [features.images.views(split) for split in rows]
    if any(views is None for views in found):
        return None
    return torch.cat(
        [v[torch.from_numpy(r).to(v.device)] for v, r in zip(found, rows.values(), strict=True) if v is not None]
    )


def _usable(features: Features, split: str, classes: NDArray[np.int64]) -> NDArray[np.int64]:
    return features.labels[split].all(classes)


def _count(rows: RowsBySplit) -> int:
    return sum(len(chosen) for chosen in rows.values())
