"""Every published data set is read in each layout people have, with its own names, order and splits."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torchvision.datasets

from mma.pipeline.datasets import Dataset, Lookup, entries, find_dataset
from mma.pipeline.datasets.folder import FileSplit
from mma.pipeline.embedding.images import decode
from mma.pipeline.errors import UsageError

Tree = Callable[[str, str], tuple[Path, dict[str, list[tuple[str, int]]]]]


def rows_of(dataset: Dataset, split: str) -> list[tuple[str, int]]:
    rows = dataset.splits[split]
    return list(zip(rows.paths, rows.labels.tolist(), strict=True))


def test_a_layout_is_read_with_names_order_and_splits_as_published(name: str, layout: str, tree: Tree) -> None:
    root, expected = tree(name, layout)
    dataset = find_dataset(name, Lookup(root))
    assert dataset.classnames == entries()[name].classnames
    assert dataset.templates == tuple(entries()[name].templates)
    assert "splits" in " ".join(dataset.notes)
    if "all" in expected:
        found = sorted(row for split in dataset.splits for row in rows_of(dataset, split))
        assert found == sorted(expected["all"])
        assert {"train", "test"} <= dataset.splits.keys()
        assert any("drawn" in note for note in dataset.notes)
    else:
        assert list(dataset.splits) == [split for split in ("train", "val", "test") if split in expected]
        for split in expected:
            assert rows_of(dataset, split) == expected[split]
    for rows in dataset.splits.values():
        assert decode(rows.read(0)).size == (10, 12)


def test_a_small_copy_is_said_to_differ_from_the_published_counts(name: str, layout: str, tree: Tree) -> None:
    notes = find_dataset(name, Lookup(tree(name, layout)[0])).notes
    assert any(note.startswith("counts differ: ") and "published" in note for note in notes)


TORCHVISION = {
    "food101": ("both", torchvision.datasets.Food101, {"train": "train", "test": "test"}, "_image_files"),
    "oxford_pets": (
        "torchvision",
        torchvision.datasets.OxfordIIITPet,
        {"train": "trainval", "test": "test"},
        "_images",
    ),
    "fgvc_aircraft": (
        "torchvision",
        torchvision.datasets.FGVCAircraft,
        {"train": "train", "val": "val", "test": "test"},
        "_image_files",
    ),
    "dtd": ("torchvision", torchvision.datasets.DTD, {"train": "train", "val": "val", "test": "test"}, "_image_files"),
    "oxford_flowers": (
        "torchvision",
        torchvision.datasets.Flowers102,
        {"train": "train", "val": "val", "test": "test"},
        "_image_files",
    ),
}


@pytest.mark.parametrize("known", TORCHVISION)
def test_rows_and_labels_are_those_of_torchvision(known: str, tree: Tree, monkeypatch: pytest.MonkeyPatch) -> None:
    layout, kind, splits, files = TORCHVISION[known]
    if known == "oxford_flowers":  # it takes the real .mat files only
        monkeypatch.setattr(kind, "_check_integrity", lambda self: True)
    root, _ = tree(known, layout)
    dataset = find_dataset(known, Lookup(root))
    for split, its_name in splits.items():
        rows = dataset.splits[split]
        assert isinstance(rows, FileSplit)
        theirs = kind(str(root), split=its_name)
        paths = [Path(file).resolve() for file in getattr(theirs, files)]
        ours = {(rows.root / path).resolve(): label for path, label in rows_of(dataset, split)}
        assert ours == dict(zip(paths, theirs._labels, strict=True))


def test_rows_and_labels_of_cars_and_eurosat_are_those_of_torchvision(tree: Tree) -> None:
    root, _ = tree("stanford_cars", "both")
    dataset = find_dataset("stanford_cars", Lookup(root))
    for split in ("train", "test"):
        theirs = torchvision.datasets.StanfordCars(str(root), split=split)
        ours = [(str(root / "stanford_cars" / path), label) for path, label in rows_of(dataset, split)]
        assert ours == [(path, int(label)) for path, label in theirs._samples]
    root, _ = tree("eurosat", "both")
    theirs = torchvision.datasets.EuroSAT(str(root))
    dataset = find_dataset("eurosat", Lookup(root))
    everything = [row for split in dataset.splits for row in rows_of(dataset, split)]
    assert {str(root / "eurosat/2750" / path): label for path, label in everything} == dict(theirs.samples)


def write_split_file(
    root: Path, expected: dict[str, list[tuple[str, int]]], name: str
) -> dict[str, list[list[object]]]:
    """CoOp's split file, in an order of its own, as its authors' draws were."""
    entry = entries()[name]
    rows = [row for split in expected.values() for row in split]
    order = np.random.default_rng(3).permutation(len(rows))
    given: dict[str, list[list[object]]] = {"train": [], "val": [], "test": []}
    seen: dict[int, int] = {}
    for path, label in (rows[i] for i in order):
        split = ("train", "test", "val", "train")[seen.get(label, 0) % 4]
        seen[label] = seen.get(label, 0) + 1
        given[split].append([path, label, entry.classnames[label].replace(" ", "_")])
    assert entry.coop is not None
    folder = next(root / folder for folder in entry.folders if (root / folder).is_dir())
    (folder / entry.coop.file).write_text(json.dumps(given))
    return given


@pytest.mark.parametrize("known", [name for name, entry in entries().items() if entry.coop])
def test_a_split_file_of_coop_decides_splits_and_order(known: str, tree: Tree, tmp_path: Path) -> None:
    made, expected = tree(known, "CoOp" if (known not in ("food101", "stanford_cars", "eurosat")) else "both")
    root = tmp_path / "root"
    shutil.copytree(made, root)
    given = write_split_file(root, expected, known)
    dataset = find_dataset(known, Lookup(root))
    assert dataset.classnames == entries()[known].classnames
    for split in dataset.splits:
        assert rows_of(dataset, split) == [(path, label) for path, label, _ in given[split]]
    assert any("split_zhou" in note for note in dataset.notes)
    assert decode(dataset.splits["train"].read(0)).size == (10, 12)


def test_the_split_file_makes_annotations_unnecessary_and_its_absence_is_said(tree: Tree, tmp_path: Path) -> None:
    made, expected = tree("oxford_pets", "CoOp")
    root = tmp_path / "root"
    shutil.copytree(made, root)
    notes = find_dataset("oxford_pets", Lookup(root)).notes
    assert any("official" in note and "split_zhou_OxfordPets.json" in note and "drive.google" in note for note in notes)
    write_split_file(root, expected, "oxford_pets")
    shutil.rmtree(root / "oxford_pets" / "annotations")
    assert set(find_dataset("oxford_pets", Lookup(root)).splits) == {"train", "val", "test"}


def test_the_root_may_be_the_data_sets_own_folder(tree: Tree) -> None:
    root, expected = tree("dtd", "CoOp")
    assert rows_of(find_dataset("dtd", Lookup(root / "dtd")), "test") == expected["test"]


def test_class_names_of_a_classnames_file_go_before_those_known(tree: Tree, tmp_path: Path) -> None:
    made, _ = tree("imagenet_a", "CoOp")
    shutil.copytree(made, tmp_path / "root")
    lines = [f"{wnid} a {name}" for wnid, name in entries()["imagenet"].classes.items()]
    (tmp_path / "root/imagenet-adversarial/classnames.txt").write_text("\n".join(lines))
    dataset = find_dataset("imagenet_a", Lookup(tmp_path / "root"))
    assert dataset.classnames == tuple(f"a {name}" for name in entries()["imagenet_a"].classnames)


BAD_SPLITS = {
    "not JSON": ("{", "cannot be read"),
    "a list": ("[]", "is not a split file"),
    "no test": ('{"train": []}', "is not a split file"),
    "empty test": ('{"train": [["a.jpg", 0, "a"]], "val": [], "test": []}', "'test' is empty"),
    "a short row": ('{"train": [["a.jpg", 0]], "test": [["a.jpg", 0, "a"]]}', "not [path, label, class name]"),
    "a label in words": ('{"train": [["a.jpg", "zero", "a"]], "test": [["a.jpg", 0, "a"]]}', "label 'zero'"),
    "two names": ('{"train": [["a.jpg", 0, "a"]], "test": [["a.jpg", 0, "b"]]}', "calls label 0 'b'"),
    "a gap": ('{"train": [["a.jpg", 2, "a"]], "test": [["a.jpg", 0, "b"]]}', "no image has label 1"),
    "outside": ('{"train": [["../a.jpg", 0, "a"]], "test": [["a.jpg", 0, "a"]]}', "not below"),
    "absolute": ('{"train": [["/etc/passwd", 0, "a"]], "test": [["a.jpg", 0, "a"]]}', "not below"),
}


@pytest.mark.parametrize("wrong", BAD_SPLITS)
def test_a_wrong_split_file_is_refused_in_one_line(wrong: str, tree: Tree, tmp_path: Path) -> None:
    text, says = BAD_SPLITS[wrong]
    shutil.copytree(tree("dtd", "CoOp")[0], tmp_path / "root")
    (tmp_path / "root/dtd/split_zhou_DescribableTextures.json").write_text(text)
    with pytest.raises(UsageError) as told:
        find_dataset("dtd", Lookup(tmp_path / "root"))
    assert says in str(told.value)
    assert "\n" not in str(told.value)


def test_wrong_annotations_and_missing_files_are_refused_in_one_line(tree: Tree, tmp_path: Path) -> None:
    root = tmp_path / "root"
    with pytest.raises(UsageError, match=r"food101 is not in .*datasets check food101"):
        find_dataset("food101", Lookup(root))
    shutil.copytree(tree("oxford_flowers", "CoOp")[0], root)
    (root / "oxford_flowers/setid.mat").unlink()
    with pytest.raises(UsageError, match=r"lacks setid.mat"):
        find_dataset("oxford_flowers", Lookup(root))
    (root / "oxford_flowers/setid.mat").write_bytes(b"not MATLAB")
    with pytest.raises(UsageError, match=r"annotations of oxford_flowers .* are damaged"):
        find_dataset("oxford_flowers", Lookup(root))
    shutil.copytree(tree("dtd", "CoOp")[0], root, dirs_exist_ok=True)
    (root / "dtd/labels/train1.txt").write_text("glossy/glossy_0001.jpg\n")
    with pytest.raises(UsageError, match="class 'glossy', which Describable Textures does not have"):
        find_dataset("dtd", Lookup(root))


def test_draws_depend_on_the_seed_alone(tree: Tree) -> None:
    root, _ = tree("eurosat", "both")
    one, again, other = (find_dataset("eurosat", Lookup(root, seed=seed)) for seed in (0, 0, 1))
    assert rows_of(one, "train") == rows_of(again, "train") != rows_of(other, "train")
