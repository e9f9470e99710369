"""`mma datasets` lists what is known; `check` tells what a folder lacks, and where people get it."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from mma.pipeline.datasets import entries
from mma.pipeline.datasets.check import check_published

Tree = Callable[[str, str], tuple[Path, dict[str, list[tuple[str, int]]]]]
Run = Callable[..., subprocess.CompletedProcess[str]]


def test_every_data_set_is_listed_with_counts_licence_and_source(mma_here: Run) -> None:
    shown = mma_here("datasets", "--json")
    rows = {row["name"]: row for row in json.loads(shown.stdout)}
    assert set(rows) == {*entries(), "shapes"}
    assert rows["dtd"]["coop_counts"] == {"train": 2820, "val": 1128, "test": 1692}
    assert rows["eurosat"]["licence"] == "MIT"
    table = mma_here("datasets")
    assert table.returncode == 0
    assert all(name in table.stdout for name in rows)


@pytest.mark.slow
def test_a_small_copy_lacks_images_and_nothing_else(name: str, layout: str, tree: Tree) -> None:
    report = check_published(entries()[name], tree(name, layout)[0])
    assert len(report.missing) == 1
    assert "images" in report.missing[0]


def test_what_is_missing_is_named_with_the_way_to_get_it(tree: Tree, tmp_path: Path, mma_here: Run) -> None:
    nowhere = mma_here("datasets", "check", "ucf101", "--root", tmp_path)
    assert nowhere.returncode == 1
    assert "UCF-101-midframes" in nowhere.stdout
    assert "drive.google.com" in nowhere.stdout
    shutil.copytree(tree("dtd", "CoOp")[0], tmp_path, dirs_exist_ok=True)
    (tmp_path / "dtd/labels/val1.txt").unlink()
    shutil.rmtree(tmp_path / "dtd/images/zigzagged")
    shown = mma_here("datasets", "check", "dtd", "--root", tmp_path, "--json")
    report = json.loads(shown.stdout)
    assert shown.returncode == 1
    assert report["complete"] is False
    assert report["missing"][0] == "labels/val1.txt"
    assert "1 class folders" in report["missing"][1]
    assert "zigzagged" in report["missing"][1]
    assert any("split_zhou_DescribableTextures.json" in line for line in report["found"])


def test_images_that_a_split_file_names_are_looked_for(tree: Tree, tmp_path: Path) -> None:
    made, expected = tree("oxford_pets", "CoOp")
    shutil.copytree(made, tmp_path, dirs_exist_ok=True)
    rows = [[path, label, "x"] for path, label in expected["train"]]
    names = entries()["oxford_pets"].classnames
    split = {
        "train": [[path, label, names[label]] for path, label, _ in rows],
        "val": [],
        "test": [["gone_1.jpg", 0, names[0]]],
    }
    (tmp_path / "oxford_pets/split_zhou_OxfordPets.json").write_text(json.dumps(split))
    report = check_published(entries()["oxford_pets"], tmp_path)
    assert report.missing[0] == "1 images of the split file: gone_1.jpg"


def test_ones_own_data_is_checked_for_files_and_with_content_for_copies(tmp_path: Path, mma_here: Run) -> None:
    for path, data in (
        ("train/cat/1.jpg", b"one"),
        ("train/dog/1.jpg", b"two"),
        ("test/cat/1.jpg", b"one"),
        ("test/dog/1.jpg", b"six"),
    ):
        (tmp_path / "pets" / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "pets" / path).write_bytes(data)
    shown = mma_here("datasets", "check", tmp_path / "pets", "--content")
    assert shown.returncode == 0
    assert "1 images are in two splits" in shown.stdout
    (tmp_path / "pets/photos.csv").write_text(
        "path,label,split\ntrain/cat/1.jpg,cat,train\ntrain/dog/1.jpg,dog,train\ntest/cat/1.jpg,cat,test\nno.jpg,dog,test\n"
    )
    lacks = mma_here("datasets", "check", tmp_path / "pets/photos.csv")
    assert lacks.returncode == 1
    assert "1 files: no.jpg" in lacks.stdout


def test_what_is_no_regular_file_is_not_waited_for(tmp_path: Path, mma_here: Run) -> None:
    for name in ("cat", "dog"):
        (tmp_path / "pets" / name).mkdir(parents=True)
        for number in range(3):
            (tmp_path / "pets" / name / f"{number}.jpg").write_bytes(b"")
        os.mkfifo(tmp_path / "pets" / name / "pipe.jpg")
        (tmp_path / "pets" / name / "endless.jpg").symlink_to("/dev/zero")
    shown = mma_here("datasets", "check", tmp_path / "pets", "--content")
    assert shown.returncode == 0
    assert "1 images are there more than once" in shown.stdout


@pytest.mark.slow
def test_every_file_of_a_folder_is_counted(tmp_path: Path) -> None:
    entry = entries()["food101"]
    for key in entry.classes:
        folder = tmp_path / "food-101/images" / key
        folder.mkdir(parents=True)
        for number in range(1000):
            (folder / f"{number}.jpg").touch()
    report = check_published(entry, tmp_path)
    assert "101,000 images of 101,000" in report.found
    assert report.missing == ["meta/train.txt", "meta/test.txt"]


@pytest.mark.parametrize("words", [["datasets", "check", "fod101"], ["datasets", "check"], ["datasets", "chek"]])
def test_a_wrong_word_is_one_line_and_exit_code_2(words: list[str], mma_here: Run) -> None:
    shown = mma_here(*words)
    assert shown.returncode == 2
    assert shown.stderr.count("\n") == 1
