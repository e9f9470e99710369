from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from rich.console import Console

from mma.adapters import Labelled, Support
from mma.adapters.tip_adapter import TipAdapter
from mma.pipeline.errors import UsageError
from mma.pipeline.fitting.settings import FitSettings
from mma.pipeline.using.auto import FAST, fit_auto, judge, pick
from mma.pipeline.using.classifier import FewShotClassifier

from ...conftest import Run, small_features
from .conftest import exported


def test_the_adapter_that_is_right_most_often_is_chosen_and_how_surely_is_said() -> None:
    rng = np.random.default_rng(0)
    good, bad = rng.random((2, 400)) < 0.8, rng.random((2, 400)) < 0.5
    found = pick({"gda": list(bad), "ape": list(good), "proker": list(rng.random((2, 400)) < 0.3)}, [range(400)] * 2)
    assert (found.name, found.second, found.images) == ("ape", "gda", 400)
    assert found.change.mean == pytest.approx(100 * (good.mean() - bad.mean()))
    assert str(found).endswith(": settled")


def test_what_is_not_settled_says_how_many_labels_would_settle_it() -> None:
    right = np.zeros(40, bool)
    right[:24] = True
    other = right.copy()
    other[[0, 1, 2, 30]] = False, False, False, True
    found = pick({"gda": [right], "ape": [other]}, [range(40)])
    assert found.name == "gda"
    assert found.change.low < 0 < found.change.mean
    needed = found.plain()["images_needed"]
    assert f"about {needed - 40:,} more labels to validate on would settle it" in str(found)
    same = pick({"gda": [right], "ape": [right]}, [range(40)])
    assert same.name == "gda"  # of equals the first
    assert "take either" in str(same)


def test_an_image_that_two_seeds_judged_counts_once() -> None:
    first, second = np.array([True, False, True]), np.array([False, True, True])
    found = pick({"a": [first, second], "b": [~first, ~second]}, [[1, 2, 3], [3, 4, 5]])
    assert found.images == 5
    assert found.accuracies["a"] == pytest.approx(100 * np.mean([1, 0, 0.5, 1, 1]))


def test_a_row_is_judged_by_a_fit_that_chose_nothing_on_it(monkeypatch: pytest.MonkeyPatch) -> None:
    data = small_features()
    text = torch.nn.functional.normalize(torch.from_numpy(data["text"]), dim=1)
    image = torch.nn.functional.normalize(torch.from_numpy(data["image_train"]).float(), dim=1)
    label = torch.from_numpy(data["label_train"]).long()
    chosen_on, judged = [], []
    tune, forward = TipAdapter.tune, TipAdapter.forward

    def tuned(self: TipAdapter, rows: torch.Tensor, *more: Any) -> None:
        chosen_on.append(rows)
        tune(self, rows, *more)
        judged.append([])

    def scored(self: TipAdapter, rows: torch.Tensor, of: torch.Tensor) -> torch.Tensor:
        if judged:
            judged[-1].append(rows)
        return forward(self, rows, of)

    monkeypatch.setattr(TipAdapter, "tune", tuned)
    monkeypatch.setattr(TipAdapter, "forward", scored)
    support, validation = Support(image[::2], label[::2], text, 20.0), Labelled(image[1::2], label[1::2])
    adapter = TipAdapter()
    right = judge(adapter, adapter.recipe, support, validation, seed=0, selects=True)
    assert right.shape == (35,)
    assert len(chosen_on) == 2
    for choosing, judging in zip(chosen_on, judged, strict=True):
        together = torch.cat([choosing, *judging])
        assert sorted(map(tuple, together.tolist())) == sorted(map(tuple, validation.image.tolist()))


@pytest.mark.slow
def test_fit_shows_every_fast_adapter_and_says_which_validation_rows_chose(small_cache: Path, tmp_path: Path) -> None:
    asked = FitSettings(cache=(str(small_cache),), adapter=("auto",), shots=2, seeds=2, epochs=2, out=tmp_path)
    grid = fit_auto(asked, Console(quiet=True))
    assert {row.setting.adapter for row in grid} == set(FAST)
    (name,) = grid.chosen.values()
    assert name in FAST
    assert any(note.startswith(f"auto: {name} is chosen of zero-shot, linear-probe") for note in grid.notes)
    for wrong in ({"val": "none"}, {"select": "oracle"}):
        with pytest.raises(UsageError, match="chooses on validation rows"):
            fit_auto(FitSettings(cache=(str(small_cache),), adapter=("auto",), **wrong), Console(quiet=True))


@pytest.mark.slow
def test_export_keeps_what_was_chosen_and_by_how_much(small_cache: Path, mma_here: Run, tmp_path: Path) -> None:
    model = exported(tmp_path / "m", cache=str(small_cache), adapter="auto")
    about = json.loads((model / "model.json").read_text())
    accuracies = about["fitted"]["auto"]["accuracies"]
    assert about["adapter"] == max(accuracies, key=accuracies.get)
    assert about["calibration"]["selected_on"]
    assert "The adapter was chosen of 8 on 28 validation images" in (model / "README.md").read_text()
    ran = mma_here("export", "--cache", small_cache, "--adapter", "auto", "--alpha", 1, "--out", tmp_path / "n")
    assert ran.returncode == 2
    assert "leave it out, or name an adapter" in ran.stderr


def test_the_classifier_chooses_too() -> None:
    data = small_features()
    clf = FewShotClassifier("auto").fit(data["image_train"].astype(np.float32), data["label_train"], text=data["text"])
    assert clf.adapter_name_ in FAST
    assert clf.score(data["image_test"].astype(np.float32), data["label_test"]) > 0.5
