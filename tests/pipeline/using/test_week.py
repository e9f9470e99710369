"""A week with the tool: embed, fit, export, predict; then images and a class are added, and all of it once more."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mma.cache import open_cache
from mma.pipeline.datasets.shapes import draw_form

from ...conftest import Run


def photographed(folder: Path, name: str, numbers: range) -> None:
    """JPEGs of one class."""
    (folder / name).mkdir(parents=True, exist_ok=True)
    for number in numbers:
        pixels = draw_form(*name.split("_"), np.random.default_rng([number, *name.encode()]))
        Image.fromarray(pixels).save(folder / name / f"{number}.jpg", quality=92)


def answers(file: Path, of: str) -> set[str]:
    """What the images of one folder are called in a file of answers."""
    with file.open(encoding="utf-8") as stream:
        return {row["class"] for row in csv.DictReader(stream) if of in row["path"]}


@pytest.mark.slow
def test_the_second_week_knows_what_the_first_did(
    mma_here: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)

    def run(line: str, code: int = 0) -> str:
        done = mma_here(*line.split())
        assert done.returncode == code, done.stderr
        return " ".join((done.stdout + done.stderr).split())

    for name in ("red_circle", "blue_star", "green_square"):
        photographed(tmp_path / "photos", name, range(20))
    for name in ("blue_star", "orange_heart"):
        photographed(tmp_path / "new", name, range(100, 103))
    run("embed --dataset photos --model tiny")
    fit = "fit --cache cache/photos.zarr --adapter gda --alpha 1 --shots 4 --seeds 1"
    assert "protocol few-shot, since photos is none of the published data sets" in run(fit)
    export = "export --cache cache/photos.zarr --adapter gda --alpha 1 --out models/photos"
    assert "replaces" not in run(export)
    run("predict models/photos new --out first.csv")
    assert answers(tmp_path / "first.csv", "blue_star") == {"blue star"}
    cache = open_cache(tmp_path / "cache/photos.zarr")
    tested = {content.tobytes() for content in cache.content("test")}

    photographed(tmp_path / "photos", "blue_star", range(20, 26))
    photographed(tmp_path / "photos", "orange_heart", range(20))
    (tmp_path / "photos/red_circle/3.jpg").rename(tmp_path / "photos/blue_star/was_red.jpg")
    told = "26 images added, 1 moved to another class, 0 gone"
    assert told in run("embed --dataset photos --model tiny", code=2)
    assert told in run("embed --dataset photos --model tiny --update")
    now = open_cache(tmp_path / "cache/photos.zarr")
    assert tested <= {content.tobytes() for content in now.content("test")}
    run(fit)
    run(export, code=2)
    changed = "classes: 1 (orange heart) added, none gone"
    assert f"against the model it replaces: {changed}; images: train" in run(f"{export} --force")
    run("predict models/photos new --out second.csv")
    assert answers(tmp_path / "second.csv", "orange_heart") == {"orange heart"}
    assert answers(tmp_path / "second.csv", "blue_star") == {"blue star"}

    replaces = json.loads((tmp_path / "models/photos/model.json").read_text())["fitted"]["replaces"]
    assert (replaces["classes_added"], replaces["classes_gone"], replaces["changed"]) == (["orange heart"], [], {})
    for split in ("train", "val"):
        assert replaces["rows"][split] == [cache.header.rows[split], now.header.rows[split]]
    assert replaces["figures"]["rows"] == [cache.header.rows["val"], now.header.rows["val"]]
    assert changed in (tmp_path / "models/photos/README.md").read_text()
