"""CIFAR is read from its own batches, and only where their sums are right."""

from __future__ import annotations

import hashlib
import io
import pickle
from pathlib import Path

import numpy as np
import pytest
import torchvision.datasets
from rich.console import Console

from mma.pipeline.datasets import Lookup, entries, find_dataset
from mma.pipeline.datasets.check import check_published
from mma.pipeline.embedding.embed import EmbedSettings, embed
from mma.pipeline.errors import UsageError
from mma.pipeline.fitting.fit import fit
from mma.pipeline.fitting.settings import FitSettings


def write_batches(root: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> dict[str, np.ndarray]:
    """A small copy in the python version's form, whose sums torchvision is told to expect."""
    kind = {"cifar10": torchvision.datasets.CIFAR10, "cifar100": torchvision.datasets.CIFAR100}[name]
    entry = entries()[name]
    folder = root / kind.base_folder
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    labels: dict[str, list[np.ndarray]] = {"train": [], "test": []}

    def write(file: str, content: object) -> str:
        data = pickle.dumps(content, protocol=2)
        (folder / file).write_bytes(data)
        return hashlib.md5(data).hexdigest()

    for split, files in (("train", kind.train_list), ("test", kind.test_list)):
        sums = []
        for file, _ in files:
            label = rng.permutation(np.arange(len(entry.classes)).repeat(2))
            key = "labels" if name == "cifar10" else "fine_labels"
            data = rng.integers(0, 255, (len(label), 3072), np.uint8)
            sums.append([file, write(file, {"data": data, key: label.tolist()})])
            labels[split].append(label)
        monkeypatch.setattr(kind, f"{split}_list", sums)
    key = kind.meta["key"]
    md5 = write(kind.meta["filename"], {key: list(entry.classes)})
    monkeypatch.setattr(kind, "meta", {**kind.meta, "md5": md5})
    return {split: np.concatenate(found) for split, found in labels.items()}


@pytest.mark.parametrize("name", ["cifar10", "cifar100"])
def test_batches_are_read_in_order_with_clean_names(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    labels = write_batches(tmp_path, name, monkeypatch)
    dataset = find_dataset(name, Lookup(tmp_path))
    assert dataset.classnames == entries()[name].classnames
    for split in ("train", "test"):
        np.testing.assert_array_equal(dataset.splits[split].labels, labels[split])
        pixels = dataset.splits[split].read(1)
        assert isinstance(pixels, np.ndarray)
        assert pixels.shape == (32, 32, 3)
    assert any("no val split" in note for note in dataset.notes)
    assert any("counts differ" in note for note in dataset.notes)


@pytest.mark.slow
def test_batches_become_a_cache_and_a_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_batches(tmp_path, "cifar10", monkeypatch)
    quiet = Console(file=io.StringIO())
    path = embed(
        EmbedSettings(dataset="cifar10", cache=tmp_path / "c.zarr", root=tmp_path, model="tiny", device="cpu"), quiet
    )
    fitted = fit(
        FitSettings(cache=(str(path),), adapter="zero-shot", protocol="few-shot", seeds=1, out=tmp_path), quiet
    )
    assert len(fitted.rows) == 1


def test_a_missing_batch_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_batches(tmp_path, "cifar10", monkeypatch)
    assert check_published(entries()["cifar10"], tmp_path).complete
    (tmp_path / "cifar-10-batches-py/data_batch_3").unlink()
    assert check_published(entries()["cifar10"], tmp_path).missing == ["data_batch_3"]
    with pytest.raises(UsageError, match="lacks data_batch_3"):
        find_dataset("cifar10", Lookup(tmp_path))


def test_a_changed_batch_is_refused_before_it_is_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_batches(tmp_path, "cifar10", monkeypatch)
    (tmp_path / "cifar-10-batches-py/test_batch").write_bytes(b"cos\nsystem\n(S'touch owned'\ntR.")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError, match="not complete or damaged"):
        find_dataset("cifar10", Lookup(tmp_path))
    assert not (tmp_path / "owned").exists()
