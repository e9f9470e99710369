"""A data set that has changed: what is new is embedded into the same cache, and all else stays what it was."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mma.cache import Cache, Chunk, open_cache, verify
from mma.pipeline.embedding import grow as grow_file
from mma.pipeline.embedding.encode import Encoded, encode_chunks
from mma.pipeline.errors import UsageError

from ...cache.writing import snapshot
from ..conftest import photo

Embed = Callable[..., tuple[Path, str]]


def rows_by_content(cache: Cache) -> dict[bytes, tuple[str, np.ndarray, np.ndarray]]:
    """Content hash -> split, embedding and penultimate features of a row."""
    return {
        content.tobytes(): (split, embedding, before)
        for split in cache.header.rows
        for content, embedding, before in zip(
            cache.content(split), cache.split(split).embedding, cache.penultimate(split), strict=True
        )
    }


def labelled(cache: Cache) -> dict[str, list[tuple[str, str]]]:
    """Split -> path and class of each row."""
    names = cache.header.classnames
    return {s: [(p, names[c]) for p, c in zip(d.path, d.label, strict=True)] for s, d in splits(cache).items()}


def splits(cache: Cache) -> dict[str, Any]:
    return {split: cache.split(split) for split in cache.header.rows}


def test_what_is_new_is_embedded_and_all_else_is_kept_bit_by_bit(
    embed: Embed, photo_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, _ = embed(features="penultimate")
    old, before = rows_by_content(open_cache(path)), snapshot(path)
    (photo_folder / "fish").mkdir()  # a new class, which comes between those that are there
    for number in range(5):
        (photo_folder / f"fish/{number}.jpg").write_bytes(photo(500 + number))
    for number in (3, 4):
        (photo_folder / f"cat/{number}.jpg").rename(photo_folder / f"bird/of cat {number}.jpg")
    (photo_folder / "bird/7.jpg").unlink()
    (photo_folder / "bird/8.jpg").write_bytes(photo(600))

    told = "5 images added, 2 moved to another class, 1 gone, 1 overwritten \\(such as bird/8.jpg\\)"
    with pytest.raises(UsageError, match=told):
        embed(features="penultimate")
    assert snapshot(path) == before

    encoded: list[Chunk] = []

    def counted(clip: Any, dataset: Any, chunks: Sequence[Chunk], *rest: Any) -> Iterator[Encoded]:
        encoded.extend(chunks)
        return encode_chunks(clip, dataset, chunks, *rest)

    monkeypatch.setattr(grow_file, "encode_chunks", counted)
    embed(features="penultimate", update=True)
    assert sum(chunk.stop - chunk.start for chunk in encoded) == 6
    assert verify(path).faults == []
    now, anew = open_cache(path), open_cache(embed(features="penultimate", cache=tmp_path / "new.zarr")[0])
    assert now.header.classnames == ["big dog", "bird", "cat", "fish"]
    assert labelled(now) == labelled(anew)
    rows, fresh = rows_by_content(now), rows_by_content(anew)
    assert rows.keys() == fresh.keys()
    assert len(rows.keys() & old.keys()) == 28
    for content in rows.keys() & old.keys():
        assert rows[content][0] == old[content][0]  # what was test is never train later
        assert all(np.array_equal(a, b) for a, b in zip(rows[content][1:], old[content][1:], strict=True))
    for content, (_, *numbers) in rows.items():
        for number, other in zip(numbers, fresh[content][1:], strict=True):
            np.testing.assert_allclose(number, other, atol=2e-3)  # float16; another batch may round the last bit
    np.testing.assert_allclose(now.text("default").embedding, anew.text("default").embedding, atol=1e-6)
    assert "nothing to do" in embed(features="penultimate")[1]
    assert not (tmp_path / ".photos.zarr.new").exists()


def test_a_cache_of_another_draw_is_refused_with_the_reason_and_an_update_draws_it_anew(embed: Embed) -> None:
    path, _ = embed(features="penultimate")
    old, before = rows_by_content(open_cache(path)), snapshot(path)
    told = (
        r"0 images added, 0 moved to another class, 0 gone, \d+ moved to another split \(such as \S+\), because splits "
        r"were drawn in another way then \(each image is drawn by its own bytes, .*, seed 0\); `update=True` embeds"
    )
    with pytest.raises(UsageError, match=told):
        embed(features="penultimate", split_seed=1)
    assert snapshot(path) == before
    _, said = embed(features="penultimate", split_seed=1, update=True)
    assert "all done" in said
    now = rows_by_content(open_cache(path))
    assert now.keys() == old.keys()
    assert any(now[content][0] != old[content][0] for content in old)
    assert all(np.array_equal(now[content][1], old[content][1]) for content in old)


def test_a_cache_of_several_views_cannot_grow(embed: Embed, photo_folder: Path) -> None:
    path, _ = embed(views=2)
    before = snapshot(path)
    shutil.copy(photo_folder / "cat/3.jpg", photo_folder / "bird/of cat.jpg")
    with pytest.raises(UsageError, match=r"1 image added.*a cache of several views cannot grow"):
        embed(views=2, update=True)
    assert snapshot(path) == before
