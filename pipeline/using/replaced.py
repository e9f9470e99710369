"""What is other in a model than in the one whose place it takes: classes, images, what was chosen, figures.

It is kept in model.json (`fitted.replaces`) as plain data:

    weights_sha256                  of the model that was there
    classes_added, classes_gone     names
    changed                         name -> [then, now] of adapter, options, prompts, texts, encoder, seed and selection
    rows, figures                   split, or figure -> [then, now]; null where there was none
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mma.pipeline.errors import UsageError
from mma.pipeline.using.model import ABOUT, About, read_about

SHOWN = 5  # class names in a line
POINTS = ("accuracy", "balanced_accuracy", "calibration_error")  # figures that are said, in percent

Changes = dict[str, Any]


def model_there(folder: Path) -> About | None:
    """What the model in a folder says of itself; None where there is none, or it cannot be read."""
    if not (folder / ABOUT).is_file():
        return None
    try:
        return read_about(folder)
    except UsageError:
        return None


def changes_since(then: About, now: About) -> Changes:
    """What is other than in the model that is replaced, as plain data."""
    before, after = _told(then), _told(now)
    return {
        "weights_sha256": then.weights_sha256,
        "classes_added": [name for name in now.classnames if name not in then.classnames],
        "classes_gone": [name for name in then.classnames if name not in now.classnames],
        "changed": _pairs(before, after),
        "rows": _pairs(then.fitted.get("rows", {}), now.fitted.get("rows", {})),
        "figures": _pairs(then.validation, now.validation),
    }


def changes_in_words(changes: Changes) -> list[str]:
    """One part of a sentence for each kind of change; what is as it was is said where it is looked for."""
    added, gone = changes["classes_added"], changes["classes_gone"]
    parts = [f"classes: {_names(added)} added, {_names(gone)} gone"]
    rows = [f"{split} {_from_to(pair, '{:,}')}" for split, pair in changes["rows"].items()]
    parts.append("images: " + (", ".join(rows) or "as many of each split"))
    settings = [f"{name} {_from_to(pair, '{}')}" for name, pair in changes["changed"].items()]
    parts.append("options: " + (", ".join(settings) or "the same"))
    figures = [
        f"{name.replace('_', ' ')} {_from_to(changes['figures'][name], '{:.2f} %')}"
        for name in POINTS
        if name in changes["figures"]
    ]
    parts.append("figures, each of its own validation images: " + (", ".join(figures) or "the same"))
    return parts


def _told(about: About) -> dict[str, Any]:
    """What decides a model beside its images, by the name that it has for a person."""
    fitted, encoder = about.fitted, about.encoder
    return {
        "adapter": about.adapter,
        **about.options,
        "prompts": about.prompts,
        "reduce": about.reduce,
        "texts per class": len(about.templates),
        "encoder": f"{encoder.get('model')} {encoder.get('weights_sha256', '')[:12]}" if encoder else None,
        **{name: fitted.get(name) for name in ("seed", "select", "shots", "best_epoch")},
        **{f"chosen {name}": value for name, value in fitted.get("chosen", {}).items()},
    }


def _pairs(then: Mapping[str, Any], now: Mapping[str, Any]) -> dict[str, list[Any]]:
    names = dict.fromkeys((*then, *now))
    return {name: [then.get(name), now.get(name)] for name in names if then.get(name) != now.get(name)}


def _names(names: list[str]) -> str:
    if not names:
        return "none"
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return f"{len(names)} ({', '.join(names[:SHOWN])}{more})"


def _from_to(pair: list[Any], form: str) -> str:
    return " -> ".join("none" if value is None else form.format(value) for value in pair)
