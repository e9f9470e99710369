from __future__ import annotations

import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

SMALL = {
    "embed_dim": 24,
    "vision_cfg": {"image_size": 32, "layers": 1, "width": 32, "head_width": 16, "patch_size": 8},
    "text_cfg": {"context_length": 16, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1},
}
PREPROCESS = {"mean": [0.5, 0.5, 0.5], "std": [0.25, 0.25, 0.25]}


def make_clip(folder: Path, seed: int) -> str:
    """Random weights in open_clip's own form; the name by which `--model` takes them."""
    import open_clip
    import torch
    from safetensors.torch import save_file

    folder.mkdir()
    torch.manual_seed(seed)
    weights = open_clip.CLIP(**SMALL).state_dict()
    save_file({name: tensor.contiguous() for name, tensor in weights.items()}, folder / "open_clip_model.safetensors")
    config = {"model_cfg": SMALL, "preprocess_cfg": PREPROCESS}
    (folder / "open_clip_config.json").write_text(json.dumps(config))
    return f"local-dir:{folder}"


@pytest.fixture(scope="session")
def small_clip(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A small random CLIP: `--model` of it."""
    return make_clip(tmp_path_factory.mktemp("model") / "small", 0)


@pytest.fixture(scope="session")
def other_clip(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Another of the same shape."""
    return make_clip(tmp_path_factory.mktemp("model") / "other", 1)


def photo(seed: int, size: tuple[int, int] = (48, 40)) -> bytes:
    """A JPEG of smooth noise."""
    coarse = np.random.default_rng(seed).integers(0, 256, (6, 8, 3), dtype=np.uint8)
    stream = io.BytesIO()
    Image.fromarray(coarse).resize(size, Image.Resampling.BICUBIC).save(stream, "JPEG", quality=90)
    return stream.getvalue()


@pytest.fixture
def photo_folder(tmp_path: Path) -> Path:
    """photos/<class>/<n>.jpg: three classes of ten images."""
    for label, name in enumerate(("big_dog", "bird", "cat")):
        folder = tmp_path / "photos" / name
        folder.mkdir(parents=True)
        for number in range(10):
            (folder / f"{number}.jpg").write_bytes(photo(100 * label + number))
    return tmp_path / "photos"


@pytest.fixture
def listed(photo_folder: Path) -> Path:
    """A manifest of the photos: rows that stay when files go."""
    lines = ["path,label,split"]
    for name in ("big_dog", "bird", "cat"):
        lines += [f"{name}/{number}.jpg,{name},{'train' if number < 8 else 'test'}" for number in range(10)]
    (photo_folder / "all.csv").write_text("\n".join(lines) + "\n")
    return photo_folder / "all.csv"


Embed = Callable[..., tuple[Path, str]]


@pytest.fixture
def embed(small_clip: str, photo_folder: Path, tmp_path: Path) -> Embed:
    """`mma embed` in this process, on the photos with the small CLIP; the cache, and what was said."""
    from rich.console import Console

    from mma.pipeline.embedding.embed import EmbedSettings
    from mma.pipeline.embedding.embed import embed as run

    def work(**changes: Any) -> tuple[Path, str]:
        settings = {
            "dataset": str(photo_folder),
            "model": small_clip,
            "cache": tmp_path / "photos.zarr",
            "batch_size": 4,
            "workers": 2,
            **changes,
        }
        said = io.StringIO()
        path = run(EmbedSettings(**settings), Console(file=said, width=400))
        return path, said.getvalue()

    return work
