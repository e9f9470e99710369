"""Replace a cache by another that is made beside it: readers see the old one or the new one, never anything between.

    with replacing(path, header, manifest) as writer:     # the lock of `path`, and a writer of `.photos.zarr.new`
        ...                                               # as with every writer; killed, the next run continues here
        writer.finish()
                                                          # on leaving, the two exchange their names; the old is removed

Linux and macOS exchange two names in one step. Where the system or the disk cannot, the old cache is put aside as
`.photos.zarr.was` first; a run that is killed there is mended by the next one (`mend_replacement`).
"""

from __future__ import annotations

import ctypes
import errno
import os
import shutil
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from mma.cache.durable import sync
from mma.cache.errors import CacheError
from mma.cache.killpoint import step
from mma.cache.layout import ManifestSplit
from mma.cache.lock import only_writer
from mma.cache.reader import open_cache
from mma.cache.schema import Header
from mma.cache.where import Location, as_location, is_url
from mma.cache.writer import CacheWriter

EXCHANGE = 2  # RENAME_EXCHANGE of Linux, RENAME_SWAP of macOS
HERE = -100  # AT_FDCWD: paths are those of the process
CANNOT = {errno.ENOSYS, errno.EINVAL, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EPERM}  # not here, or not on this disk


@contextmanager
def replacing(path: Location, header: Header, manifest: Mapping[str, ManifestSplit]) -> Iterator[CacheWriter]:
    """A writer of the cache that is to replace the one at `path`, begun or continued; left without an error, it does.

    One that was begun for another header is thrown away. CacheError where another process writes the cache, or a shard
    of it.
    """
    place, draft = _real(path), replacement_place(path)
    with only_writer(place) as lock:
        with _writer(draft, header, manifest) as writer:
            yield writer
        if not writer.complete:
            raise CacheError(f"{draft} is not complete, and does not replace {path}")
        lock.check()
        _exchange(place, draft)
        with step("update.discard"):
            _remove(draft)


def replacement_place(path: Location) -> Path:
    """Where the cache that is to replace the one at a path is made."""
    return _beside(_real(path), "new")


def discard_replacement(path: Location) -> None:
    """Remove what a run that was killed left of the cache that was replaced. Its caller holds the lock of `path`."""
    if not is_url(path):  # only a cache on a disk is replaced
        _remove(replacement_place(path))


def mend_replacement(path: Location) -> None:
    """Where a run was killed between two renames: the new cache if it is whole, else the old one, in its place.

    CacheError where another process is about to write there.
    """
    if is_url(path):
        return
    place = _real(path)
    draft, aside = replacement_place(path), _beside(place, "was")
    if place.exists() or not aside.exists():
        return
    with only_writer(place):
        if place.exists() or not aside.exists():
            return
        try:
            open_cache(draft)
        except CacheError:
            aside.rename(place)
        else:
            draft.rename(place)
            _remove(aside)
        sync(place.parent)


def _writer(draft: Path, header: Header, manifest: Mapping[str, ManifestSplit]) -> CacheWriter:
    if draft.exists():
        try:
            stored = open_cache(draft, partial=True).header
            if replace(stored, notes=header.notes, source=header.source) == header:
                return CacheWriter.resume(draft, header)
        except CacheError:
            pass  # damaged, and of no worth: it is begun anew
    _remove(draft)
    return CacheWriter.create(draft, header, manifest)


def _exchange(place: Path, draft: Path) -> None:
    """Put `draft` in the place of a cache; what was there is in the place of `draft`, or gone."""
    aside = _beside(place, "was")
    _remove(aside)
    with step("update.exchange"):
        exchanged = exchange_names(place, draft)
    if not exchanged:
        with step("update.aside"):
            place.rename(aside)
            sync(place.parent)
        draft.rename(place)
    sync(place.parent)
    _remove(aside)


def exchange_names(one: Path, other: Path) -> bool:
    """Exchange the names of two folders in one step; False where the system or the disk cannot. Raises OSError."""
    if sys.platform == "win32":
        return False
    libc = ctypes.CDLL(None, use_errno=True)
    first, second = os.fsencode(one), os.fsencode(other)
    if sys.platform == "darwin":
        call, words = getattr(libc, "renamex_np", None), (first, second, EXCHANGE)
    else:
        call, words = getattr(libc, "renameat2", None), (HERE, first, HERE, second, EXCHANGE)
    if call is None:
        return False
    if call(*words) == 0:
        return True
    number = ctypes.get_errno()
    if number in CANNOT:
        return False
    raise OSError(number, os.strerror(number), str(one))


def _remove(folder: Path) -> None:
    if folder.is_symlink():
        folder.unlink()
    elif folder.exists():
        shutil.rmtree(folder)


def _real(path: Location) -> Path:
    at = as_location(path)
    if not isinstance(at, Path):
        raise CacheError(f"{at} cannot be replaced: only a cache on a disk is")
    return Path(os.path.realpath(at))


def _beside(place: Path, what: str) -> Path:
    return place.with_name(f".{place.name}.{what}")
