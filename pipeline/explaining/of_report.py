"""What the page of `mma report` shows that is in no results folder: images, and what the best fits did with one.

Nothing of it is there where the cache, its images or the weights (`mma fit` keeps them, `mma ablate` does not) are not
at hand: the page then goes without.
"""

from __future__ import annotations

import io
from collections.abc import Iterator

from mma.adapters import AdapterError
from mma.cache import Cache, CacheError, open_cache
from mma.pipeline.errors import UsageError
from mma.pipeline.explaining.at_hand import Thumbnail, thumbnails
from mma.pipeline.explaining.explain import explained
from mma.pipeline.explaining.pictures import of_image
from mma.pipeline.fitting.saved import saved_fit
from mma.pipeline.reports.drawing import Picture
from mma.pipeline.reports.findings import Finding, Report, main_block

SIDE = 112  # pixels: the longest side of a thumbnail on the page
QUALITY = 70  # of its JPEG: about 4 kB


class ImageFinder:
    """Paths and thumbnails of test images, cache by cache."""

    def __init__(self) -> None:
        self._caches: dict[str, tuple[Cache, list[str], Thumbnail] | None] = {}

    def __call__(self, cache: str, row: int) -> tuple[str, bytes | None] | None:
        """The path of a row of the test split, and a JPEG of it; None where the cache is not at hand."""
        if cache not in self._caches:
            self._caches[cache] = _opened(cache)
        found = self._caches[cache]
        if found is None or row >= len(found[1]):
            return None
        image = found[2]("test", row, SIDE)
        if image is None:
            return found[1][row], None
        stream = io.BytesIO()
        image.save(stream, "JPEG", quality=QUALITY)
        return found[1][row], stream.getvalue()


def pictures_of_fits(report: Report) -> list[Picture]:
    """Of each table, what the best Multi-Modal Adapter and the best method did with the image that changed most."""
    found = []
    for group in report.groups:
        rows = sorted(main_block(group)[1], key=lambda row: -row.measures[group.main].mean)
        best = {**{row.setting.id: row for row in rows[:1]}, **{row.setting.id: row for row in _first_mma(rows)}}
        for row in best.values():
            found += _of_row(report, row)
    return found


def _first_mma(rows: list[Finding]) -> Iterator[Finding]:
    yield from [row for row in rows if row.setting.adapter == "mma"][:1]


def _of_row(report: Report, row: Finding) -> list[Picture]:
    setting = row.setting
    folder, seed = report.folder / f"{setting.adapter}-{setting.id}", setting.seeds[0]
    if not (folder / f"weights-{seed}.safetensors").is_file():
        return []
    try:
        fit = saved_fit(folder, seed, device="cpu")
        explanation = explained(fit, most=1)
    except (UsageError, CacheError, AdapterError):  # the cache has gone or changed: the numbers are of what it was
        return []
    shown = explanation.shown[0]
    picture = of_image(explanation, shown, thumbnails(fit.features.images.cache))
    caption = f"What {row.method} did with one image of {setting.dataset}, seed {seed}. {picture.caption}"
    return [Picture(f"{setting.id}-{picture.name}", caption, picture.height, picture.draw, picture.width)]


def _opened(location: str) -> tuple[Cache, list[str], Thumbnail] | None:
    try:
        cache = open_cache(location, partial=True)
        return cache, list(cache.split("test").path), thumbnails(cache)
    except (CacheError, KeyError):
        return None
