"""`mma export --onnx`: onnxruntime says what torch says, and a file that does not is never written."""

from __future__ import annotations

from pathlib import Path

import pytest

from mma.pipeline.errors import UsageError
from mma.pipeline.fitting.features import load_features
from mma.pipeline.using import onnx_file
from mma.pipeline.using.load import LoadedModel
from mma.pipeline.using.model import open_model

from .conftest import exported

runtime = pytest.importorskip("onnxruntime", reason="the extra onnx is not installed")
pytest.importorskip("onnxscript", reason="the extra onnx is not installed")


@pytest.fixture(scope="session")
def with_onnx(small_cache: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model with an ONNX file that takes texts."""
    out = tmp_path_factory.mktemp("onnx") / "model"
    return exported(out, cache=str(small_cache), adapter="zero-shot", onnx="embeddings", class_texts="input")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "options"), [("mma", {"epochs": 2}), ("rada", {"epochs": 1, "candidates": 4}), ("kron-ridge", {})]
)
def test_onnxruntime_gives_the_logits_of_torch(
    name: str, options: dict[str, int], small_cache: Path, tmp_path: Path
) -> None:
    folder = exported(tmp_path / "m", cache=str(small_cache), adapter=name, shots=3, onnx="embeddings", options=options)
    image = load_features(small_cache).images.images("test").numpy()
    session = runtime.InferenceSession(folder / "model.onnx")
    for rows in (image, image[:1]):
        (logits,) = session.run(None, {"embeddings": rows})
        assert logits == pytest.approx(LoadedModel(folder, device="cpu").logits(rows), abs=1e-3)


@pytest.mark.slow
def test_texts_may_be_an_input_of_any_number_of_classes(with_onnx: Path, small_cache: Path) -> None:
    features = load_features(small_cache)
    image, text = features.images.images("test").numpy(), features.text.embedding.numpy()
    session = runtime.InferenceSession(with_onnx / "model.onnx")
    wanted = LoadedModel(with_onnx, device="cpu").logits(image)
    (logits,) = session.run(None, {"embeddings": image, "texts": text[2:5]})
    assert logits == pytest.approx(wanted[:, 2:5], abs=1e-3)


def test_a_byte_of_the_onnx_file_changed_is_refused(with_onnx: Path) -> None:
    file, data = with_onnx / "model.onnx", (with_onnx / "model.onnx").read_bytes()
    try:
        file.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
        with pytest.raises(UsageError, match=r"model\.onnx is not what model\.json was written with"):
            open_model(with_onnx)
        file.unlink()
        with pytest.raises(UsageError, match=r"model\.onnx cannot be read"):
            open_model(with_onnx)
    finally:
        file.write_bytes(data)
    assert open_model(with_onnx).about.onnx is not None


def test_an_onnx_file_has_no_path_of_the_machine(with_onnx: Path) -> None:
    data = (with_onnx / "model.onnx").read_bytes()
    for word in (Path(onnx_file.__file__).name, ".py", str(Path.home())):
        assert word.encode() not in data, word


@pytest.mark.slow
def test_logits_that_differ_from_torch_are_refused_and_nothing_is_written(
    small_cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(onnx_file, "_difference", lambda *_: 0.002)  # at a scale of 20
    with pytest.raises(UsageError, match=r"differ from torch's by 0\.01 .*nothing is written"):
        exported(tmp_path / "m", cache=str(small_cache), adapter="zero-shot", onnx="embeddings")
    assert list(tmp_path.iterdir()) == []


def test_what_cannot_be_written_is_refused_in_one_line(small_cache: Path, tmp_path: Path) -> None:
    cache = str(small_cache)
    with pytest.raises(UsageError, match="taskres has weights for its classes"):
        exported(tmp_path / "m", cache=cache, adapter="taskres", onnx="embeddings", class_texts="input")
    with pytest.raises(UsageError, match="gda cannot be written as ONNX with class texts as an input") as refused:
        exported(tmp_path / "m", cache=cache, adapter="gda", shots=3, onnx="embeddings", class_texts="input")
    assert "\n" not in str(refused.value)
    with pytest.raises(UsageError, match="nothing says which encoder made them"):
        exported(tmp_path / "m", cache=cache, adapter="zero-shot", onnx="pixels")
    with pytest.raises(UsageError, match="`class_texts` is of an ONNX file"):
        exported(tmp_path / "m", cache=cache, adapter="zero-shot", class_texts="input")
