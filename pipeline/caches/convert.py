"""Read the feature files of other programs, for `mma cache import`. Weights-only: no file runs code.

Tip-Adapter (Zhang et al., 2022), and the many that follow it:
    keys_<K>shots.pt [D, N], values_<K>shots.pt [N, C] one-hot: the support, which becomes train
    test_f.pt [N, D], test_l.pt [N], and the same of val
CLIP_benchmark's linear probe:
    features_<split>.pt [N, D], targets_<split>.pt [N]; without features_test.pt, its `val` is the test set
clip-retrieval's inference:
    img_emb/img_emb_*.npy [N, D], metadata/metadata_*.parquet: columns `split`, `label`, else folders of image_path

None of them has class names or texts. Class names may be given; texts are added with `mma embed --text-only`.
"""

from __future__ import annotations

import re
import zipfile
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from mma.cache import CacheError, FoundEmbeddings, most_bytes, read_npy, read_parquet
from mma.pipeline.regular_files import read_text


def tip_adapter(
    folder: Path, shots: int | None, classnames: Sequence[str] | None
) -> tuple[FoundEmbeddings, list[Path]]:
    """A Tip-Adapter cache folder: the support of `shots`, or of the only one there, and the rows of test and val."""
    keys = sorted(folder.glob("keys_*shots.pt"))
    found = {int(m[1]): file for file in keys if (m := re.fullmatch(r"keys_(\d+)shots\.pt", file.name))}
    if not found:
        raise CacheError(f"{folder} has no keys_<K>shots.pt")
    if shots is None and len(found) > 1:
        raise CacheError(f"{folder} has supports of {', '.join(map(str, sorted(found)))} shots: choose with `shots=K`")
    chosen = shots if shots is not None else next(iter(found))
    if chosen not in found:
        raise CacheError(f"{folder} has no support of {chosen} shots; it has {', '.join(map(str, sorted(found)))}")
    files = [found[chosen], folder / f"values_{chosen}shots.pt", folder / "test_f.pt", folder / "test_l.pt"]
    files += [folder / name for name in ("val_f.pt", "val_l.pt") if (folder / name).exists()]
    tensors = [_load(file) for file in files]
    values = tensors[1]
    if values.ndim != 2 or not ((values == 0) | (values == 1)).all() or not (values.sum(axis=1) == 1).all():
        raise CacheError(f"{files[1]} is not one-hot [N, C]")
    image = {"train": np.ascontiguousarray(tensors[0].T), "test": tensors[2]}
    label = {"train": values.argmax(axis=1), "test": tensors[3]}
    if len(tensors) == 6:
        image, label = _with_val(image, label, tensors[4], tensors[5])
    note = f"the support of {chosen} shots: unit means over Tip-Adapter's augmented views"
    return FoundEmbeddings(_one_type(image), label, _names(classnames, values.shape[1], folder), notes=[note]), files


def clip_benchmark(folder: Path, classnames: Sequence[str] | None) -> tuple[FoundEmbeddings, list[Path]]:
    """A folder of features_<split>.pt and targets_<split>.pt."""
    there = [split for split in ("train", "val", "test") if (folder / f"features_{split}.pt").exists()]
    if not there:
        raise CacheError(f"{folder} has no features_<split>.pt")
    files = [folder / f"{kind}_{split}.pt" for split in there for kind in ("features", "targets")]
    tensors = [_load(file) for file in files]
    notes = []
    named = list(there)
    if "test" not in there and "val" in there:
        named[there.index("val")] = "test"
        notes.append("CLIP_benchmark's `val` is the test split, which it evaluates on")
    image = _one_type(dict(zip(named, tensors[::2], strict=True)))
    label = dict(zip(named, tensors[1::2], strict=True))
    classes = 1 + max(int(rows.max()) for rows in label.values() if rows.size)
    return FoundEmbeddings(image, label, _names(classnames, classes, folder), notes=notes), files


def clip_retrieval(folder: Path, classnames: Sequence[str] | None) -> tuple[FoundEmbeddings, list[Path]]:
    """clip-retrieval's embeddings, with classes and splits from the metadata's columns, or from the images' folders."""
    try:
        import pyarrow.parquet  # noqa: F401
    except ImportError as error:
        raise CacheError("Parquet metadata needs pyarrow: pip install 'mma[parquet]'") from error
    parts = sorted((folder / "img_emb").glob("img_emb_*.npy"))
    if not parts:
        raise CacheError(f"{folder} has no img_emb/img_emb_*.npy")
    tables = [folder / "metadata" / f"metadata_{part.stem.removeprefix('img_emb_')}.parquet" for part in parts]
    arrays, rows = [], []
    for part, table in zip(parts, tables, strict=True):
        arrays.append(read_npy(part))
        rows += read_parquet(table, ("image_path", "label", "split")).to_pylist()
    image = np.concatenate(arrays)
    if len(rows) != len(image):
        raise CacheError(f"{folder} has {len(image)} embeddings and {len(rows)} rows of metadata")
    if "image_path" not in (rows[0] if rows else {}):
        raise CacheError(f"{tables[0]} has no column image_path")
    where = [PurePosixPath(str(row["image_path"]).replace("\\", "/")) for row in rows]
    labels = [str(row.get("label") or path.parent.name) for row, path in zip(rows, where, strict=True)]
    names = list(classnames) if classnames else sorted(set(labels))
    unknown = sorted(set(labels) - set(names))
    if unknown or len(names) < 2:
        such = ", ".join(map(repr, (unknown or names)[:5]))
        raise CacheError(
            f"{folder}: the metadata gives the classes {such}: give a column `label`, or `classnames=FILE`"
        )
    split = np.array([str(row.get("split") or _split_of(path)) for row, path in zip(rows, where, strict=True)])
    label = np.array([names.index(name) for name in labels], np.int32)
    chosen = {name: np.flatnonzero(split == name) for name in sorted(set(split.tolist()))}
    return (
        FoundEmbeddings(
            image={name: image[rows_] for name, rows_ in chosen.items()},
            label={name: label[rows_] for name, rows_ in chosen.items()},
            classnames=names,
            path={name: [str(where[row]) for row in rows_] for name, rows_ in chosen.items()},
        ),
        [*parts, *tables],
    )


def read_classnames(file: Path | None) -> list[str] | None:
    """Class names, one per line. CacheError for a file that cannot be read."""
    if file is None:
        return None
    try:
        return [line.strip() for line in read_text(file).splitlines() if line.strip()]
    except OSError as error:
        raise CacheError(f"class names {file} cannot be read ({error})") from error


def _load(file: Path) -> NDArray[Any]:
    """A tensor file as an array. CacheError where it is missing, holds anything but a tensor, or would run code."""
    most = most_bytes(file)
    too_much = CacheError(f"{file} unpacks to more than {most:,} bytes: it is no file of embeddings")
    try:
        if zipfile.is_zipfile(file):
            with zipfile.ZipFile(file) as archive:
                if sum(part.file_size for part in archive.infolist()) > most:
                    raise too_much
        tensor = torch.load(file, map_location="cpu", weights_only=True)
    except CacheError:
        raise
    except Exception as error:  # pickle, zipfile and torch each have their own, of many lines
        reason = (str(error) or type(error).__name__).splitlines()[0][:200]
        raise CacheError(f"{file} is not a file of tensors alone ({reason})") from error
    if not isinstance(tensor, torch.Tensor):
        raise CacheError(f"{file} holds {type(tensor).__name__}, not a tensor")
    if tensor.nbytes > most:  # a few bytes may stand for many values
        raise too_much
    tensor = tensor.detach()
    return (tensor.float() if tensor.dtype == torch.bfloat16 else tensor).numpy()


def _with_val(
    image: dict[str, NDArray[Any]], label: dict[str, NDArray[Any]], features: NDArray[Any], targets: NDArray[Any]
) -> tuple[dict[str, NDArray[Any]], dict[str, NDArray[Any]]]:
    order = ("train", "val", "test")
    image, label = {**image, "val": features}, {**label, "val": targets}
    return {split: image[split] for split in order}, {split: label[split] for split in order}


def _one_type(image: dict[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
    """Every split in float16 if all are, else in float32."""
    kind = np.float16 if all(array.dtype == np.float16 for array in image.values()) else np.float32
    return {split: array.astype(kind) for split, array in image.items()}


def _names(given: Sequence[str] | None, classes: int, folder: Path) -> list[str]:
    if given is not None and len(given) != classes:
        raise CacheError(f"{len(given)} class names are given, and {folder} has {classes} classes")
    return list(given) if given is not None else [f"class {number}" for number in range(classes)]


def _split_of(path: PurePosixPath) -> str:
    """`train`, `val` or `test` where a folder of the path is called so, else `train`."""
    return next((part for part in path.parts[:-1] if part in ("train", "val", "test")), "train")
