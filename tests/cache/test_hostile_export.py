"""Exports and archives from strangers: bounded before they are read, checked before they become a cache."""

from __future__ import annotations

import errno
import io
import json
import os
import shutil
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mma.cache import CacheError, export_cache, import_export, import_npz, read_npy, read_parquet
from mma.cache.export import read_npz


def test_an_archive_that_would_unpack_to_far_more_than_it_is_is_refused_unread(tmp_path: Path) -> None:
    file = tmp_path / "bomb.npz"
    np.savez_compressed(file, image_train=np.zeros((100_000_000,), np.uint8))
    assert file.stat().st_size < 200_000
    with pytest.raises(CacheError, match="would unpack to 100,000,128 bytes"):
        read_npz(file)


def test_an_array_whose_header_claims_more_than_there_is_is_refused(tmp_path: Path) -> None:
    member = io.BytesIO()
    np.lib.format.write_array_header_1_0(member, {"descr": "|u1", "fortran_order": False, "shape": (3_000_000_000,)})
    with zipfile.ZipFile(tmp_path / "a.npz", "w") as archive:
        archive.writestr("image_train.npy", member.getvalue() + bytes(1000))
    with pytest.raises(CacheError, match=r"another size than its header \(3000000000,\) uint8 says"):
        read_npz(tmp_path / "a.npz")


@pytest.mark.slow
def test_a_parquet_file_that_unpacks_to_far_more_than_it_is_is_refused(tmp_path: Path) -> None:
    pa, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    text = "x" * 100_000
    bombs = {
        "values": pa.table({"label": np.zeros(100_000_000, np.int8)}),
        "texts": pa.table({"path": pa.DictionaryArray.from_arrays(np.zeros(5_000, np.int32), [text])}),
    }
    for name, table in bombs.items():
        file = tmp_path / f"{name}.parquet"
        parquet.write_table(table, file, compression="zstd")
        assert file.stat().st_size < 500_000
        with pytest.raises(CacheError, match="unpacks to more than"):
            read_parquet(file)
    assert read_parquet(file, ["label"]).num_columns == 0  # what is not asked for is not read


def test_an_npy_whose_header_claims_more_than_there_is_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "a.npy"
    with file.open("wb") as stream:
        about = {"descr": "<f4", "fortran_order": False, "shape": (10**12, 512)}
        np.lib.format.write_array_header_1_0(stream, about)
        stream.write(bytes(4096))
    with pytest.raises(CacheError, match="has another size than its header"):
        read_npy(file)
    np.save(file, np.array([{}], dtype=object))
    with pytest.raises(CacheError, match="Python objects"):
        read_npy(file)
    np.save(file, np.arange(6).reshape(2, 3))
    assert read_npy(file).tolist() == [[0, 1, 2], [3, 4, 5]]


@pytest.mark.parametrize("kind", ["npz", "safetensors"])
def test_a_pipe_in_place_of_an_export_is_not_waited_for(kind: str, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / f"a.{kind}")
    with pytest.raises(CacheError, match=r"no file|is not a regular file"):
        import_export(tmp_path / f"a.{kind}")


@pytest.mark.parametrize("paths", ["[" * 100_000, "[1]", "{", '{"train": 3}', "null"])
def test_paths_that_are_no_lists_are_a_damaged_export(paths: str, tmp_path: Path) -> None:
    from safetensors.numpy import save_file

    save_file({"x": np.ones(3)}, tmp_path / "a.safetensors", metadata={"mma": "{}", "paths": paths})
    with pytest.raises(CacheError, match=r"is not a readable|is a damaged export"):
        import_export(tmp_path / "a.safetensors")


BAD: list[tuple[str, Any]] = [
    ("classnames", ["same", "same", "other"]),
    ("classnames", "abc"),
    ("classnames", [1, 2, 3]),
    ("classnames", ["\ud800", "b", "c"]),
    ("rows", {"train": "7", "test": 3}),
    ("rows", []),
    ("views", {"train": 1}),
    ("dim", 3.0),
    ("dim", -3),
    ("dtype", "object"),
    ("dtype", ["float16"]),
    ("chunk", 0),
    ("chunk", True),
    ("batch", None),
    ("logit_scale", float("nan")),
    ("logit_scale", float("inf")),
    ("logit_scale", "100"),
    ("logit_scale", -1),
    ("fingerprint", []),
    ("fingerprint", {"x": float("inf")}),
    ("notes", None),
    ("source", "here"),
    ("dataset", 7),
]


def test_every_field_of_an_exports_header_is_checked(whole: dict[str, Path], tmp_path: Path) -> None:
    arrays = read_npz(export_cache(whole["small"], tmp_path / "good.npz"))
    about = json.loads(str(arrays["mma"]))
    failed = about["failures"]["train"]
    changed = [{**about, "header": {**about["header"], name: value}} for name, value in BAD]
    changed += [{**about, "failures": {**about["failures"], "train": bad}} for bad in (failed * 2, [[-4, 1, ""]])]
    changed += [{**about, "failures": {**about["failures"], "train": [[3, code, ""]]}} for code in (300, 255, "x")]
    changed += [{**about, "prompts": {**about["prompts"], "added": {"templates": t, "texts": None}}} for t in ([], [1])]
    for number, bad in enumerate(changed):
        file = tmp_path / f"{number}.npz"
        np.savez(file, **{**arrays, "mma": np.array(json.dumps(bad))})  # type: ignore[arg-type]
        with pytest.raises(CacheError):
            import_npz(file, tmp_path / "out.zarr")
        assert not (tmp_path / "out.zarr").exists()


def test_a_parquet_export_that_met_a_full_disk_leaves_nothing_behind(
    whole: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    write_table = parquet.write_table

    def full(table: object, file: Path) -> None:
        if file.name.startswith("text-"):
            raise OSError(errno.ENOSPC, "No space left on device")
        write_table(table, file)

    monkeypatch.setattr(parquet, "write_table", full)
    with pytest.raises(OSError, match="No space left"):
        export_cache(whole["ragged"], tmp_path / "x.parquet")
    assert list(tmp_path.iterdir()) == []
    monkeypatch.undo()
    (tmp_path / ".x.parquet.partial").mkdir()
    (tmp_path / ".x.parquet.partial" / "image-val.parquet").write_bytes(b"of an export that was killed")
    export_cache(whole["small"], tmp_path / "x.parquet")
    assert not (tmp_path / "x.parquet" / "image-val.parquet").exists()
    shutil.rmtree(tmp_path / "x.parquet")
