"""`mma embed --features penultimate`, from the images to a fit: one pass, resumable, mended, and the adapters of it."""

from __future__ import annotations

import io
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from rich.console import Console

from mma.adapters import unit
from mma.cache import CacheError, open_cache, verify
from mma.pipeline.caches.repair import repair_cache
from mma.pipeline.embedding import run
from mma.pipeline.errors import UsageError
from mma.pipeline.fitting.cells import Cell, Choice, resolve
from mma.pipeline.fitting.features import load_features, reduce_penultimate, reduce_prompts
from mma.pipeline.fitting.protocols import FewShot
from mma.pipeline.fitting.run import check_cell, run_cell
from mma.pipeline.using.model import refuse_unservable

from ..conftest import Embed
from .test_embed import interrupt_after

quiet = Console(file=io.StringIO())


def files(path: Path) -> dict[str, bytes]:
    return {str(file.relative_to(path)): file.read_bytes() for file in path.rglob("*") if file.is_file()}


@pytest.mark.slow
def test_features_are_stored_beside_the_same_embeddings_as_without(embed: Embed, tmp_path: Path) -> None:
    both = open_cache(embed(features="penultimate", cache=tmp_path / "both.zarr", views=2)[0])
    plain = open_cache(embed(cache=tmp_path / "plain.zarr", views=2)[0])
    assert both.header.penultimate == {"image": 32, "text": 16}
    assert both.penultimate("train").shape == (*plain.split("train").embedding.shape[:2], 32)
    for split in plain.header.rows:
        assert np.array_equal(both.split(split).embedding, plain.split(split).embedding)
    assert np.array_equal(both.text("default").embedding, plain.text("default").embedding)
    with pytest.raises(CacheError, match=r"features: penultimate \(stored\), none \(asked for\)"):
        embed(cache=tmp_path / "both.zarr", views=2)


@pytest.mark.slow
def test_an_interrupted_run_and_a_repair_end_in_the_same_bytes(
    embed: Embed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, _ = embed(features="penultimate")
    expected = files(path)
    shutil.move(path, tmp_path / "whole.zarr")
    with monkeypatch.context() as patch:
        interrupt_after(1, patch)
        with pytest.raises(KeyboardInterrupt):
            embed(features="penultimate")
    embed(features="penultimate")
    assert files(path) == expected
    for damaged in ("projection/image/bias/c/0", "text/default/penultimate/c/0/0/0", "image/test/penultimate/c/0/0/0"):
        (path / damaged).write_bytes(b"?")
    assert len(verify(path).faults) == 3
    repair_cache(path, {}, None, quiet)
    assert files(path) == expected


@pytest.mark.slow
def test_texts_that_are_added_later_have_their_features_too(embed: Embed) -> None:
    path, _ = embed(features="penultimate")
    embed(text_only=True, prompts="simple", dataset=None, model=None)
    cache = open_cache(path)
    layer = cache.projections()["text"]
    product = cache.text_penultimate("simple") @ layer.weight + layer.bias
    np.testing.assert_allclose(product, cache.text("simple").embedding, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("how", ["unit", "raw", "2"])
def test_a_class_s_texts_are_reduced_so_that_their_projection_points_where_its_embedding_does(how: str) -> None:
    draw = np.random.default_rng(0)
    before, weight, bias = (draw.standard_normal(shape) for shape in ((4, 5, 9), (9, 6), (6,)))
    before[1, 3:] = np.nan  # a class with fewer sentences
    text = before @ weight + bias
    found = torch.from_numpy(reduce_penultimate(before, text, how) @ weight + bias)
    np.testing.assert_allclose(unit(found).numpy(), reduce_prompts(text, how), rtol=1e-4, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("adapter", ["prolip", "rada-projections"])
def test_adapters_of_features_are_fitted_on_them_and_refused_without(
    adapter: str, embed: Embed, tmp_path: Path
) -> None:
    features = load_features(embed(features="penultimate", cache=tmp_path / "both.zarr")[0])
    plain = load_features(embed(cache=tmp_path / "plain.zarr")[0])
    options = {} if adapter == "prolip" else {"heads": 2}
    choice = Choice(adapter, FewShot(shots=2), options, {"epochs": 2, "lr": 1e-3}, "last")
    cell = Cell(resolve(choice, features.data), 0)
    check_cell(cell, [features])
    result = run_cell(cell, [features], keep_weights=True)
    assert result.details["epochs"] == 2
    again = run_cell(cell, [features])
    assert np.array_equal(result.predictions[0].predicted, again.predictions[0].predicted)
    with pytest.raises(UsageError, match=r"no features before the projection.*mma embed --features penultimate"):
        check_cell(cell, [plain])
    with pytest.raises(UsageError, match=f"{adapter} reads features before the towers' last layer"):
        refuse_unservable(adapter)


def test_before_any_step_an_adapter_of_features_scores_as_zero_shot_on_embeddings(embed: Embed, tmp_path: Path) -> None:
    features = load_features(embed(features="penultimate", dtype="float32")[0])
    predicted = []
    for adapter, recipe in (("zero-shot", {}), ("prolip", {"epochs": 1, "lr": 1e-12})):
        choice = Choice(adapter, FewShot(shots=2), {}, recipe, None)
        predicted.append(run_cell(Cell(resolve(choice, features.data), 0), [features]).predictions[0].predicted)
    assert np.array_equal(*predicted)


def test_the_projections_are_stored_before_the_first_image_is_seen(
    embed: Embed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(run, "embed_images", stop)
    with pytest.raises(KeyboardInterrupt):
        embed(features="penultimate")
    assert open_cache(tmp_path / "photos.zarr", partial=True).projections()["image"].weight.shape == (32, 24)
