"""A cache as files for other programs: .npz, .safetensors, or a folder of Parquet. Importing one gives the cache back.

| | .npz, .safetensors | Parquet |
|---|---|---|
| images | `image_<split>` [N, V, D]; `label_`, `status_`, `path_<split>` [N]; | image-<split>.parquet |
|        | `content_<split>` [N, 32] where it is kept | |
| texts | `text_<prompt set>` [C, P, D], `classnames` [C] | text-<prompt set>.parquet, class by class |
| the rest | `mma`, JSON: header, failures, templates | the same in each file's schema metadata |

safetensors holds no strings: there, paths and class names are JSON in the file's metadata.
"""

from __future__ import annotations

import json
import math
import shutil
import tempfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mma.cache.bounded import most_bytes, read_parquet
from mma.cache.bundle import Bundle, read_bundle
from mma.cache.durable import open_new, write_whole
from mma.cache.errors import CacheError
from mma.cache.reader import SplitData, open_cache
from mma.cache.schema import CONTENT, names_of
from mma.cache.where import Location

KEY = "mma"


def export_cache(location: Location, out: Path) -> Path:
    """Write a cache as the file or folder `out`; its suffix says how: .npz, .safetensors or .parquet (a folder)."""
    if out.suffix not in EXPORTS:
        raise CacheError(f"{out}: unknown kind of file {out.suffix!r}: one of {', '.join(EXPORTS)}")
    if out.exists():
        raise CacheError(f"{out} exists already")
    bundle = read_bundle(open_cache(location))
    out.parent.mkdir(parents=True, exist_ok=True)
    EXPORTS[out.suffix](bundle, out)
    return out


def import_export(file: Path) -> Bundle | None:
    """The bundle of an exported .npz, .safetensors or folder of Parquet; None where it is an .npz of other origin."""
    if file.suffix not in IMPORTS:
        raise CacheError(f"{file}: unknown kind of file {file.suffix!r}: one of {', '.join(IMPORTS)}")
    if not file.exists():
        raise CacheError(f"there is no file {file}")
    return IMPORTS[file.suffix](file)


def read_npz(file: Path) -> dict[str, NDArray[Any]]:
    """The arrays of an .npz. CacheError where it is not one, or holds Python objects."""
    if not file.is_file():
        raise CacheError(f"there is no file {file}")
    try:
        _check_sizes(file)
        with np.load(file, allow_pickle=False) as archive:
            if not isinstance(archive, np.lib.npyio.NpzFile):
                raise CacheError(f"{file} is not an .npz archive of arrays")
            return {name: archive[name] for name in archive.files}
    except CacheError:
        raise
    except Exception as error:  # zipfile, zlib, numpy's header parser and the file system each have their own
        # numpy takes what it does not know for a pickle, and says how to open it
        reason = "no archive of plain arrays" if "pickle" in str(error) else error
        raise CacheError(f"{file} is not a readable .npz file ({reason})") from error


def _check_sizes(npz: Path) -> None:
    """CacheError where the arrays of an .npz would take more memory than an honest file of its size has in it."""
    with zipfile.ZipFile(npz) as archive:
        total = sum(member.file_size for member in archive.infolist())
        most = most_bytes(npz)
        if total > most:
            raise CacheError(
                f"{npz} would unpack to {total:,} bytes, more than {most:,}: it is no archive of embeddings"
            )
        for member in archive.infolist():
            with archive.open(member) as stream:
                version = np.lib.format.read_magic(stream)
                read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
                shape, _, dtype = read(stream)
                if dtype.hasobject:
                    continue  # refused by its type, unread
                if dtype.itemsize == 0 or stream.tell() + math.prod(shape) * dtype.itemsize != member.file_size:
                    raise CacheError(f"{npz}: {member.filename} has another size than its header {shape} {dtype} says")


def _numbers(bundle: Bundle) -> dict[str, NDArray[Any]]:
    arrays: dict[str, NDArray[Any]] = {}
    for split, data in bundle.splits.items():
        arrays |= {f"image_{split}": data.embedding, f"label_{split}": data.label, f"status_{split}": data.status}
    arrays |= {f"content_{split}": content for split, content in bundle.content.items()}
    return arrays | {f"text_{name}": text.embedding for name, text in bundle.texts.items()}


def _bundle(about: str, arrays: dict[str, NDArray[Any]], paths: dict[str, list[str]], file: Path) -> Bundle:
    try:
        splits = {
            split: SplitData(
                arrays[f"image_{split}"], arrays[f"label_{split}"], arrays[f"status_{split}"], paths[split]
            )
            for split in paths
        }
    except KeyError as error:
        raise CacheError(f"{file} lacks the array {error.args[0]}") from error
    texts = {name.removeprefix("text_"): array for name, array in arrays.items() if name.startswith("text_")}
    content = {split: arrays[f"content_{split}"] for split in paths if f"content_{split}" in arrays}
    return Bundle.of(about, splits, texts, content, str(file))


def _to_npz(bundle: Bundle, out: Path) -> None:
    strings = {f"path_{split}": np.array(list(data.path), dtype=str) for split, data in bundle.splits.items()}
    strings |= {"classnames": np.array(bundle.header.classnames, dtype=str), KEY: np.array(bundle.about())}
    draft = out.with_name(f".{out.name}.partial")
    try:
        with open_new(draft) as file:
            np.savez(file, **_numbers(bundle), **strings)  # type: ignore[arg-type]
        draft.replace(out)
    finally:
        draft.unlink(missing_ok=True)


def _from_npz(file: Path) -> Bundle | None:
    arrays = read_npz(file)
    if KEY not in arrays:
        return None
    paths = {name.removeprefix("path_"): array.tolist() for name, array in arrays.items() if name.startswith("path_")}
    return _bundle(str(arrays[KEY]), arrays, paths, file)


def _to_safetensors(bundle: Bundle, out: Path) -> None:
    from safetensors.numpy import save

    paths = {split: list(data.path) for split, data in bundle.splits.items()}
    strings = {KEY: bundle.about(), "paths": json.dumps(paths), "classnames": json.dumps(bundle.header.classnames)}
    numbers = {name: np.ascontiguousarray(array) for name, array in _numbers(bundle).items()}
    write_whole(out, save(numbers, metadata=strings))


def _from_safetensors(file: Path) -> Bundle:
    from safetensors import SafetensorError, safe_open

    most_bytes(file)  # its tensors are its bytes: nothing unpacks
    try:
        with safe_open(file, framework="numpy") as archive:
            strings = archive.metadata() or {}
            arrays = {name: archive.get_tensor(name) for name in archive.keys()}  # noqa: SIM118 (no iterator)
        paths = {str(split): [str(path) for path in of] for split, of in json.loads(strings.get("paths", "{}")).items()}
    except (SafetensorError, OSError, ValueError, TypeError, AttributeError, RecursionError) as error:
        raise CacheError(f"{file} is not a readable .safetensors file ({error})") from error
    if KEY not in strings:
        raise CacheError(f"{file} was not exported by mma")
    return _bundle(strings[KEY], arrays, paths, file)


def _to_parquet(bundle: Bundle, out: Path) -> None:
    pa, parquet = _pyarrow()
    about = {KEY: bundle.about()}
    names = np.array(bundle.header.classnames, dtype=object)
    draft = Path(
        tempfile.mkdtemp(prefix=f".{out.name}.", suffix=".partial", dir=out.parent)
    )  # its own: takes in no other
    draft.chmod(0o755)

    def rows(array: NDArray[Any]) -> Any:  # [N, ...] -> N lists of numbers
        flat = array.reshape(len(array), -1)
        return pa.FixedSizeListArray.from_arrays(pa.array(flat.ravel()), flat.shape[1])

    try:
        for split, data in bundle.splits.items():
            columns = {
                "path": list(data.path),
                "label": data.label,
                "class": names_of(bundle.header.classnames, data.label),
                "status": data.status,
            }
            columns["embedding"] = rows(data.embedding)
            if split in bundle.content:
                columns["content"] = pa.array([row.tobytes() for row in bundle.content[split]], pa.binary(CONTENT))
            table = pa.table(columns).replace_schema_metadata(about)
            parquet.write_table(table, draft / f"image-{split}.parquet")
        for name, text in bundle.texts.items():
            classes, templates = text.embedding.shape[:2]
            columns = {"class": np.repeat(names, templates), "template": list(text.templates) * classes}
            embedding = rows(text.embedding.reshape(classes * templates, -1))
            table = pa.table({**columns, "embedding": embedding}).replace_schema_metadata(about)
            parquet.write_table(table, draft / f"text-{name}.parquet")
        draft.replace(out)
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def _from_parquet(folder: Path) -> Bundle:
    pa, _ = _pyarrow()
    arrays: dict[str, NDArray[Any]] = {}
    paths: dict[str, list[str]] = {}
    about: dict[str, Any] = {}
    try:
        tables = {file.stem: read_parquet(file) for file in sorted(folder.glob("*.parquet"))}
        for table in tables.values():
            about = json.loads((table.schema.metadata or {})[KEY.encode()])
        for stem, table in tables.items():
            kind, _, name = stem.partition("-")
            column = table["embedding"].combine_chunks()
            values = column.values.to_numpy(zero_copy_only=False)
            if kind == "image":
                arrays[f"image_{name}"] = values.reshape(len(table), -1, int(about["header"]["dim"]))
                arrays[f"label_{name}"] = table["label"].to_numpy()
                arrays[f"status_{name}"] = table["status"].to_numpy()
                paths[name] = table["path"].to_pylist()
                if "content" in table.column_names:
                    content = b"".join(table["content"].to_pylist())
                    arrays[f"content_{name}"] = np.frombuffer(content, np.uint8).reshape(len(table), CONTENT)
            else:
                templates = len(about["prompts"][name]["templates"])
                arrays[f"text_{name}"] = values.reshape(-1, templates, int(about["header"]["dim"]))
    except (pa.ArrowException, KeyError, ValueError, TypeError, OSError, AttributeError, RecursionError) as error:
        raise CacheError(f"{folder} is not a folder of Parquet that mma exported ({error})") from error
    if not about:
        raise CacheError(f"{folder} holds no .parquet files")
    return _bundle(json.dumps(about), arrays, paths, folder)


def _pyarrow() -> tuple[Any, Any]:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise CacheError("Parquet needs pyarrow: pip install 'mma[parquet]'") from error
    return pyarrow, pyarrow.parquet


EXPORTS: dict[str, Callable[[Bundle, Path], None]] = {
    ".npz": _to_npz,
    ".safetensors": _to_safetensors,
    ".parquet": _to_parquet,
}
IMPORTS: dict[str, Callable[[Path], Bundle | None]] = {
    ".npz": _from_npz,
    ".safetensors": _from_safetensors,
    ".parquet": _from_parquet,
}
