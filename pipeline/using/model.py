"""A model folder: a fitted adapter with all that is needed to use it, and nothing of the machine it was made on.

    photos/
      model.json            what it is: see `About`; `sha256` is that of everything else in this file
      weights.safetensors   adapter.<name> of the adapter; text [C, D]; conformal.<method> [n], of validation rows;
                            shots.image [N, D] float16, shots.label [N], shots.path: what it was fitted on
      README.md             the model card
      model.onnx            where it was asked for

Opening a folder checks every byte of all but the card. A folder appears whole or not at all.
"""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from functools import cached_property
from importlib.metadata import version as installed_version
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from torch import Tensor

from mma.adapters import Adapter, AdapterError, Shapes, adapter_class
from mma.adapters.storage import restored
from mma.cache import Header
from mma.cache.durable import PARTIAL, sha256, sync_tree
from mma.pipeline.embedding.threads import THREADS, threads_of
from mma.pipeline.errors import UsageError
from mma.pipeline.fitting.cells import code_of
from mma.pipeline.fitting.saved import MOST_WEIGHTS
from mma.pipeline.json_text import to_json
from mma.pipeline.regular_files import open_regular, parse_json, read_regular

SCHEMA = "mma-model"
VERSION = 1
ABOUT, WEIGHTS, CARD, ONNX = "model.json", "weights.safetensors", "README.md", "model.onnx"
METHODS = ("lac", "aps")  # of conformal sets
_TYPES: dict[str, type | tuple[type, ...]] = {
    **dict.fromkeys(("adapter", "prompts", "reduce", "weights_sha256", "mma"), str),
    **dict.fromkeys(("options", "encoder", "fitted", "validation"), dict),
    **dict.fromkeys(("classnames", "templates"), list),
    **dict.fromkeys(("rows", "dim"), int),
    "logit_scale": (int, float),
    "calibration": (dict, type(None)),
    "onnx": (dict, type(None)),
    "code": (str, type(None)),
}
OF_ENCODER = ("weights_sha256", "quick_gelu", "precision", "preprocess", "embedding")  # of a fingerprint: must agree


@dataclass(frozen=True)
class Calibration:
    """What validation rows say of the logits."""

    temperature: float | None  # logits are divided by it; None where the rows do not determine one
    rows: int  # of which it was fitted
    loss_before: float  # negative log-likelihood of these rows, in nats, at temperature 1
    loss_after: float
    conformal_rows: int  # other rows, whose scores decide conformal sets
    selected_on: bool  # whether the fit chose something on these rows too, which makes them look easier than they are


@dataclass(frozen=True, kw_only=True)
class About:
    """What model.json says."""

    mma: str  # the version that wrote it
    adapter: str
    options: dict[str, Any]
    code: str | None  # digest of the source of an adapter of another package
    logit_scale: float  # exp(logit_scale) of the encoder
    rows: int  # N of the support
    dim: int  # D
    classnames: list[str]  # [C]
    prompts: str  # the prompt set's name
    templates: list[str]  # [P] of the prompt set: templates, or what its sentences are
    reduce: str  # how the texts of a class became one vector
    encoder: dict[str, Any]  # from the cache's fingerprint; {} where the cache does not say what made it
    fitted: dict[str, Any]  # on what, and how
    validation: dict[str, Any]  # figures from validation rows; {} where there were none
    calibration: Calibration | None
    weights_sha256: str
    onnx: dict[str, Any] | None = None  # of model.onnx: its inputs, operator set, distance from torch, SHA-256

    @property
    def shapes(self) -> Shapes:
        """Those of the adapter."""
        return Shapes(self.rows, len(self.classnames), self.dim)


@dataclass(frozen=True, eq=False)
class Shots:
    """The images that a model was fitted on."""

    image: Tensor  # [N, D] unit, float16
    label: Tensor  # [N] int64
    paths: list[str]  # [N] as the cache has them


@dataclass(frozen=True, eq=False)
class Model:
    """An opened model."""

    about: About
    adapter: Adapter
    text: Tensor  # [C, D] unit
    scores: Mapping[str, NDArray[np.float64]]  # method -> [n] sorted nonconformity of validation rows
    shots: Shots | None = None  # None: fitted on none, or left out

    @cached_property
    def class_free(self) -> bool:
        """Whether it scores other classes than those it was fitted on."""
        return self.adapter.class_free


def refuse_unservable(name: str) -> None:
    """UsageError for an adapter that cannot be a model: its answer for an image needs other images, or features."""
    kind = adapter_class(name)
    if kind.transductive != "no" or kind.uses_views == "test":
        raise UsageError(
            f"{name} learns from the images that it is asked about (their views, a stream, or all at once), so it "
            "cannot be exported: `mma fit` scores it on a test split"
        )
    if kind.reads == "penultimate":
        raise UsageError(
            f"{name} reads features before the towers' last layer, which new images are not asked for, so it cannot be "
            "exported: `mma fit` scores it on a test split"
        )


def encoder_of(header: Header) -> dict[str, Any]:
    """What decides an embedding of a new image, from a cache's header; {} where it does not say."""
    fingerprint = header.fingerprint
    if "weights_sha256" not in fingerprint:
        return {}
    names = ("model", "pretrained", *OF_ENCODER, "decoder", "max_pixels", "open_clip", "torch")
    how = {"dtype": header.dtype, "batch": header.batch, THREADS: threads_of(header)}
    return {**{name: fingerprint[name] for name in names if name in fingerprint}, **how}


def refuse_other_encoder(wanted: Mapping[str, Any], found: Mapping[str, Any], where: str) -> None:
    """UsageError where embeddings of `where` are not from the encoder that a model was fitted with."""
    if not wanted and not found:
        return  # both from elsewhere: their dimension is checked, and nothing else is known
    if not wanted or not found:
        silent = "the model" if not wanted else where
        raise UsageError(f"{silent} does not say which encoder made its embeddings, so they cannot be compared")
    for name in OF_ENCODER:
        if wanted.get(name) != found.get(name):
            raise UsageError(
                f"{where} is of another encoder than the model: {name.replace('_', ' ')} is {_short(found.get(name))}, "
                f"and the model was fitted with {_short(wanted.get(name))} ({wanted.get('model')}, "
                f"{wanted.get('pretrained') or 'no tag'})"
            )


def make_about(adapter: Adapter, name: str, **given: Any) -> About:
    """About a fitted adapter; `given` are the fields that are not its own. The weights' digest comes with writing."""
    return About(
        mma=installed_version("mma"),
        adapter=name,
        options=adapter.options(),
        code=code_of(type(adapter)),
        logit_scale=adapter.logit_scale,
        rows=adapter.shapes.rows,
        dim=adapter.shapes.dim,
        weights_sha256="",
        **given,
    )


def write_model(model: Model, card: str, folder: Path, *, force: bool = False, onnx: bytes | None = None) -> None:
    """Write a model folder, whole: it is made beside its place, flushed to the disk and renamed. `onnx` is the file
    that `model.about.onnx` is about.

    Raises UsageError where something is in its place; with `force`, a model that is there is replaced.
    """
    check_place(folder, force=force)
    folder.parent.mkdir(parents=True, exist_ok=True)
    draft = folder.with_name(f".{folder.name}.{os.getpid()}{PARTIAL}")
    shutil.rmtree(draft, ignore_errors=True)
    draft.mkdir()
    try:
        weights = _weights(model)
        (draft / WEIGHTS).write_bytes(weights)
        (draft / ABOUT).write_bytes(_about_bytes({**asdict(model.about), "weights_sha256": sha256(weights)}))
        (draft / CARD).write_text(card, encoding="utf-8")
        if onnx is not None:
            (draft / ONNX).write_bytes(onnx)
        sync_tree(draft)
        if folder.exists():
            was = folder.with_name(f".{folder.name}.{os.getpid()}.was")
            folder.rename(was)
            draft.rename(folder)
            shutil.rmtree(was)
        else:
            draft.rename(folder)
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    sync_tree(folder)


def check_place(folder: Path, *, force: bool) -> None:
    """UsageError where a model cannot be written to this folder."""
    if not folder.exists():
        return
    if not (folder / ABOUT).is_file():
        raise UsageError(f"{folder} is there and is not a model: choose another `out=FOLDER`")
    if not force:
        raise UsageError(f"{folder} holds a model: `force=True` replaces it, another `out=FOLDER` keeps both")


def open_model(folder: Path, device: str = "cpu") -> Model:
    """The model in a folder. UsageError, in one line, for what does not fit."""
    about = read_about(folder)
    try:
        weights = read_regular(folder / WEIGHTS, MOST_WEIGHTS)
    except OSError as error:
        raise UsageError(f"{folder / WEIGHTS} cannot be read ({error.strerror or error}): export it again") from error
    if sha256(weights) != about.weights_sha256:
        raise UsageError(f"{folder / WEIGHTS} is not what {ABOUT} was written with (its SHA-256): export it again")
    try:
        tensors = {name: tensor.to(device) for name, tensor in safetensors.torch.load(weights).items()}
    except SafetensorError as error:
        raise UsageError(f"{folder / WEIGHTS} is not a safetensors file ({error})") from error
    own = {name.removeprefix("adapter."): t for name, t in tensors.items() if name.startswith("adapter.")}
    text = tensors.get("text")
    if text is None or text.shape != (len(about.classnames), about.dim):
        found = "no text" if text is None else f"texts {list(text.shape)}"
        raise UsageError(f"{folder / WEIGHTS} has {found}, and {ABOUT} says [{len(about.classnames)}, {about.dim}]")
    kind = adapter_class(about.adapter)
    if code_of(kind) != about.code:
        raise UsageError(f"{folder}: the source of the adapter {about.adapter} is another than it was fitted with")
    try:
        adapter = kind(**about.options)
        adapter.logit_scale = about.logit_scale
        adapter = restored(adapter, about.adapter, about.shapes, own)
    except (TypeError, AdapterError) as error:
        raise UsageError(f"{folder}: {error}") from error
    scores = {method: tensors[f"conformal.{method}"].cpu().numpy() for method in METHODS if about.calibration}
    _check_onnx(folder, about)
    return Model(about, adapter, text, scores, _shots(tensors))


def _check_onnx(folder: Path, about: About) -> None:
    """UsageError where model.onnx is not the file that model.json is about."""
    if about.onnx is None:
        return
    try:
        with open_regular(folder / ONNX) as stream:
            found = hashlib.file_digest(stream, "sha256").hexdigest()
    except OSError as error:
        raise UsageError(f"{folder / ONNX} cannot be read ({error.strerror or error}): export it again") from error
    if found != about.onnx.get("sha256"):
        raise UsageError(f"{folder / ONNX} is not what {ABOUT} was written with (its SHA-256): export it again")


def _shots(tensors: Mapping[str, Tensor]) -> Shots | None:
    if "shots.image" not in tensors:
        return None
    paths = parse_json(tensors["shots.path"].cpu().numpy().tobytes().decode())
    return Shots(tensors["shots.image"], tensors["shots.label"], paths)


def _weights(model: Model) -> bytes:
    tensors = {f"adapter.{name}": tensor.contiguous().cpu() for name, tensor in model.adapter.state_dict().items()}
    tensors |= {f"conformal.{method}": torch.from_numpy(scores) for method, scores in model.scores.items()}
    if shots := model.shots:
        paths = torch.frombuffer(bytearray(to_json(shots.paths).encode()), dtype=torch.uint8)
        tensors |= {"shots.image": shots.image.cpu(), "shots.label": shots.label.cpu(), "shots.path": paths}
    return safetensors.torch.save({**tensors, "text": model.text.contiguous().cpu()})


def read_about(folder: Path) -> About:
    """What model.json of a folder says, checked. UsageError for what is not one."""
    file = folder / ABOUT
    if not file.is_file():
        raise UsageError(f"{folder} is not a model: it has no {ABOUT} (`mma export` makes one)")
    try:
        data = read_regular(file)
        given = parse_json(data.decode())
    except (OSError, ValueError) as error:
        raise UsageError(f"{file} cannot be read ({getattr(error, 'strerror', None) or error})") from error
    if not isinstance(given, dict) or given.get("schema") != SCHEMA:
        raise UsageError(f"{file} is not the {ABOUT} of a model")
    newest = given.get("version")
    if type(newest) is int and newest > VERSION:
        raise UsageError(f"{folder} has model schema {newest}; this mma reads up to {VERSION}: install a newer mma")
    content = {name: value for name, value in given.items() if name not in ("schema", "version", "sha256")}
    if _about_bytes(content) != data:
        raise UsageError(f"{file} is not as it was written (its SHA-256): export the model again")
    if content.keys() != {field.name for field in fields(About)}:
        raise UsageError(f"{file} has not the entries of a model: export it again")
    wrong = [name for name, kinds in _TYPES.items() if not isinstance(content[name], kinds)]
    calibration = content["calibration"]
    if wrong or (calibration and calibration.keys() != {field.name for field in fields(Calibration)}):
        raise UsageError(f"{file} has no usable {', '.join(wrong) or 'calibration'}: export the model again")
    return About(**{**content, "calibration": Calibration(**calibration) if calibration else None})


def _about_bytes(content: Mapping[str, Any]) -> bytes:
    """model.json of its content."""
    named = {"schema": SCHEMA, "version": VERSION, **content}
    checksum = sha256(to_json(named, sort_keys=True).encode())
    return (to_json({**named, "sha256": checksum}, indent=2) + "\n").encode()


def _short(value: object) -> str:
    text = str(value)
    return text if len(text) <= 60 else f"{text[:16]}..." if " " not in text else f"{text[:57]}..."
