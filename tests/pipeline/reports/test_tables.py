from __future__ import annotations

import json
import sqlite3
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sklearn.metrics as sk
from rich.console import Console

from mma.cache import import_npz
from mma.pipeline.fitting.fit import fit
from mma.pipeline.fitting.results import Grid
from mma.pipeline.fitting.settings import FitSettings
from mma.pipeline.reports.grid_tables import ablated_json, show_ablated
from mma.pipeline.reports.pivot import show_pivot
from mma.pipeline.reports.tables import fitted_json, label, show_fitted

from ...conftest import small_features


def fitted(cache: Path, out: Path, **changes: Any) -> Grid:
    asked = FitSettings(cache=(str(cache),), out=out, device="cpu", **{"shots": 2, "epochs": 2, **changes})
    return fit(asked, Console(quiet=True))


def shown(grid: Grid) -> list[str]:
    console = Console(record=True, width=200)
    show_fitted(console, grid)
    return console.export_text().splitlines()


def test_a_table_of_zero_shot_alone_claims_no_seeds_shots_or_selection(small_cache: Path, tmp_path: Path) -> None:
    assert (
        shown(fitted(small_cache, tmp_path, adapter="zero-shot", epochs=None))[0].strip() == "shapes-small, base-to-new"
    )


def test_a_recipe_and_a_selection_that_all_share_stand_in_the_title(small_cache: Path, tmp_path: Path) -> None:
    lines = shown(fitted(small_cache, tmp_path, adapter="mma,linear-probe"))
    title = "shapes-small, base-to-new, 2 shots, seeds 0, 1, 2, recipe validated, selected on validation"
    assert lines[0].strip() == title
    assert "select" not in lines[2]


def test_those_that_differ_stand_in_columns(small_cache: Path, tmp_path: Path) -> None:
    lines = shown(fitted(small_cache, tmp_path, adapter="clip-adapter,linear-probe", seeds=1))
    assert lines[0].strip() == "shapes-small, base-to-new, 2 shots, seed 0"
    assert lines[2].split("┃")[-3:-1] == [" recipe    ", " select "]
    (row,) = (line for line in lines if "clip-adapter" in line)
    assert [cell.strip() for cell in row.split("│")[-3:-1]] == ["published", "last"]


def test_a_label_names_a_recipe_that_is_not_the_default_and_values_that_are_not_its_own(
    small_cache: Path, tmp_path: Path
) -> None:
    grid = fitted(small_cache, tmp_path, adapter="clip-adapter", recipe="clip-mma", seeds=1, lr=0.25)
    assert label(grid["clip-adapter"].setting) == "clip-adapter recipe=clip-mma lr=0.25 epochs=2"
    assert json.loads(fitted_json(grid))["rows"][1]["recipe_name"] == "clip-mma"


@pytest.fixture(scope="module")
def one_support(small_cache: Path, tmp_path_factory: pytest.TempPathFactory) -> Grid:
    """Ten shots of ten rows: whatever the seed, all of them."""
    out = tmp_path_factory.mktemp("one")
    grid = fitted(small_cache, out, adapter="linear-probe,mma,gda", shots=10, options={"alpha": 1.0})
    assert len(set(grid["mma"].values("H"))) > 1
    return grid


def test_over_one_support_an_interval_is_called_one_of_test_images(one_support: Grid) -> None:
    lines = shown(one_support)
    (mma,) = (line for line in lines if "│ mma" in line)
    assert "‡" in mma
    assert mma.count("±") == mma.count("‡")
    assert any(
        line.startswith("one support: all seeds draw the same shots and count as one; ±‡ is over test")
        for line in lines
    )
    (gda,) = (line for line in lines if "│ gda" in line)
    assert 0 < gda.count("‡") == gda.count("±")  # over test images, as is all of one support
    rows = json.loads(fitted_json(one_support))["rows"]
    assert rows[3]["base"]["half_width_of_seeds"] == 0 < rows[3]["base"]["half_width"]
    assert [row["one_support"] for row in rows] == [False, True, True, True]


def test_a_grid_says_so_too_and_of_differences_and_pivots(one_support: Grid) -> None:
    console = Console(record=True, width=200)
    show_ablated(console, one_support, ["shots"], "zero-shot")
    (mma,) = (line for line in console.export_text(clear=False).splitlines() if "│ mma" in line)
    assert mma.count("±") == mma.count("‡") > 3
    assert [row["one_support"] for row in json.loads(ablated_json(one_support, "zero-shot"))["rows"]][:2] == [
        False,
        True,
    ]
    console = Console(record=True, width=200)
    show_pivot(console, replace(one_support, rows=[one_support["mma"]]), "lam,mask", "H")
    assert "‡" in console.export_text()


def test_over_supports_of_their_own_nothing_is_marked(small_cache: Path, tmp_path: Path) -> None:
    assert not any("‡" in line or "one support" in line for line in shown(fitted(small_cache, tmp_path, adapter="mma")))


def uneven(folder: Path) -> Path:
    """A cache whose last class has three test images, the others ten."""
    arrays = small_features()
    label = arrays["label_test"]
    kept = np.flatnonzero((label < 6) | (np.cumsum(label == 6) <= 3))
    arrays |= {"image_test": arrays["image_test"][kept], "label_test": label[kept]}
    np.savez(folder / "uneven.npz", **arrays)  # type: ignore[arg-type]
    return import_npz(folder / "uneven.npz", folder / "uneven.zarr", logit_scale=20.0)


def test_balanced_accuracy_stands_first_where_test_classes_differ_and_a_line_says_why(
    small_cache: Path, tmp_path: Path
) -> None:
    cache = uneven(tmp_path)
    lines = shown(fitted(cache, tmp_path, adapter="gda", protocol="few-shot", epochs=None))
    assert [head.strip() for head in lines[2].split("┃")[2:4]] == ["balanced accuracy", "accuracy"]
    assert any("differ in size up to 3.3 times, so balanced accuracy" in line for line in lines)
    even = shown(fitted(small_cache, tmp_path, adapter="gda", protocol="few-shot", epochs=None))
    assert not any("balanced" in line for line in even)


def test_what_is_asked_for_is_scikit_learns(tmp_path: Path) -> None:
    cache = uneven(tmp_path)
    grid = fitted(cache, tmp_path, adapter="gda", protocol="few-shot", epochs=None, seeds=2)
    every = ("balanced", "macro-f1", "recall", "precision", "confusion", "ece", "nll", "brier", "top5", "errors")
    found = json.loads(fitted_json(grid, every))["rows"][1]["measures"]["all"]
    label, scores = grid["gda"].results[0].predictions[0].label, []
    for result in grid["gda"].results:
        predicted = result.predictions[0].predicted
        scores.append((sk.balanced_accuracy_score(label, predicted), sk.f1_score(label, predicted, average="macro")))
    assert [found[name]["mean"] for name in ("balanced", "macro-f1")] == pytest.approx(100 * np.mean(scores, axis=0))
    predicted = np.concatenate([result.predictions[0].predicted for result in grid["gda"].results])
    twice = np.concatenate([label, label])
    recall, precision = (
        sk.recall_score(twice, predicted, average=None),
        sk.precision_score(twice, predicted, average=None),
    )
    assert [each["mean"] for each in found["recall"].values()] == pytest.approx(100 * recall)
    assert [each["mean"] for each in found["precision"].values()] == pytest.approx(100 * precision)
    assert 2 * np.array(found["confusion"]["mean_rows"]) == pytest.approx(sk.confusion_matrix(twice, predicted))
    kept = [result.predictions[0].scores for result in grid["gda"].results]
    assert found["nll"]["mean"] == pytest.approx(np.mean([each.negative_log_likelihood for each in kept if each]))
    errors = found["errors"]
    assert all(error["class"] == f"class {label[error['row']]}" != error["called"] for error in errors)
    text = " ".join(shown_with(grid, every).split())
    for word in ("macro F1", "ECE", "recall", "most confidently wrong", errors[0]["path"]):
        assert word in text


def shown_with(grid: Grid, metrics: Sequence[str]) -> str:
    console = Console(record=True, width=250)
    show_fitted(console, grid, metrics)
    return console.export_text()


def test_results_of_before_probabilities_were_kept_have_a_dash_and_a_word(small_cache: Path, tmp_path: Path) -> None:
    fitted(small_cache, tmp_path, adapter="zero-shot", epochs=None)
    with sqlite3.connect(tmp_path / "results.sqlite") as db:
        db.execute("update predictions set scores = null")
    grid = fitted(small_cache, tmp_path, adapter="zero-shot", epochs=None)
    text = shown_with(grid, ("ece", "macro-f1", "errors"))
    assert "—" in text
    assert "--force fits it again" in text
    assert json.loads(fitted_json(grid, ["ece"]))["rows"][0]["measures"]["base"] == {"ece": None}
