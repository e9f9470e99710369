"""`mma embed --shard i/n`."""

from __future__ import annotations

import signal
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from mma.cache import CacheError, open_cache
from mma.pipeline.embedding import chunk as chunk_file
from mma.pipeline.errors import UsageError, WorkError

from ...cache.writing import snapshot
from ..conftest import photo

Embed = Callable[..., tuple[Path, str]]
Run = Callable[..., subprocess.CompletedProcess[str]]

KILLED = (
    "from mma.cache import killpoint; from mma.pipeline.embedding import chunk; chunk.MOST_PICTURES = 4; "
    "killpoint.arm({point!r}, killpoint.die, {times}); import torch; torch.set_num_threads({threads})"
)


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chunk_file, "MOST_PICTURES", 4)


@pytest.fixture(autouse=True)
def given_splits(photo_folder: Path) -> None:
    """photos/<split>/<class>/<n>.jpg: of each class, five images are train, two val, three test."""
    for folder in sorted(photo_folder.iterdir()):
        for file in folder.iterdir():
            split = "train" if file.stem in "01234" else "val" if file.stem in "56" else "test"
            (photo_folder / split / folder.name).mkdir(parents=True, exist_ok=True)
            file.rename(photo_folder / split / folder.name / file.name)
        folder.rmdir()


@pytest.mark.slow
def test_four_shards_in_any_order_two_of_them_killed_give_the_bytes_of_one_run(
    embed: Embed, small_clip: str, photo_folder: Path, mma: Run, tmp_path: Path
) -> None:
    whole, _ = embed(cache=tmp_path / "whole.zarr")
    path = tmp_path / "photos.zarr"

    def killed(shard: str, point: str, times: int) -> bool:
        words = ("embed", "--dataset", photo_folder, "--model", small_clip, "--batch-size", 4, "--workers", 1)
        first = KILLED.format(point=point, times=times, threads=torch.get_num_threads())
        done = mma(*words, "--cache", path, "--shard", shard, cwd=tmp_path, first=first)
        return done.returncode == -signal.SIGKILL

    assert killed("2/4", "chunk.write:after", 2)
    embed(shard="1/4")
    assert killed("4/4", "receipt.write:before", 1)
    embed(shard="3/4")
    assert open_cache(path, partial=True).progress() == (6, 9)
    assert "shard 4/4 is done, and 8 of 9 chunks are" in embed(shard="4/4")[1]
    embed(shard="2/4")
    assert snapshot(path) == snapshot(whole)


def test_the_last_shard_publishes_and_each_does_its_own(embed: Embed, tmp_path: Path) -> None:
    whole, _ = embed(cache=tmp_path / "whole.zarr")
    _, first = embed(shard="2/2")
    assert "30 (train 15, val 6, test 9), 13 to do in 4 chunks, as shard 2/2" in first
    assert "shard 2/2 is done, and 4 of 9 chunks are: the shard that ends last makes the cache complete" in first
    with pytest.raises(CacheError, match=r"not complete \(4 of 9 chunks\)"):
        open_cache(tmp_path / "photos.zarr")
    assert "shard 2/2 is done" in embed(shard="2/2")[1]
    path, last = embed(shard="1/2")
    assert "30 images, prompts default" in last
    assert snapshot(path) == snapshot(whole)
    assert "nothing to do" in embed(shard="2/2")[1]


def test_shards_of_another_model_are_refused(embed: Embed, other_clip: str) -> None:
    embed(shard="1/2")
    with pytest.raises(CacheError, match="was made differently"):
        embed(shard="2/2", model=other_clip)


@pytest.mark.slow
def test_a_shard_counts_its_own_failures(embed: Embed, photo_folder: Path, tmp_path: Path) -> None:
    for file in sorted(photo_folder.rglob("*.jpg"))[:12]:
        file.write_bytes(b"")
    path, _ = embed(max_failures="90%", shard="1/2")
    assert sum(map(len, open_cache(path, partial=True).failures().values())) > 3
    with pytest.raises(WorkError, match=r"images have failed, and 3 may"):
        embed(cache=tmp_path / "other.zarr", max_failures="3", shard="1/2")


@pytest.mark.slow
def test_an_image_that_changed_since_its_shard_was_done_is_named(embed: Embed, photo_folder: Path) -> None:
    path, _ = embed(shard="1/2")
    changed = photo_folder / open_cache(path, partial=True).split("train").path[0]
    changed.write_bytes((photo_folder / "test/cat/9.jpg").read_bytes() + b"\0")
    with pytest.raises(UsageError, match=r"not what .* was made from"):
        embed(shard="2/2")


@pytest.mark.parametrize("shards", [["1/2"], ["1/2", "2/2"]])
def test_shards_do_not_make_a_cache_grow(shards: list[str], embed: Embed, photo_folder: Path) -> None:
    for shard in shards:
        path, _ = embed(shard=shard)
    before = snapshot(path)
    (photo_folder / "train/cat/new.jpg").write_bytes(photo(500))
    told = r"1 image added, 0 moved.*; `update=True`, without `shard=2/2`, embeds what is new into the same cache"
    with pytest.raises(UsageError, match=told):
        embed(shard="2/2")
    assert snapshot(path) == before
    embed(update=True)
    assert open_cache(path).header.rows == {"train": 16, "val": 6, "test": 9}


def test_shards_draw_the_splits_of_a_folder_that_has_none_alike(
    embed: Embed, photo_folder: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "unsplit"
    for file in photo_folder.rglob("*.jpg"):
        (folder / file.parent.name).mkdir(parents=True, exist_ok=True)
        (folder / file.parent.name / file.name).write_bytes(file.read_bytes())
    whole, _ = embed(dataset=str(folder), cache=tmp_path / "whole.zarr")
    for shard in ("2/2", "1/2"):
        path, _ = embed(dataset=str(folder), shard=shard)
    assert snapshot(path) == snapshot(whole)


@pytest.mark.parametrize("given", ["5/4", "0/4", "4", "1/0", "-1/2", "a/b", "1/2/3", ""])
def test_a_shard_that_is_none_is_refused_in_one_line(given: str, embed: Embed) -> None:
    with pytest.raises(UsageError, match="is no shard: the first of four is 1/4, the last 4/4"):
        embed(shard=given)


def test_penultimate_features_are_refused_with_a_shard(mma_here: Run, tmp_path: Path) -> None:
    words = ("--dataset", "photos", "--model", "tiny", "--features", "penultimate", "--shard", "1/2")
    done = mma_here("embed", *words, cwd=tmp_path)
    assert done.returncode == 2
    assert done.stderr == "mma: --features penultimate is written by one run: leave out --shard I/N\n"


@pytest.mark.parametrize("other", ["update", "text_only"])
def test_what_is_for_one_run_is_refused_with_a_shard(other: str, embed: Embed) -> None:
    with pytest.raises(UsageError, match=rf"`{other}=True` is for one run: leave out `shard=1/2`"):
        embed(shard="1/2", **{other: True})


@pytest.mark.slow
def test_merge_says_what_is_missing_and_makes_complete_what_is_not(embed: Embed, mma_here: Run, tmp_path: Path) -> None:
    path, _ = embed(shard="1/2")
    done = mma_here("cache", "merge", path)
    assert done.returncode == 2
    assert done.stderr == (
        f"mma: {path} lacks 4 of 9 chunks, the first is image/train/1: run the shards that have not ended, "
        "or one embed of the whole, which does the rest\n"
    )
    embed(shard="2/2")
    assert f"{path} is complete." in " ".join(mma_here("cache", "merge", path).stderr.split())
