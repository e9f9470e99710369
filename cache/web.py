"""A cache behind any other URL that fsspec reads, such as https://. It is only read."""

from __future__ import annotations

import fsspec

from mma.cache.errors import CacheError
from mma.cache.place import Place
from mma.cache.root import ROOT


class Web(Place):
    """A folder of a file system of fsspec."""

    def __init__(self, url: str) -> None:
        self.location = url
        try:
            self._files, folder = fsspec.core.url_to_fs(url)
        except Exception as error:  # every store behind fsspec has its own
            raise CacheError(f"{url} cannot be opened ({_told(error)})") from error
        self._folder = folder.rstrip("/")

    def read(self, name: str) -> bytes | None:
        """As of every place."""
        try:
            return bytes(self._files.cat_file(f"{self._folder}/{name}"))
        except (FileNotFoundError, NotADirectoryError):
            return None
        except Exception as error:  # as above
            raise CacheError(f"{self.location}: {name} cannot be read ({_told(error)})") from error

    def sizes(self, below: str = "") -> dict[str, int]:
        """As of every place."""
        try:
            found = self._files.find(f"{self._folder}/{below}".rstrip("/"), detail=True)
        except Exception as error:  # as above
            raise CacheError(f"{self.location} cannot be listed ({_told(error)})") from error
        return {name.removeprefix(self._folder).lstrip("/"): int(of["size"] or 0) for name, of in sorted(found.items())}

    def exists(self) -> bool:
        """Whether there is a cache."""
        return self.read(ROOT) is not None


def _told(error: Exception) -> str:
    return f"{type(error).__name__}: {(str(error).splitlines() or [''])[0][:200]}"
