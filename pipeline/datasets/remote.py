"""Images at a URL: one, or all below a folder, wherever fsspec reads (file, memory, http, s3 with its package, ...).

Of http, a folder is a page that links to its files, as most servers show one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

import fsspec
import numpy as np
from numpy.typing import NDArray

from mma.pipeline.datasets import folder
from mma.pipeline.datasets.base import NO_FILE, Stamp, no_stamps
from mma.pipeline.datasets.image_files import MAX_BYTES
from mma.pipeline.datasets.names import shown_path
from mma.pipeline.datasets.unlabelled import Unlabelled
from mma.pipeline.errors import UsageError


@dataclass(frozen=True)
class Remote:
    """A split of files of one file system of fsspec."""

    files: Any  # an fsspec.AbstractFileSystem
    names: Sequence[str]  # [N] as the file system calls them
    paths: Sequence[str]  # [N] URLs

    @property
    def labels(self) -> NDArray[np.int32]:
        """[N] of -1."""
        return np.full(len(self.names), -1, np.int32)

    def stamp(self, row: int) -> Stamp:
        """No stamp: whether these files have changed is never asked."""
        return NO_FILE

    def stamps(self) -> NDArray[np.int64]:
        """[N, 3] the stamps of all rows."""
        return no_stamps(len(self.names))

    def read(self, row: int) -> bytes:
        """The file's bytes. OSError where it cannot be read, or is too large to be one image."""
        try:
            with self.files.open(self.names[row], "rb") as stream:
                data: bytes = stream.read(MAX_BYTES + 1)
        except OSError:
            raise
        except Exception as error:  # every file system has classes of its own
            raise OSError(f"{type(error).__name__}: {error}") from error
        if len(data) > MAX_BYTES:
            raise OSError(f"more than {MAX_BYTES:,} bytes: not one image")
        return data


def find_remote(url: str) -> Unlabelled | None:
    """The images at a URL; None where a cache is there. UsageError where there is nothing that can be used."""
    try:
        files, name = fsspec.core.url_to_fs(url)
        if files.isfile(f"{name.rstrip('/')}/zarr.json"):
            return None
        found = [name] if _is_image(name) else sorted(each for each in files.find(name) if _is_image(each))
        there = bool(found) and files.exists(found[0])
    except (ImportError, ValueError) as error:  # a protocol that is unknown, or whose package is not there
        raise UsageError(f"{url} cannot be read: {str(error).splitlines()[0]}") from error
    except Exception as error:  # the network, permissions: every file system has classes of its own
        lines = str(error).splitlines() or [""]
        raise UsageError(f"{url} cannot be read ({type(error).__name__}: {lines[0][:200]})") from error
    if not there:
        raise UsageError(f"{url} holds no images ({', '.join(sorted(folder.SUFFIXES))}) and no cache")
    paths = [shown_path(files.unstrip_protocol(each)) for each in found]
    return Unlabelled(Remote(files, found, paths), "")


def _is_image(name: str) -> bool:
    return PurePosixPath(name.split("?")[0]).suffix.lower() in folder.SUFFIXES
