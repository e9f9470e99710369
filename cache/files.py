"""The files of a cache as bytes, on a disk or behind any fsspec URL."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import fsspec
from zarr.abc.store import Store
from zarr.storage import FsspecStore, LocalStore

from mma.cache.durable import read_file
from mma.cache.errors import CacheError
from mma.cache.journal import JOURNAL, SPARE
from mma.cache.root import ROOT


def is_url(location: str | Path) -> bool:
    """Whether a location is a URL, not a path."""
    return "://" in str(location)


class CacheFiles:
    """Read the files of one cache."""

    def __init__(self, location: str | Path) -> None:
        self.location = str(location)
        if not is_url(location) and not Path(location).exists():
            raise CacheError(f"there is no cache at {location}: make one with `mma embed`, or check the path")
        if not is_url(location):
            self._fs, self._folder = fsspec.filesystem("file"), str(Path(location).absolute())
            return
        try:
            self._fs, self._folder = fsspec.core.url_to_fs(str(location))
        except Exception as error:  # every store behind fsspec has its own
            raise CacheError(f"{location} cannot be opened ({type(error).__name__}: {error})") from error

    def read(self, name: str) -> bytes | None:
        """A file's bytes; None where it is missing. CacheError where it is there and cannot be read."""
        try:
            if not is_url(self.location):
                return read_file(Path(self._folder, name))
            return bytes(self._fs.cat_file(f"{self._folder.rstrip('/')}/{name}"))
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as error:
            link = error.errno == errno.ELOOP
            reason = "it is a link" if link else error.strerror or error
            raise CacheError(f"{self.location}: {name} cannot be read ({reason})") from error
        except Exception as error:  # every store behind fsspec has its own
            raise CacheError(f"{self.location}: {name} cannot be read ({type(error).__name__}: {error})") from error

    def strange_folder(self, name: str) -> str | None:
        """The first part of a file's path inside the cache that is there and is no folder, or is a link to one."""
        if is_url(self.location):
            return None
        for above in [*Path(name).parents][-2::-1]:
            place = Path(self._folder, above)
            if place.is_symlink() or (place.exists() and not place.is_dir()):
                return above.as_posix()
        return None

    def root_and_journal(self) -> tuple[bytes, bytes]:
        """zarr.json and the journal; CacheError where the place holds no cache, or they cannot be read."""
        root = self.read(ROOT)
        journal = self.read(JOURNAL)
        if root is None and journal is None:
            lost = self.read(SPARE) is not None
            what = "is a damaged cache: run `mma cache verify` on it" if lost else "is not an mma cache"
            raise CacheError(f"{self.location} {what}")
        return root or b"", journal or b""

    def sizes(self, below: str = "") -> dict[str, int]:
        """Every file with its bytes, by path inside the cache; or those of one folder of it."""
        base = self._folder.rstrip("/")
        if not is_url(self.location):
            files = [Path(folder, name) for folder, _, names in os.walk(Path(base, below)) for name in names]
            return {file.relative_to(base).as_posix(): file.lstat().st_size for file in sorted(files)}
        try:
            found = self._fs.find(f"{base}/{below}".rstrip("/"), detail=True)
        except Exception as error:  # as above
            raise CacheError(f"{self.location} cannot be listed ({type(error).__name__}: {error})") from error
        return {name.removeprefix(base).lstrip("/"): int(info["size"] or 0) for name, info in sorted(found.items())}

    def store(self) -> Store:
        """These files as a Zarr store for reading."""
        if is_url(self.location):
            return FsspecStore.from_url(self.location, read_only=True)
        return LocalStore(self.location, read_only=True)
