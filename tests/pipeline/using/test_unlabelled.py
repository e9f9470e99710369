from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from mma.cache import open_cache
from mma.cache.schema import label_fault
from mma.pipeline.embedding.embed import EmbedSettings, embed
from mma.pipeline.errors import UsageError

from ...conftest import Run


@pytest.fixture(scope="module")
def incoming(photos: tuple[Path, Path], small_clip: str, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Some of the photos in one folder, one of them broken, and their cache."""
    folder = tmp_path_factory.mktemp("unlabelled") / "incoming"
    folder.mkdir()
    for number in range(4):
        shutil.copy(photos[0] / "cat" / f"{number}.jpg", folder / f"{number}.jpg")
    (folder / "broken.jpg").write_text("no image")
    return folder, embedded(str(folder), small_clip, folder.with_name("incoming.zarr"))


def embedded(dataset: str, model: str, cache: Path) -> Path:
    settings = EmbedSettings(dataset=dataset, unlabelled=True, model=model, cache=cache, workers=1)
    return embed(settings, Console(quiet=True))


def test_a_folder_without_classes_is_one_split_without_labels(incoming: tuple[Path, Path]) -> None:
    cache = open_cache(incoming[1])
    assert cache.header.unlabelled
    assert cache.prompts == ()
    data = cache.split("all")
    assert data.path == ["0.jpg", "1.jpg", "2.jpg", "3.jpg", "broken.jpg"]
    assert (data.label == -1).all()
    assert data.ok.tolist() == [True] * 4 + [False]


def test_a_model_says_of_the_cache_what_it_says_of_the_images(
    incoming: tuple[Path, Path], model: Path, small_clip: str, mma_here: Run
) -> None:
    folder, cache = incoming
    by_cache = mma_here("predict", model, cache, "--format", "csv")
    assert by_cache.returncode == 0, by_cache.stderr
    by_image = mma_here("predict", model, folder, "--format", "csv", "--clip", small_clip)
    cached, imaged = (list(csv.DictReader(ran.stdout.splitlines())) for ran in (by_cache, by_image))
    assert [row["path"] for row in imaged] == [f"{folder}/{row['path']}" for row in cached]
    assert [row["class"] for row in cached] == [row["class"] for row in imaged]
    assert cached[-1]["reason"]


def test_an_image_and_a_list_are_embedded_too(incoming: tuple[Path, Path], small_clip: str, tmp_path: Path) -> None:
    whole = open_cache(incoming[1]).split("all").embedding
    one = open_cache(embedded(str(incoming[0] / "2.jpg"), small_clip, tmp_path / "one.zarr")).split("all")
    assert one.path == ["2.jpg"]
    np.testing.assert_allclose(one.embedding[0], whole[2], atol=2e-3)
    (incoming[0].parent / "list.csv").write_text("path\nincoming/3.jpg\nincoming/1.jpg\n")
    several = open_cache(embedded(str(incoming[0].parent / "list.csv"), small_clip, tmp_path / "list.zarr")).split(
        "all"
    )
    assert several.path == ["incoming/3.jpg", "incoming/1.jpg"]


@pytest.mark.parametrize("words", [("fit", "--cache", "CACHE", "--adapter", "gda"), ("audit", "CACHE")])
def test_there_is_nothing_to_fit(incoming: tuple[Path, Path], mma_here: Run, words: tuple[str, ...]) -> None:
    ran = mma_here(*(incoming[1] if word == "CACHE" else word for word in words))
    assert ran.returncode == 2
    assert "is unlabelled: it has no classes to fit; `mma predict MODEL" in ran.stderr
    assert ran.stderr.count("\n") == 1


def test_texts_of_no_classes_are_refused(incoming: tuple[Path, Path], mma_here: Run) -> None:
    ran = mma_here("embed", "--text-only", "--cache", incoming[1], "--prompts", "simple")
    assert ran.returncode == 2
    assert "is unlabelled" in ran.stderr
    ran = mma_here("embed", "--dataset", incoming[0], "--unlabelled", "--prompts", "simple")
    assert ran.returncode == 2
    assert "leave out prompts" in ran.stderr


def test_it_is_a_cache_like_others(incoming: tuple[Path, Path], mma_here: Run, tmp_path: Path) -> None:
    assert mma_here("cache", "verify", incoming[1]).returncode == 0
    assert json.loads(mma_here("cache", "info", incoming[1], "--json").stdout)["classnames"] == []
    for kind in ("npz", "parquet"):
        out = tmp_path / f"out.{kind}"
        assert mma_here("cache", "export", incoming[1], "--out", out).returncode == 0
        again = tmp_path / f"{kind}.zarr"
        assert mma_here("cache", "import", f"--{kind}", out, "--out", again).returncode == 0
        np.testing.assert_array_equal(
            open_cache(again).split("all").embedding, open_cache(incoming[1]).split("all").embedding
        )
    assert mma_here("cache", "diff", incoming[1], incoming[1]).returncode == 0


def test_labels_below_zero_are_those_of_a_cache_without_classes_alone() -> None:
    unlabelled, labelled = np.full(3, -1, np.int32), np.array([0, 1, 1], np.int32)
    assert label_fault(unlabelled, 0) is None
    assert label_fault(labelled, 2) is None
    assert label_fault(unlabelled, 2) == "labels outside 0..1"
    assert label_fault(labelled, 0) == "labels, and the cache has no classes"


def test_an_empty_folder_is_refused(tmp_path: Path, small_clip: str) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(UsageError, match="holds no images"):
        embedded(str(tmp_path / "empty"), small_clip, tmp_path / "e.zarr")
