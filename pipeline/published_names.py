"""Whether a data set is a published one, by the name that its cache gives; every other is one's own.

The names are those of the catalogue (`datasets/entries/`, a file each), and `shapes`, which the package draws. They are
read here, since stage two knows nothing of data sets.
"""

from __future__ import annotations

from functools import cache
from importlib import resources

SHAPES = "shapes"


def is_published(dataset: str) -> bool:
    """Whether a name is a published data set's, or of something made of one: `dtd`, `dtd-limit50`, `dtd_vitb32`."""
    called = _plain(dataset)
    return any(called == name or called.startswith(f"{name}-") for name in _names())


@cache
def _names() -> tuple[str, ...]:
    folder = resources.files("mma.pipeline") / "datasets" / "entries"
    return (SHAPES, *sorted(_plain(file.name.removesuffix(".toml")) for file in folder.iterdir()))


def _plain(name: str) -> str:
    return name.lower().replace("_", "-")
