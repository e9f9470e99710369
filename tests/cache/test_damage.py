"""Damage every file of a cache in every way: nothing damaged is read, all of it is found, and all of it is mended."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from mma.cache import CacheError, CacheWriter, mend, open_cache, verify

from .writing import LAYOUTS, TEMPLATES, Server, add_text, header, manifest, repair, snapshot, write, write_pending

LAYOUT = "small"
Damage = Callable[[bytes, bytes], bytes | None]


def flip_a_bit(data: bytes, other: bytes) -> bytes:
    at = int(np.random.default_rng(len(data)).integers(len(data) * 8))
    flipped = bytearray(data)
    flipped[at // 8] ^= 1 << at % 8
    return bytes(flipped)


def flip_the_first_bit(data: bytes, other: bytes) -> bytes:
    return bytes([data[0] ^ 1]) + data[1:]


def flip_the_last_bit(data: bytes, other: bytes) -> bytes:
    return data[:-1] + bytes([data[-1] ^ 1])


def truncate(data: bytes, other: bytes) -> bytes:
    return data[: len(data) // 2]


def cut_one_byte(data: bytes, other: bytes) -> bytes:
    return data[:-1]


def append_a_byte(data: bytes, other: bytes) -> bytes:
    return data + b"\0"


def zero(data: bytes, other: bytes) -> bytes:
    return bytes(len(data))


def empty(data: bytes, other: bytes) -> bytes:
    return b""


def delete(data: bytes, other: bytes) -> None:
    return None


def replace_by_another_caches(data: bytes, other: bytes) -> bytes:
    return other


DAMAGES: list[Damage] = [
    flip_a_bit,
    flip_the_first_bit,
    flip_the_last_bit,
    truncate,
    cut_one_byte,
    append_a_byte,
    zero,
    empty,
    delete,
    replace_by_another_caches,
]
SAMPLE = (flip_a_bit,)  # what the quick loop tries


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A sound cache of the same layout, by another model and with other labels."""
    path = tmp_path_factory.mktemp("other") / "other.zarr"
    about = header(LAYOUTS[LAYOUT], fingerprint={"model": "another"}, classnames=["a", "b"])
    with CacheWriter.create(path, about, manifest(about)) as writer:
        for name, templates in (("default", ["x {}", "y {}"]), ("added", ["{}!"])):
            writer.write_text(name, templates, np.full((2, len(templates), about.dim), 2, np.float32))
        for chunk in writer.pending():
            rows = chunk.stop - chunk.start
            writer.write(chunk, np.full((rows, about.views[chunk.split], about.dim), 3.0))
        writer.finish()
    return path


def contents(path: Path) -> list[object]:
    """All that stage two reads."""
    cache = open_cache(path)
    found: list[object] = [cache.header, cache.complete, cache.prompts]
    for split in cache.header.rows:
        data = cache.split(split)
        found += [data.embedding.tobytes(), data.label.tobytes(), data.status.tobytes(), list(data.path)]
    for name in cache.prompts:
        found += [cache.text(name).templates, cache.text(name).embedding.tobytes()]
    return found


def damaged_copies(source: Path, other: Path, damage: Damage, at: Path) -> list[tuple[str, Path]]:
    """A copy of the cache for every file, with that file damaged; where damage changes nothing there is none."""
    made = []
    for number, name in enumerate(snapshot(source)):
        data = (source / name).read_bytes()
        stranger = (other / name).read_bytes() if (other / name).exists() else b"nothing"
        worse = damage(data, stranger)
        if worse == data:
            continue
        copy = at / f"{number}.zarr"
        shutil.copytree(source, copy)
        if worse is None:
            (copy / name).unlink()
        else:
            (copy / name).write_bytes(worse)
        made.append((name, copy))
    return made


@pytest.mark.parametrize(
    "damage",
    [pytest.param(damage, marks=pytest.mark.slow if damage not in SAMPLE else ()) for damage in DAMAGES],
    ids=lambda damage: damage.__name__,
)
def test_any_damage_to_any_file_is_named_never_read_and_healed(
    damage: Damage, whole: dict[str, Path], other: Path, expected: dict[str, dict[str, str]], tmp_path: Path
) -> None:
    good = contents(whole[LAYOUT])
    copies = damaged_copies(whole[LAYOUT], other, damage, tmp_path)
    assert len(copies) >= 15
    for name, copy in copies:
        with contextlib.suppress(CacheError):
            assert contents(copy) == good, f"{name} was read with other values"
        faults = verify(copy).faults
        torn = damage is append_a_byte and name == "journal.jsonl"  # as a crash may leave it
        assert [fault.file for fault in faults] == [name] * (not torn), f"{name}: {faults}"
        repair(copy, LAYOUT)
        assert snapshot(copy) == expected[LAYOUT], f"{name} is not as it was"
        assert verify(copy).faults == []


def test_faults_are_named_by_array_chunk_and_rows(whole: dict[str, Path], tmp_path: Path) -> None:
    path = tmp_path / "rows.zarr"
    shutil.copytree(whole[LAYOUT], path)
    (path / "image/train/embedding/c/1/0/0").unlink()
    (path / "image/test/status/c/0").write_bytes(b"")
    assert [str(fault) for fault in verify(path).faults] == [
        "image/train/embedding, chunk 1 (rows 4 to 6): is missing",
        "image/test/status, chunk 0 (rows 0 to 2): is not what was written",
    ]


def test_repair_computes_exactly_the_faulty_chunks(whole: dict[str, Path], tmp_path: Path) -> None:
    path = tmp_path / "rows.zarr"
    shutil.copytree(whole[LAYOUT], path)
    (path / "image/train/embedding/c/1/0/0").unlink()
    (path / "text/added/embedding/c/0/0/0").write_bytes(b"?")
    mended = mend(path)
    assert mended.to_compute == ["image/train/1", "text/added"]
    assert not mended.complete
    with pytest.raises(CacheError, match="not complete"):
        open_cache(path)
    assert open_cache(path, partial=True).progress() == (2, 3)


def test_a_cache_under_repair_is_complete_again_only_when_all_is_computed(
    whole: dict[str, Path], tmp_path: Path
) -> None:
    path = tmp_path / "rows.zarr"
    shutil.copytree(whole[LAYOUT], path)
    (path / "text/default/embedding/c/0/0/0").unlink()
    mend(path)
    with CacheWriter.reopen(path) as writer:
        assert [templates for templates, _ in writer.pending_text().values()] == [TEMPLATES["default"]]
        assert writer.pending_text()["default"][1][2] == ["a photo of a class 2.", "a drawing of a class 2."]
        with pytest.raises(CacheError, match="1 units to do"):
            writer.finish()


def test_damaged_labels_ask_for_the_data_set_and_refuse_another_one(
    whole: dict[str, Path], expected: dict[str, dict[str, str]], tmp_path: Path
) -> None:
    path = tmp_path / "rows.zarr"
    shutil.copytree(whole[LAYOUT], path)
    (path / "image/train/label/c/0").write_bytes(b"?")
    with pytest.raises(CacheError, match="needs the data set"):
        mend(path)
    with pytest.raises(CacheError, match="another checksum"):
        mend(path, lambda about: {s: type(m)(m.labels[::-1], m.paths) for s, m in manifest(about).items()})
    assert mend(path, manifest).complete
    assert snapshot(path) == expected[LAYOUT]


def test_another_copy_of_the_cache_heals_everything_without_data_set_or_model(
    whole: dict[str, Path], expected: dict[str, dict[str, str]], tmp_path: Path
) -> None:
    path = tmp_path / "rows.zarr"
    shutil.copytree(whole[LAYOUT], path)
    for name in snapshot(path):
        if "/c/" in name:
            (path / name).write_bytes(b"?")
    mended = mend(path, copy=whole[LAYOUT])
    assert mended.complete
    assert mended.to_compute == []
    assert snapshot(path) == expected[LAYOUT]


def test_a_copy_of_another_cache_heals_nothing(whole: dict[str, Path], other: Path, tmp_path: Path) -> None:
    path = tmp_path / "rows.zarr"
    shutil.copytree(whole[LAYOUT], path)
    (path / "image/train/embedding/c/1/0/0").write_bytes(b"?")
    assert mend(path, copy=other).to_compute == ["image/train/1"]


def test_many_faults_at_once_are_all_found_and_healed(
    whole: dict[str, Path], expected: dict[str, dict[str, str]], tmp_path: Path
) -> None:
    path = tmp_path / "rows.zarr"
    shutil.copytree(whole[LAYOUT], path)
    hurt = [name for name in snapshot(path) if name not in ("zarr.json", "journal.jsonl")]
    for name in hurt:
        (path / name).write_bytes(b"?")
    assert sorted({fault.file for fault in verify(path).faults}) == sorted(hurt)
    repair(path, LAYOUT)
    assert snapshot(path) == expected[LAYOUT]


def test_root_and_journals_all_lost_is_said_in_one_line(whole: dict[str, Path], tmp_path: Path) -> None:
    path = tmp_path / "rows.zarr"
    shutil.copytree(whole[LAYOUT], path)
    for name in ("zarr.json", "journal.jsonl", "journal.copy.jsonl"):
        (path / name).write_bytes(b"")
    for ask in (verify, mend):
        with pytest.raises(CacheError, match="make it again"):
            ask(path)


@pytest.mark.parametrize("damage", [truncate, flip_a_bit, zero], ids=lambda damage: damage.__name__)
def test_a_damaged_journal_of_an_unfinished_cache_costs_only_what_it_no_longer_tells(
    damage: Damage, server: Server, expected: dict[str, dict[str, str]], tmp_path: Path
) -> None:
    path = tmp_path / "rows.zarr"
    assert server.run("write", path, "ragged", "journal.append:after", 6) < 0
    journal = path / "journal.jsonl"
    lines = journal.read_bytes().splitlines(keepends=True)
    journal.write_bytes(b"".join([*lines[:3], damage(lines[3], b"") or b"", *lines[4:]]))
    with pytest.raises(CacheError, match="journal is damaged"):
        open_cache(path, partial=True)
    assert [fault.file for fault in verify(path).faults] == ["journal.jsonl"]
    mended = mend(path)
    assert "image/train/0" not in mended.to_compute
    assert "image/train/1" in mended.to_compute
    write(path, "ragged")
    add_text(path, "ragged")
    assert snapshot(path) == expected["ragged"]


def test_a_damaged_chunk_of_an_unfinished_cache_is_computed_again(
    server: Server, expected: dict[str, dict[str, str]], tmp_path: Path
) -> None:
    path = tmp_path / "rows.zarr"
    assert server.run("write", path, LAYOUT, "journal.append:after", 4) < 0
    (path / "image/train/embedding/c/1/0/0").write_bytes(b"?")
    assert [fault.unit for fault in verify(path).faults] == ["image/train/1"]
    repair(path, LAYOUT)
    add_text(path, LAYOUT)
    assert snapshot(path) == expected[LAYOUT]


def test_files_that_no_unit_has_are_told_and_left_alone(whole: dict[str, Path], tmp_path: Path) -> None:
    path = tmp_path / "rows.zarr"
    shutil.copytree(whole[LAYOUT], path)
    (path / "README.txt").write_text("mine")
    checked = verify(path)
    assert checked.faults == []
    assert checked.strangers == ["README.txt"]
    mend(path)
    assert (path / "README.txt").read_text() == "mine"


@pytest.mark.slow
@pytest.mark.parametrize(
    "point", ["repair.restore", "journal.append", "root.publish", "chunk.write", "journal.compact"]
)
@pytest.mark.parametrize("side", ["before", "after"])
def test_a_kill_during_repair_leaves_a_cache_that_repair_finishes(
    point: str,
    side: str,
    server: Server,
    whole: dict[str, Path],
    expected: dict[str, dict[str, str]],
    tmp_path: Path,
) -> None:
    path = tmp_path / "rows.zarr"
    shutil.copytree(whole[LAYOUT], path)
    for name in ("image/train/embedding/c/1/0/0", "image/test/status/c/0", "image/test/label/c/0", "text/zarr.json"):
        (path / name).write_bytes(b"?")
    good = contents(whole[LAYOUT])
    assert server.run("repair", path, LAYOUT, f"{point}:{side}") < 0
    with contextlib.suppress(CacheError):
        assert contents(path) == good
    assert server.run("repair", path, LAYOUT) == 0
    assert snapshot(path) == expected[LAYOUT]


def test_values_that_disagree_with_the_journal_are_found_though_every_checksum_is_right(tmp_path: Path) -> None:
    path = tmp_path / "rows.zarr"
    about = header(LAYOUTS["even"])
    with CacheWriter.create(path, about, manifest(about)) as writer:
        write_pending(writer)
        entry = writer._journal.entries["image/train/0"]
        writer._journal.append(replace(entry, failures=[(5, 1, "another row than the one that failed")]))
        writer.finish()
    assert [str(fault) for fault in verify(path).faults] == [
        "image/train/embedding, chunk 0 (rows 0 to 7): has values, status and journal that disagree"
    ]
