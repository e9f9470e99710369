"""`mma export --onnx`: a model as one ONNX file, compared with torch before it is written.

    embeddings [B, D] unit, or pixels [B, H, W, 3]    ->    logits [B, C]
    texts [C, D] unit, where they are not baked in

Pixels are uint8, RGB, resized and cropped as the model's `encoder.preprocess` says; the file divides by 255, takes off
the mean and divides by the deviation itself. Methods are traced by torch's own operations: the Multi-Modal Adapter in
its plain form, kernel methods as their matrix products, with the hyper-parameters that were chosen as constants.

Needs the extra `onnx`: torch writes through onnxscript, and onnxruntime answers for the comparison.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from mma.adapters import Adapter, AdapterError, adapter_class, unit
from mma.adapters.storage import restored
from mma.pipeline.errors import UsageError
from mma.pipeline.using.model import Model

if TYPE_CHECKING:
    from mma.pipeline.embedding.clip import FrozenClip

MOST_DIFFERENCE = 1e-3  # of a logit from torch's, at a logit scale of 100
MOST_BYTES = 2**31 - 2**20  # of a protocol buffer, which an ONNX file is
COMPARED = 33  # rows: more than one batch of what is traced, and odd
TRACED = 3  # rows


@dataclass(frozen=True)
class OnnxFile:
    """The bytes of an ONNX file, and what model.json says of it."""

    data: bytes
    about: dict[str, Any]


def check_onnx(adapter: str, class_texts: str) -> None:
    """UsageError, before any work, for what cannot be written as ONNX."""
    if missing := [name for name in ("onnx", "onnxscript", "onnxruntime") if find_spec(name) is None]:
        raise UsageError(f"`onnx` needs {', '.join(missing)}: pip install 'mma[onnx]'")
    if class_texts == "input" and not adapter_class(adapter).class_free:
        raise UsageError(f"`class_texts=input`: {adapter} has weights for its classes: leave it out, to bake them in")


def make_onnx(model: Model, embedding: Tensor, class_texts: str, clip: FrozenClip | None) -> OnnxFile:
    """The model as ONNX: from pixels with `clip`, else from embeddings; with texts baked in, or as an input.

    `embedding` [N, D] are unit rows to compare with. Raises UsageError where the adapter cannot be traced, or where
    onnxruntime's logits are not torch's.
    """
    texts = class_texts == "input"
    net = _net(model, texts, clip)
    text = model.text.cpu()
    first = _pixels(clip) if clip else embedding[torch.arange(COMPARED) % len(embedding)].cpu()  # [B, ...]
    dims: list[dict[int, Any]] = [{0: torch.export.Dim("batch", min=1)}]
    if texts:
        dims.append({0: torch.export.Dim("classes", min=2)})
    names = ["pixels" if clip else "embeddings", *(["texts"] if texts else [])]
    data, opset = _traced(net, (first[:TRACED], text)[: len(names)], names, tuple(dims), model.about.adapter)
    asked = [(first, text), (first[:1], text)]
    if texts:
        asked += [(first, text.flip(0)[: max(2, len(text) // 2)]), (first, torch.cat([text, unit(text.roll(1, 1))]))]
    difference = max(_difference(net, data, names, inputs[: len(names)]) for inputs in asked)
    difference *= 100 / model.about.logit_scale
    if not difference <= MOST_DIFFERENCE:
        raise UsageError(
            f"the ONNX file of {model.about.adapter} has logits that differ from torch's by {difference:.2g} (at scale "
            f"100), and {MOST_DIFFERENCE:g} is allowed: nothing is written; leave out `onnx`"
        )
    about = {"inputs": names, "opset": opset, "difference": difference, "torch": str(torch.__version__).split("+")[0]}
    return OnnxFile(data, about)


class _Logits(nn.Module):
    """Logits of embeddings; the texts are given, or are the model's own."""

    def __init__(self, adapter: Adapter, text: Tensor | None) -> None:
        super().__init__()
        self.adapter = adapter
        self.register_buffer("text", None if "classes" in dict(adapter.named_buffers()) else text)

    def forward(self, image: Tensor, text: Tensor | None = None) -> Tensor:
        if text is None:  # what knows its classes knows them by being the same tensor
            text = self.adapter.classes if self.text is None else self.text  # type: ignore[assignment]
        return self.adapter(image, text)  # type: ignore[no-any-return]


class _FromPixels(nn.Module):
    """Logits of pixels [B, H, W, 3], uint8."""

    def __init__(self, clip: FrozenClip, logits: _Logits) -> None:
        super().__init__()
        known = clip.fingerprint["preprocess"]
        self.tower, self.logits = clip.model, logits
        self.register_buffer("mean", torch.tensor(known["mean"])[:, None, None])
        self.register_buffer("deviation", torch.tensor(known["std"])[:, None, None])

    def forward(self, pixels: Tensor, text: Tensor | None = None) -> Tensor:
        scaled = pixels.permute(0, 3, 1, 2).float() / 255  # [B, 3, H, W]
        image = self.tower.encode_image((scaled - self.mean) / self.deviation)  # type: ignore[operator]
        return self.logits(unit(image), text)  # type: ignore[no-any-return]


def _net(model: Model, texts: bool, clip: FrozenClip | None) -> nn.Module:
    """What is traced: the adapter with the hyper-parameters that were chosen given to it, which makes constants."""
    fitted = model.adapter
    adapter = type(fitted)(**{**fitted.options(), **fitted.choices()})
    adapter.logit_scale = fitted.logit_scale
    tensors = {name: tensor.detach().cpu() for name, tensor in fitted.state_dict().items()}
    adapter = restored(adapter, model.about.adapter, model.about.shapes, tensors)
    logits = _Logits(adapter, None if texts else model.text.cpu())
    if clip is None:
        return logits.eval()
    if clip.dtype != torch.float32:
        raise UsageError(
            f"the encoder computes in {clip.fingerprint['precision']}, and ONNX files are written of fp32: export with "
            "`onnx=embeddings`"
        )
    return _FromPixels(clip, logits).eval()


def _pixels(clip: FrozenClip) -> Tensor:
    """Smooth images [B, H, W, 3] in the size that the encoder looks at."""
    size = clip.fingerprint["preprocess"]["size"]
    height, width = (size, size) if isinstance(size, int) else size
    coarse = torch.rand(COMPARED, 3, 7, 7, generator=torch.Generator().manual_seed(0))
    fine = nn.functional.interpolate(coarse, (height, width), mode="bilinear")
    return (255 * fine).round().to(torch.uint8).permute(0, 2, 3, 1).contiguous()


@torch.no_grad()
def _traced(
    net: nn.Module, inputs: tuple[Tensor, ...], names: Sequence[str], dims: tuple[dict[int, Any], ...], adapter: str
) -> tuple[bytes, int]:
    """The ONNX file's bytes, and its operator set. UsageError where the net cannot be traced."""
    try:
        with _quiet():
            program = torch.export.export(net, inputs, dynamic_shapes=dims, strict=False)
            written = torch.onnx.export(
                program, input_names=list(names), output_names=["logits"], dynamo=True, verbose=False
            )
            found = written.model_proto  # type: ignore[union-attr]
    except AdapterError:
        raise
    except Exception as error:  # torch's exporter raises what it meets, of many classes
        lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
        how, mend = (
            (" with class texts as an input", "class_texts=baked") if "texts" in names else ("", "an export without it")
        )
        raise UsageError(f"{adapter} cannot be written as ONNX{how} ({lines[0][:200]}): try {mend}") from error
    for part in (found.graph, *found.functions):  # lines of code, with where they lie on this machine
        part.ClearField("metadata_props")
        for each in (*part.node, *part.value_info, *getattr(part, "input", []), *getattr(part, "output", [])):
            if hasattr(each, "ClearField"):
                each.ClearField("metadata_props")
                each.ClearField("doc_string")
    if found.ByteSize() > MOST_BYTES:
        raise UsageError("the encoder is larger than an ONNX file can be (2 GB): export with `onnx=embeddings`")
    return found.SerializeToString(deterministic=True), found.opset_import[0].version


@torch.no_grad()
def _difference(net: nn.Module, data: bytes, names: Sequence[str], inputs: tuple[Tensor, ...]) -> float:
    """The largest distance of onnxruntime's logits from torch's; infinite where it has none."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    try:
        session = onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
        (found,) = session.run(["logits"], {name: x.numpy() for name, x in zip(names, inputs, strict=True)})
    except Exception:  # onnxruntime has a class for each kind of failure, below no common one
        return float("inf")
    wanted = net(*inputs).numpy()
    if found.shape != wanted.shape:
        return float("inf")
    return float(np.abs(found - wanted).max())


@contextmanager
def _quiet() -> Iterator[None]:
    """The exporter reports its steps as warnings and log lines."""
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(logging.NOTSET)
