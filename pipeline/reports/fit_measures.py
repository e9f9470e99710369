"""What `mma fit --metrics` says of a fit beside its table: of each adapter and test, and of each class and image."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.console import Console

from mma.cache import open_cache
from mma.pipeline.console import Column, show_table
from mma.pipeline.fitting.results import Grid, Row
from mma.pipeline.reports.answers import Answers, answers_of
from mma.pipeline.reports.metrics import confidently_wrong, reliability
from mma.pipeline.reports.statistics import (
    Estimate,
    balanced_values,
    macro_f1_values,
    mean_estimate,
    precision_values,
)

SCALARS = {  # by name: what the column is called
    "balanced": "balanced accuracy",
    "macro-f1": "macro F1",
    "top5": "top-5",
    "ece": "ECE",
    "nll": "NLL",
    "brier": "Brier",
}
OF_SCORES = ("top5", "ece", "nll", "brier")  # need what is kept of probabilities
OF_CLASSES = ("recall", "precision")
TOP = 5
MOST_CLASSES = 12  # of a confusion matrix; of more, the pairs that are confused most often
MOST_PAIRS = 20
MOST_ERRORS = 20
DASH = "—"
NOT_KEPT = f"{DASH} its probabilities were not kept when it was fitted, by an older version: --force fits it again"
OWN_TESTS = ("all", "base", "new", "source")  # of the fitted cache; others are of targets


@dataclass(frozen=True, eq=False)
class _Fit:
    """A row of the table with the answers of one test, and what its cache calls classes and images."""

    name: str
    test: str
    answers: Answers
    classnames: Sequence[str]
    paths: Sequence[str]


def show_measures(console: Console, fitted: Grid, metrics: Sequence[str]) -> None:
    """Tables of what is asked for, in percent but for NLL (nats) and Brier (0 to 2)."""
    from mma.pipeline.reports.tables import label

    for cache in dict.fromkeys(row.cache for row in fitted.rows):
        rows = [row for row in fitted.rows if row.cache == cache]
        fits = _fits(rows, [label(row.setting) for row in rows])
        scalars = [name for name in SCALARS if name in metrics]
        if scalars:
            _show_scalars(console, fits, scalars, rows[0].setting.data.dataset)
        for fit in fits if set(metrics) - set(SCALARS) else ():
            if fit.test not in OWN_TESTS:
                continue
            if set(metrics) & set(OF_CLASSES):
                _show_classes(console, fit, [name for name in OF_CLASSES if name in metrics])
            if "confusion" in metrics:
                _show_confusion(console, fit)
            if "errors" in metrics:
                _show_errors(console, fit)


def measures(row: Row, answers: Mapping[str, Answers], metrics: Sequence[str]) -> dict[str, Any]:
    """The same of one row as plain data, by test: `mean`, `low` and `high`; None for what is not known."""
    found: dict[str, Any] = {}
    for fit in _fits([row], [""], [answers]):
        of_test: dict[str, Any] = {name: _plain(scalar(fit.answers, name)) for name in SCALARS if name in metrics}
        if fit.test in OWN_TESTS:
            of_class = _per_class(fit, [name for name in OF_CLASSES if name in metrics])
            of_test |= {name: {c: _plain(e) for c, (_, e) in of_class[name].items()} for name in of_class}
            if "confusion" in metrics:
                classes, counts = _confusion(fit.answers)
                names = [fit.classnames[c] for c in classes]
                of_test["confusion"] = {"classes": names, "mean_rows": counts.tolist()}
            if "errors" in metrics:
                of_test["errors"] = _errors(fit)
        found[fit.test] = of_test
    return found


def scalar(answers: Answers, name: str) -> Estimate | float | None:
    """One of SCALARS: over seeds and test images where it is a mean of rows; the ECE alone is a mean over seeds.

    The ECE is no mean of rows, and what chance adds to it is upwards: an interval about it would mislead.
    """
    scores = answers.scores
    if name in OF_SCORES and scores is None:
        return None
    match name:
        case "balanced":
            return answers.estimate(balanced_values(answers.correct, answers.label))
        case "macro-f1":
            return answers.estimate(macro_f1_values(answers.label, answers.predicted))
    assert scores is not None
    match name:
        case "top5":
            return answers.estimate(np.stack([each.rank < TOP for each in scores]))
        case "ece":
            return float(np.mean([reliability(each.confidence, each.rank == 0).error for each in scores]))
        case "nll":
            return _mean(answers, -np.stack([each.log_likelihood for each in scores]).astype(np.float64))
        case _:
            return _mean(answers, np.stack([each.brier for each in scores]).astype(np.float64))


def _mean(answers: Answers, values: np.ndarray) -> Estimate | None:
    return mean_estimate(values, answers.supports) if values.shape[1] > 1 else None


def _fits(rows: Sequence[Row], names: Sequence[str], answers: Sequence[Mapping[str, Answers]] = ()) -> list[_Fit]:
    caches = {row.cache: open_cache(row.cache, partial=True) for row in rows}
    paths = {location: cache.split("test").path for location, cache in caches.items()}
    return [
        _Fit(name, test, each, caches[row.cache].header.classnames, paths[row.cache])
        for row, name, of_row in zip(rows, names, answers or answers_of(rows), strict=True)
        for test, each in of_row.items()
    ]


def _show_scalars(console: Console, fits: Sequence[_Fit], names: Sequence[str], dataset: str) -> None:
    several = len({fit.test for fit in fits}) > 1
    found = [[scalar(fit.answers, name) for name in names] for fit in fits]
    lines = [
        [fit.name, *([fit.test] if several else []), *map(_text, of_fit)]
        for fit, of_fit in zip(fits, found, strict=True)
    ]
    columns = [Column("adapter"), *([Column("test")] if several else [])]
    show_table(
        console,
        [*columns, *(Column(SCALARS[name], right=True) for name in names)],
        lines,
        f"{dataset}: beside accuracy",
    )
    if any(fit.answers.scores is None for fit in fits) and set(names) & set(OF_SCORES):
        console.print(NOT_KEPT)


def _show_classes(console: Console, fit: _Fit, names: Sequence[str]) -> None:
    of_class = _per_class(fit, names)
    lines = []
    for c in _classes(fit.answers):
        name = fit.classnames[c]
        texts = [_interval_text(of_class[which][name][1]) for which in names]
        lines.append([name, str(int(np.sum(fit.answers.label == c))), *texts])
    columns = [Column("class"), Column("images", right=True), *(Column(name, right=True) for name in names)]
    show_table(console, columns, lines, f"{_title(fit)}: by class, with 95 % intervals")


def _per_class(fit: _Fit, names: Sequence[str]) -> dict[str, dict[str, tuple[int, Estimate | None]]]:
    found: dict[str, dict[str, tuple[int, Estimate | None]]] = {name: {} for name in names}
    answers = fit.answers
    for c in _classes(answers):
        own = answers.label == c
        of_name: dict[str, Estimate | None] = {"recall": None, "precision": None}
        if "recall" in names and own.sum() > 1:
            of_name["recall"] = answers.estimate_of_some(own)
        if "precision" in names and (answers.predicted == c).any():
            of_name["precision"] = answers.estimate(precision_values(answers.label, answers.predicted, c))
        for name in names:
            found[name][fit.classnames[c]] = c, of_name[name]
    return found


def _show_confusion(console: Console, fit: _Fit) -> None:
    classes, counts = _confusion(fit.answers)
    names = [fit.classnames[c] for c in classes]
    if len(classes) <= MOST_CLASSES:
        lines = [[name, *(f"{count:g}" for count in np.round(row, 1))] for name, row in zip(names, counts, strict=True)]
        columns = [Column("class"), *(Column(name, right=True) for name in names)]
        title = f"{_title(fit)}: images of each class (down) that are called each class (across), mean over seeds"
        show_table(console, columns, lines, title)
        return
    np.fill_diagonal(counts, 0)
    order = np.argsort(-counts, axis=None, kind="stable")[:MOST_PAIRS]
    lines = [
        [names[a], names[b], f"{counts[a, b]:.1f}"]
        for a, b in (divmod(int(at), len(classes)) for at in order)
        if counts[a, b]
    ]
    columns = [Column("class"), Column("called"), Column("images", right=True)]
    show_table(console, columns, lines, f"{_title(fit)}: what is confused most often, mean over seeds")


def _confusion(answers: Answers) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Classes [C] that have rows or are called; and mean rows of each (down) called each (across) [C, C]."""
    classes = _classes(answers)
    of, by = np.searchsorted(classes, answers.label), np.searchsorted(classes, answers.predicted)
    counts = np.bincount((of * len(classes) + by).ravel(), minlength=len(classes) ** 2)
    return classes, counts.reshape(len(classes), len(classes)) / len(by)


def _show_errors(console: Console, fit: _Fit) -> None:
    errors = _errors(fit)
    if errors is None:
        console.print(f"{_title(fit)}: {NOT_KEPT}")
        return
    lines = [
        [e["path"], e["class"], e["called"], f"{e['confidence']:.3f}", f"{e['wrong']} of {e['of']}"] for e in errors
    ]
    columns = [Column("image"), Column("class"), Column("called"), Column("confidence", right=True), Column("seeds")]
    show_table(console, columns, lines, f"{_title(fit)}: most confidently wrong")


def _errors(fit: _Fit) -> list[dict[str, Any]] | None:
    answers = fit.answers
    if answers.scores is None:
        return None
    confidence = np.stack([each.confidence for each in answers.scores])  # [S, N]
    found = []
    for at in confidently_wrong(answers.scores, MOST_ERRORS):
        wrong = ~answers.correct[:, at]
        worst = int(np.argmax(np.where(wrong, confidence[:, at], -1)))
        found.append(
            {
                "path": fit.paths[int(answers.rows[at])],
                "row": int(answers.rows[at]),
                "class": fit.classnames[answers.label[at]],
                "called": fit.classnames[answers.predicted[worst, at]],
                "confidence": float(confidence[wrong, at].mean()),
                "wrong": int(wrong.sum()),
                "of": len(wrong),
            }
        )
    return found


def _classes(answers: Answers) -> NDArray[np.int64]:
    return np.union1d(answers.label, answers.predicted).astype(np.int64)


def _title(fit: _Fit) -> str:
    return fit.name if fit.test == "all" else f"{fit.name}, {fit.test}"


def _text(value: Estimate | float | None) -> str:
    """`66.81 ± 1.30`."""
    if value is None:
        return DASH
    if isinstance(value, float):
        return f"{value:.2f}"
    return f"{value.mean:.2f} ± {half_width(value):.2f}"


def half_width(estimate: Estimate) -> float:
    """The longer side of an interval, which is not symmetric near 0 and 100 %."""
    return max(estimate.high - estimate.mean, estimate.mean - estimate.low)


def _interval_text(estimate: Estimate | None) -> str:
    return f"{estimate.mean:.1f} ({estimate.low:.1f} to {estimate.high:.1f})" if estimate else DASH


def _plain(value: Estimate | float | None) -> dict[str, float | None] | None:
    if value is None:
        return None
    if isinstance(value, float):
        return {"mean": value, "low": None, "high": None}
    return {"mean": value.mean, "low": value.low, "high": value.high}
