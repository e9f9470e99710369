from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import open_clip
import pytest
import torch
from open_clip.pretrained import _PRETRAINED
from open_clip.transformer import QuickGELU
from safetensors.torch import load_file, save_file

from mma.pipeline.embedding.clip import load_clip
from mma.pipeline.errors import UsageError

from ..conftest import SMALL

OWN = "small-for-a-test"


@pytest.fixture
def published(small_clip: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A model that open_clip knows by name, with weights behind the tag `openai`, as those of ViT-B-32: QuickGELU
    though the model's configuration does not say so. The weights are fetched from a file: URL.
    """
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / f"{OWN}.json").write_text(json.dumps(SMALL))
    open_clip.add_model_config(tmp_path / f"{OWN}.json")
    weights = tmp_path / "weights.pt"
    torch.save(load_file(Path(small_clip.removeprefix("local-dir:")) / "open_clip_model.safetensors"), weights)
    _PRETRAINED[OWN] = {"openai": {"url": weights.as_uri(), "quick_gelu": True}}
    yield weights
    del _PRETRAINED[OWN]
    (tmp_path / f"{OWN}.json").unlink()
    open_clip.factory._rescan_model_configs()


def activations(net: torch.nn.Module) -> set[str]:
    return {type(m).__name__ for m in net.modules() if isinstance(m, QuickGELU | torch.nn.GELU)}


PIXELS = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))


def test_a_tag_is_loaded_with_the_activation_it_was_trained_with(published: Path) -> None:
    tag = load_clip(OWN, "openai")
    assert activations(tag.model) == {"QuickGELU"}
    assert tag.fingerprint["quick_gelu"] is True
    plain = load_clip(OWN, str(published))
    assert activations(plain.model) == {"GELU"}
    assert tag.fingerprint["weights_sha256"] == plain.fingerprint["weights_sha256"]
    assert not np.allclose(tag.encode_image(PIXELS), plain.encode_image(PIXELS), atol=1e-4)


def test_a_checkpoint_file_takes_the_activation_that_is_given(published: Path) -> None:
    quick = load_clip(OWN, str(published), quick_gelu=True)
    assert activations(quick.model) == {"QuickGELU"}
    assert quick.fingerprint["quick_gelu"] is True
    assert np.array_equal(quick.encode_image(PIXELS), load_clip(OWN, "openai").encode_image(PIXELS))


def test_openais_weights_of_vit_b_32_are_known_to_be_quick_gelu() -> None:
    for model in ("ViT-B-32", "ViT-B-16", "ViT-L-14"):
        with pytest.raises(UsageError, match=r"'openai' weights of .* were trained with quick_gelu=True"):
            load_clip(model, "openai", quick_gelu=False)
    with pytest.raises(UsageError, match="were trained with quick_gelu=False"):
        load_clip("ViT-B-32", "laion2b_s34b_b79k", quick_gelu=True)


def test_a_model_with_quick_gelu_built_in_cannot_be_loaded_without_it(small_clip: str) -> None:
    file = Path(small_clip.removeprefix("local-dir:")) / "open_clip_model.safetensors"
    with pytest.raises(UsageError, match="has QuickGELU built in: use `model=ViT-B-32`"):
        load_clip("ViT-B-32-quickgelu", str(file), quick_gelu=False)


def test_a_local_folder_has_the_activation_of_its_configuration(small_clip: str, tmp_path: Path) -> None:
    source = Path(small_clip.removeprefix("local-dir:"))
    config = json.loads((source / "open_clip_config.json").read_text())
    config["model_cfg"]["quick_gelu"] = True
    (tmp_path / "quick").mkdir()
    (tmp_path / "quick/open_clip_config.json").write_text(json.dumps(config))
    (tmp_path / "quick/open_clip_model.safetensors").write_bytes((source / "open_clip_model.safetensors").read_bytes())
    assert activations(load_clip(f"local-dir:{tmp_path / 'quick'}", "").model) == {"QuickGELU"}
    assert activations(load_clip(small_clip, "").model) == {"GELU"}


@pytest.mark.slow
def test_weights_that_do_not_fit_are_refused_in_one_line(small_clip: str, tmp_path: Path) -> None:
    save_file({"logit_scale": torch.zeros(())}, tmp_path / "short.safetensors")
    (tmp_path / "text.pt").write_text("no weights")
    for file in ("short.safetensors", "text.pt"):
        with pytest.raises(UsageError, match="do not fit ViT-B-32") as refused:
            load_clip("ViT-B-32", str(tmp_path / file))
        assert "\n" not in str(refused.value)


@pytest.mark.slow
def test_a_checkpoint_that_would_run_code_runs_none(tmp_path: Path) -> None:
    import pickle

    class Evil:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return Path.touch, (tmp_path / "ran",)  # type: ignore[return-value]

    (tmp_path / "evil.pt").write_bytes(pickle.dumps(Evil()))
    with pytest.raises(UsageError):
        load_clip("ViT-B-32", str(tmp_path / "evil.pt"))
    assert not (tmp_path / "ran").exists()
