"""What is no regular file stands in a file's place, or says too much: named, never waited for, and mended."""

from __future__ import annotations

import os
import shutil
import socket
import stat
from collections.abc import Callable
from pathlib import Path

import pytest

from mma.cache import CacheError, CacheWriter, mend, open_cache, verify
from mma.cache.durable import write_whole
from mma.cache.journal import JournalEntry

from .writing import Server, manifest, repair, snapshot

LAYOUT = "small"
TOP = ("zarr.json", "journal.jsonl", "journal.copy.jsonl")
PLACES = (*TOP, "image/train/label/c/0", "image/train/embedding/c/1/0/0")


def fifo(path: Path) -> None:
    os.mkfifo(path)


def folder(path: Path) -> None:
    path.mkdir()


def full_folder(path: Path) -> None:
    path.mkdir()
    (path / "mine").write_text("mine")


def bound_socket(path: Path) -> None:
    here = Path.cwd()
    os.chdir(path.parent)  # the name of a socket has at most 107 bytes
    try:
        with socket.socket(socket.AF_UNIX) as one:
            one.bind(path.name)
    finally:
        os.chdir(here)


def link_to_itself(path: Path) -> None:
    path.symlink_to(path.name)


def link_to_zeros(path: Path) -> None:
    path.symlink_to("/dev/zero")


STRANGE = [fifo, folder, full_folder, bound_socket, link_to_itself, link_to_zeros]


@pytest.fixture
def copy(whole: dict[str, Path], tmp_path: Path) -> Path:
    return Path(shutil.copytree(whole[LAYOUT], tmp_path / "rows.zarr"))


def bytes_of(path: Path, names: dict[str, str]) -> dict[str, str]:
    return {name: found for name, found in snapshot(path).items() if name in names}


@pytest.mark.slow
@pytest.mark.parametrize("strange", STRANGE, ids=lambda strange: strange.__name__)
def test_what_is_no_regular_file_is_named_and_mended_from_a_copy(
    strange: Callable[[Path], None], whole: dict[str, Path], expected: dict[str, dict[str, str]], tmp_path: Path
) -> None:
    for number, name in enumerate(PLACES):
        path = Path(shutil.copytree(whole[LAYOUT], tmp_path / f"{number}.zarr"))
        (path / name).unlink()
        strange(path / name)
        assert [fault.file for fault in verify(path).faults] == [name]
        if name != TOP[2]:  # readers need no spare journal
            with pytest.raises(CacheError):
                open_cache(path).split("train")
        assert mend(path, manifest, whole[LAYOUT]).complete
        assert verify(path).faults == []
        assert bytes_of(path, expected[LAYOUT]) == expected[LAYOUT]


@pytest.mark.parametrize("strange", STRANGE, ids=lambda strange: strange.__name__)
def test_a_strange_chunk_is_computed_again(
    strange: Callable[[Path], None], copy: Path, expected: dict[str, dict[str, str]]
) -> None:
    place = copy / "image/train/embedding/c/1/0/0"
    place.unlink()
    strange(place)
    repair(copy, LAYOUT)
    assert snapshot(copy) == expected[LAYOUT]


@pytest.mark.parametrize("lost", [TOP[:2], TOP[::2], TOP[1:]], ids="+".join)
def test_one_whole_journal_is_enough_and_a_root_alone_is_not(
    lost: tuple[str, str], whole: dict[str, Path], expected: dict[str, dict[str, str]], tmp_path: Path
) -> None:
    for how in ("delete", "empty", "cut"):
        path = Path(shutil.copytree(whole[LAYOUT], tmp_path / f"{how}.zarr"))
        for name in lost:
            data = (path / name).read_bytes()
            (path / name).unlink() if how == "delete" else (path / name).write_bytes(data[: -90 * (how == "cut")])
        if "zarr.json" not in lost:  # the root vouches for a journal, and does not have it
            with pytest.raises(CacheError, match="make it again"):
                verify(path)
            continue
        with pytest.raises(CacheError, match="mma cache verify"):
            open_cache(path)
        repair(path, LAYOUT)
        assert snapshot(path) == expected[LAYOUT]


def test_lines_behind_the_journals_end_are_a_fault_to_verify_as_to_repair(
    copy: Path, expected: dict[str, dict[str, str]]
) -> None:
    with (copy / "journal.jsonl").open("ab") as file:
        file.write(b"one\ntwo\n")
    assert [str(fault) for fault in verify(copy).faults] == [
        "journal.jsonl: has lines behind its end that are no entries"
    ]
    assert mend(copy).complete
    assert snapshot(copy) == expected[LAYOUT]


def lines_nobody_wrote(journal: bytes) -> list[bytes]:
    lines = journal.splitlines(keepends=True)
    entries = [e for e in map(JournalEntry.from_line, lines) if e]
    chunk = next(e for e in entries if e.unit.startswith("image/"))
    text = next(e for e in entries if e.unit.startswith("text/"))
    other = {file.replace("text/default", "text/more"): of for file, of in text.files.items()}
    return [
        lines[1],  # again
        JournalEntry(chunk.unit, {}, about={"was": dict(chunk.files)}).to_line(),  # taken back
        JournalEntry(chunk.unit, dict.fromkeys(chunk.files, "0" * 64)).to_line(),
        JournalEntry("text/more", other, about={"templates": ["{}"]}).to_line(),  # files that are not there
        JournalEntry("text/more", text.files, about={"templates": ["{}"]}).to_line(),  # another's files
        JournalEntry("manifest", {}, about={}).to_line(),
    ]


@pytest.mark.slow
def test_valid_lines_behind_the_journals_end_are_a_fault_to_verify_as_to_repair(
    whole: dict[str, Path], expected: dict[str, dict[str, str]], tmp_path: Path
) -> None:
    for name in TOP[1:]:
        for number, line in enumerate(lines_nobody_wrote((whole[LAYOUT] / TOP[1]).read_bytes())):
            path = Path(shutil.copytree(whole[LAYOUT], tmp_path / f"{name}{number}.zarr"))
            with (path / name).open("ab") as file:
                file.write(line)
            assert [fault.file for fault in verify(path).faults] == [name], number
            assert mend(path).complete
            assert snapshot(path) == expected[LAYOUT]


def test_a_prompt_set_that_was_stored_and_not_yet_published_is_no_fault_and_kept(
    server: Server, tmp_path: Path
) -> None:
    path, added = tmp_path / "rows.zarr", tmp_path / "added.zarr"
    for each in (path, added):
        assert server.run("write", each, LAYOUT) == 0
    assert server.run("add", added, LAYOUT) == 0
    assert server.run("add", path, LAYOUT, "journal.append:after") < 0
    assert verify(path).faults == []
    assert mend(path).complete
    assert snapshot(path) == snapshot(added)


@pytest.mark.parametrize("place", ["image", "image/train", "image/train/embedding/c/1", "text/default"])
@pytest.mark.parametrize("what", ["a file", "a link to a file", "a link to nothing", "a link to the folder"])
def test_what_stands_in_place_of_a_folder_is_named_set_aside_and_never_written_through(
    what: str, place: str, whole: dict[str, Path], expected: dict[str, dict[str, str]], tmp_path: Path
) -> None:
    path = Path(shutil.copytree(whole[LAYOUT], tmp_path / "rows.zarr"))
    moved = tmp_path / "moved"
    (path / place).rename(moved)
    if what == "a file":
        (path / place).write_text("mine")
    else:
        target = {"a link to a file": tmp_path / "file", "a link to nothing": tmp_path / "no"}.get(what, moved)
        (tmp_path / "file").write_text("mine")
        (path / place).symlink_to(target)
    before = snapshot(moved)
    faults = verify(path).faults
    assert faults
    assert all(fault.file.startswith(place) and f"behind {place}, which is no folder" in fault.what for fault in faults)
    assert mend(path, manifest, whole[LAYOUT]).complete
    assert verify(path).faults == []
    assert bytes_of(path, expected[LAYOUT]) == expected[LAYOUT]
    assert snapshot(moved) == before
    assert not (path / place).is_symlink()


@pytest.mark.parametrize("name", TOP)
def test_deep_json_is_damage_like_any_other(name: str, copy: Path, expected: dict[str, dict[str, str]]) -> None:
    deep = b'{"attributes": ' + b"[" * 100_000 + b"]" * 100_000 + b'}\n{"mma-cache": 1}\n'
    (copy / name).write_bytes(deep)
    assert [fault.file for fault in verify(copy).faults] == [name]
    repair(copy, LAYOUT)
    assert snapshot(copy) == expected[LAYOUT]


def test_a_line_of_deep_json_is_no_entry() -> None:
    assert JournalEntry.from_line(b"[" * 100_000 + b"]" * 100_000 + b"\n") is None


def test_a_strange_spare_journal_is_replaced_by_the_next_writer(
    copy: Path, expected: dict[str, dict[str, str]]
) -> None:
    (copy / TOP[2]).unlink()
    os.mkfifo(copy / TOP[2])
    CacheWriter.reopen(copy).close()
    assert snapshot(copy) == expected[LAYOUT]


def test_a_device_is_never_replaced(tmp_path: Path) -> None:
    device = tmp_path / "null"
    try:
        os.mknod(device, stat.S_IFCHR | 0o666, os.makedev(1, 3))
    except (PermissionError, AttributeError):
        pytest.skip("devices are made by root, on Linux")
    with pytest.raises(OSError, match="it is a device, not a file"):
        write_whole(device, b"x")
    assert device.is_char_device()
