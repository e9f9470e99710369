"""A row knows the hash of the bytes that it was made from; caches of before that are read as they are."""

from __future__ import annotations

import zipfile
from pathlib import Path

import numpy as np
import pytest

from mma.cache import CacheError, CacheWriter, diff_caches, export_cache, import_export, mend, open_cache, verify
from mma.cache import write_bundle as write

from .writing import LAYOUTS, add_text, content, embed, header, manifest, open_writer, snapshot, write_pending
from .writing import write as write_cache

VERSION_1 = Path(__file__).with_name("version1.zip")  # the layout "small", as the first release wrote it


def of_split(split: str) -> np.ndarray:
    return np.concatenate([content(chunk) for chunk in header(LAYOUTS["ragged"]).chunks() if chunk.split == split])


@pytest.fixture
def version_1(tmp_path: Path) -> Path:
    zipfile.ZipFile(VERSION_1).extractall(tmp_path)
    return tmp_path / "version1.zarr"


def test_the_hashes_that_were_written_are_read(whole: dict[str, Path]) -> None:
    cache = open_cache(whole["ragged"])
    for split in cache.header.rows:
        assert np.array_equal(cache.content(split), of_split(split))
    with pytest.raises(CacheError, match="no split 'none'; it has train, val, test"):
        cache.content("none")


def test_hashes_that_are_not_known_are_zeros_and_of_another_shape_are_refused(tmp_path: Path) -> None:
    about = header(LAYOUTS["small"])
    with CacheWriter.create(tmp_path / "rows.zarr", about, manifest(about)) as writer:
        chunk, *_ = writer.pending()
        with pytest.raises(CacheError, match=r"content is uint8 \(4, 31\), not uint8 \(4, 32\)"):
            writer.write(chunk, *embed(about, chunk), np.zeros((4, 31), np.uint8))
        writer.write(chunk, *embed(about, chunk))
    assert not open_cache(tmp_path / "rows.zarr", partial=True).content("train").any()


@pytest.mark.parametrize("kind", ["npz", "safetensors", "parquet"])
def test_exports_carry_the_hashes(kind: str, whole: dict[str, Path], tmp_path: Path) -> None:
    if kind == "parquet":
        pytest.importorskip("pyarrow")
    bundle = import_export(export_cache(whole["ragged"], tmp_path / f"a.{kind}"))
    assert bundle is not None
    copy = open_cache(write(bundle, tmp_path / "b.zarr"))
    assert np.array_equal(copy.content("test"), of_split("test"))


def test_a_diff_names_rows_of_other_image_bytes_and_is_silent_of_what_one_side_does_not_know(tmp_path: Path) -> None:
    about = header(LAYOUTS["small"])
    for name, change in (("a", 0), ("b", 1)):
        with CacheWriter.create(tmp_path / f"{name}.zarr", about, manifest(about)) as writer:
            for chunk in writer.pending():
                known = content(chunk)
                if chunk.unit == "image/train/0":
                    known[1] += change
                    known[2] *= 1 - change
                writer.write(chunk, *embed(about, chunk), known)
            writer.finish()
    found = diff_caches(open_cache(tmp_path / "a.zarr"), open_cache(tmp_path / "b.zarr"))
    assert found.rows == ["train: 1 rows are of other image bytes, the first is train/é 1.jpg"]
    assert not found.same


def test_a_cache_of_version_1_is_read_with_the_values_that_it_has(version_1: Path, whole: dict[str, Path]) -> None:
    old, new = open_cache(version_1), open_cache(whole["small"])
    assert (old.header.version, new.header.version) == (1, 2)
    assert old.prompts == new.prompts
    for split in ("train", "test"):
        assert np.array_equal(old.split(split).embedding, new.split(split).embedding, equal_nan=True)
        assert not old.content(split).any()
    assert verify(version_1).faults == []
    assert diff_caches(old, new).same


def test_a_cache_of_version_1_is_exported_mended_and_continued_as_version_1(version_1: Path, tmp_path: Path) -> None:
    before = snapshot(version_1)
    bundle = import_export(export_cache(version_1, tmp_path / "a.npz"))
    assert bundle is not None
    assert snapshot(write(bundle, tmp_path / "b.zarr")) == before
    for name in ("zarr.json", "image/train/status/zarr.json", "image/train/embedding/c/1/0/0"):
        (version_1 / name).unlink()
    assert mend(version_1).to_compute == ["image/train/1"]
    write_cache(version_1, "small")
    assert snapshot(version_1) == before


def test_an_unfinished_cache_of_version_1_is_finished_as_version_1(version_1: Path, tmp_path: Path) -> None:
    path = tmp_path / "half.zarr"
    about = header(LAYOUTS["small"], version=1)
    with CacheWriter.create(path, about, manifest(about)) as writer:
        write_pending(writer, writer.pending()[:1])
    with open_writer(path, "small") as writer:
        assert writer.header.version == 1
    write_cache(path, "small")
    add_text(path, "small")
    assert snapshot(path) == snapshot(version_1)
