"""Make a cache from embeddings computed elsewhere.

An .npz file holds `image_<split>` [N, D] or [N, V, D], `label_<split>` [N], `text` [C, D] or [C, P, D], and
`classnames` [C]; or it is what `mma cache export` wrote, and gives that cache back.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mma.cache.bundle import Bundle, BundledText, write_bundle
from mma.cache.durable import sha256
from mma.cache.errors import CacheError
from mma.cache.export import import_export, read_npz
from mma.cache.reader import SplitData
from mma.cache.schema import Header, check_name
from mma.cache.where import Location

CHUNK = 4096  # rows; a 512-dimensional float16 chunk is 4 MiB


@dataclass(frozen=True)
class FoundEmbeddings:
    """Embeddings found elsewhere, before they are checked."""

    image: Mapping[str, NDArray[Any]]  # split -> [N, D] or [N, V, D]
    label: Mapping[str, NDArray[Any]]  # split -> [N]
    classnames: Sequence[str]
    text: NDArray[Any] | None = None  # [C, D] or [C, P, D]
    path: Mapping[str, Sequence[str]] | None = None  # split -> [N]
    notes: Sequence[str] = ()


def import_npz(file: Path, out: Location, *, logit_scale: float = 100.0, prompts: str = "default") -> Location:
    """Write a complete cache at `out` from the arrays of `file`. CacheError, and nothing written, if a check fails.

    `logit_scale` and the prompt set's name hold for arrays of other origin; an export has its own.
    """
    check_name("prompt set", prompts)
    bundle = import_export(file) if file.suffix == ".npz" else None
    if bundle is not None:
        return write_bundle(bundle, out)
    arrays = read_npz(file)
    splits = [name.removeprefix("image_") for name in arrays if name.startswith("image_")]
    if not splits:
        raise CacheError(f"{file} has no image_<split> array; it has {', '.join(arrays) or 'nothing'}")
    for name in ("text", "classnames", *(f"label_{split}" for split in splits)):
        if name not in arrays:
            raise CacheError(f"{file} lacks the array {name}")
    found = FoundEmbeddings(
        image={split: arrays[f"image_{split}"] for split in splits},
        label={split: arrays[f"label_{split}"] for split in splits},
        classnames=[str(name) for name in arrays["classnames"].ravel()],
        text=arrays["text"],
    )
    return import_found(found, [file], out, logit_scale=logit_scale, prompts=prompts)


def import_found(
    found: FoundEmbeddings,
    files: Sequence[Path],
    out: Location,
    *,
    logit_scale: float = 100.0,
    prompts: str = "default",
) -> Location:
    """Write a complete cache at `out` of embeddings from `files` of other origin; CacheError if a check fails."""
    where = str(files[0])
    check_name("prompt set", prompts)
    if not (np.isfinite(logit_scale) and logit_scale > 0):
        raise CacheError(f"logit scale {logit_scale} is not a positive number")
    classnames = [str(name) for name in found.classnames]
    if len(set(classnames)) != len(classnames):
        raise CacheError(f"{where}: classnames repeat")
    images = {split: _three(array) for split, array in found.image.items()}  # [N, V, D]
    text = None if found.text is None else _three(found.text)  # [C, P, D]
    dim = _check_text(where, text, classnames) if text is not None else next(iter(images.values())).shape[-1]
    for split, image in images.items():
        check_name("split", split)
        _check_split(f"{where}: image_{split}", image, found.label[split], len(classnames), dim, text is not None)
    if len({image.dtype for image in images.values()}) > 1:
        raise CacheError(f"{where}: the splits differ in number type")
    kind = "float16" if next(iter(images.values())).dtype == np.float16 else "float32"
    checksum = sha256(b"".join(file.read_bytes() for file in files))
    header = Header(
        dataset=files[0].stem if len(files) == 1 else files[0].parent.name,
        classnames=classnames,
        rows={split: len(image) for split, image in images.items()},
        dim=dim,
        views={split: image.shape[1] for split, image in images.items()},
        dtype=kind,
        chunk=CHUNK,
        batch=CHUNK,
        logit_scale=float(logit_scale),
        fingerprint={"imported": ", ".join(file.name for file in files), "sha256": checksum},
        notes=[f"imported from {', '.join(file.name for file in files)}", *found.notes],
        source={},
    )
    paths = found.path or {split: [f"{split}/{row}" for row in range(len(image))] for split, image in images.items()}
    splits = {
        split: SplitData(
            image.astype(kind), found.label[split].astype(np.int32), np.zeros(len(image), np.uint8), paths[split]
        )
        for split, image in images.items()
    }
    texts = {}
    if text is not None:
        named = [f"imported {i}" for i in range(text.shape[1])]
        texts[prompts] = BundledText(named, text.astype(np.float32))
    return write_bundle(Bundle(header, splits, {}, texts), out)


def _three(array: NDArray[Any]) -> NDArray[Any]:
    return array[:, None] if array.ndim == 2 else array


def _check_text(where: str, text: NDArray[Any], classnames: list[str]) -> int:
    """D, of text embeddings that are as they should be."""
    if text.ndim != 3 or not np.issubdtype(text.dtype, np.floating) or 0 in text.shape:
        raise CacheError(f"{where}: text has shape {text.shape} and type {text.dtype}; it must be [C, D] numbers")
    if len(classnames) != len(text):
        raise CacheError(f"{where}: {len(classnames)} classnames but {len(text)} rows of text")
    if not np.isfinite(text).all() or (np.linalg.norm(text.astype(np.float32), axis=-1) == 0).any():
        raise CacheError(f"{where}: text has rows that are not finite or are zero")
    return int(text.shape[-1])


def _check_split(
    what: str, image: NDArray[Any], label: NDArray[Any], classes: int, dim: int, against_text: bool
) -> None:
    if image.ndim != 3 or not np.issubdtype(image.dtype, np.floating):
        raise CacheError(f"{what} has shape {image.shape} and type {image.dtype}; it must be [N, D] numbers")
    if image.shape[-1] != dim:
        other = "text has" if against_text else "another split has"
        raise CacheError(f"{what} has dimension {image.shape[-1]}, {other} {dim}: they come from different models")
    if label.shape != image.shape[:1] or not np.issubdtype(label.dtype, np.integer):
        raise CacheError(f"{what} has {len(image)} rows; its labels have shape {label.shape} and type {label.dtype}")
    if not image.size:
        raise CacheError(f"{what} is empty")
    if label.min() < 0 or label.max() >= classes:
        raise CacheError(f"{what}: labels run from {label.min()} to {label.max()}; there are {classes} classes")
    zero = (np.linalg.norm(image.astype(np.float32), axis=-1) == 0).any(axis=1)
    bad = zero | ~np.isfinite(image).all(axis=(1, 2))
    if bad.any():
        raise CacheError(f"{what}: {int(bad.sum())} rows are not finite or are zero, the first is {int(bad.argmax())}")
