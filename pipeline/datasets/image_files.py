"""Read one file of a data set: a regular file below the data set's folder, of bounded size."""

from __future__ import annotations

import errno
import os
import stat
from functools import lru_cache
from pathlib import Path

from mma.pipeline.errors import WorkError

MAX_BYTES = 256 * 2**20  # a file larger than this is not one image


def read_image_file(root: Path, path: str) -> bytes:
    """The bytes of root/path. OSError where it is no readable file below `root`; WorkError where `root` itself is gone.

    Links are followed as long as they stay below `root`. Nothing is waited for: a pipe or a device is refused unread.
    """
    base, file = _real(root), os.path.realpath(root / path)
    if os.path.commonpath([base, file]) != base:
        raise PermissionError(errno.EACCES, "a link that leaves the data set's folder", path)
    try:
        handle = os.open(file, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    except FileNotFoundError as error:
        _refuse_lost(root)
        raise FileNotFoundError(errno.ENOENT, "the file is gone", path) from error
    with open(handle, "rb") as stream:  # noqa: PTH123 (a handle)
        about = os.fstat(handle)
        if not stat.S_ISREG(about.st_mode):
            raise PermissionError(errno.EACCES, "not a regular file", path)
        if about.st_size > MAX_BYTES:
            raise OSError(errno.EFBIG, f"{about.st_size:,} bytes; at most {MAX_BYTES:,} are read", path)
        return stream.read(MAX_BYTES)


@lru_cache
def _real(root: Path) -> str:
    return os.path.realpath(root)


def _refuse_lost(root: Path) -> None:
    """WorkError where a data set's folder is gone, or empty as a disk's mount point is without its disk."""
    try:
        with os.scandir(root) as found:
            there = next(found, None) is not None
    except OSError:
        there = False
    if not there:
        raise WorkError(f"the data set's folder {root} is gone; what is done is kept: bring it back and run again")
