"""A model folder is whole, checked and of no machine."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch

from mma.pipeline.errors import UsageError
from mma.pipeline.using.model import open_model, refuse_other_encoder

from .conftest import exported


@pytest.fixture
def copy(small_model: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(small_model, tmp_path / "copy"))


def flip(file: Path, at: int) -> None:
    data = bytearray(file.read_bytes())
    data[at] ^= 1
    file.write_bytes(data)


@pytest.mark.parametrize("at", [30, -3, 0.5])
@pytest.mark.parametrize("name", ["model.json", "weights.safetensors"])
def test_one_byte_changed_is_refused(copy: Path, name: str, at: float) -> None:
    file = copy / name
    flip(file, at if isinstance(at, int) else int(at * file.stat().st_size))
    with pytest.raises(UsageError, match=name.replace(".", r"\.")) as refused:
        open_model(copy)
    assert "\n" not in str(refused.value)


def test_a_newer_schema_is_refused(copy: Path) -> None:
    about = json.loads((copy / "model.json").read_text())
    (copy / "model.json").write_text(json.dumps({**about, "version": 2}))
    with pytest.raises(UsageError, match="model schema 2; this mma reads up to 1: install a newer mma"):
        open_model(copy)


@pytest.mark.parametrize("missing", ["model.json", "weights.safetensors"])
def test_a_folder_that_lacks_a_file_is_no_model(copy: Path, missing: str) -> None:
    (copy / missing).unlink()
    with pytest.raises(UsageError, match=missing.replace(".", r"\.")):
        open_model(copy)


def test_the_card_may_be_edited(copy: Path) -> None:
    (copy / "README.md").write_text("Ours.")
    assert open_model(copy).about.adapter == "gda"


def test_nothing_of_the_machine_is_in_a_model(photos: tuple[Path, Path], model: Path) -> None:
    for file in model.iterdir():
        for word in (photos[0].parent, photos[1], model.parent, Path.home()):
            assert str(word).encode() not in file.read_bytes(), file


def test_a_model_says_what_made_it(photos: tuple[Path, Path], model: Path) -> None:
    about = open_model(model).about
    assert about.classnames == ["big dog", "bird", "cat"]
    assert about.templates == ["a photo of a {}."]
    assert len(about.encoder["weights_sha256"]) == 64
    assert about.encoder["preprocess"]["size"] == [32, 32]


def test_a_model_that_is_there_is_replaced_by_force_alone(
    small_cache: Path, small_model: Path, copy: Path, tmp_path: Path
) -> None:
    with pytest.raises(UsageError, match="holds a model"):
        exported(copy, cache=str(small_cache), adapter="zero-shot")
    exported(copy, cache=str(small_cache), adapter="zero-shot", force=True)
    assert open_model(copy).about.adapter == "zero-shot"
    assert [path.name for path in copy.parent.iterdir()] == ["copy"]
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "letter.txt").write_text("dear")
    with pytest.raises(UsageError, match="is there and is not a model"):
        exported(tmp_path / "mine", cache=str(small_cache), adapter="zero-shot", force=True)


def test_an_interrupted_export_leaves_nothing(
    small_cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(_: Path) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("mma.pipeline.using.model.sync_tree", stop)
    with pytest.raises(KeyboardInterrupt):
        exported(tmp_path / "model", cache=str(small_cache), adapter="zero-shot")
    assert list(tmp_path.iterdir()) == []


def test_texts_of_another_shape_are_refused(copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import safetensors.torch

    load = safetensors.torch.load
    monkeypatch.setattr(safetensors.torch, "load", lambda data: {**load(data), "text": torch.zeros(2, 2)})
    with pytest.raises(UsageError, match=r"has texts \[2, 2\], and model\.json says \[7, 32\]"):
        open_model(copy)


def test_encoders_are_compared() -> None:
    one = {"weights_sha256": "a" * 64, "quick_gelu": True, "precision": "fp32", "preprocess": {}, "embedding": "x"}
    refuse_other_encoder(one, {**one, "torch": "9"}, "here")
    refuse_other_encoder({}, {}, "here")
    with pytest.raises(UsageError, match="here is of another encoder than the model: weights sha256 is b"):
        refuse_other_encoder(one, {**one, "weights_sha256": "b" * 64}, "here")
    with pytest.raises(UsageError, match="quick gelu is False"):
        refuse_other_encoder(one, {**one, "quick_gelu": False}, "here")
    with pytest.raises(UsageError, match="here does not say which encoder"):
        refuse_other_encoder(one, {}, "here")
