"""Noise is put on the picture that the model sees, more of it at a higher level, and the seed decides it."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from rich.console import Console

from mma.cache import Cache, CacheError, open_cache
from mma.pipeline.datasets.shapes import shapes
from mma.pipeline.embedding.embed import EmbedSettings, embed
from mma.pipeline.embedding.image_noise import as_the_model_sees_it, read_noise
from mma.pipeline.errors import UsageError

PICTURE = Image.fromarray(shapes().splits["test"].read(3)).resize((150, 100))  # type: ignore[arg-type]


def noisy(word: str, seed: int = 0, size: int | tuple[int, int] = 64) -> np.ndarray:
    return np.asarray(read_noise([word], size)[word](PICTURE, np.random.default_rng(seed)), np.float64)


def clean(size: int = 64) -> np.ndarray:
    return np.asarray(as_the_model_sees_it(PICTURE, size, size), np.float64)


@pytest.mark.parametrize(
    "levels",
    [("gaussian0.02", "gaussian0.1", "gaussian0.4"), ("blur0.5", "blur2", "blur6"), ("jpeg95", "jpeg30", "jpeg3")],
)
def test_more_noise_is_further_from_the_picture(levels: tuple[str, ...]) -> None:
    away = [np.abs(noisy(level) - clean()).mean() for level in levels]
    assert 0 < away[0] < away[1] < away[2]


def test_grain_has_the_deviation_that_its_level_says() -> None:
    grey = Image.new("RGB", (64, 64), (128, 128, 128))
    pixels = np.asarray(read_noise(["gaussian0.1"], 64)["gaussian0.1"](grey, np.random.default_rng(0)), np.float64)
    assert pixels.std() / 255 == pytest.approx(0.1, rel=0.03)
    assert pixels.mean() == pytest.approx(128, abs=1)


def test_the_seed_decides_grain_and_nothing_else() -> None:
    np.testing.assert_array_equal(noisy("gaussian0.1", 1), noisy("gaussian0.1", 1))
    assert (noisy("gaussian0.1", 1) != noisy("gaussian0.1", 2)).mean() > 0.5
    for word in ("blur2", "jpeg10"):
        np.testing.assert_array_equal(noisy(word, 1), noisy(word, 2))


def test_the_picture_has_the_models_size_whatever_it_had() -> None:
    assert noisy("jpeg50", size=64).shape == (64, 64, 3)
    assert noisy("gaussian0.1", size=(48, 80)).shape == (48, 80, 3)
    assert read_noise(["blur100"], 8)["blur100"](Image.new("RGB", (1, 300)), np.random.default_rng(0)).size == (8, 8)


@pytest.mark.parametrize(
    ("word", "says"),
    [
        ("fog1", "unknown image noise"),
        ("gaussian", "unknown|level"),
        ("gaussian0", "from 0 to 1"),
        ("gaussian2", "from 0 to 1"),
        ("jpeg0", "whole number from 1"),
        ("jpeg10.5", "whole number"),
        ("blur0", "from 0 to 100"),
        ("jpeg-5", "unknown"),
    ],
)
def test_a_wrong_noise_is_refused_in_one_line(word: str, says: str) -> None:
    with pytest.raises(UsageError, match=says):
        read_noise([word], 64)


def embedded(folder: Path, name: str, **settings: object) -> Cache:
    given = EmbedSettings(
        dataset="shapes", cache=folder / name, model="tiny", device="cpu", limit=96, dtype="float32", **settings
    )  # type: ignore[arg-type]
    return open_cache(embed(given, Console(file=io.StringIO())))


@pytest.mark.slow
def test_noisy_views_come_after_the_clean_one_in_the_splits_that_are_named(tmp_path: Path) -> None:
    clean = embedded(tmp_path, "clean")
    noisy = embedded(tmp_path, "noisy", image_noise="gaussian0.2,jpeg5", views=2)
    both = embedded(tmp_path, "both", image_noise="gaussian0.2", noise_splits="train,test")
    assert noisy.header.views == {"train": 2, "val": 1, "test": 3}
    assert both.header.views == {"train": 2, "val": 1, "test": 2}
    assert noisy.header.fingerprint["image_noise"] == {"test": ["gaussian0.2", "jpeg5"]}
    assert "image_noise" not in clean.header.fingerprint
    for cache in (noisy, both):
        for split in ("train", "val", "test"):
            np.testing.assert_allclose(
                cache.split(split).embedding[:, 0], clean.split(split).embedding[:, 0], rtol=1e-4, atol=1e-5
            )
    test = noisy.split("test").embedding
    assert np.abs(test[:, 1] - test[:, 0]).max() > 0.01
    assert np.abs(test[:, 1] - test[:, 2]).max() > 0.01


@pytest.mark.slow
def test_other_noise_is_another_cache_and_wrong_words_are_refused(tmp_path: Path) -> None:
    embedded(tmp_path, "one", image_noise="jpeg5")
    with pytest.raises(CacheError, match="image_noise"):
        embedded(tmp_path, "one", image_noise="jpeg6")
    with pytest.raises(UsageError, match="unknown image noise"):
        embedded(tmp_path, "two", image_noise="snow1")
    with pytest.raises(UsageError, match="unknown noise_splits 'nowhere'"):
        embedded(tmp_path, "two", image_noise="jpeg5", noise_splits="nowhere")
    assert not (tmp_path / "two").exists()
