from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import zarr

from mma.cache import CacheError, CacheWriter, Header, ManifestSplit, Status, open_cache, verify
from mma.cache.lock import CacheLock

from .writing import (
    LAYOUTS,
    TEMPLATES,
    add_text,
    embed,
    embed_text,
    header,
    manifest,
    open_writer,
    snapshot,
    write,
    write_pending,
)


@pytest.mark.parametrize("layout", ["one chunk", "even", "ragged", "row per chunk", "views"])
def test_what_is_written_is_read(layout: str, whole: dict[str, Path]) -> None:
    cache = open_cache(whole[layout])
    about = cache.header
    assert about == header(LAYOUTS[layout])
    for chunk in about.chunks():
        data = cache.split(chunk.split)
        values, failures = embed(about, chunk)
        rows = slice(chunk.start, chunk.stop)
        ok = data.ok[rows]
        assert data.embedding.dtype == about.dtype
        assert np.array_equal(data.embedding[rows][ok], values.astype(about.dtype)[ok])
        assert np.isnan(data.embedding[rows][~ok]).all()
        assert [chunk.start + int(row) for row in np.flatnonzero(~ok)] == [row for row, _, _ in failures]
        assert list(data.path) == list(manifest(about)[chunk.split].paths)
        assert data.label.tolist() == manifest(about)[chunk.split].labels.tolist()
    for name in ("default", "added"):
        assert cache.text(name).templates == TEMPLATES[name]
        assert np.array_equal(cache.text(name).embedding, embed_text(about, name))


def test_failures_keep_their_row_status_and_reason(whole: dict[str, Path]) -> None:
    failures = open_cache(whole["ragged"]).failures()
    assert failures["train"] == [(row, Status.UNREADABLE, f"row {row}: böse") for row in (3, 10, 17)]
    assert failures["val"] == []


def test_values_that_are_not_finite_are_failures_or_refused(tmp_path: Path) -> None:
    with open_writer(tmp_path / "rows.zarr", "even") as writer:
        first = writer.pending()[0]
        for bad in (np.nan, np.inf, 1e9):  # the last is infinite in float16
            values = np.ones((8, 1, 8))
            values[2, 0, 3] = bad
            with pytest.raises(CacheError, match="image/train/0: embeddings that are not"):
                writer.write(first, values)
        assert first in writer.pending()
        writer.write(first, values, [(2, int(Status.NON_FINITE), "the model returned NaN or infinity")])
        assert first not in writer.pending()


def test_a_chunk_of_nothing_but_failures_is_done_like_any_other(tmp_path: Path) -> None:
    with open_writer(tmp_path / "rows.zarr", "even") as writer:
        first, *rest = writer.pending()
        failed = [(row, int(Status.MISSING), "gone") for row in range(first.start, first.stop)]
        writer.write(first, np.zeros((8, 1, 8)), failed)
        write_pending(writer, rest)
        writer.finish()
    data = open_cache(tmp_path / "rows.zarr").split("train")
    assert set(data.status[:8]) == {Status.MISSING}


def test_the_order_of_work_leaves_no_trace(expected: dict[str, dict[str, str]], tmp_path: Path) -> None:
    path = tmp_path / "rows.zarr"
    with open_writer(path, "ragged") as writer:
        write_pending(writer, writer.pending()[::-1])
        writer.write_text("default", TEMPLATES["default"], embed_text(writer.header, "default"))
        writer.finish()
    add_text(path, "ragged")
    assert snapshot(path) == expected["ragged"]


def test_an_unfinished_cache_says_how_far_it_is_and_partial_reads_what_is_done(tmp_path: Path) -> None:
    path = tmp_path / "rows.zarr"
    with open_writer(path, "even") as writer:
        write_pending(writer, writer.pending()[:2])
    with pytest.raises(CacheError, match=r"not complete \(2 of 4 chunks\): run the same `mma embed`"):
        open_cache(path)
    cache = open_cache(path, partial=True)
    assert not cache.complete
    data = cache.split("train")
    assert (data.status[:16] != Status.PENDING).all()
    assert (data.status[16:] == Status.PENDING).all()
    assert np.isnan(data.embedding[16:]).all()
    assert len(data.label) == len(data.path) == 24


def test_what_a_crash_left_of_an_unjournalled_chunk_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "rows.zarr"
    with open_writer(path, "even") as writer:
        write_pending(writer, writer.pending()[:2])
    (path / "image/train/embedding/c/2/0").mkdir(parents=True)
    (path / "image/train/embedding/c/2/0/0").write_bytes(b"half")
    (path / "image/train/status/c/2").write_bytes(b"\0" * 12)
    assert (open_cache(path, partial=True).split("train").status[16:] == Status.PENDING).all()


def test_leftovers_of_a_crash_are_swept_when_the_cache_is_next_written(
    expected: dict[str, dict[str, str]], tmp_path: Path
) -> None:
    path = tmp_path / "rows.zarr"
    with open_writer(path, "even") as writer:
        write_pending(writer, writer.pending()[:2])
    for leftover in (
        ".zarr.json.partial",
        "image/train/embedding/c/2/0/0.a1b2.partial",
        "image/train/status/c/2",
        "text/half/embedding/zarr.json",
    ):
        (path / leftover).parent.mkdir(parents=True, exist_ok=True)
        (path / leftover).write_bytes(b"half")
    (tmp_path / ".rows.zarr.creating").mkdir()
    write(path, "even")
    add_text(path, "even")
    assert snapshot(path) == expected["even"]


def test_another_fingerprint_is_refused_with_the_differences(tmp_path: Path) -> None:
    path = tmp_path / "rows.zarr"
    open_writer(path, "even").close()
    other = header(LAYOUTS["even"], fingerprint={"model": "ViT-L-14", "views": 1, "precision": "bf16"})
    with pytest.raises(CacheError) as refused:
        CacheWriter.resume(path, other)
    message = str(refused.value)
    assert "model: rows (stored), ViT-L-14 (asked for)" in message
    assert "precision: none (stored), bf16 (asked for)" in message
    assert "views" not in message


def test_the_chunk_and_batch_sizes_of_a_begun_cache_hold(tmp_path: Path) -> None:
    path = tmp_path / "rows.zarr"
    open_writer(path, "even").close()
    with CacheWriter.resume(path, header(LAYOUTS["even"], chunk=5, batch=5, notes=["other"])) as writer:
        assert (writer.header.chunk, writer.header.batch) == (8, 1)


def test_the_same_fingerprint_with_another_layout_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "rows.zarr"
    open_writer(path, "even").close()
    with pytest.raises(CacheError, match="another layout"):
        CacheWriter.resume(path, header(LAYOUTS["even"], dim=9))


def test_a_cache_with_chunks_to_do_cannot_be_finished(tmp_path: Path) -> None:
    with open_writer(tmp_path / "rows.zarr", "even") as writer, pytest.raises(CacheError, match="4 units to do"):
        writer.finish()


def test_text_of_another_shape_or_with_bad_rows_is_refused(tmp_path: Path) -> None:
    with open_writer(tmp_path / "rows.zarr", "even") as writer:
        good = embed_text(writer.header, "default")
        for bad, why in ((good[:2], r"are \(2, 2, 8\), not \(3, 2, 8\)"), (good[:, :1], "are"), (good * 0, "zero")):
            with pytest.raises(CacheError, match=why):
                writer.write_text("default", TEMPLATES["default"], bad)
        for where, why in (((0, 0, 0), "not finite"), ((0,), "without a sentence")):
            bad = good.copy()
            bad[where] = np.nan
            with pytest.raises(CacheError, match=why):
                writer.write_text("default", TEMPLATES["default"], bad)
        with pytest.raises(CacheError, match="not a usable name"):
            writer.write_text("../default", TEMPLATES["default"], good)
        assert writer.prompts == []


def test_a_class_may_have_fewer_sentences_than_others(tmp_path: Path) -> None:
    path = tmp_path / "rows.zarr"
    with open_writer(path, "even") as writer:
        ragged = embed_text(writer.header, "default")
        ragged[1, 1] = np.nan
        writer.write_text("default", TEMPLATES["default"], ragged)
        write_pending(writer)
        writer.finish()
    assert np.array_equal(open_cache(path).text("default").embedding, ragged, equal_nan=True)


def test_a_prompt_set_is_never_overwritten(tmp_path: Path) -> None:
    with open_writer(tmp_path / "rows.zarr", "even") as writer:
        text = embed_text(writer.header, "default")
        writer.write_text("default", TEMPLATES["default"], text)
        with pytest.raises(CacheError, match="has a prompt set 'default' already"):
            writer.write_text("default", TEMPLATES["default"], text)


@pytest.mark.parametrize("name", ["..", ".hidden", "a/b", "", "a b", "x" * 101])
def test_a_split_that_would_leave_the_cache_is_refused_and_nothing_is_left(name: str, tmp_path: Path) -> None:
    about = header(LAYOUTS["one chunk"], rows={name: 2}, views={name: 1})
    rows = {name: ManifestSplit(np.zeros(2, np.int32), ["a", "b"])}
    with pytest.raises(CacheError, match="not a usable name"):
        CacheWriter.create(tmp_path / "rows.zarr", about, rows)
    assert not (tmp_path / "rows.zarr").exists()


def test_places_that_hold_no_cache_are_refused_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    (tmp_path / "folder").mkdir()
    zarr.open_group(tmp_path / "other.zarr", mode="w", attributes={"a": 1})
    for name, why in (
        ("nothing", "there is no cache"),
        ("file", "is not an mma cache"),
        ("folder", "is not an mma cache"),
        ("other.zarr", "is not an mma cache"),
    ):
        with pytest.raises(CacheError, match=why) as refused:
            open_cache(tmp_path / name)
        assert "\n" not in str(refused.value)


def test_a_cache_of_a_newer_schema_is_refused(whole: dict[str, Path], tmp_path: Path) -> None:
    data = (whole["even"] / "zarr.json").read_bytes()
    path = tmp_path / "newer.zarr"
    path.mkdir()
    (path / "zarr.json").write_bytes(data.replace(b'"version": 2', b'"version": 99'))
    with pytest.raises(CacheError, match="has cache schema 99; this mma reads up to 3: install a newer mma"):
        open_cache(path)


@pytest.mark.parametrize("version", [0, -1, "1", None, True, [1]])
def test_a_schema_that_no_mma_reads_is_told_in_one_line_with_the_mend(version: object) -> None:
    with pytest.raises(CacheError, match=r"^x\.zarr has cache schema .* embed or import it again$") as told:
        Header.from_attributes({"schema": "mma-cache", "version": version}, "x.zarr")
    assert len(str(told.value).splitlines()) == 1


def test_splits_and_prompt_sets_that_are_not_there_are_named_with_those_that_are(whole: dict[str, Path]) -> None:
    cache = open_cache(whole["even"])
    with pytest.raises(CacheError, match="no split 'val'; it has train, test"):
        cache.split("val")
    with pytest.raises(CacheError, match="no prompt set 'cupl'; it has default, added"):
        cache.text("cupl")


def test_any_fsspec_url_opens_and_is_checked_like_a_folder(whole: dict[str, Path], tmp_path: Path) -> None:
    path = Path(shutil.copytree(whole["even"], tmp_path / "even.zarr"))
    far, near = open_cache(f"local://{path}"), open_cache(whole["even"])
    assert np.array_equal(far.split("train").embedding, near.split("train").embedding, equal_nan=True)
    assert verify(f"local://{path}").faults == []
    (path / "image/train/status/c/1").write_bytes(b"?")
    with pytest.raises(CacheError, match=r"image/train/status/c/1 is damaged: run `mma cache verify`"):
        far.split("train")


def test_plain_zarr_reads_a_cache(whole: dict[str, Path]) -> None:
    group = zarr.open_group(whole["views"], mode="r")
    assert group["image/train/embedding"].shape == (10, 3, 8)  # type: ignore[union-attr]
    assert group["image/test/embedding"].shape == (10, 1, 8)  # type: ignore[union-attr]
    assert Header.from_attributes(dict(group.attrs), "here") == header(LAYOUTS["views"])


def test_opening_a_writer_deletes_nothing_and_recover_does(whole: dict[str, Path], tmp_path: Path) -> None:
    path = Path(shutil.copytree(whole["small"], tmp_path / "rows.zarr"))
    left = path / "image/train/embedding/c/9"
    left.write_bytes(b"what a crash left")
    with (path / "journal.jsonl").open("ab") as journal:
        journal.write(b'{"unit": "a torn li')
    before = snapshot(path)
    with CacheWriter(path, header(LAYOUTS["small"]), CacheLock(path)) as writer:
        assert writer.complete
        assert snapshot(path) == before
        writer.recover()
    assert snapshot(path) == snapshot(whole["small"])


def test_what_is_wrong_with_a_cache_is_wrong_use_to_a_command() -> None:
    assert CacheError("no such cache").exit_code == CacheError.exit_code == 2
