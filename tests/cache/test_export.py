from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from mma.cache import (
    CacheError,
    CacheWriter,
    Header,
    diff_caches,
    export_cache,
    import_export,
    open_cache,
    write_bundle,
)

from .writing import LAYOUTS, TEMPLATES, embed, embed_text, header, manifest, snapshot, write_pending

KINDS = ["npz", "safetensors", "parquet"]


@pytest.fixture(autouse=True)
def pyarrow_where_needed(request: pytest.FixtureRequest) -> None:
    if "parquet" in request.node.name:
        pytest.importorskip("pyarrow")


def back(file: Path, out: Path) -> Path:
    bundle = import_export(file)
    assert bundle is not None
    return write_bundle(bundle, out)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("layout", ["ragged", "views"])
def test_a_cache_exported_and_imported_is_the_same_cache_byte_for_byte(
    kind: str, layout: str, whole: dict[str, Path], expected: dict[str, dict[str, str]], tmp_path: Path
) -> None:
    file = export_cache(whole[layout], tmp_path / f"a.{kind}")
    assert snapshot(back(file, tmp_path / "b.zarr")) == expected[layout]
    assert sorted(entry.name for entry in tmp_path.iterdir()) == sorted([file.name, "b.zarr"])


@pytest.mark.parametrize("kind", KINDS)
def test_sentences_of_different_number_survive_the_way_there_and_back(kind: str, tmp_path: Path) -> None:
    about = header(LAYOUTS["small"])
    path = tmp_path / "a.zarr"
    embedding = embed_text(about, "default")
    embedding[2, 1] = np.nan
    texts = [["one", "two"], ["three", "four"], ["five"]]
    with CacheWriter.create(path, about, manifest(about)) as writer:
        writer.write_text("cupl", ["sentence 0", "sentence 1"], embedding, texts)
        write_pending(writer)
        writer.finish()
    copy = back(export_cache(path, tmp_path / f"a.{kind}"), tmp_path / "b.zarr")
    assert snapshot(copy) == snapshot(path)
    assert open_cache(copy).journal["text/cupl"].about["texts"] == texts


def test_other_programs_find_plain_arrays(whole: dict[str, Path], tmp_path: Path) -> None:
    train = open_cache(whole["ragged"]).split("train")
    with np.load(export_cache(whole["ragged"], tmp_path / "a.npz"), allow_pickle=False) as arrays:
        assert np.array_equal(arrays["image_train"], train.embedding, equal_nan=True)
        assert arrays["path_train"].tolist() == list(train.path)
        assert arrays["classnames"].tolist() == ["class 0", "class 1", "class 2"]
    from safetensors.numpy import load_file

    tensors = load_file(export_cache(whole["ragged"], tmp_path / "a.safetensors"))
    assert np.array_equal(tensors["label_train"], train.label)
    parquet = pytest.importorskip("pyarrow.parquet")
    table = parquet.read_table(export_cache(whole["ragged"], tmp_path / "a.parquet") / "image-train.parquet")
    assert table.column_names == ["path", "label", "class", "status", "embedding", "content"]
    assert table["class"].to_pylist()[:2] == ["class 0", "class 1"]
    assert np.array_equal(np.array(table["embedding"][0].as_py(), np.float16), train.embedding[0].ravel())


@pytest.mark.parametrize("kind", KINDS)
def test_a_damaged_export_is_refused_and_nothing_is_written(kind: str, whole: dict[str, Path], tmp_path: Path) -> None:
    file = export_cache(whole["small"], tmp_path / f"a.{kind}")
    part = next(iter(file.iterdir())) if file.is_dir() else file
    data = part.read_bytes()
    for content in (b"", data[: len(data) // 2], b"hello" * 100):
        part.write_bytes(content)
        with pytest.raises(CacheError):
            back(file, tmp_path / "b.zarr")
    assert not (tmp_path / "b.zarr").exists()


def test_an_export_whose_parts_disagree_is_refused(whole: dict[str, Path], tmp_path: Path) -> None:
    file = export_cache(whole["ragged"], tmp_path / "a.npz")
    with np.load(file) as archive:
        good = dict(archive)
    about = json.loads(str(good["mma"]))
    about["header"]["rows"]["train"] += 1
    image = good["image_train"]
    shifted = np.roll(image, 1, axis=0)
    for changes, why in (
        ({"mma": np.array(json.dumps(about))}, r"\(24, 1, 8\) is expected"),
        ({"mma": np.array("{}")}, "damaged export"),
        ({"image_train": image.astype(np.float32)}, "is float32"),
        ({"image_train": shifted}, "is not finite, or is finite and counts as failed"),
        ({"status_train": good["status_train"] * 0}, "status and the list of failures disagree"),
        ({"label_train": good["label_train"] + 9}, "labels outside"),
        ({"path_train": good["path_train"][1:]}, "other numbers of labels, statuses or paths"),
        ({"text_default": good["text_default"][1:]}, r"\[C, P, D\] = \(3, 2, 8\) is expected"),
    ):
        np.savez(tmp_path / "bad.npz", **{**good, **changes})
        with pytest.raises(CacheError, match=why):
            back(tmp_path / "bad.npz", tmp_path / "b.zarr")
    assert not (tmp_path / "b.zarr").exists()


def test_what_cannot_be_exported_is_refused(whole: dict[str, Path], tmp_path: Path) -> None:
    with pytest.raises(CacheError, match=r"unknown kind of file '.csv': one of .npz, .safetensors, .parquet"):
        export_cache(whole["small"], tmp_path / "a.csv")
    (tmp_path / "a.npz").write_text("mine")
    with pytest.raises(CacheError, match="exists already"):
        export_cache(whole["small"], tmp_path / "a.npz")
    about = header(LAYOUTS["small"])
    CacheWriter.create(tmp_path / "half.zarr", about, manifest(about)).close()
    with pytest.raises(CacheError, match="is not complete"):
        export_cache(tmp_path / "half.zarr", tmp_path / "b.npz")


@pytest.mark.slow
def test_parquet_without_pyarrow_says_how_to_get_it(whole: dict[str, Path], tmp_path: Path) -> None:
    script = (
        "import sys; sys.modules['pyarrow'] = None\n"  # as Python marks a module that is not there
        "from pathlib import Path; from mma.cache import CacheError, export_cache\n"
        f"try: export_cache({str(whole['small'])!r}, Path('a.parquet'))\n"
        "except CacheError as error: print(error)"
    )
    ran = subprocess.run([sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert ran.stdout == "Parquet needs pyarrow: pip install 'mma[parquet]'\n"
    assert list(tmp_path.iterdir()) == []


def made(path: Path, about: Header, shift: float = 0.0) -> Path:
    with CacheWriter.create(path, about, manifest(about)) as writer:
        for chunk in writer.pending():
            values, failures = embed(about, chunk)
            writer.write(chunk, values + shift, failures)
        writer.write_text("default", TEMPLATES["default"], embed_text(about, "default"))
        writer.finish()
    return path


def test_a_cache_does_not_differ_from_itself(whole: dict[str, Path], tmp_path: Path) -> None:
    shutil.copytree(whole["ragged"], tmp_path / "copy.zarr")
    found = diff_caches(open_cache(whole["ragged"]), open_cache(tmp_path / "copy.zarr"))
    assert found.same
    assert found.embeddings["image/train"].compared == 23
    assert found.embeddings["text/added"].largest == 0


def test_a_diff_tells_fingerprint_classes_rows_and_the_largest_difference(tmp_path: Path) -> None:
    layout = LAYOUTS["ragged"]
    one = made(tmp_path / "a.zarr", header(layout, dtype="float32"))
    about = header(
        layout,
        dtype="float32",
        fingerprint={"model": "other", "views": 1},
        classnames=["class 0", "class 2", "class 1"],
        rows={"train": 20, "test": 9},
        views={"train": 1, "test": 1},
        logit_scale=50.0,
    )
    two = made(tmp_path / "b.zarr", about, shift=0.25)
    found = diff_caches(open_cache(one), open_cache(two))
    assert not found.same
    assert found.fingerprint == ["model: rows (A), other (B)"]
    assert found.header == ["logit scale: 100.0 (A), 50.0 (B)"]
    assert found.classes == ["classes stand in another order"]
    assert "split only in A: 'val'" in found.rows
    assert "train: 3 rows only in A, 0 only in B" in found.rows
    assert any(line.startswith("train: 13 rows of another class, the first is train/é 1.jpg") for line in found.rows)
    gap = found.embeddings["image/train"]
    assert (gap.compared, gap.differ) == (20, 17)
    assert gap.largest == pytest.approx(0.25, abs=1e-6)
    assert 0 < gap.cosine < 1
    assert found.embeddings["text/default"].differ == 2


def test_a_row_that_failed_on_one_side_only_differs(tmp_path: Path) -> None:
    one = made(tmp_path / "a.zarr", header(LAYOUTS["small"]))
    about = header(LAYOUTS["small"])
    with CacheWriter.create(tmp_path / "b.zarr", about, manifest(about)) as writer:
        for chunk in writer.pending():
            values, failures = embed(about, chunk)
            writer.write(chunk, values, [*failures, (0, 1, "bad")] if chunk.unit == "image/train/0" else failures)
        writer.write_text("default", TEMPLATES["default"], embed_text(about, "default"))
        writer.finish()
    found = diff_caches(open_cache(one), open_cache(tmp_path / "b.zarr"))
    assert found.rows == ["train: 1 rows of another status, the first is train/é 0.jpg: 0 (A), 1 (B)"]
    assert found.embeddings["image/train"].largest == float("inf")
