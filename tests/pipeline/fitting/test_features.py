from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from rich.console import Console

from mma.cache import import_npz
from mma.pipeline.embedding.embed import EmbedSettings, embed
from mma.pipeline.errors import UsageError
from mma.pipeline.fitting.episodes import Labels
from mma.pipeline.fitting.features import Features, load_features
from mma.pipeline.fitting.fit import fit
from mma.pipeline.fitting.settings import FitSettings

from ...conftest import small_features

QUIET = Console(quiet=True)


@pytest.fixture(scope="module")
def noisy_cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two views of train images (one a crop), and two noises of test images."""
    path = tmp_path_factory.mktemp("noisy") / "shapes.zarr"
    settings = EmbedSettings(
        dataset="shapes", cache=path, model="tiny", limit=96, views=2, image_noise="blur3,gaussian0.2"
    )
    return embed(settings, QUIET)


def test_images_and_texts_are_unit_vectors_and_every_split_is_whole(small_cache: Path) -> None:
    features = load_features(small_cache)
    rows = {split: len(features.images.images(split)) for split in features.labels}
    assert rows == {"train": 70, "val": 28, "test": 70}
    for vectors in (features.images.images("train"), features.images.images("test"), features.text.embedding):
        assert torch.allclose(vectors.norm(dim=-1), torch.ones(len(vectors)), atol=1e-5)


def test_templates_become_one_vector_by_the_mean_of_unit_or_raw_vectors_or_by_one_of_them(tmp_path: Path) -> None:
    arrays = small_features()
    lengths = np.array([1.0, 5.0], np.float32)[None, :, None]
    noise = np.random.default_rng(0).standard_normal((7, 2, 32)).astype(np.float32)
    arrays["text"] = (arrays["text"][:, None] + noise) * lengths  # [C, P, D]
    np.savez(tmp_path / "two.npz", **arrays)
    cache = import_npz(tmp_path / "two.npz", tmp_path / "two.zarr")
    found = {how: load_features(cache, reduce=how) for how in ("unit", "raw", "0", "1")}
    text = torch.from_numpy(arrays["text"])
    unit = torch.nn.functional.normalize
    assert torch.allclose(found["unit"].text.embedding, unit(unit(text, dim=-1).mean(1), dim=-1), atol=1e-5)
    assert torch.allclose(found["raw"].text.embedding, unit(text.mean(1), dim=-1), atol=1e-5)
    assert torch.allclose(found["1"].text.embedding, unit(text[:, 1], dim=-1), atol=1e-5)
    assert len({features.data.digest for features in found.values()}) == 4, "results of two reductions would be mixed"
    with pytest.raises(UsageError, match="numbered 0 to 1"):
        load_features(cache, reduce="2")


@pytest.mark.slow
def test_crops_are_views_to_train_on_and_noises_are_not(noisy_cache: Path) -> None:
    features = load_features(noisy_cache)
    train = features.images.views("train")
    assert train is not None
    assert train.shape == (96, 2, 64)
    assert torch.equal(train[:, 0], features.images.images("train"))
    assert features.images.views("test") is None
    assert features.images.count_views("test") == 1
    noisy = [features.images.images("test", noise) for noise in ("none", "blur3", "gaussian0.2")]
    assert not torch.equal(noisy[0], noisy[1])
    assert not torch.equal(noisy[1], noisy[2])


@pytest.mark.slow
def test_a_noise_of_the_test_images_is_an_axis_of_its_own(noisy_cache: Path, tmp_path: Path) -> None:
    def accuracy(noise: str) -> float:
        settings = FitSettings(
            cache=(str(noisy_cache),), adapter="zero-shot", protocol="few-shot", test_noise=noise, out=tmp_path
        )
        return fit(settings, QUIET).rows[0].results[0].metrics["accuracy"]

    assert accuracy("none") > accuracy("blur3")
    with pytest.raises(UsageError, match=r"no 'jpeg9' view of its test images \(it has blur3, gaussian0.2\)"):
        accuracy("jpeg9")


@pytest.mark.slow
def test_training_on_noise_leaves_the_clean_crops_alone(tmp_path: Path) -> None:
    path = tmp_path / "noisy.zarr"
    made = EmbedSettings(
        dataset="shapes", cache=path, model="tiny", limit=96, views=2, image_noise="gaussian0.4", noise_splits="train"
    )
    embed(made, QUIET)

    def accuracy(noise: str) -> float:
        settings = FitSettings(
            cache=(str(path),),
            adapter="tip-adapter",
            options={"alpha": "5", "beta": "1"},
            protocol="few-shot",
            train_noise=noise,
            shots=2,
            seeds=1,
            select="last",
            out=tmp_path / "r",
        )
        return fit(settings, QUIET).rows[1].results[0].metrics["accuracy"]

    assert accuracy("none") != accuracy("gaussian0.4")


def test_a_row_without_an_embedding_has_no_part_in_anything(small_cache: Path) -> None:
    features: Features = load_features(small_cache)
    label = features.labels["train"].label
    ok = np.ones(len(label), bool)
    ok[:3] = False
    usable = Labels.of(label, ok, 7)
    assert not {0, 1, 2} & set(np.concatenate(usable.rows))
    assert sum(map(len, usable.rows)) == 67
