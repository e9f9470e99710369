from __future__ import annotations

import errno
import os
import socket
from pathlib import Path

import pytest

from mma.pipeline import regular_files
from mma.pipeline.regular_files import open_regular, parse_json, read_json, read_lines, read_regular, read_text


def irregular(folder: Path) -> list[Path]:
    """A pipe, a folder, links to endless devices, and a socket."""
    os.mkfifo(folder / "pipe")
    (folder / "folder").mkdir()
    (folder / "zero").symlink_to("/dev/zero")
    (folder / "terminal").symlink_to("/dev/tty")
    with socket.socket(socket.AF_UNIX) as listening:
        here = Path.cwd()
        os.chdir(folder)  # the name of a socket is short
        listening.bind("socket")
        os.chdir(here)
    return [folder / name for name in ("pipe", "folder", "zero", "terminal", "socket")]


def test_what_is_no_regular_file_is_refused_at_once(tmp_path: Path) -> None:
    for path in irregular(tmp_path):
        for read in (open_regular, read_regular, read_text, read_json, lambda path: next(read_lines(path))):
            with pytest.raises(PermissionError, match="not a regular file"):
                read(path)


def test_a_file_that_is_replaced_by_a_pipe_after_the_look_is_refused_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_bytes(b"x")
    os.mkfifo(tmp_path / "pipe")
    about = os.stat(tmp_path / "file")  # noqa: PTH116
    monkeypatch.setattr(regular_files.os, "stat", lambda path: about)
    with pytest.raises(PermissionError, match="not a regular file"):
        open_regular(tmp_path / "pipe")


def test_links_to_files_are_followed_and_names_that_cannot_be_are_not_there(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"x")
    (tmp_path / "link").symlink_to("file")
    assert read_regular(tmp_path / "link") == b"x"
    for name in ("a\0b", "\ud83d", "nothing"):
        with pytest.raises(FileNotFoundError):
            open_regular(f"{tmp_path}/{name}")


def test_no_more_is_read_than_is_wanted(tmp_path: Path) -> None:
    with (tmp_path / "sparse").open("wb") as file:
        file.truncate(2**40)
    (tmp_path / "small").write_bytes(b"123")
    assert read_regular(tmp_path / "small", 3) == b"123"
    for name, most in (("sparse", regular_files.MOST_TEXT), ("small", 2)):
        with pytest.raises(OSError, match="are read") as refused:
            read_regular(tmp_path / name, most)
        assert refused.value.errno == errno.EFBIG


def test_lines_are_read_one_by_one_with_a_bound(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(regular_files, "MOST_LINE", 10)
    (tmp_path / "text").write_bytes(b"\xef\xbb\xbfone\r\ncaf\xe9\n" + b"x" * 11)
    lines = read_lines(tmp_path / "text")
    assert [next(lines), next(lines)] == ["one\r\n", "caf\udce9\n"]
    with pytest.raises(OSError, match="a line of more than 10 letters"):
        next(lines)


@pytest.mark.parametrize("text", ["", "{", "[" * 100_000, '{"a":' * 100_000])
def test_json_that_is_none_is_a_value_error(text: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        parse_json(text)
