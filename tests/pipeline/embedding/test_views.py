from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from rich.console import Console
from torchvision.transforms import RandomResizedCrop

from mma.cache import CacheError, open_cache
from mma.pipeline.embedding import chunk as chunk_file
from mma.pipeline.embedding.views import RATIO, SCALE, Views, crop_and_flip, crop_box
from mma.pipeline.errors import UsageError
from mma.pipeline.fitting.fit import fit
from mma.pipeline.fitting.settings import FitSettings

from ...cache.writing import snapshot
from ..conftest import photo

Embed = Callable[..., tuple[Path, str]]


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chunk_file, "MOST_PICTURES", 8)


def to_tensor(image: Image.Image) -> torch.Tensor:
    return torch.from_numpy(np.array(image.resize((16, 16)))).permute(2, 0, 1).float()


def picture(seed: int = 0) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (40, 60, 3), dtype=np.uint8))


@pytest.mark.slow
def test_views_are_of_train_only_and_view_0_is_the_plain_one(embed: Embed, tmp_path: Path) -> None:
    plain = open_cache(embed(cache=tmp_path / "plain.zarr")[0])
    path, said = embed(views=3)
    cache = open_cache(path)
    assert "3 of every train image, seed 0" in said
    assert cache.header.views == {"train": 3, "val": 1, "test": 1}
    train, before = cache.split("train").embedding, plain.split("train").embedding
    assert train.shape == (len(before), 3, 24)
    # the rows of a batch decide the last bits of a matrix product
    assert np.allclose(train[:, 0].astype(np.float32), before[:, 0].astype(np.float32), rtol=2e-3, atol=1e-3)
    assert np.array_equal(cache.split("test").embedding, plain.split("test").embedding)
    flat = train.reshape(-1, 24)
    assert len(np.unique(flat, axis=0)) == len(flat)


@pytest.mark.slow
def test_test_images_have_views_where_they_are_asked_for(embed: Embed) -> None:
    cache = open_cache(embed(views=3, view_splits="test")[0])
    assert cache.header.views == {"train": 1, "val": 1, "test": 3}
    test = cache.split("test").embedding
    assert len(np.unique(test.reshape(-1, test.shape[-1]), axis=0)) == 3 * len(test)
    with pytest.raises(CacheError, match="view_splits"):
        embed(views=3)


@pytest.mark.slow
def test_test_time_adapters_get_the_views_and_ask_for_no_more_than_there_are(embed: Embed, tmp_path: Path) -> None:
    cache = str(embed(views=3, view_splits="test")[0])
    quiet = Console(quiet=True)
    asked = FitSettings(
        cache=(str(cache),), adapter="rada-ttt,tda,dmn", protocol="few-shot", shots=1, seeds=1, device="cpu"
    )
    fitted = fit(replace(asked, options={"test_views": "3"}, out=tmp_path / "runs"), quiet)
    assert [row.setting.adapter for row in fitted.rows] == ["zero-shot", "rada-ttt", "tda", "dmn"]
    with pytest.raises(UsageError, match=r"test_views = 4, and there are 3 of a test image: .* --view-splits test"):
        fit(replace(asked, options={"test_views": "4"}, out=tmp_path / "more"), quiet)
    assert not (tmp_path / "more").exists()


def test_views_of_no_split_or_of_one_that_is_not_there_are_refused(embed: Embed) -> None:
    with pytest.raises(UsageError, match="unknown view_splits 'validation': known are train, val, test"):
        embed(views=3, view_splits="validation")


@pytest.mark.slow
def test_views_are_the_same_whatever_the_order_of_work(embed: Embed, tmp_path: Path) -> None:
    one, _ = embed(cache=tmp_path / "one.zarr", views=3, workers=1)
    many, _ = embed(cache=tmp_path / "many.zarr", views=3, workers=7)
    assert snapshot(one) == snapshot(many)


@pytest.mark.slow
def test_another_seed_gives_other_views_and_another_fingerprint(embed: Embed, tmp_path: Path) -> None:
    one = open_cache(embed(views=2)[0]).split("train").embedding
    with pytest.raises(CacheError, match=r"view_seed: 0 \(stored\), 1 \(asked for\)"):
        embed(views=2, view_seed=1)
    other = open_cache(embed(cache=tmp_path / "other.zarr", views=2, view_seed=1)[0]).split("train").embedding
    assert np.array_equal(one[:, 0], other[:, 0])
    assert not np.array_equal(one[:, 1], other[:, 1])


def test_a_cache_without_views_is_not_mixed_with_one_that_has_them(embed: Embed) -> None:
    embed()
    with pytest.raises(CacheError, match=r"views: 1 \(stored\), 2 \(asked for\)"):
        embed(views=2)


def test_a_bad_image_is_bad_in_every_view(embed: Embed, photo_folder: Path) -> None:
    for number in range(10):
        if number != 1:
            (photo_folder / f"cat/{number}.jpg").write_bytes(photo(number) if number % 2 else b"")
    train = open_cache(embed(views=3)[0]).split("train")
    assert not train.ok.all()
    assert np.isnan(train.embedding).any(axis=2).tolist() == [[not ok] * 3 for ok in train.ok]


def test_a_view_depends_on_seed_split_row_and_number_alone() -> None:
    def views(seed: int = 0, split: str = "train", row: int = 5) -> torch.Tensor:
        return Views(to_tensor, [crop_and_flip(16)] * 2, ("train", "val"), seed)(picture(), split, row)

    first = views()
    assert first.shape == (3, 3, 16, 16)
    assert torch.equal(first, views())
    assert torch.equal(first[0], to_tensor(picture()))
    assert not torch.equal(first[1], first[2])
    for other in (views(seed=1), views(split="val"), views(row=6)):
        assert torch.equal(other[0], first[0])
        assert not torch.equal(other[1], first[1])
    alone = Views(to_tensor, [crop_and_flip(16)], seed=0)(picture(), "train", 5)
    assert torch.equal(alone[1], first[1])  # more views change none that were there


def test_a_split_without_views_has_the_plain_one_alone() -> None:
    views = Views(to_tensor, [crop_and_flip(16)] * 4)
    assert [views.of(split) for split in ("train", "val", "test")] == [5, 1, 1]
    assert views(picture(), "test", 0).shape == (1, 3, 16, 16)


@pytest.mark.slow
def test_crops_are_distributed_as_torchvisions() -> None:
    rng = np.random.default_rng(0)
    torch.manual_seed(0)
    image = picture()

    def moments(boxes: np.ndarray) -> np.ndarray:  # of left, top, width, height
        return np.concatenate([boxes.mean(axis=0), boxes.std(axis=0)])

    own = np.array([crop_box(60, 40, rng) for _ in range(8000)], float)
    own[:, 2:] -= own[:, :2]
    theirs = np.array([RandomResizedCrop.get_params(image, list(SCALE), list(RATIO)) for _ in range(8000)], float)
    theirs = theirs[:, [1, 0, 3, 2]]
    assert np.allclose(moments(own), moments(theirs), rtol=0.05)


def test_crops_lie_inside_images_of_every_shape() -> None:
    rng = np.random.default_rng(0)
    for width, height in ((1, 1), (1, 500), (500, 1), (3, 2), (10, 1000), (64, 64)):
        for _ in range(50):
            left, top, right, bottom = crop_box(width, height, rng)
            assert 0 <= left < right <= width
            assert 0 <= top < bottom <= height


def test_half_of_the_views_are_flipped() -> None:
    sloped = Image.fromarray(np.tile(np.arange(256, dtype=np.uint8)[None, :, None], (256, 1, 3)))
    augment = crop_and_flip((8, 12))
    pictures = [np.asarray(augment(sloped, np.random.default_rng(i))).astype(int) for i in range(400)]
    assert {p.shape for p in pictures} == {(8, 12, 3)}
    flipped = sum(p[0, 0, 0] > p[0, -1, 0] for p in pictures)
    assert 160 < flipped < 240
