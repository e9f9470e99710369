from __future__ import annotations

import json
import re
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from rich.console import Console

from mma.adapters import Support, from_bytes, predict
from mma.adapters.kron_ridge import KroneckerRidge
from mma.cache import CacheError, CacheWriter, ManifestSplit, import_npz, open_cache
from mma.pipeline.errors import UsageError
from mma.pipeline.fitting.features import load_features
from mma.pipeline.fitting.fit import fit
from mma.pipeline.fitting.results import Grid, setting_folder
from mma.pipeline.fitting.settings import FitSettings

from ...conftest import small_features

QUIET = Console(quiet=True)


def settings(cache: Path, out: Path, **changes: object) -> FitSettings:
    base: dict[str, Any] = {"adapter": "linear-probe", "shots": 4, "seeds": 2, "device": "cpu"}
    return FitSettings(cache=(str(cache),), out=out, **{**base, **changes})


def metrics(fitted: Grid) -> list[list[dict[str, float]]]:
    return [[result.metrics for result in row.results] for row in fitted.rows]


def test_dtd_zero_shot_base_to_new_is_exact(dtd_cache: Path, tmp_path: Path) -> None:
    fitted = fit(FitSettings(cache=(str(dtd_cache),), adapter="zero-shot", out=tmp_path), QUIET)
    (result,) = fitted.rows[0].results
    assert round(result.metrics["base"], 2) == 55.32
    assert round(result.metrics["new"], 2) == 56.88


def test_cars_zero_shot_base_to_new_is_exact(cars_cache: Path, tmp_path: Path) -> None:
    fitted = fit(FitSettings(cache=(str(cars_cache),), adapter="zero-shot", out=tmp_path), QUIET)
    (result,) = fitted.rows[0].results
    assert round(result.metrics["base"], 2) == 59.61
    assert round(result.metrics["new"], 2) == 69.14


@pytest.mark.parametrize(("data", "top1"), [("dtd", 44.8), ("cars", 59.0)])
def test_few_shot_zero_shot_is_the_published_figure(
    data: str, top1: float, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    cache = request.getfixturevalue(f"{data}_cache")
    fitted = fit(FitSettings(cache=(str(cache),), adapter="zero-shot", protocol="few-shot", out=tmp_path), QUIET)
    assert round(fitted.rows[0].results[0].metrics["accuracy"], 1) == top1


def test_zero_shot_is_the_first_row_even_where_it_is_not_asked_for(small_cache: Path, tmp_path: Path) -> None:
    fitted = fit(settings(small_cache, tmp_path), QUIET)
    assert [row.setting.adapter for row in fitted.rows] == ["zero-shot", "linear-probe"]


@pytest.mark.parametrize("adapter", ["mma", "clip-adapter", "linear-probe"])
def test_the_same_command_gives_the_same_metrics_and_the_same_weights(
    adapter: str, small_cache: Path, tmp_path: Path
) -> None:
    first, second = (fit(settings(small_cache, tmp_path / name, adapter=adapter), QUIET) for name in ("a", "b"))
    assert metrics(first) == metrics(second)
    weights = sorted(path.relative_to(tmp_path / "a") for path in (tmp_path / "a").rglob("*.safetensors"))
    assert len(weights) == 3
    for path in weights:
        assert (tmp_path / "a" / path).read_bytes() == (tmp_path / "b" / path).read_bytes()


def test_what_is_done_is_reused_and_only_new_seeds_are_fitted(small_cache: Path, tmp_path: Path) -> None:
    fit(settings(small_cache, tmp_path, seeds=2), QUIET)
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("weights-*.safetensors")}
    fitted = fit(settings(small_cache, tmp_path, seeds=3), QUIET)
    after = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("weights-*.safetensors")}
    assert before.items() <= after.items()
    assert len(after) == len(before) + 1
    assert len(fitted.rows[1].results) == 3


@pytest.mark.slow
def test_force_fits_again_with_the_same_result(small_cache: Path, tmp_path: Path) -> None:
    first = fit(settings(small_cache, tmp_path), QUIET)
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("weights-*.safetensors")}
    second = fit(settings(small_cache, tmp_path, force=True), QUIET)
    assert all(path.stat().st_mtime_ns > time for path, time in before.items())
    assert metrics(first) == metrics(second)


@pytest.mark.slow
def test_a_fit_whose_files_were_deleted_is_done_again(small_cache: Path, tmp_path: Path) -> None:
    fit(settings(small_cache, tmp_path), QUIET)
    (folder,) = tmp_path.glob("linear-probe-*")
    shutil.rmtree(folder)
    fit(settings(small_cache, tmp_path), QUIET)
    assert len(list(folder.glob("weights-*.safetensors"))) == 2


def test_a_run_folder_holds_config_fingerprint_metrics_predictions_and_weights(
    small_cache: Path, tmp_path: Path
) -> None:
    fitted = fit(settings(small_cache, tmp_path), QUIET)
    (folder,) = tmp_path.glob("linear-probe-*")
    config = json.loads((folder / "config.json").read_text())
    assert config["fingerprint"] == open_cache(small_cache).header.fingerprint
    assert config["recipe"]["lr"] == 1e-3
    stored = json.loads((folder / "metrics.json").read_text())
    assert {seed: stored[seed]["H"] for seed in stored} == {
        str(r.cell.seed): r.metrics["H"] for r in fitted.rows[1].results
    }
    with np.load(folder / "predictions-0.npz", allow_pickle=False) as arrays:
        base = np.mean(arrays["base_predicted"] == arrays["base_label"]) * 100
    assert base == pytest.approx(stored["0"]["base"])


def test_saved_weights_give_the_predictions_that_were_saved(small_cache: Path, tmp_path: Path) -> None:
    fit(settings(small_cache, tmp_path, adapter="mma"), QUIET)
    (folder,) = tmp_path.glob("mma-*")
    adapter = from_bytes((folder / "weights-1.safetensors").read_bytes())
    features = load_features(small_cache)
    with np.load(folder / "predictions-1.npz", allow_pickle=False) as arrays:
        images = features.images.images("test")[arrays["base_rows"].astype(np.int64)]
        logits = predict(adapter, images, features.text.embedding[:4])
        assert np.array_equal(logits.argmax(-1).numpy(), arrays["base_predicted"])


def test_an_adapter_with_weights_for_its_classes_is_zero_shot_on_new_ones_and_says_so(
    small_cache: Path, tmp_path: Path
) -> None:
    zero_shot, probe = fit(settings(small_cache, tmp_path), QUIET).rows
    assert all(r.metrics["new"] == zero_shot.results[0].metrics["new"] for r in probe.results)
    assert all(r.details["new_is_zero_shot"] for r in probe.results)


@pytest.mark.slow
@pytest.mark.parametrize("select", ["val", "last"])
def test_an_adapter_that_chooses_on_its_support_is_told_of_new_classes_and_needs_no_validation_rows(
    select: str, dtd_cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[bool] = []
    start = KroneckerRidge.start

    def watched(self: KroneckerRidge, support: Support) -> None:
        told.append(support.new_classes)
        start(self, support)

    monkeypatch.setattr(KroneckerRidge, "start", watched)
    every, given = 24, {"beta": "0", "delta": "3", "lam": "1"}  # no row of a class is left to validate on
    for protocol in ("base-to-new", "few-shot"):
        wanted = settings(dtd_cache, tmp_path, adapter="kron-ridge", shots=every, seeds=1, select=select)
        fit(replace(wanted, options=given, protocol=protocol), QUIET)
    assert told == [True, False]


@pytest.mark.slow
def test_selection_restores_the_best_epoch_and_last_does_not_look(small_cache: Path, tmp_path: Path) -> None:
    recipe = {"epochs": 30, "patience": 3}
    val = fit(settings(small_cache, tmp_path, adapter="mma", **recipe), QUIET).rows[1].results[0]
    accuracies = val.details["validation"]
    best = val.details["best_epoch"]
    assert accuracies[best - 1] == max(accuracies)
    assert len(accuracies) == min(best + 3, 30)
    last = fit(settings(small_cache, tmp_path, adapter="mma", select="last", **recipe), QUIET)
    details = last.rows[1].results[0].details
    assert (details["epochs"], details["best_epoch"], details["validation"]) == (30, None, [])
    assert (details["device"], details["torch"]) == ("cpu", torch.__version__)


def test_the_oracle_is_never_below_the_best_test_accuracy_that_validation_finds(
    small_cache: Path, tmp_path: Path
) -> None:
    recipe = {"epochs": 15, "patience": 15}
    chosen = {
        select: fit(settings(small_cache, tmp_path, select=select, **recipe), QUIET).rows[1].results[0]
        for select in ("val", "oracle")
    }
    assert chosen["oracle"].metrics["base"] >= chosen["val"].metrics["base"]


def test_options_reach_only_the_adapters_that_have_them(small_cache: Path, tmp_path: Path) -> None:
    both = settings(small_cache, tmp_path, adapter="mma,clip-adapter", options={"lam": "0", "ratio": 0.0})
    zero_shot, *rows = fit(replace(both, seeds=1), QUIET).rows
    for row in rows:
        assert row.results[0].metrics == zero_shot.results[0].metrics


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"adapter": "gda", "lr": 0.1}, "lr is an option of training, and gda has none"),
        ({"protocol": "few-shot", "base_ratio": 3.0}, "base_ratio is an option of base-to-new"),
    ],
)
def test_an_option_that_nothing_looks_at_is_refused(
    small_cache: Path, tmp_path: Path, change: dict[str, Any], message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        fit(settings(small_cache, tmp_path / "runs", **change), QUIET)
    assert not (tmp_path / "runs").exists()


def test_the_page_on_fits_shows_how_to_use_one(small_cache: Path, tmp_path: Path) -> None:
    asked = settings(small_cache, tmp_path, adapter="mma", protocol="few-shot", seeds=1)
    row = fit(asked, QUIET).rows[1]
    page = (Path(__file__).resolve().parents[3] / "docs" / "fit.md").read_text(encoding="utf-8")
    (example,) = re.findall(r"```python\n(.*?)```", page, flags=re.DOTALL)
    example = example.replace("cache/photos.zarr", str(small_cache))
    example = example.replace("runs/mma-0123456789ab", str(setting_folder(tmp_path, row.setting)))
    found: dict[str, Any] = {}
    exec(example, found)
    classnames = open_cache(small_cache).header.classnames
    (predicted,) = row.results[0].predictions
    assert found["names"] == [classnames[k] for k in predicted.predicted]


def test_shots_are_chosen_by_the_smallest_class_where_none_are_given(small_cache: Path, tmp_path: Path) -> None:
    fitted = fit(settings(small_cache, tmp_path, shots=None, seeds=1), QUIET)
    assert fitted.rows[1].setting.protocol.shots == 10


def test_nothing_is_written_where_the_shots_are_too_many(small_cache: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="use `shots=10`"):
        fit(settings(small_cache, tmp_path / "runs", shots=16), QUIET)
    assert not (tmp_path / "runs").exists()


def test_a_cache_with_only_a_test_split_is_scored_by_what_needs_no_shots(tmp_path: Path) -> None:
    arrays = small_features()
    np.savez(
        tmp_path / "shift.npz", **{name: arrays[name] for name in ("image_test", "label_test", "text", "classnames")}
    )
    cache = import_npz(tmp_path / "shift.npz", tmp_path / "shift.zarr")
    few_shot = FitSettings(
        cache=(str(cache),), adapter="tda,dmn,transclip", protocol="few-shot", device="cpu", out=tmp_path / "runs"
    )
    rows = fit(few_shot, QUIET).rows
    assert [row.setting.adapter for row in rows] == ["zero-shot", "tda", "dmn", "transclip"]
    assert all(row.results[0].metrics["accuracy"] > 50 for row in rows)
    with pytest.raises(UsageError, match="only zero-shot, and the adapters that learn from test rows"):
        fit(replace(few_shot, adapter=("mma",)), QUIET)


@pytest.mark.slow
def test_an_unfinished_cache_is_refused_and_partial_takes_the_rows_that_are_there(
    small_cache: Path, tmp_path: Path
) -> None:
    whole = open_cache(small_cache)
    header = replace(whole.header, chunk=16, batch=16)
    data = {split: whole.split(split) for split in header.rows}
    manifest = {split: ManifestSplit(rows.label, rows.path) for split, rows in data.items()}
    text = whole.text("default")
    with CacheWriter.create(tmp_path / "part.zarr", header, manifest) as writer:
        writer.write_text("default", text.templates, text.embedding)
        for chunk in writer.pending()[:-1]:  # all but the last six test rows
            writer.write(chunk, data[chunk.split].embedding[chunk.start : chunk.stop])
    with pytest.raises(CacheError, match="not complete"):
        fit(settings(tmp_path / "part.zarr", tmp_path / "runs"), QUIET)
    fitted = fit(settings(tmp_path / "part.zarr", tmp_path / "runs", partial=True), QUIET)
    assert any(note.startswith("6 images of the cache have no embedding") for note in fitted.notes)
    whole_fit = fit(settings(small_cache, tmp_path / "runs"), QUIET)
    assert fitted.rows[1].setting.data != whole_fit.rows[1].setting.data


@pytest.mark.parametrize("text", ["", "{", "[1]", "\x00", None])
def test_metrics_json_is_written_from_the_store_and_never_read(
    text: str | None, small_cache: Path, tmp_path: Path
) -> None:
    fit(settings(small_cache, tmp_path), QUIET)
    (folder,) = tmp_path.glob("linear-probe-*")
    whole = json.loads((folder / "metrics.json").read_text())
    assert sorted(whole) == ["0", "1"]
    (folder / "metrics.json").unlink() if text is None else (folder / "metrics.json").write_text(text)
    fit(settings(small_cache, tmp_path, seeds=1), QUIET)
    assert json.loads((folder / "metrics.json").read_text()) == whole, "with the seeds that were not asked for"
