"""Fitted on one data set, scored on others."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from rich.console import Console
from safetensors.numpy import load_file

from mma.adapters import predict
from mma.cache import import_npz
from mma.pipeline.errors import UsageError
from mma.pipeline.fitting.ablate import ablate
from mma.pipeline.fitting.factors import read_factors
from mma.pipeline.fitting.features import load_features
from mma.pipeline.fitting.fit import fit
from mma.pipeline.fitting.results import Grid, weights_file
from mma.pipeline.fitting.settings import AblateSettings, FitSettings
from mma.pipeline.fitting.targets import check_targets
from mma.pipeline.reports.tables import metric_text, notes

from ...conftest import Run, small_features

QUIET = Console(quiet=True)
FILES = {"dtd": "dtd_vitb32", "cars": "stanford_cars_vitb32"}


def settings(cache: Path, to: Path | None, out: Path, **changes: Any) -> FitSettings:
    targets = (str(to),) if to else ()
    base: dict[str, Any] = {"adapter": "linear-probe", "shots": 4, "seeds": 1, "device": "cpu", "target": targets}
    return FitSettings(cache=(str(cache),), out=out, **{**base, **changes})


def unit(x: NDArray[Any]) -> NDArray[Any]:
    x = x.astype(np.float32)
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


def top1(image: NDArray[Any], text: NDArray[Any], label: NDArray[Any]) -> float:
    return float(np.mean((image @ text.T).argmax(1) == label) * 100)


@pytest.fixture(scope="module")
def shifted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Other images of four of the seven classes of `small_cache`, in another order."""
    arrays, kept = small_features(seed=0), np.array([5, 0, 3, 6])
    of_kept = np.isin(arrays["label_test"], kept)
    label = np.array([np.flatnonzero(kept == c)[0] for c in arrays["label_test"][of_kept]])
    noise = np.random.default_rng(1).standard_normal((len(label), 32))
    folder = tmp_path_factory.mktemp("shifted")
    image = (arrays["image_test"][of_kept] + 3 * noise).astype(np.float16)
    np.savez(
        folder / "shifted.npz",
        text=arrays["text"][kept],
        classnames=arrays["classnames"][kept],
        image_test=image,
        label_test=label,
    )
    return import_npz(folder / "shifted.npz", folder / "shifted.zarr", logit_scale=20.0)


@pytest.mark.parametrize(("source", "other"), [("dtd", "cars"), ("cars", "dtd")])
def test_a_transfer_of_real_features_is_what_hand_written_code_makes_of_the_same_weights(
    source: str, other: str, shared: Path, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    cache, target = (request.getfixturevalue(f"{name}_cache") for name in (source, other))
    asked = settings(cache, target, tmp_path, adapter="clip-adapter", shots=1, epochs=8, batch=64, select="last")
    zero_shot, fitted = fit(asked, QUIET).rows
    exact = {"dtd": 44.8, "cars": 59.0}
    found = zero_shot.results[0].metrics
    assert [round(found["source"], 1), round(found[FILES[other]], 1)] == [exact[source], exact[other]]
    weights = load_file(weights_file(tmp_path, fitted.results[0].cell))
    down, up = weights["image_bottleneck.0.weight"], weights["image_bottleneck.2.weight"]
    for column, name in (("source", source), (FILES[other], other)):
        with np.load(shared / "features" / f"{FILES[name]}.npz") as arrays:
            image, text, label = unit(arrays["image_test"]), unit(arrays["text"]), arrays["label_test"]
        adapted = 0.2 * np.maximum(np.maximum(image @ down.T, 0) @ up.T, 0) + 0.8 * image
        by_hand = top1(unit(adapted), text, label)
        assert by_hand != top1(image, text, label)  # the weights have learned something
        assert fitted.results[0].metrics[column] == pytest.approx(by_hand, abs=0.07)  # a tie may fall otherwise: 1 row
    assert fitted.metrics == ("source", FILES[other], "mean")


def test_targets_make_the_protocol_cross_dataset_and_the_mean_is_over_targets(
    small_cache: Path, shifted: Path, tmp_path: Path
) -> None:
    np.savez(tmp_path / "third.npz", **small_features(classes=5, seed=3))
    third = import_npz(tmp_path / "third.npz", tmp_path / "third.zarr", logit_scale=20.0)
    asked = settings(small_cache, None, tmp_path / "runs", target=(str(shifted), str(third)), adapter="clip-adapter")
    row = fit(asked, QUIET).rows[1]
    assert row.setting.protocol.name == "cross-dataset"
    assert row.metrics == ("source", "shifted", "third", "mean")
    metrics = row.results[0].metrics
    assert metrics["mean"] == pytest.approx((metrics["shifted"] + metrics["third"]) / 2)


def test_an_adapter_with_weights_for_its_classes_is_zero_shot_on_targets_and_starred(
    small_cache: Path, shifted: Path, tmp_path: Path
) -> None:
    fitted = fit(settings(small_cache, shifted, tmp_path), QUIET)
    zero_shot, probe = fitted.rows
    assert probe.results[0].metrics["shifted"] == zero_shot.results[0].metrics["shifted"]
    assert probe.results[0].metrics["source"] > zero_shot.results[0].metrics["source"]
    starred = [metric_text(probe, metric).endswith("*") for metric in probe.metrics]
    assert starred == [False, True, True]
    assert any("zero-shot" in note for note in notes(fitted))


@pytest.mark.parametrize(("adapter", "lr"), [("linear-probe", 0.05), ("clip-adapter", 0.5)])
def test_under_a_shift_of_domain_classes_are_matched_by_name(
    adapter: str, lr: float, small_cache: Path, shifted: Path, tmp_path: Path
) -> None:
    fitted = fit(settings(small_cache, shifted, tmp_path, adapter=adapter, protocol="domain-shift", lr=lr), QUIET)
    row = fitted.rows[1]
    source, target = load_features(small_cache), load_features(shifted)
    columns = [source.classnames.index(name) for name in target.classnames]
    image, text = target.images.images("test"), source.text.embedding
    logits = predict(row.adapter(0), image, text)[:, columns]
    if adapter == "clip-adapter":  # each class by itself: the same whichever others are there
        assert np.allclose(logits, predict(row.adapter(0), image, text[columns]), atol=1e-4)
    right = logits.argmax(-1).numpy() == target.labels["test"].label
    assert row.results[0].metrics["shifted"] == pytest.approx(100 * np.mean(right))
    assert not row.results[0].details["new_is_zero_shot"]
    assert row.results[0].metrics["shifted"] != fitted.rows[0].results[0].metrics["shifted"]


def test_a_grid_takes_targets_as_a_factor_and_scores_all_of_them_in_one_fit(
    small_cache: Path, shifted: Path, tmp_path: Path, mma_here: Run
) -> None:
    words = [f"target={shifted}", "protocol=few-shot,cross-dataset,domain-shift", "adapter=gda", "alpha=1", "seed=0"]
    run = mma_here("ablate", "--cache", small_cache, *words, "--out", tmp_path, "--json")
    assert run.returncode == 0, run.stderr
    grid: Grid = ablate(
        AblateSettings(cache=(str(small_cache),), factors=read_factors([*words, "shots=6"], None), out=tmp_path), QUIET
    )
    by_protocol = {row.setting.protocol.name: row for row in grid.rows if row.setting.adapter == "gda"}
    assert by_protocol["few-shot"].setting.targets == ()
    assert by_protocol["few-shot"].results[0].metrics["accuracy"] == pytest.approx(
        by_protocol["cross-dataset"].results[0].metrics["source"]
    )
    assert by_protocol["domain-shift"].metrics == ("source", "shifted", "mean")


def other_space(folder: Path, **changes: Any) -> Path:
    np.savez(folder / "other.npz", **small_features(**{"dim": 32, **changes}, seed=9))
    return import_npz(folder / "other.npz", folder / "other.zarr", logit_scale=20.0)


@pytest.mark.slow
def test_a_target_that_cannot_be_is_refused_in_one_line(small_cache: Path, shifted: Path, tmp_path: Path) -> None:
    def refused(to: Path | None, match: str, **changes: Any) -> None:
        asked = settings(small_cache, to, tmp_path / "runs", **changes)
        with pytest.raises(UsageError, match=match) as error:
            fit(asked, QUIET)
        assert "\n" not in str(error.value)
        assert not (tmp_path / "runs").exists()

    refused(small_cache, "is the data that is fitted")
    refused(None, "`target=CACHE.zarr`", protocol="cross-dataset")
    refused(shifted, "few-shot scores no other data", protocol="few-shot")
    refused(other_space(tmp_path, dim=24), "dimension 24, and .* has 32: both must be of one model")
    np.savez(tmp_path / "scale.npz", **small_features(seed=8))
    scale = import_npz(tmp_path / "scale.npz", tmp_path / "scale.zarr", logit_scale=100.0)
    refused(scale, "a logit scale of 100.0, and .* has 20.0")
    np.savez(tmp_path / "more.npz", **small_features(classes=9, seed=7))
    more = import_npz(tmp_path / "more.npz", tmp_path / "more.zarr", logit_scale=20.0)
    refused(more, "has a class 'class 7' that shapes-small lacks", protocol="domain-shift")
    (tmp_path / "again").mkdir()
    np.savez(tmp_path / "again" / "shifted.npz", **small_features(classes=4, seed=6))
    again = import_npz(tmp_path / "again" / "shifted.npz", tmp_path / "again.zarr", logit_scale=20.0)
    refused(None, "is called shifted, and so is another column", target=(str(shifted), str(again)))


def test_a_target_of_another_model_is_refused(small_cache: Path, shifted: Path, tmp_path: Path) -> None:
    source, target = load_features(small_cache), load_features(shifted)
    for features, weights in ((source, "a" * 64), (target, "b" * 64)):
        stored = features.images.cache
        model = {"model": "ViT-B-32", "weights_sha256": weights, "quick_gelu": True}
        header = replace(stored.header, fingerprint={**stored.header.fingerprint, **model})
        features.images.cache = replace(stored, header=header)
    with pytest.raises(UsageError, match=r"ViT-B-32 with QuickGELU and weights bbbb.*both must be of one model"):
        check_targets(source, [target])
