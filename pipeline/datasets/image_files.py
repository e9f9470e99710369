"""Read one file of a data set: a regular file below the data set's folder, of bounded size."""

from __future__ import annotations

import errno
import os
from functools import lru_cache
from pathlib import Path

from mma.pipeline.datasets.base import ABSENT, NO_FILE, Stamp, stamp_of
from mma.pipeline.datasets.names import real_path
from mma.pipeline.errors import WorkError
from mma.pipeline.regular_files import read_regular

MAX_BYTES = 256 * 2**20  # a file larger than this is not one image


def read_image_file(root: Path, path: str, follow_links: bool = False) -> bytes:
    """The bytes of root/path. OSError where it is no readable file below `root`; WorkError where `root` itself is gone.

    Links are followed as long as they stay below `root`, or, with `follow_links`, wherever they lead. Nothing is waited
    for: a pipe or a device is refused unread.
    """
    try:
        file = os.path.realpath(_place(root, path))
        folder = _real(os.path.abspath(root))  # noqa: PTH100 (a thread's share of a busy loop)
        if not follow_links and os.path.commonpath([folder, file]) != folder:
            raise PermissionError(errno.EACCES, "a link that leaves the data set's folder", path)
        return read_regular(file, MAX_BYTES)
    except FileNotFoundError as error:
        _refuse_lost(root)
        raise FileNotFoundError(errno.ENOENT, "the file is gone", path) from error
    except ValueError as error:  # a name that no file can have
        raise FileNotFoundError(errno.ENOENT, "no file can have this name", path) from error


def stamp_image_file(root: Path, path: str) -> Stamp:
    """Size and times of root/path as they are now; ABSENT where it is not there."""
    try:
        return stamp_of(os.stat(_place(root, path)))  # noqa: PTH116 (a third of the time of Path.stat)
    except (FileNotFoundError, NotADirectoryError, ValueError):
        return ABSENT
    except OSError:  # there, and out of reach: reading it says why
        return NO_FILE


def _place(root: Path, path: str) -> str:
    return f"{root}/{real_path(path)}"


@lru_cache
def _real(root: str) -> str:  # an absolute path: what a relative one means changes with the working folder
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
