"""A frozen CLIP from open_clip, and everything about it that decides an embedding."""

from __future__ import annotations

import hashlib
import json
import logging
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import torch
from numpy.typing import NDArray
from open_clip.pretrained import download_pretrained, get_pretrained_cfg
from PIL import Image
from torch import Tensor

from mma.cache import FEATURES, SIDES, Projection
from mma.pipeline.device import pick_device
from mma.pipeline.embedding.settings import FINAL, PENULTIMATE, PRECISIONS
from mma.pipeline.embedding.tiny import TINY
from mma.pipeline.embedding.towers import LastLayer, check_towers, take_off
from mma.pipeline.errors import UsageError, WorkError, nearest
from mma.pipeline.regular_files import expanded, open_regular, read_json

LOCAL = "local-dir:"


@dataclass(frozen=True)
class Outputs:
    """What a tower gives of B images or texts."""

    embedding: NDArray[np.float32]  # [B, D], not normalised
    penultimate: NDArray[np.float32] | None = None  # [B, W] before the last layer, if that was asked for


@dataclass(frozen=True)
class FrozenClip:
    """Two frozen towers, their preprocessing, and the fingerprint of both."""

    model: torch.nn.Module
    preprocess: Callable[[Image.Image], Tensor]  # RGB image -> [3, H, W]
    tokenizer: Callable[[Sequence[str]], Tensor]  # P texts -> [P, L]
    device: torch.device
    dtype: torch.dtype
    dim: int  # D
    logit_scale: float  # exp(logit_scale)
    fingerprint: dict[str, Any]
    last: tuple[LastLayer, LastLayer] | None = None  # of images and texts, taken off `model`: penultimate features

    @property
    def widths(self) -> dict[str, int] | None:
        """W of each side, where penultimate features are given."""
        return {side: len(last.weight) for side, last in zip(SIDES, self.last, strict=True)} if self.last else None

    def projections(self) -> dict[str, Projection]:
        """The last layers, as a cache keeps them; of a model that gives penultimate features."""
        return {side: last.stored() for side, last in zip(SIDES, self.last or (), strict=True)}

    def encode_image(self, images: Tensor) -> NDArray[np.float32]:
        """Image embeddings [B, D], not normalised, of preprocessed images [B, 3, H, W]."""
        return self.see(images).embedding

    def encode_text(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Text embeddings [P, D], not normalised."""
        return self.read(texts).embedding

    @torch.inference_mode()
    def see(self, images: Tensor) -> Outputs:
        """What the image tower gives of preprocessed images [B, 3, H, W]."""
        last = self.last[0] if self.last else None
        return _outputs(self.model.encode_image(images.to(self.device, self.dtype)), last)  # type: ignore[operator]

    @torch.inference_mode()
    def read(self, texts: Sequence[str]) -> Outputs:
        """What the text tower gives of P texts."""
        last = self.last[1] if self.last else None
        return _outputs(self.model.encode_text(self.tokenizer(texts).to(self.device)), last)  # type: ignore[operator]


def _outputs(found: Tensor, last: LastLayer | None) -> Outputs:
    parts = (found,) if last is None else last.split(found)
    return Outputs(*(part.float().cpu().numpy() for part in parts))


def load_clip(
    model: str,
    pretrained: str,
    *,
    device: str = "auto",
    precision: str = "fp32",
    quick_gelu: bool | None = None,
    features: str = FINAL,
) -> FrozenClip:
    """Load a CLIP by name and tag, name and checkpoint file, or `local-dir:FOLDER`; `tiny` is the one mma carries.

    `quick_gelu` sets the activation of a checkpoint file, which does not say it; a tag does. With penultimate
    `features` it gives what comes before the last layer of the towers, too. Raises UsageError for a model that does not
    exist, weights that do not fit or towers without such a layer, WorkError for a download that fails.
    """
    found = check_clip(model, pretrained, device, precision, quick_gelu)
    weights, activation = _downloaded(found), found.quick_gelu
    model, chosen, local = found.model, pick_device(device), found.model.startswith(LOCAL)
    net, preprocess = _create(model, None if local else pretrained, precision, chosen, activation)
    tokenizer = open_clip.get_tokenizer(model)
    transform = dict(net.visual.preprocess_cfg)
    fingerprint = {
        "model": f"{LOCAL}{Path(model.removeprefix(LOCAL)).name}" if local else model,
        "pretrained": None if local else Path(pretrained).name,
        "weights_sha256": _sha256(weights),
        "quick_gelu": activation,
        "precision": precision,
        "preprocess": {key: transform[key] for key in sorted(transform)},
        "embedding": "projected, not normalised",
        "open_clip": open_clip.__version__,
        "torch": str(torch.__version__).split("+")[0],
    }
    fingerprint = json.loads(json.dumps(fingerprint))  # tuples become lists, as they will be when read back
    dtype = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}[precision]
    scale = float(net.logit_scale.detach().float().exp())
    with torch.inference_mode():
        dim = net.encode_text(tokenizer(["a"]).to(chosen)).shape[-1]
    last = None
    if features == PENULTIMATE:
        last, fingerprint[FEATURES] = take_off(net, model), PENULTIMATE
    return FrozenClip(net, preprocess, tokenizer, chosen, dtype, dim, scale, fingerprint, last)


@dataclass(frozen=True)
class Weights:
    """Weights that exist: in a file, or under a tag from which open_clip downloads them."""

    model: str  # as open_clip takes it
    pretrained: str
    source: Path | dict[str, Any]
    quick_gelu: bool


def check_clip(
    model: str, pretrained: str, device: str, precision: str, quick_gelu: bool | None, features: str = FINAL
) -> Weights:
    """Find the weights that `load_clip` would load. Raises UsageError as it does, and downloads and loads nothing."""
    if precision not in PRECISIONS:
        raise UsageError(f"unknown precision {precision!r}: {nearest(precision, PRECISIONS)}")
    if pick_device(device).type == "cpu" and precision == "fp16":
        raise UsageError("precision fp16 needs a GPU: use fp32 or bf16 on the CPU")
    if model == "tiny":
        model = f"{LOCAL}{TINY}"
    found = _local_weights(model) if model.startswith(LOCAL) else _weights(model, pretrained, quick_gelu)
    if features == PENULTIMATE:
        check_towers(model)
    return found


def _downloaded(weights: Weights) -> Path:
    """The file of the weights. WorkError where it cannot be downloaded."""
    if isinstance(weights.source, Path):
        return weights.source
    try:
        return Path(download_pretrained(weights.source))
    except Exception as error:  # urllib, huggingface_hub and httpx each have their own
        reason = str(error).strip().splitlines()[-1] if str(error).strip() else type(error).__name__
        raise WorkError(
            f"the weights {weights.pretrained!r} of {weights.model} could not be downloaded ({reason[:200]}): "
            "check the network, or give `pretrained=FILE` or `model=local-dir:FOLDER`"
        ) from error


def _local_weights(model: str) -> Weights:
    """The weights file of a `local-dir:` model, and its activation."""
    folder = Path(model.removeprefix(LOCAL))
    config = folder / "open_clip_config.json"
    if not config.is_file():
        raise UsageError(f"{folder} has no open_clip_config.json: a local-dir: model is a folder with it and weights")
    try:
        model_config = read_json(config)["model_cfg"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UsageError(f"{config} is not an open_clip configuration ({error})") from error
    found = open_clip.factory._find_checkpoint_in_dir(folder)
    if not found:
        raise UsageError(f"{folder} has no weights (*.safetensors)")
    return Weights(model, "", Path(found), bool(model_config.get("quick_gelu", False)))


def _weights(model: str, pretrained: str, quick_gelu: bool | None) -> Weights:
    """The weights file behind a tag or a path, and the activation they were trained with."""
    name = model.replace("/", "-")
    config = open_clip.get_model_config(name)
    if config is None:
        known = nearest(name, ["tiny", *open_clip.list_models()])[:300]
        raise UsageError(f"unknown model {model!r}: {known}; or local-dir:FOLDER")
    own = bool(config.get("quick_gelu", False))
    tag = get_pretrained_cfg(name, pretrained)
    if tag:
        activation = bool(tag.get("quick_gelu", False))
        if quick_gelu is not None and quick_gelu != activation:
            raise UsageError(f"{pretrained!r} weights of {model} were trained with quick_gelu={activation}")
        if own and not activation:
            raise UsageError(f"{pretrained!r} weights need plain GELU: use `model={name.removesuffix('-quickgelu')}`")
        return Weights(model, pretrained, tag, activation)
    file = expanded(pretrained)
    if not file.is_file():
        tags = open_clip.list_pretrained_tags_by_model(name)
        raise UsageError(f"{pretrained!r} is neither a file nor weights of {model}: {nearest(pretrained, tags)}")
    activation = own if quick_gelu is None else quick_gelu
    if own and not activation:
        raise UsageError(f"{model} has QuickGELU built in: use `model={name.removesuffix('-quickgelu')}`")
    return Weights(model, pretrained, file, activation)


def _create(
    model: str, pretrained: str | None, precision: str, device: torch.device, quick_gelu: bool
) -> tuple[Any, Callable[[Image.Image], Tensor]]:
    logging.disable(logging.WARNING)  # open_clip reports each step to the root logger
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", UserWarning)  # a QuickGELU mismatch only warns
            net, preprocess = open_clip.create_model_from_pretrained(
                model, pretrained, precision=precision, device=device, force_quick_gelu=quick_gelu
            )
    except Exception as error:  # safetensors, pickle, torch and open_clip each have their own
        lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
        raise UsageError(f"the weights {pretrained or ''} do not fit {model}: {' '.join(lines)[:300]}") from error
    finally:
        logging.disable(logging.NOTSET)
    return net.eval().requires_grad_(False), preprocess


def _sha256(file: Path) -> str:
    with open_regular(file) as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
