from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mma.cache import CacheWriter, open_cache
from mma.pipeline.embedding import chunk as chunk_file
from mma.pipeline.embedding.chunk import MOST_PICTURES, MOST_SECONDS, rows_in_batch, rows_in_chunk

VIEWS = st.dictionaries(st.sampled_from(["train", "val", "test"]), st.integers(1, 40), min_size=1)


@given(batch=st.integers(1, 600), views=VIEWS, seconds=st.floats(0, 100))
def test_a_chunk_is_whole_batches_in_every_split_whatever_the_views(
    batch: int, views: dict[str, int], seconds: float
) -> None:
    chunk = rows_in_chunk(batch, views, seconds)
    assert chunk > 0
    for of_split in views.values():
        rows = rows_in_batch(batch, of_split)
        assert rows * of_split <= max(batch, of_split)
        assert chunk % rows == 0
    pictures = chunk * max(views.values())
    assert chunk == batch or pictures <= MOST_PICTURES
    assert chunk == batch or pictures * seconds <= MOST_SECONDS


@pytest.mark.parametrize(("seconds", "rows"), [(0.0, 1024), (0.001, 1024), (0.1, 256), (0.25, 64), (10.0, 64)])
def test_a_crash_loses_half_a_minute_of_work_or_one_batch(seconds: float, rows: int) -> None:
    assert rows_in_chunk(64, {"train": 1}, seconds) == rows


@pytest.mark.slow
def test_a_slow_model_has_small_chunks_and_an_interrupted_run_keeps_them(
    embed: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = open_cache(embed(cache=tmp_path / "whole.zarr")[0])
    assert whole.header.chunk > 16
    with monkeypatch.context() as patch:
        patch.setattr(chunk_file, "MOST_SECONDS", 1e-9)  # any model is slow
        patch.setattr(CacheWriter, "write_text", interrupted)
        with pytest.raises(KeyboardInterrupt):
            embed()
    cache = open_cache(embed()[0])
    assert cache.header.chunk == 4
    for split in whole.header.rows:  # and its size decides no bit
        assert cache.split(split).embedding.tobytes() == whole.split(split).embedding.tobytes()


def interrupted(*_: object) -> None:
    raise KeyboardInterrupt
