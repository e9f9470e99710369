"""Images of a cache as small pictures, where its data set is at hand."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image

from mma.cache import Cache
from mma.pipeline.datasets.folder import FileSplit
from mma.pipeline.embedding.images import BadImage, decode

Thumbnail = Callable[[str, int, int], Image.Image | None]  # split, row, longest side in pixels; None: not there


def thumbnails(cache: Cache, root: Path | None = None) -> Thumbnail:
    """What reads a row's image, from below `root`, or else from where the cache says that its images are."""
    source = cache.header.source or {}
    said = str(source.get("root") or source.get("dataset") or "")
    folder = root or (Path(said) if said else None)

    def read(split: str, row: int, side: int) -> Image.Image | None:
        if folder is None or not folder.is_dir():
            return None
        files = FileSplit(folder, [cache.split(split).path[row]], np.full(1, -1, np.int32), False)
        try:
            image = decode(files.read(0), side=side)
        except (BadImage, OSError):
            return None
        image.thumbnail((side, side))
        return image

    return read
