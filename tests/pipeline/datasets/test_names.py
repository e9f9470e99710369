"""Names that are not UTF-8: a row or a class each, shown as text that leads back to the file."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from mma.pipeline.datasets import Lookup, find_dataset
from mma.pipeline.datasets.names import real_path, shown_name, shown_path
from mma.pipeline.embedding.header import manifest_hash

from .test_own_data import JPEG, jpeg, write_tar

ODD = os.fsdecode(b"caf\xe9")


@given(st.binary(max_size=40))
def test_every_name_of_a_file_is_shown_as_text_that_leads_back_to_it(name: bytes) -> None:
    path = os.fsdecode(name)
    shown = shown_path(path)
    shown.encode()
    assert real_path(shown) == path


@given(st.text(st.characters(exclude_categories=()), max_size=40))
def test_every_text_of_a_json_file_too(path: str) -> None:
    shown = shown_path(path)
    shown.encode()
    assert real_path(shown) == path


@given(st.text(max_size=40))
def test_names_that_are_text_stay_as_they_are(name: str) -> None:
    assert shown_name(name) == name
    assert shown_path(name.replace("\\", "/")) == name.replace("\\", "/")


def test_files_and_classes_of_a_folder(tmp_path: Path) -> None:
    for name in ("cat", ODD):
        (tmp_path / name).mkdir()
        for number in range(4):
            (tmp_path / name / f"{ODD}{number}.jpg").write_bytes(jpeg(number))
    dataset = find_dataset(str(tmp_path), Lookup())
    assert dataset.classnames == ("caf\\xe9", "cat")
    manifest_hash(dataset)
    for split in dataset.splits.values():
        for row, path in enumerate(split.paths):
            assert "caf\\xe9" in path
            assert split.read(row) == jpeg(int(path[-5]))
            assert split.stamp(row)[0] == len(jpeg(int(path[-5])))


def test_members_and_classes_of_a_tar(tmp_path: Path) -> None:
    members = []
    for number in range(8):
        label = b"caf\xe9" if number % 2 else b"cat"
        members += [(f"{ODD}{number}.jpg", jpeg(number)), (f"{ODD}{number}.cls", label)]
    dataset = find_dataset(str(write_tar(tmp_path / "photos.tar", members)), Lookup())
    assert dataset.classnames == ("caf\\xe9", "cat")
    manifest_hash(dataset)
    train = dataset.splits["train"]
    assert [train.read(row) for row in range(4)] == [jpeg(int(path[-5])) for path in train.paths]


def test_rows_of_json_lines_and_of_a_csv(tmp_path: Path) -> None:
    (tmp_path / f"{ODD}.jpg").write_bytes(JPEG)
    rows = [{"path": f"{ODD}.jpg", "label": "cat", "split": "train"}]
    rows += [{"path": "\ud83d.jpg", "label": "half a smile \ud83d", "split": "test"}]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "b.csv").write_bytes(b"path,label,split\ncaf\xe9.jpg,cat,train\nb.jpg,caf\xe9,test\n")
    for file, names in (("a.jsonl", ("cat", "half a smile \\ud83d")), ("b.csv", ("caf\\xe9", "cat"))):
        dataset = find_dataset(str(tmp_path / file), Lookup())
        assert dataset.classnames == names
        manifest_hash(dataset)
        assert dataset.splits["train"].read(0) == JPEG
        assert np.array_equal(dataset.splits["test"].stamps(), [[-1, -1, -1]])
