"""From a data set to a table: every published one in every layout, and each kind of one's own, through both stages."""

from __future__ import annotations

import io
import json
import subprocess
import tarfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from rich.console import Console

from mma.cache import open_cache
from mma.pipeline.datasets import entries
from mma.pipeline.embedding.embed import EmbedSettings, embed
from mma.pipeline.fitting.features import reduce_prompts
from mma.pipeline.fitting.fit import fit
from mma.pipeline.fitting.settings import FitSettings

Tree = Callable[[str, str], tuple[Path, dict[str, list[tuple[str, int]]]]]
Run = Callable[..., subprocess.CompletedProcess[str]]
QUIET = Console(file=io.StringIO())


def photo(seed: int) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(np.random.default_rng(seed).integers(0, 255, (20, 24, 3), np.uint8)).save(stream, "JPEG")
    return stream.getvalue()


def write_photos(
    folder: Path, classes: tuple[str, ...] = ("red circle", "blue_star", "green ring"), each: int = 8
) -> None:
    for label, name in enumerate(classes):
        (folder / name).mkdir(parents=True)
        for number in range(each):
            (folder / name / f"{number}.jpg").write_bytes(photo(100 * label + number))


def fit_once(cache: Path, out: Path) -> None:
    settings = FitSettings(
        cache=(str(cache),), adapter="clip-adapter", protocol="few-shot", shots=1, seeds=1, select="last",
        epochs=1, device="cpu", out=out,
    )  # fmt: skip
    fitted = fit(settings, QUIET)
    assert [row.setting.adapter for row in fitted.rows] == ["zero-shot", "clip-adapter"]
    assert not fitted.notes, "no image has failed"


@pytest.mark.slow
def test_a_published_data_set_becomes_a_cache_and_a_table(name: str, layout: str, tree: Tree, tmp_path: Path) -> None:
    root, expected = tree(name, layout)
    path = embed(EmbedSettings(dataset=name, cache=tmp_path / "c.zarr", root=root, model="tiny", device="cpu"), QUIET)
    cache = open_cache(path)
    assert tuple(cache.header.classnames) == entries()[name].classnames
    assert sum(cache.header.rows.values()) == sum(map(len, expected.values()))
    assert cache.text("default").templates == list(entries()[name].templates)
    assert cache.failures() == {split: [] for split in cache.header.rows}
    if "train" in cache.header.rows:
        fit_once(path, tmp_path / "runs")


@pytest.mark.slow
def test_a_folder_of_photos_needs_no_flags_but_a_model(tmp_path: Path, mma_here: Run) -> None:
    write_photos(tmp_path / "photos")
    assert mma_here("embed", "--dataset", "./photos", "--model", "tiny", cwd=tmp_path).returncode == 0
    shown = mma_here("fit", "--cache", "cache/photos.zarr", cwd=tmp_path)
    assert shown.returncode == 0, shown.stderr
    assert "few-shot" in shown.stdout  # of three classes none can be left out as new ones


@pytest.mark.slow
def test_manifest_and_shards_of_the_same_photos_give_the_same_embeddings(tmp_path: Path) -> None:
    write_photos(tmp_path)
    files = sorted(tmp_path.rglob("*.jpg"))
    rows = [(path.relative_to(tmp_path).as_posix(), path.parent.name) for path in files]
    (tmp_path / "photos.csv").write_text("path,label\n" + "".join(f"{path},{label}\n" for path, label in rows))
    with tarfile.open(tmp_path / "photos.tar", "w:") as tar:
        for number, (path, label) in enumerate(rows):
            for name, data in ((f"{number}.jpg", (tmp_path / path).read_bytes()), (f"{number}.cls", label.encode())):
                info = tarfile.TarInfo(name)
                info.size = len(data)
                tar.addfile(info, io.BytesIO(data))
    caches = []
    for source in ("photos.csv", "photos.tar"):
        settings = EmbedSettings(
            dataset=str(tmp_path / source), cache=tmp_path / f"{source}.zarr", model="tiny", device="cpu"
        )
        caches.append(open_cache(embed(settings, QUIET)))
    assert caches[0].header.classnames == caches[1].header.classnames == ["blue star", "green ring", "red circle"]
    for split in ("train", "val", "test"):
        np.testing.assert_array_equal(*(cache.split(split).embedding for cache in caches))
    fit_once(tmp_path / "photos.tar.zarr", tmp_path / "runs")


@pytest.mark.slow
def test_several_prompt_sets_lie_in_one_cache_and_more_can_be_added(tmp_path: Path) -> None:
    write_photos(tmp_path / "photos")
    sentences = {
        "red circle": ["A circle.", "It is red."],
        "blue star": ["A star."],
        "green ring": ["Round.", "Hollow."],
    }
    (tmp_path / "cupl.json").write_text(json.dumps(sentences))

    def run(prompts: str) -> Path:
        settings = EmbedSettings(
            dataset=str(tmp_path / "photos"), cache=tmp_path / "c.zarr", model="tiny", device="cpu", prompts=prompts
        )
        return embed(settings, QUIET)

    run("default,simple")
    cache = open_cache(run(f"simple,typo20,cupl={tmp_path / 'cupl.json'}"))
    assert set(cache.prompts) == {"default", "simple", "typo20", "cupl"}
    assert cache.text("simple").embedding.shape[1] == 7
    cupl = cache.text("cupl").embedding
    names = cache.header.classnames
    assert np.isnan(cupl).all(axis=2).sum(axis=1).tolist() == [int(name == "blue star") for name in names]
    assert np.isfinite(reduce_prompts(cupl)).all()
    assert not np.allclose(cache.text("typo20").embedding, cache.text("default").embedding)


WRONG_COMMANDS = {
    "an unknown data set": (["--dataset", "fod101"], "did you mean food101"),
    "a data set that is not there": (
        ["--dataset", "stanford_cars", "--root", "nowhere"],
        "datasets check stanford_cars",
    ),
    "a folder that is not there": (["--dataset", "./nowhere"], "there is no folder"),
    "an unknown prompt set": (["--dataset", "shapes", "--prompts", "emsemble"], "did you mean ensemble"),
    "cupl without its file": (["--dataset", "shapes", "--prompts", "cupl"], "cupl=FILE.json"),
    "sentences of other classes": (["--dataset", "shapes", "--prompts", "x=x.json"], "no sentences for class"),
    "an unknown label": (["--dataset", "m.csv"], "unknown split"),
}


@pytest.mark.parametrize("wrong", WRONG_COMMANDS)
def test_a_wrong_command_is_one_line_and_leaves_no_cache(wrong: str, tmp_path: Path, mma_here: Run) -> None:
    words, says = WRONG_COMMANDS[wrong]
    (tmp_path / "x.json").write_text('{"a class": ["a sentence"]}')
    (tmp_path / "m.csv").write_text("path,label,split\nx.json,cat,fold1\n")
    shown = mma_here("embed", *words, "--model", "tiny", cwd=tmp_path)
    assert shown.returncode == 2, shown.stderr
    assert shown.stderr.count("\n") == 1
    assert says in shown.stderr
    assert not (tmp_path / "cache").exists()
