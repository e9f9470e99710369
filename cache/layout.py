"""The arrays of a cache, empty: how each is stored. What is not written reads as NaN, -1, "" or `Status.PENDING`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import zarr
from numpy.typing import NDArray
from zarr.codecs import BytesCodec, Crc32cCodec, VLenUTF8Codec

from mma.cache.errors import CacheError
from mma.cache.projection import PROJECTION
from mma.cache.root import TEXT
from mma.cache.schema import CONTENT, Header, Status, check_name

MANIFEST_CHUNK = 65_536  # rows in a chunk of `label` and `path`; both are written once, at creation


@dataclass(frozen=True)
class ManifestSplit:
    """What is known of a split before its first image is read."""

    labels: NDArray[np.int32]  # [N]
    paths: Sequence[str]  # [N]


def lay_out_arrays(root: zarr.Group, header: Header, manifest: Mapping[str, ManifestSplit] | None) -> None:
    """Create the groups and arrays of every split, and fill `label` and `path` from the manifest if it is there."""
    root.create_group("text")
    for split, rows in header.rows.items():
        folder = f"image/{check_name('split', split)}"
        shape = (rows, header.views[split], header.dim)
        chunk = (min(header.chunk, rows), *shape[1:])
        create_array(root, f"{folder}/embedding", shape, chunk, np.dtype(header.dtype), np.nan)
        if header.penultimate:
            wide = (*shape[:2], header.penultimate["image"])
            create_array(root, f"{folder}/penultimate", wide, (chunk[0], *wide[1:]), np.dtype(header.dtype), np.nan)
        create_array(root, f"{folder}/status", shape[:1], chunk[:1], np.uint8, Status.PENDING)
        if header.has_content:
            create_array(root, f"{folder}/content", (rows, CONTENT), (chunk[0], CONTENT), np.uint8, 0)
        many = (min(MANIFEST_CHUNK, rows),)
        label = create_array(root, f"{folder}/label", shape[:1], many, np.int32, -1)
        path = root.create_array(
            f"{folder}/path",
            shape=shape[:1],
            chunks=many,
            dtype="string",
            serializer=VLenUTF8Codec(),
            compressors=(Crc32cCodec(),),
            fill_value="",
            config={"write_empty_chunks": True},
        )
        if manifest is not None:
            label[:] = manifest[split].labels
            path[:] = np.array(manifest[split].paths, dtype=np.dtypes.StringDType())


def lay_out_text(root: zarr.Group, name: str, header: Header, templates: Sequence[str]) -> None:
    """Create the arrays of a prompt set: `embedding` [C, P, D], and `penultimate` [C, P, W] if the cache has such."""
    folder = f"{TEXT}{name}"
    root.require_group(folder).attrs.put({"templates": list(templates)})
    widths = {"embedding": header.dim} | ({"penultimate": header.penultimate["text"]} if header.penultimate else {})
    for part, width in widths.items():
        shape = (len(header.classnames), len(templates), width)
        create_array(root, f"{folder}/{part}", shape, shape, np.float32, np.nan)


def lay_out_projections(root: zarr.Group, header: Header) -> None:
    """Create the arrays of the towers' last layers."""
    root.require_group(PROJECTION)
    for side, width in (header.penultimate or {}).items():
        root.require_group(f"{PROJECTION}/{side}")
        for part, shape in (("weight", (width, header.dim)), ("bias", (header.dim,))):
            create_array(root, f"{PROJECTION}/{side}/{part}", shape, shape, np.float32, np.nan)


def create_array(
    root: zarr.Group, name: str, shape: tuple[int, ...], chunks: tuple[int, ...], dtype: object, fill: float
) -> zarr.Array:
    """An array of numbers: little-endian, uncompressed, a CRC-32C behind every chunk."""
    return root.create_array(
        name,
        shape=shape,
        chunks=chunks,
        dtype=dtype,  # type: ignore[arg-type]
        serializer=BytesCodec(endian="little"),
        compressors=(Crc32cCodec(),),
        fill_value=fill,
        config={"write_empty_chunks": True},
        overwrite=True,
    )


def array(root: zarr.Group, name: str) -> zarr.Array:
    """An array that is there, opened for writing: a chunk that is all NaN is written too, and not left out."""
    with zarr.config.set({"array.write_empty_chunks": True}):
        found = root[name]
    if not isinstance(found, zarr.Array):
        raise CacheError(f"{name} is not an array")
    return found
