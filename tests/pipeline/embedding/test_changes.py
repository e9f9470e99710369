"""Images that are overwritten, come back or vanish are never mixed into a cache, and never lost in silence."""

from __future__ import annotations

import io
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from mma.cache import CacheError, CacheWriter, Chunk, Status, open_cache, verify
from mma.pipeline.datasets import Dataset, Lookup, find_dataset
from mma.pipeline.datasets.contents import content_hash
from mma.pipeline.datasets.folder import FileSplit
from mma.pipeline.embedding import chunk as chunk_file
from mma.pipeline.embedding import seen as seen_file
from mma.pipeline.embedding.embed import EmbedSettings
from mma.pipeline.embedding.embed import embed as run
from mma.pipeline.embedding.header import manifest_hash
from mma.pipeline.embedding.rows import absent_notes
from mma.pipeline.errors import UsageError, WorkError

from ...cache.writing import snapshot
from ..conftest import photo

Embed = Callable[..., tuple[Path, str]]


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chunk_file, "MOST_PICTURES", 4)


def overwrite(file: Path, data: bytes) -> None:
    """Other bytes of the same length, and the old time of change: what size and time of writing do not tell."""
    about = file.stat()
    data = data[: about.st_size].ljust(about.st_size, b"\0")
    file.write_bytes(data)
    os.utime(file, ns=(about.st_atime_ns, about.st_mtime_ns))


def stopped_after(chunks: int, embed: Embed, **changes: Any) -> None:
    """A run that is interrupted when so many chunks are stored."""
    true_write, stored = CacheWriter.write, []

    def write(self: CacheWriter, chunk: Chunk, *rest: Any) -> None:
        if len(stored) == chunks:
            raise KeyboardInterrupt
        true_write(self, chunk, *rest)
        stored.append(chunk)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(CacheWriter, "write", write)
        with pytest.raises(KeyboardInterrupt):
            embed(**changes)


@pytest.mark.slow
def test_every_row_has_the_hash_of_its_bytes(embed: Embed, photo_folder: Path) -> None:
    (photo_folder / "cat/5.jpg").write_bytes(b"hello")
    cache = open_cache(embed()[0])
    for split in cache.header.rows:
        for path, stored in zip(cache.split(split).path, cache.content(split), strict=True):
            assert stored.tobytes() == content_hash((photo_folder / path).read_bytes())


def test_pixels_are_hashed_as_the_image_file_they_would_be() -> None:
    from PIL import Image

    pixels = np.random.default_rng(0).integers(0, 256, (5, 7, 3), np.uint8)
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "PPM")
    assert content_hash(pixels) == content_hash(stream.getvalue())


def test_the_seed_of_drawn_images_is_another_fingerprint() -> None:
    zero, again, one = (manifest_hash(find_dataset("shapes", Lookup(seed=seed))) for seed in (0, 0, 1))
    assert zero == again != one


@pytest.mark.slow
def test_another_bound_on_pixels_is_another_fingerprint(embed: Embed) -> None:
    embed()
    with pytest.raises(CacheError, match="max_pixels"):
        embed(max_pixels=1000)


@pytest.mark.slow
def test_an_image_overwritten_after_the_run_is_named_and_nothing_is_changed(embed: Embed, photo_folder: Path) -> None:
    path, _ = embed()
    before = snapshot(path)
    assert "nothing to do" in embed()[1]
    overwrite(photo_folder / "cat/3.jpg", photo(7))
    with pytest.raises(
        UsageError, match=r"^1 image \(cat/3.jpg\) is not what .*photos.zarr was made from: `update=True`"
    ):
        embed()
    assert snapshot(path) == before


@pytest.mark.slow
def test_update_embeds_what_has_changed_and_ends_as_a_new_cache_would(
    embed: Embed, photo_folder: Path, listed: Path, tmp_path: Path
) -> None:
    path, _ = embed(dataset=str(listed))
    for file in ("cat/3.jpg", "bird/0.jpg"):
        (photo_folder / file).write_bytes(photo(7, (64, 64)))
    _, said = embed(dataset=str(listed), update=True)
    assert "2 images (" in said
    assert "embedded anew" in said
    assert "30 to do" not in said
    assert snapshot(path) == snapshot(embed(dataset=str(listed), cache=tmp_path / "new.zarr")[0])
    assert "nothing to do" in embed(dataset=str(listed))[1]


@pytest.mark.slow
def test_an_update_that_is_interrupted_goes_on(embed: Embed, photo_folder: Path, tmp_path: Path) -> None:
    path, _ = embed()
    for name in ("big_dog", "bird", "cat"):
        for number in range(10):
            (photo_folder / name / f"{number}.jpg").write_bytes(photo(1000 + number))
    stopped_after(2, embed, update=True)
    embed(update=True)
    assert snapshot(path) == snapshot(embed(cache=tmp_path / "new.zarr")[0])


@pytest.mark.slow
def test_an_image_changed_between_a_kill_and_its_resume_is_named(
    embed: Embed, photo_folder: Path, listed: Path, tmp_path: Path
) -> None:
    stopped_after(3, embed, dataset=str(listed))
    path = tmp_path / "photos.zarr"
    first = open_cache(path, partial=True).split("train").path[0]
    overwrite(photo_folder / first, photo(7))
    with pytest.raises(UsageError, match=rf"1 image \({first}\) is not what"):
        embed(dataset=str(listed))
    embed(dataset=str(listed), update=True)
    assert snapshot(path) == snapshot(embed(dataset=str(listed), cache=tmp_path / "new.zarr")[0])


@pytest.mark.slow
def test_what_has_not_changed_is_not_read_again(
    embed: Embed, photo_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, _ = embed()
    reads: list[int] = []
    true_read = FileSplit.read
    monkeypatch.setattr(FileSplit, "read", lambda self, row: reads.append(row) or true_read(self, row))  # type: ignore[func-returns-value]
    embed()
    assert reads == []
    os.utime(photo_folder / "cat/3.jpg")
    embed()
    assert len(reads) == 1
    embed()
    assert len(reads) == 1  # and what was found unchanged is remembered
    (tmp_path / ".photos.zarr.seen").unlink()
    embed()
    assert len(reads) == 31
    shutil.copytree(path, tmp_path / "copy.zarr")
    embed(cache=tmp_path / "copy.zarr")
    assert len(reads) == 61


@pytest.mark.slow
@pytest.mark.parametrize(
    "damage", [b"", b"\0" * 5000, b'{"unit": []}\n', b'{"unit": "", "content": "", "stamps": "A"}\n']
)
def test_a_damaged_note_of_what_was_seen_costs_time_and_nothing_else(
    damage: bytes, embed: Embed, photo_folder: Path, tmp_path: Path
) -> None:
    embed()
    (tmp_path / ".photos.zarr.seen").write_bytes(damage)
    assert "nothing to do" in embed()[1]
    overwrite(photo_folder / "cat/3.jpg", photo(7))
    (tmp_path / ".photos.zarr.seen").write_bytes(damage)
    with pytest.raises(UsageError, match=r"cat/3.jpg"):
        embed()


@pytest.mark.slow
def test_what_was_seen_of_another_cache_does_not_count(embed: Embed, photo_folder: Path, tmp_path: Path) -> None:
    embed(cache=tmp_path / "old.zarr")
    for name in ("big_dog", "bird", "cat"):
        overwrite(photo_folder / name / "3.jpg", photo(7))
    embed()
    shutil.rmtree(tmp_path / "photos.zarr")
    (tmp_path / "old.zarr").rename(tmp_path / "photos.zarr")  # and the note is that of the cache that was there
    with pytest.raises(UsageError, match="3 images"):
        embed()


def test_a_link_in_place_of_the_note_is_not_written_through(embed: Embed, tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.write_text("precious")
    embed()
    (tmp_path / ".photos.zarr.seen").unlink()
    (tmp_path / ".photos.zarr.seen").symlink_to(victim)
    with pytest.raises(OSError, match=r"symbolic links"):
        seen_file.Seen(tmp_path / "photos.zarr").write("u", np.zeros((1, 32), np.uint8), np.zeros((1, 3), np.int64))
    assert victim.read_text() == "precious"


# What is missing, and what vanishes


@pytest.mark.slow
def test_a_missing_image_is_told_and_tried_again_by_the_next_run(
    embed: Embed, photo_folder: Path, listed: Path, tmp_path: Path
) -> None:
    aside = tmp_path / "aside.jpg"
    (photo_folder / "bird/2.jpg").rename(aside)
    path, said = embed(dataset=str(listed))
    assert "1 of 24 images of train are not there, such as bird/2.jpg: a later run embeds them" in said
    assert open_cache(path).split("train").status.tolist().count(Status.MISSING) == 1
    assert "nothing to do" in embed(dataset=str(listed))[1]
    aside.rename(photo_folder / "bird/2.jpg")
    assert "1 image (bird/2.jpg) is there now, and embedded" in embed(dataset=str(listed))[1]
    assert open_cache(path).split("train").ok.all()
    assert snapshot(path) == snapshot(embed(dataset=str(listed), cache=tmp_path / "new.zarr")[0])


@pytest.mark.slow
def test_images_that_are_deleted_after_the_run_keep_their_embedding(
    embed: Embed, photo_folder: Path, listed: Path
) -> None:
    path, _ = embed(dataset=str(listed))
    before = snapshot(path)
    (photo_folder / "bird/2.jpg").unlink()
    assert "nothing to do" in embed(dataset=str(listed))[1]
    assert snapshot(path) == before


def test_a_data_set_that_lacks_many_rows_is_refused_before_work(
    embed: Embed, photo_folder: Path, listed: Path, tmp_path: Path
) -> None:
    shutil.rmtree(photo_folder / "bird")
    shutil.rmtree(photo_folder / "cat")
    with pytest.raises(UsageError, match=r"16 of 24 images of train are not there, such as bird/0.jpg: bring the rest"):
        embed(dataset=str(listed))
    assert not (tmp_path / "photos.zarr").exists()


def test_a_long_run_of_rows_that_are_not_there_is_no_accident(tmp_path: Path) -> None:
    paths = [f"{row}.jpg" for row in range(100)]
    for path in paths:
        (tmp_path / path).touch()
    dataset = Dataset("x", ("a", "b"), (), {"test": FileSplit(tmp_path, paths, np.zeros(100, np.int32))})
    assert absent_notes(dataset) == []
    for row in range(40, 59):
        (tmp_path / f"{row}.jpg").unlink()
    assert len(absent_notes(dataset)) == 1
    (tmp_path / "59.jpg").unlink()
    with pytest.raises(UsageError, match=r"20 of 100 images of test are not there, such as 40.jpg"):
        absent_notes(dataset)


def vanish_at(index: int, split: str, act: Callable[[], object], patch: pytest.MonkeyPatch) -> None:
    """Do something to the data set when a chunk is about to be stored."""
    true_write, done = CacheWriter.write, []

    def write(self: CacheWriter, chunk: Chunk, *rest: Any) -> None:
        true_write(self, chunk, *rest)
        if not done and (chunk.split, chunk.index) == (split, index):
            done.append(act())

    patch.setattr(CacheWriter, "write", write)


@pytest.mark.slow
def test_a_split_that_is_emptied_during_the_run_becomes_no_missing_rows(
    embed: Embed, photo_folder: Path, tmp_path: Path
) -> None:
    home = tmp_path / "split"
    for split, numbers in (("train", range(7)), ("test", range(7, 10))):
        for name in ("big_dog", "bird", "cat"):
            (home / split / name).mkdir(parents=True)
            for number in numbers:
                shutil.copy(photo_folder / name / f"{number}.jpg", home / split / name)

    def empty() -> None:
        (home / "train").rename(tmp_path / "unmounted")
        (home / "train").mkdir()

    with pytest.MonkeyPatch.context() as patch:
        vanish_at(0, "train", empty, patch)
        with pytest.raises(WorkError, match=r"is gone, and so are \d+ of the \d+ images next to it.*bring it back"):
            embed(dataset=str(home), workers=1, max_failures="100%")
    half = open_cache(tmp_path / "photos.zarr", partial=True)
    assert all(not failures for failures in half.failures().values())
    (home / "train").rmdir()
    (tmp_path / "unmounted").rename(home / "train")
    path, _ = embed(dataset=str(home))
    assert snapshot(path) == snapshot(embed(dataset=str(home), cache=tmp_path / "new.zarr")[0])


@pytest.mark.slow
def test_shards_that_go_away_during_the_run_become_no_missing_rows(embed: Embed, tmp_path: Path) -> None:
    from ..datasets.test_own_data import samples, write_tar

    shards = tmp_path / "shards"
    write_tar(shards / "train-0.tar", samples(["cat", "dog"] * 10))
    write_tar(shards / "test-0.tar", samples(["cat", "dog"] * 4))
    with pytest.MonkeyPatch.context() as patch:
        vanish_at(0, "train", lambda: shards.rename(tmp_path / "away"), patch)
        with pytest.raises(WorkError, match="is gone, and so are"):
            embed(dataset=str(shards), workers=1, max_failures="100%")
    assert all(not f for f in open_cache(tmp_path / "photos.zarr", partial=True).failures().values())
    (tmp_path / "away").rename(shards)
    path, _ = embed(dataset=str(shards))
    assert all(open_cache(path).split(split).ok.all() for split in ("train", "test"))
    assert verify(path).faults == []
    times = (shards / "train-0.tar").stat()
    write_tar(shards / "train-0.tar", samples(["cat", "dog"] * 10))
    os.utime(shards / "train-0.tar", ns=(times.st_atime_ns, times.st_mtime_ns))
    assert "nothing to do" in embed(dataset=str(shards))[1]  # the same bytes


def test_a_single_file_that_is_deleted_during_the_run_is_one_missing_row(
    embed: Embed, photo_folder: Path, listed: Path, tmp_path: Path
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        vanish_at(0, "train", lambda: (photo_folder / "cat/9.jpg").unlink(), patch)
        path, said = embed(dataset=str(listed), workers=1)
    assert "1 images have no embedding" in said
    assert "cat/9.jpg: missing" in said
    assert open_cache(path).split("test").status.tolist().count(Status.MISSING) == 1


# Links


@pytest.mark.slow
def test_images_that_are_links_are_read_where_they_lead_only_on_request(
    embed: Embed, photo_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, small_clip: str
) -> None:
    linked = tmp_path / "linked"
    for name in ("big_dog", "bird", "cat"):
        (linked / name).mkdir(parents=True)
        for number in range(10):
            (linked / name / f"{number}.jpg").symlink_to(photo_folder / name / f"{number}.jpg")
    path, said = embed(dataset=str(linked), max_failures="100%")
    assert "30 images have no embedding" in said
    with pytest.raises(UsageError, match=r"0 gone, 30 that could not be read before \(such as .*`update=True`"):
        embed(dataset=str(linked), follow_links=True)
    embed(dataset=str(linked), follow_links=True, update=True)
    assert all(open_cache(path).split(split).ok.all() for split in ("train", "val", "test"))


def test_a_link_to_a_folder_names_its_cache_after_itself(
    photo_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, small_clip: str
) -> None:
    (tmp_path / "Current Photos").symlink_to(photo_folder)
    monkeypatch.chdir(tmp_path)
    settings = EmbedSettings(dataset=str(tmp_path / "Current Photos"), model=small_clip, workers=1)
    assert run(settings, Console(quiet=True)) == Path("cache/current-photos.zarr")
