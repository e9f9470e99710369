from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from mma.pipeline.using.export import export as run
from mma.pipeline.using.settings import ExportSettings

Export = Callable[..., Path]


def exported(out: Path, **settings: Any) -> Path:
    """`mma export` in this process."""
    return run(ExportSettings(out=out, **settings), Console(file=io.StringIO()))


@pytest.fixture(scope="session")
def photos(small_clip: str, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A folder of three classes of ten images, and its cache by the small CLIP."""
    from mma.pipeline.embedding.embed import EmbedSettings, embed

    from ..conftest import photo

    folder = tmp_path_factory.mktemp("using") / "photos"
    for label, name in enumerate(("big_dog", "bird", "cat")):
        (folder / name).mkdir(parents=True)
        for number in range(10):
            (folder / name / f"{number}.jpg").write_bytes(photo(100 * label + number))
    settings = EmbedSettings(dataset=str(folder), model=small_clip, cache=folder.with_name("photos.zarr"), workers=1)
    return folder, embed(settings, Console(file=io.StringIO()))


@pytest.fixture(scope="session")
def model(photos: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of the photos, of an adapter that takes new classes."""
    return exported(tmp_path_factory.mktemp("models") / "photos", cache=str(photos[1]), adapter="zero-shot")


@pytest.fixture(scope="session")
def small_model(small_cache: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of the small cache, with weights per class."""
    out = tmp_path_factory.mktemp("models") / "small"
    return exported(out, cache=str(small_cache), adapter="gda", shots=4)
