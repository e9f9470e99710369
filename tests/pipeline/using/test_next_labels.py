from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from mma.pipeline.errors import UsageError
from mma.pipeline.using.next_labels import badge
from mma.pipeline.using.settings import AuditSettings

from ...conftest import Run


def unit(rows: int, dim: int = 4) -> torch.Tensor:
    return torch.nn.functional.normalize(torch.randn(rows, dim, generator=torch.Generator().manual_seed(0)), dim=1)


def test_the_first_is_the_least_certain_and_what_is_certain_is_as_one() -> None:
    probability = np.array([[1.0, 0], [0.9, 0.1], [0.55, 0.45], [0, 1.0], [0.8, 0.2]])
    chosen = badge(probability, unit(5), 5)
    assert chosen[0] == 2
    assert set(chosen) >= {1, 2, 4}
    assert len(chosen) == 4  # and one of 0 and 3, whose gradient is 0: they are as one


def test_the_same_image_is_not_asked_twice() -> None:
    image = unit(3).repeat(4, 1)
    chosen = badge(np.tile([0.6, 0.4], (12, 1)), image, 12)
    assert len(chosen) == 3
    assert {at % 3 for at in chosen} == {0, 1, 2}


def test_distances_are_those_of_the_gradients_written_out() -> None:
    rng = np.random.default_rng(0)
    image, probability = unit(30), rng.dirichlet(np.ones(3), 30)
    a = probability.copy()
    a[np.arange(30), a.argmax(1)] -= 1
    gradient = np.einsum("nc,nd->ncd", a, image.double().numpy()).reshape(30, -1)  # [N, C * D]
    order = [int(np.square(gradient).sum(1).argmax())]
    draw = np.random.default_rng(0)
    while len(order) < 10:
        squared = np.square(gradient[:, None] - gradient[order]).sum(2).min(1)
        squared[order] = 0
        order.append(int(draw.choice(30, p=squared / squared.sum())))
    assert badge(probability, image, 10) == order


def test_the_command_asks_a_model_or_a_labelled_cache(
    photos: tuple[Path, Path], model: Path, mma_here: Run, tmp_path: Path
) -> None:
    cache = photos[1]
    words = ("audit", cache, "--next", 5, "--model", model, "--out", tmp_path / "n.csv", "--sheet", tmp_path / "n.png")
    ran = mma_here(*words)
    assert ran.returncode == 0, ran.stderr
    rows = list(csv.DictReader((tmp_path / "n.csv").open()))
    assert [row["rank"] for row in rows] == ["1", "2", "3", "4", "5"]
    assert all(row["path"] in ran.stdout for row in rows)
    assert all(float(row["share"]) >= float(row["share_of_or"]) for row in rows)
    with Image.open(tmp_path / "n.png") as sheet:
        assert sheet.size == (8 + 5 * 168, 8 + 200)
    asked = mma_here("audit", cache, "--next", 5, "--labelled", cache)
    assert asked.returncode == 0, asked.stderr
    assert "images to label next (5)" in asked.stdout


def test_a_cache_of_another_encoder_is_refused(model: Path, small_cache: Path, mma_here: Run) -> None:
    ran = mma_here("audit", small_cache, "--next", 2, "--model", model)
    assert ran.returncode == 2
    assert "which encoder made its embeddings" in ran.stderr


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"next": 5}, "either a `model=FOLDER`"),
        ({"next": 5, "model": "m", "labelled": "c"}, "either a `model=FOLDER`"),
        ({"model": "m"}, "an option of `next=K`"),
        ({"next": 0}, "must be from 1"),
    ],
)
def test_what_cannot_be_asked_is_refused(given: dict, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        AuditSettings(cache="c.zarr", **given)
