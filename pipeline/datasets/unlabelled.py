"""Images without classes: single ones, a folder at any depth, the paths of a manifest, the images of tar shards.

A split whose labels are all -1.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mma.pipeline.datasets import folder, manifest, shards
from mma.pipeline.datasets.base import NO_FILE, Split, Stamp, no_stamps
from mma.pipeline.datasets.image_files import MAX_BYTES
from mma.pipeline.datasets.names import real_path
from mma.pipeline.errors import UsageError
from mma.pipeline.regular_files import read_regular


@dataclass(frozen=True)
class Listed:
    """A split of files that were named one by one; links are followed."""

    paths: Sequence[str]  # [N] as names.py shows them

    @property
    def labels(self) -> NDArray[np.int32]:
        """[N] of -1."""
        return np.full(len(self.paths), -1, np.int32)

    def stamp(self, row: int) -> Stamp:
        """No stamp: whether these files have changed is never asked."""
        return NO_FILE

    def stamps(self) -> NDArray[np.int64]:
        """[N, 3] the stamps of all rows."""
        return no_stamps(len(self.paths))

    def read(self, row: int) -> bytes:
        """The file's bytes. OSError where it cannot be read."""
        return read_regular(real_path(self.paths[row]), MAX_BYTES)


@dataclass(frozen=True)
class InMemory:
    """A split of encoded images that are at hand; each is called by its number."""

    images: Sequence[bytes]  # [N]

    @property
    def paths(self) -> Sequence[str]:
        """[N]."""
        return [str(row) for row in range(len(self.images))]

    @property
    def labels(self) -> NDArray[np.int32]:
        """[N] of -1."""
        return np.full(len(self.images), -1, np.int32)

    def stamp(self, row: int) -> Stamp:
        """No stamp: there is no file."""
        return NO_FILE

    def stamps(self) -> NDArray[np.int64]:
        """[N, 3] the stamps of all rows."""
        return no_stamps(len(self.images))

    def read(self, row: int) -> bytes:
        """The image's bytes. OSError where they are too many to be one image."""
        if len(self.images[row]) > MAX_BYTES:
            raise OSError(f"more than {MAX_BYTES:,} bytes: not one image")
        return self.images[row]


@dataclass(frozen=True)
class Unlabelled:
    """A split, and where its paths begin."""

    split: Split
    where: str  # "photos/", before each path; "" for files that were named one by one


def find_unlabelled(path: Path, root: Path | None = None, follow_links: bool = False) -> Unlabelled:
    """The images at a path that is no single image. UsageError where there are none.

    `root` is the folder below which a manifest's paths lie.
    """
    if path.is_file():
        suffix = path.suffix.lower()
        if suffix in manifest.SUFFIXES:
            base = root or path.parent
            return _below(base, manifest.manifest_paths(path), follow_links, f"{path} has no rows")
        if suffix == ".tar":
            return Unlabelled(shards.unlabelled_shards(path), _prefix(path.parent))
        raise UsageError(
            f"{path} is not an image, by its name ({', '.join(sorted(folder.SUFFIXES))}), nor a manifest "
            f"({', '.join(sorted(manifest.SUFFIXES))}) nor a .tar"
        )
    if not path.is_dir():
        raise UsageError(f"there is no {path}: give images, folders, manifests, .tar shards or caches")
    if shards.find_shards(path):
        return Unlabelled(shards.unlabelled_shards(path), _prefix(path))
    images = folder.image_paths(path, ".")
    return _below(path, images, follow_links, f"{path} holds no images ({', '.join(sorted(folder.SUFFIXES))})")


def is_image(path: Path) -> bool:
    """Whether a path is that of an image, by its suffix."""
    return path.suffix.lower() in folder.SUFFIXES and not path.is_dir()


def _below(base: Path, paths: Sequence[str], follow_links: bool, none: str) -> Unlabelled:
    if not paths:
        raise UsageError(none)
    split = folder.FileSplit(base, paths, np.full(len(paths), -1, np.int32), follow_links)
    return Unlabelled(split, _prefix(base))


def _prefix(base: Path) -> str:
    return "" if base == Path() else f"{base.as_posix().rstrip('/')}/"
