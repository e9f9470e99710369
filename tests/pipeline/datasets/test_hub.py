"""Hugging Face data sets that were saved to the disk are read as any other; names on the hub take the same way."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from mma.pipeline.datasets import Lookup, find_dataset
from mma.pipeline.errors import UsageError

hf = pytest.importorskip("datasets", reason="pip install 'mma[hf]'")


def png(seed: int) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(np.random.default_rng(seed).integers(0, 255, (7, 6, 3), np.uint8)).save(stream, "PNG")
    return stream.getvalue()


def table(labels: list[Any], feature: Any, image: str = "image", label: str = "label") -> Any:
    rows = {image: [{"bytes": png(n), "path": None} for n in range(len(labels))], label: labels}
    return hf.Dataset.from_dict(rows, features=hf.Features({image: hf.Image(), label: feature}))


CLASSES = ["a_cat", "a dog"]


def test_saved_splits_keep_their_rows_names_and_bytes(tmp_path: Path) -> None:
    saved = hf.DatasetDict(
        train=table([0, 1, 1, 0], hf.ClassLabel(names=CLASSES)), test=table([1, 0], hf.ClassLabel(names=CLASSES))
    )
    saved.save_to_disk(tmp_path / "pets")
    dataset = find_dataset(str(tmp_path / "pets"), Lookup())
    assert dataset.name == "pets"
    assert dataset.classnames == ("a cat", "a dog")
    assert dataset.splits["train"].labels.tolist() == [0, 1, 1, 0]
    assert dataset.splits["train"].paths == [f"train/{n}" for n in range(4)]
    assert [dataset.splits["test"].read(n) for n in range(2)] == [png(0), png(1)]


def test_validation_stands_in_for_a_test_split_and_it_is_said(tmp_path: Path) -> None:
    feature = hf.Value("string")
    hf.DatasetDict(
        train=table(["dog", "cat"], feature, "picture"), validation=table(["cat", "dog"], feature, "picture")
    ).save_to_disk(tmp_path / "pets")
    dataset = find_dataset(f"hf:{tmp_path / 'pets'}", Lookup())
    assert dataset.classnames == ("cat", "dog")
    assert dataset.splits["test"].labels.tolist() == [0, 1]
    assert any("validation is used as test" in note for note in dataset.notes)


def test_one_split_is_split_by_a_seed(tmp_path: Path) -> None:
    table([0, 1] * 10, hf.ClassLabel(names=CLASSES)).save_to_disk(tmp_path / "pets")
    dataset = find_dataset(str(tmp_path / "pets"), Lookup())
    assert sum(len(rows.labels) for rows in dataset.splits.values()) == 20
    row = int(dataset.splits["test"].paths[1].split("/")[1])
    assert dataset.splits["test"].read(1) == png(row)


WRONG: dict[str, tuple[Any, str]] = {
    "labels are shares": (lambda: table([0.5, 0.1], hf.Value("float32")), "neither names nor numbers"),
    "names and numbers": (lambda: table(["1", "cat"], hf.Value("string")), "mixes labels that are numbers"),
    "one class": (lambda: table(["cat", "cat"], hf.Value("string")), "at least two are needed"),
    "twins": (lambda: table(["a cat", "a_cat"], hf.Value("string")), "two classes called 'a cat'"),
    "twins of names": (lambda: table([0, 1], hf.ClassLabel(names=["a cat", "a_cat"])), "two classes called 'a cat'"),
    "no label column": (lambda: table([0, 1], hf.Value("int64"), label="caption"), "has no label column"),
    "test alone": (
        lambda: hf.DatasetDict(test=table([0, 1], hf.ClassLabel(names=CLASSES))),
        "train and test are needed",
    ),
}


@pytest.mark.parametrize("wrong", WRONG)
def test_a_wrong_saved_data_set_is_refused_in_one_line(wrong: str, tmp_path: Path) -> None:
    make, says = WRONG[wrong]
    make().save_to_disk(tmp_path / "wrong")
    with pytest.raises(UsageError) as told:
        find_dataset(str(tmp_path / "wrong"), Lookup())
    assert says in str(told.value)
    assert "\n" not in str(told.value)


def test_a_damaged_saved_data_set_is_refused_in_one_line(tmp_path: Path) -> None:
    table([0, 1], hf.ClassLabel(names=CLASSES)).save_to_disk(tmp_path / "pets")
    next((tmp_path / "pets").glob("*.arrow")).write_bytes(b"not arrow")
    with pytest.raises(UsageError, match="hf:") as told:
        find_dataset(str(tmp_path / "pets"), Lookup())
    assert "\n" not in str(told.value)


def test_what_does_not_fit_is_refused_in_one_line(tmp_path: Path) -> None:
    hf.Dataset.from_dict({"text": ["a"], "label": [0]}).save_to_disk(tmp_path / "text")
    with pytest.raises(UsageError, match=r"has no image column \(it has text, label\)"):
        find_dataset(str(tmp_path / "text"), Lookup())
    unlabelled = table([-1, -1], hf.ClassLabel(names=CLASSES))
    hf.DatasetDict(train=table([0, 1], hf.ClassLabel(names=CLASSES)), test=unlabelled).save_to_disk(tmp_path / "pets")
    with pytest.raises(UsageError, match="the split 'test' has no labels"):
        find_dataset(str(tmp_path / "pets"), Lookup())
    table([[0, 1], [1]], hf.Sequence(hf.Value("int64"))).save_to_disk(tmp_path / "several")
    with pytest.raises(UsageError, match="every image needs one class"):
        find_dataset(str(tmp_path / "several"), Lookup())
    with pytest.raises(UsageError, match="hf:"):
        find_dataset(f"hf:{tmp_path / 'nowhere'}", Lookup())
