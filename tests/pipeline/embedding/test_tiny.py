"""`tiny` loads as any open_clip model does, is small, and knows `shapes` well enough to be adapted."""

from __future__ import annotations

import subprocess
import sys
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import open_clip
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from mma.pipeline.datasets.shapes import CLASSES, DrawnSplit, shapes
from mma.pipeline.embedding.tiny import MODEL, TINY
from mma.pipeline.embedding.tiny.train import picture, save, train, zero_shot

WEIGHTS = TINY / "open_clip_model.safetensors"
MB = 1_000_000


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Batches this small gain nothing from more, and lose much where the cores are busy."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def test_open_clip_loads_model_transform_and_tokenizer_from_the_folder() -> None:
    model, _, preprocess = open_clip.create_model_and_transforms(MODEL)
    model.eval()
    with torch.inference_mode():
        image = model.encode_image(preprocess(Image.new("RGB", (90, 70)))[None])
        text = model.encode_text(open_clip.get_tokenizer(MODEL)(["a photo of a red circle."]))
    assert image.shape == text.shape == (1, 64)
    assert image.isfinite().all()
    assert text.isfinite().all()
    assert 5 < model.logit_scale.exp().item() <= 100


def test_the_folder_stays_small_on_disk_and_in_a_wheel() -> None:
    files = [path for path in TINY.iterdir() if path.is_file()]
    assert sum(path.stat().st_size for path in files) < 8 * MB
    assert sum(len(zlib.compress(path.read_bytes())) for path in files) < 3 * MB


def test_weights_are_half_precision_and_rows_of_words_never_seen_are_zero() -> None:
    weights = load_file(WEIGHTS)
    assert {tensor.dtype for tensor in weights.values() if tensor.is_floating_point()} == {torch.float16}
    assert all(tensor.isfinite().all() for tensor in weights.values())
    known = open_clip.get_tokenizer(MODEL)(["a photo of a purple moon."])[0, :9]
    used = weights["token_embedding.weight"].any(dim=1)
    assert used[known].all()
    assert used.sum() < 100


@pytest.mark.slow
def test_zero_shot_on_shapes_leaves_room_on_both_sides() -> None:
    test = shapes().splits["test"]
    assert isinstance(test, DrawnSplit)
    rows = [row for row in range(len(test.paths)) if row % 25 < 10]
    accuracy = zero_shot(TINY, (Image.fromarray(test.read(row)) for row in rows), test.labels[rows])
    assert 40 < accuracy < 85


@pytest.mark.slow
def test_it_knows_its_own_clip_art_almost_perfectly() -> None:
    rng, labels = np.random.default_rng(99), np.arange(len(CLASSES), dtype=np.int32).repeat(4)
    assert zero_shot(TINY, [picture(*CLASSES[label], rng)[0] for label in labels], labels) > 95


def trained(out: Path, seed: int) -> dict[str, torch.Tensor]:
    torch.manual_seed(seed)
    model, _, preprocess = open_clip.create_model_and_transforms(MODEL, load_weights=False)
    train(model.train(), preprocess, steps=2, seed=seed, batch=16)
    save(model, out)
    open_clip.create_model_and_transforms(f"local-dir:{out}", require_pretrained=True)
    return load_file(out / WEIGHTS.name)


@pytest.mark.slow
def test_training_writes_a_folder_that_open_clip_loads_and_the_seed_decides_it(tmp_path: Path) -> None:
    one, again, other = (trained(tmp_path / name, seed) for name, seed in (("one", 0), ("again", 0), ("other", 1)))
    assert all(torch.equal(one[key], again[key]) for key in one)
    assert not torch.equal(one["visual.conv1.weight"], other["visual.conv1.weight"])


def test_the_package_itself_imports_no_torch() -> None:
    code = "import sys, mma.pipeline.embedding.tiny; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False, timeout=60).returncode == 0
