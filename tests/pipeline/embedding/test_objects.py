"""The commands on a cache in an object store: `mma embed` writes it, and everything else reads it as one on a disk."""

from __future__ import annotations

import json
import signal
import subprocess
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from mma.cache import open_cache
from mma.cache.where import place_of
from mma.pipeline.embedding import chunk as chunk_file
from mma.pipeline.errors import WorkError

from ...cache.writing import snapshot
from ...object_store import KEY, ObjectStore

Embed = Callable[..., tuple[Path, str]]
Run = Callable[..., subprocess.CompletedProcess[str]]

KILLED = (
    "from mma.cache import killpoint; from mma.pipeline.embedding import chunk; chunk.MOST_PICTURES = 4; "
    "killpoint.arm('receipt.write:after', killpoint.die, 4)"
)


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chunk_file, "MOST_PICTURES", 4)


def test_a_command_killed_and_continued_in_a_bucket_gives_the_bytes_of_a_cache_on_a_disk(
    embed: Embed, mma: Run, small_clip: str, photo_folder: Path, s3: ObjectStore, tmp_path: Path
) -> None:
    far = "s3://bucket/killed/photos.zarr"
    near, _ = embed(cache=tmp_path / "near.zarr")
    words = ("embed", "--dataset", photo_folder, "--model", small_clip, "--batch-size", 4, "--workers", 1)
    assert mma(*words, "--cache", far, cwd=tmp_path, first=KILLED).returncode == -signal.SIGKILL
    done, chunks = open_cache(far, partial=True).progress()
    assert done == 4
    path, said = embed(cache=far)
    assert path == far
    assert f"to do in {chunks - 4} chunks" in said
    assert f"{far}: 30 images, prompts default" in said
    assert snapshot(far) == snapshot(near)
    assert "is complete: nothing to do" in embed(cache=far)[1]
    embed(cache=far, text_only=True, prompts="simple")
    assert open_cache(far).prompts == ("default", "simple")
    for data in place_of(far).read_many(place_of(far).sizes()).values():
        assert data
        assert KEY.encode() not in data
        assert s3.address.encode() not in data
    assert not (tmp_path / "s3:").exists()


def test_two_shards_at_once_in_a_bucket_give_the_bytes_of_one_run(
    embed: Embed, s3: ObjectStore, tmp_path: Path
) -> None:
    near, _ = embed(cache=tmp_path / "near.zarr")
    far = "s3://bucket/shards/photos.zarr"
    both = [threading.Thread(target=embed, kwargs={"cache": far, "shard": f"{i}/2"}) for i in (1, 2)]
    for shard in both:
        shard.start()
    for shard in both:
        shard.join()
    assert snapshot(far) == snapshot(near)


def test_a_store_that_fails_ends_the_command_and_keeps_what_is_done(embed: Embed, s3: ObjectStore) -> None:
    far = "s3://bucket/fails/photos.zarr"
    s3.fault = lambda method, path: "503" if method == "PUT" and "/test/embedding/c/1" in path else None
    with pytest.raises(WorkError, match="the store does not answer: status 503; what is done is kept: run the same"):
        embed(cache=far)
    assert open_cache(far, partial=True).progress()[0] >= 6


def test_a_cache_in_a_bucket_is_fitted_verified_exported_and_predicted_as_on_a_disk(
    small_cache: Path, mma_here: Run, s3: ObjectStore, tmp_path: Path
) -> None:
    far = "s3://bucket/small.zarr"
    mma_here("cache", "export", small_cache, "--out", tmp_path / "small.npz")
    assert f"mma fit --cache {far}" in mma_here("cache", "import", "--npz", tmp_path / "small.npz", "--out", far).stderr
    assert snapshot(far) == snapshot(small_cache)
    assert "every byte is as it was written; complete" in mma_here("cache", "verify", far).stdout
    assert json.loads(mma_here("cache", "info", far, "--json").stdout)["bytes"] > 0
    assert mma_here("cache", "diff", far, small_cache).returncode == 0
    outs: list[str] = []
    for place, runs in ((far, "far"), (small_cache, "near")):
        fit = ("fit", "--cache", place, "--adapter", "linear-probe", "--shots", 2, "--seeds", 1, "--json")
        outs.append(mma_here(*fit, "--out", tmp_path / runs).stdout)
    one, two = ([(row["adapter"], row["data"], row["base"]) for row in json.loads(out)["rows"]] for out in outs)
    assert one == two
    place_of(far).write({"image/test/label/c/0": b"?"})
    assert mma_here("cache", "verify", far).returncode == 1
    mended = mma_here("cache", "repair", far, "--from", small_cache)
    assert (mended.returncode, "1 files restored" in mended.stdout) == (0, True)
    assert snapshot(far) == snapshot(small_cache)


@pytest.mark.parametrize(
    ("place", "why"),
    [
        ("s3://nowhere/x.zarr", "there is no bucket s3://nowhere"),
        ("s3://bucket/x.zarr?token=hush", "is given with a query or fragment"),
        ("s3://me:hush@bucket/x.zarr", "is given with a name or password"),
        ("https://host/x.zarr", "is only read"),
    ],
)
def test_a_place_where_no_cache_can_be_is_one_line(place: str, why: str, s3: ObjectStore, mma_here: Run) -> None:
    ran = mma_here("embed", "--dataset", "shapes", "--model", "tiny", "--cache", place)
    assert ran.returncode == 2
    assert why in ran.stderr
    assert len(ran.stderr.strip().splitlines()) == 1
    assert "hush" not in ran.stderr
