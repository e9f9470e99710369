"""A fitted adapter as bytes: safetensors, with what is needed to make it again in the header. Nothing is pickled.

Of an adapter in a file of a user's own the header has the class and a digest of the source, and not where the file
lies: weights never say which code is to be run. Whoever restores them has asked for the class before.
"""

from __future__ import annotations

import json
import struct
from dataclasses import asdict
from typing import Any

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor
from torch.nn.parameter import is_lazy

from mma.adapters.base import Adapter, AdapterError, Shapes
from mma.adapters.from_file import find_class, is_in_file, text_of, text_sha256
from mma.adapters.registry import adapter_class, name_of, title

METADATA = "mma"  # the key of our entry in the safetensors header


def to_bytes(adapter: Adapter) -> bytes:
    """A fitted adapter's weights, name, options and shapes. Raises AdapterError if it is neither registered nor in a
    file.
    """
    header = {
        **_named(adapter),
        "options": adapter.options(),
        "logit_scale": adapter.logit_scale,
        **{name: value for name, value in asdict(adapter.shapes).items() if value is not None},
    }
    tensors = {name: tensor.contiguous().cpu() for name, tensor in adapter.state_dict().items()}
    # One entry, since several are written in an order of their own each time: equal adapters are equal bytes.
    return safetensors.torch.save(tensors, metadata={METADATA: json.dumps(header, sort_keys=True)})


def from_bytes(data: bytes) -> Adapter:
    """The fitted adapter, or AdapterError. It is built without values, and takes the stored tensors as its own.

    One that is in a file of a user's own must have been asked for in this process: adapter_class("FILE.py:CLASS").
    """
    try:
        header = _header(data)
        adapter = _class_of(header)(**header["options"])
        shapes = Shapes(int(header["rows"]), int(header["classes"]), int(header["dim"]), _widths(header))
        adapter.logit_scale = float(header["logit_scale"])
        tensors = safetensors.torch.load(data)
    except (SafetensorError, KeyError, TypeError, ValueError, struct.error) as error:
        raise AdapterError(f"these are not the weights of an adapter that is known here ({error})") from error
    return restored(adapter, title(adapter), shapes, tensors)


def restored(adapter: Adapter, name: str, shapes: Shapes, tensors: dict[str, Tensor]) -> Adapter:
    """`adapter` with the stored tensors as its own, or AdapterError, which calls it `name`."""
    adapter.check(shapes.dim, adapter.recipe)
    try:
        with torch.device("meta"):
            adapter.build(shapes)
        adapter.load_state_dict(tensors, assign=True)
    except RuntimeError as error:
        raise AdapterError(f"the weights do not fit {name}: {str(error).splitlines()[-1].strip()}") from error
    for key, buffer in adapter.named_buffers():
        if buffer.is_meta and not is_lazy(buffer):
            raise AdapterError(f"{name} makes {key} in `build` and does not save it: make it in `__init__`")
    return adapter.eval()


def _widths(header: dict[str, Any]) -> tuple[int, int] | None:
    if "widths" not in header:
        return None
    image, text = header["widths"]
    return int(image), int(text)


def _named(adapter: Adapter) -> dict[str, str]:
    name = name_of(adapter)
    text = text_of(type(adapter).__module__) if is_in_file(name) else None
    return {"adapter": name} if text is None else {"class": type(adapter).__name__, "source": text_sha256(text)}


def _class_of(header: dict[str, Any]) -> type[Adapter]:
    if "class" not in header:
        if is_in_file(header["adapter"]):
            raise AdapterError("they name a file of code to run")
        return adapter_class(header["adapter"])
    kind = find_class(header["class"], header["source"])
    if kind is None:
        raise AdapterError(
            f"{header['class']} is a class in a file whose SHA-256 is {header['source']:.12}...: first call "
            f"adapter_class('FILE.py:{header['class']}'), with the file as it was"
        )
    return kind


def _header(data: bytes) -> dict[str, Any]:
    (length,) = struct.unpack("<Q", data[:8])
    header: dict[str, Any] = json.loads(json.loads(data[8 : 8 + length])["__metadata__"][METADATA])
    return header
