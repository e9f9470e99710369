from __future__ import annotations

import csv
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from mma.cache import import_npz
from mma.pipeline.errors import UsageError
from mma.pipeline.fitting.features import load_features
from mma.pipeline.using.audit import (
    audit,
    confused_texts,
    far_rows,
    folds,
    neighbours,
    out_of_fold,
    same_bytes,
    wrong_labels,
)
from mma.pipeline.using.settings import AuditSettings

from ...conftest import Run


@pytest.mark.slow
def test_most_of_the_first_are_labels_that_were_flipped(shared: Path, tmp_path: Path) -> None:
    data = dict(np.load(shared / "features/dtd_vitb32.npz"))
    rng = np.random.default_rng(0)
    flipped = rng.choice(len(data["label_train"]), 56, replace=False)
    true = data["label_train"].copy()
    data["label_train"][flipped] = (true[flipped] + rng.integers(1, 47, 56)) % 47
    np.savez(tmp_path / "flipped.npz", **data)
    cache = import_npz(tmp_path / "flipped.npz", tmp_path / "flipped.zarr")
    suspects = [f for f in audit(AuditSettings(cache=str(cache))).of("label") if f.split == "train"][:28]
    assert sum(f.row in flipped for f in suspects) >= 20
    names = data["classnames"]
    right = [f.looks_like == names[true[f.row]] for f in suspects if f.row in flipped]
    assert np.mean(right) > 0.6
    assert [f.value for f in suspects] == sorted((f.value for f in suspects), reverse=True)


def test_a_row_is_judged_by_a_fit_that_has_not_seen_it(small_cache: Path) -> None:
    features = load_features(small_cache)
    image, label = features.images.images("train"), features.labels["train"].label.astype(np.int64)
    fold, before = folds(label), out_of_fold(image, label, features.text.embedding, 20.0)
    moved = image.clone()
    moved[3] = image[3].flip(0)
    after = out_of_fold(moved, label, features.text.embedding, 20.0)
    beside, others = (fold == fold[3]) & (np.arange(len(fold)) != 3), fold != fold[3]
    np.testing.assert_allclose(after[beside], before[beside], rtol=1e-4)
    assert (np.abs(after[others] - before[others]).max(axis=1) > 1e-2).all()
    for c in range(7):
        assert set(np.bincount(fold[label == c], minlength=5)) == {2}


def test_the_only_image_of_a_class_is_not_judged(small_cache: Path) -> None:
    features = load_features(small_cache)
    image, label = features.images.images("train"), features.labels["train"].label.astype(np.int64)
    kept = np.flatnonzero((label != 2) | (np.cumsum(label == 2) == 1))
    margin, _ = wrong_labels(image[kept], label[kept], features.text.embedding, 20.0)
    assert np.isneginf(margin).tolist() == (label[kept] == 2).tolist()


def test_the_nearest_are_those_of_a_whole_matrix(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mma.pipeline.using.audit.BLOCK", 7)
    image = torch.nn.functional.normalize(torch.randn(40, 6, generator=torch.Generator().manual_seed(0)), dim=1)
    similar = (image @ image.mT).fill_diagonal_(-2)
    cosine, nearest, mean = neighbours(image)
    np.testing.assert_allclose(cosine, similar.max(1).values, atol=1e-6)
    np.testing.assert_array_equal(nearest, similar.argmax(1))
    np.testing.assert_allclose(mean, similar.topk(5).values.mean(1), atol=1e-6)


def test_same_bytes_are_told_once_and_unknown_ones_never() -> None:
    content = np.zeros((5, 32), np.uint8)
    content[[1, 3, 4], 0] = 9
    assert list(same_bytes(content)) == [(3, 1), (4, 1)]


def test_what_is_far_is_out_of_the_ordinary() -> None:
    mean = np.random.default_rng(0).normal(0.8, 0.01, 200)
    assert len(far_rows(mean)) == 0
    mean[[5, 7]] = 0.3, 0.1
    assert far_rows(mean).tolist() == [7, 5]


def test_texts_confuse_a_class_that_is_called_another_more_often() -> None:
    label, called = np.array([0, 0, 0, 1, 1, 2, 2]), np.array([1, 1, 0, 1, 0, 2, 2])
    assert confused_texts(label, called, 4) == [(0, 1, pytest.approx(2 / 3))]


@pytest.fixture(scope="module")
def spoiled(photos: tuple[Path, Path], small_clip: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The cache of a folder that has one image under two classes."""
    from rich.console import Console

    from mma.pipeline.embedding.embed import EmbedSettings, embed

    folder = tmp_path_factory.mktemp("audit") / "spoiled"
    shutil.copytree(photos[0], folder)
    shutil.copy(folder / "bird" / "0.jpg", folder / "cat" / "copy.jpg")
    settings = EmbedSettings(dataset=str(folder), model=small_clip, cache=folder.with_name("s.zarr"), workers=1)
    return embed(settings, Console(quiet=True))


@pytest.mark.slow
def test_an_image_that_is_there_twice_is_found_with_both_of_its_labels(spoiled: Path) -> None:
    found = audit(AuditSettings(cache=str(spoiled)))
    (twin,) = found.of("same bytes")
    assert {twin.path, twin.other.partition("/")[2]} == {"cat/copy.jpg", "bird/0.jpg"}
    assert {twin.classname, twin.looks_like} == {"cat", "bird"}
    assert not any(f.path == twin.path and f.other == twin.other for f in found.of("near twin"))


def test_the_command_writes_a_table_a_file_and_a_sheet(spoiled: Path, mma_here: Run, tmp_path: Path) -> None:
    ran = mma_here("audit", spoiled, "--out", tmp_path / "a.csv", "--sheet", tmp_path / "a.png", "--first", "3")
    assert ran.returncode == 0, ran.stderr
    assert "images that are there twice" in ran.stdout
    assert "31 images looked at" in ran.stdout
    rows = list(csv.DictReader((tmp_path / "a.csv").open()))
    found = audit(AuditSettings(cache=str(spoiled)))
    assert [row["path"] for row in rows] == [f.path for f in found.findings]
    shown = min(3, len(found.of("label")))
    assert shown
    with Image.open(tmp_path / "a.png") as sheet:
        assert sheet.size == (8 + shown * 168, 8 + 200)
        assert len(sheet.convert("RGB").crop((8, 8, 168, 168)).getcolors(1 << 16) or []) > 100  # an image, no frame
    again = mma_here("audit", spoiled, "--out", tmp_path / "a.csv")
    assert again.returncode == 2
    assert "is there" in again.stderr


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"near": 2}, "near"),
        ({"out": Path("a.txt")}, "written as .csv"),
        ({"sheet": Path("a.jpg")}, "written as .png"),
    ],
)
def test_what_cannot_be_asked_is_refused(given: dict, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        AuditSettings(cache="c.zarr", **given)


def test_a_sheet_without_images_is_refused_before_any_work(small_cache: Path, mma_here: Run, tmp_path: Path) -> None:
    ran = mma_here("audit", small_cache, "--sheet", tmp_path / "a.png")
    assert ran.returncode == 2
    assert "--root FOLDER" in ran.stderr
    assert ran.stderr.count("\n") == 1
