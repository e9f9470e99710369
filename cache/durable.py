"""Whole files: read only where they are regular files, written so that they survive a power cut."""

from __future__ import annotations

import errno
import hashlib
import os
import stat
from collections.abc import Iterable
from pathlib import Path
from typing import BinaryIO

PARTIAL = ".partial"  # what a file not yet whole is called, here and in Zarr's LocalStore


def read_file(path: Path) -> bytes:
    """The bytes of a regular file. OSError where it is anything else (a link, a pipe, a folder): nothing is followed,
    and nothing waits for another end.
    """
    flags = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_BINARY", 0)
    handle = os.open(path, flags)
    if not stat.S_ISREG(os.fstat(handle).st_mode):
        os.close(handle)
        raise OSError(errno.EINVAL, "it is not a regular file")
    with os.fdopen(handle, "rb") as file:
        return file.read()


def holds(path: Path, data: bytes) -> bool:
    """Whether `path` is a regular file of these bytes."""
    try:
        return read_file(path) == data
    except OSError:
        return False


def sync(path: Path) -> None:
    """Flush a file, or a folder's list of names, to the disk."""
    if os.name == "nt" and path.is_dir():
        return  # Windows has no such call; its file systems journal names
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def sync_tree(root: Path) -> None:
    """Flush every file and folder below and including `root`, and its place in its parent."""
    for folder, _, files in os.walk(root):
        for name in files:
            sync(Path(folder, name))
        sync(Path(folder))
    sync(root.parent)


def sync_files(root: Path, files: Iterable[str]) -> None:
    """Flush files below `root`, and the folders between."""
    paths = [root / file for file in files]
    for path in paths:
        sync(path)
    for folder in {parent for path in paths for parent in path.parents if parent.is_relative_to(root)}:
        sync(folder)


def open_new(path: Path) -> BinaryIO:
    """A new file to be written. What stood there, a leftover or a link that was planted, is removed, never followed."""
    path.unlink(missing_ok=True)
    return path.open("xb")  # O_EXCL: fails where anything has been put there since


def write_whole(path: Path, data: bytes) -> None:
    """Write a file so that at any moment it is the old one or the new one, and on return is the new one on the disk.

    Several processes may write the same file. A folder that stands in its place is set aside, as `<name>.was`. OSError
    where a device does: root could replace it, and the machine would be without it.
    """
    if not path.is_symlink() and (path.is_char_device() or path.is_block_device()):
        raise OSError(errno.EINVAL, "it is a device, not a file", os.fspath(path))
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}.{os.getpid()}{PARTIAL}")
    try:
        with open_new(draft) as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        error.filename = os.fspath(path)  # a write that fails names no file
        raise
    if path.is_dir() and not path.is_symlink():
        path.rename(path.with_name(f"{path.name}.was"))
    draft.replace(path)
    sync(path.parent)


def sha256(data: bytes | memoryview) -> str:
    """SHA-256 of some bytes, as `sha256sum` prints it. (A CRC-32C would not do: over a chunk with its own CRC-32C
    behind it, it is the same number for every chunk.)
    """
    return hashlib.sha256(data).hexdigest()
