"""Open what others wrote: regular files alone, without waiting, and no more of them than is wanted.

A pipe, a socket, a device or a folder where a file is expected is an OSError, as a file is that is too long: nothing
hangs, and nothing fills the memory.
"""

from __future__ import annotations

import errno
import json
import os
import stat
from collections.abc import Iterator
from io import BufferedReader, TextIOWrapper
from pathlib import Path
from typing import Any

MOST_TEXT = 256 * 2**20  # bytes of a text or JSON file that is read whole
MOST_LINE = 2**20  # letters of a line

_FLAGS = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0) | getattr(os, "O_CLOEXEC", 0)


def expanded(path: str) -> Path:
    """A path as a person types it: `~` is their home; `~name` stays as it is where there is no such person."""
    return Path(os.path.expanduser(path))  # noqa: PTH111 (Path.expanduser raises)


def open_regular(path: str | os.PathLike[str]) -> BufferedReader:
    """A regular file, opened for reading; links are followed. OSError for what is not one, and nothing is waited for.

    PermissionError "not a regular file" for a pipe, a socket, a device and a folder; FileNotFoundError for a name that
    no file can have.
    """
    try:
        about = os.stat(path)  # noqa: PTH116 (a third of the time of Path.stat)
    except ValueError as error:  # a NUL, or a letter that no file system has
        raise FileNotFoundError(errno.ENOENT, "no file can have this name", os.fspath(path)) from error
    _refuse_irregular(about, path)
    stream = open(os.open(path, _FLAGS), "rb")  # noqa: PTH123, SIM115 (a handle, which the caller closes)
    try:
        _refuse_irregular(os.fstat(stream.fileno()), path)  # it may have been replaced in between
    except BaseException:
        stream.close()
        raise
    return stream


def read_regular(path: str | os.PathLike[str], most: int = MOST_TEXT) -> bytes:
    """The bytes of a regular file. OSError (EFBIG) where there are more than `most`, else as `open_regular`."""
    with open_regular(path) as stream:
        length = os.fstat(stream.fileno()).st_size
        data = stream.read(most + 1) if length <= most else b""
        if max(length, len(data)) > most:
            raise OSError(errno.EFBIG, f"{max(length, len(data)):,} bytes; at most {most:,} are read", os.fspath(path))
        return data


def read_text(path: str | os.PathLike[str], most: int = MOST_TEXT) -> str:
    """A regular file as UTF-8 text; bytes that are none become lone surrogates, as in file names. OSError as above."""
    return read_regular(path, most).decode("utf-8-sig", "surrogateescape")


def read_json(path: str | os.PathLike[str], most: int = MOST_TEXT) -> Any:
    """A regular file as JSON. OSError as above; ValueError where it is not JSON, or nested too deeply."""
    return parse_json(read_text(path, most))


def parse_json(text: str) -> Any:
    """JSON; ValueError where it is none, or nested too deeply."""
    try:
        return json.loads(text)
    except RecursionError as error:
        raise ValueError("nested too deeply") from error


def read_lines(path: Path) -> Iterator[str]:
    """The lines of a text file of any length, one at a time, with their ends; decoded as `read_text` does.

    OSError as `open_regular`, and (EFBIG) for a line of more than MOST_LINE letters.
    """
    with TextIOWrapper(open_regular(path), "utf-8-sig", "surrogateescape", newline="") as stream:
        while line := stream.readline(MOST_LINE + 1):
            if len(line) > MOST_LINE:
                raise OSError(errno.EFBIG, f"a line of more than {MOST_LINE:,} letters", str(path))
            yield line


def _refuse_irregular(about: os.stat_result, path: str | os.PathLike[str]) -> None:
    if not stat.S_ISREG(about.st_mode):
        raise PermissionError(errno.EACCES, "not a regular file", os.fspath(path))
