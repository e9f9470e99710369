"""One's own images in WebDataset shards: tar files, read in place by an index of their members, never unpacked.

A sample is the members that share a name up to its first dot: an image (`0001.jpg`) and its class (`0001.cls`, a name
or a number, or `0001.json` with "label"). Shards lie in <folder>/<split>/*.tar, or are called <split>-*.tar; those
of no split are split by a seed. classnames.txt beside them names numbered classes.
"""

from __future__ import annotations

import errno
import os
import re
import tarfile
from array import array
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from io import BufferedReader
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mma.pipeline.datasets.base import ABSENT, NO_FILE, Dataset, Stamp, stamp_of
from mma.pipeline.datasets.contents import Contents
from mma.pipeline.datasets.draw import draw_splits, drawn_note
from mma.pipeline.datasets.folder import (
    SPLITS,
    SUFFIXES,
    TEMPLATES,
    dataset_name,
    refuse_empty,
    refuse_single,
    untrained_notes,
)
from mma.pipeline.datasets.image_files import MAX_BYTES
from mma.pipeline.datasets.labels import NAMES_FILE, read_classes
from mma.pipeline.datasets.names import shown_name, shown_path
from mma.pipeline.errors import UsageError
from mma.pipeline.regular_files import open_regular, parse_json

LABEL_BYTES = 1_000_000  # of a .cls or .json, at most
BLOCK = 512  # bytes, of tar
HEADER_BYTES = 2**20  # of one member, at most: long names and times


@dataclass(frozen=True)
class ShardSplit:
    """A split whose rows are parts of tar files."""

    root: Path
    paths: Sequence[str]  # [N] shard, "/", name within it
    labels: NDArray[np.int32]  # [N]
    shard: NDArray[np.int32]  # [N] index into `shards`
    offset: NDArray[np.int64]  # [N] first byte
    length: NDArray[np.int64]  # [N] bytes
    shards: Sequence[str]  # below `root`
    seen: Sequence[Stamp]  # of every shard, when it was indexed

    def stamp(self, row: int) -> Stamp:
        """Bytes of the image, and the times of its shard."""
        try:
            about = os.stat(self.root / self.shards[self.shard[row]])  # noqa: PTH116 (a third of the time of Path.stat)
        except (FileNotFoundError, NotADirectoryError):
            return ABSENT
        except OSError:  # there, and out of reach: reading it says why
            return NO_FILE
        return int(self.length[row]), *stamp_of(about)[1:]

    def stamps(self) -> NDArray[np.int64]:
        """[N, 3] with the shards' times when they were indexed."""
        times = np.array(self.seen, np.int64)[self.shard, 1:]
        return np.concatenate([self.length[:, None], times], axis=1)

    def read(self, row: int) -> bytes:
        """The image's bytes. OSError where the shard is gone or shorter than it was, or the image is too long."""
        length, shard = int(self.length[row]), self.shards[self.shard[row]]
        if length > MAX_BYTES:
            raise OSError(errno.EFBIG, f"{length:,} bytes; at most {MAX_BYTES:,} are read", self.paths[row])
        with open_regular(self.root / shard) as file:
            file.seek(int(self.offset[row]))
            data = file.read(length)
        if len(data) < length:
            raise OSError(f"{shard} is shorter than it was")
        return data


@dataclass
class _Index:
    """What the shards hold, as it is read."""

    paths: list[str] = field(default_factory=list)
    value: array = field(default_factory=lambda: array("i"))
    shard: array = field(default_factory=lambda: array("i"))
    offset: array = field(default_factory=lambda: array("q"))
    length: array = field(default_factory=lambda: array("q"))
    values: dict[str | int, int] = field(default_factory=dict)
    seen: list[Stamp] = field(default_factory=list)  # of every shard


class _Tar(BufferedReader):
    """A tar file as `tarfile` may read it: its headers, and no more than that at a time."""

    def read(self, size: int | None = -1, /) -> bytes:
        """Some bytes. ReadError for a header that is too long."""
        if size is None or not 0 <= size <= HEADER_BYTES:
            raise tarfile.ReadError(f"a header of {size:,} bytes")
        return super().read(size)


def find_shards(path: Path) -> dict[str, list[str]]:
    """Tar files by split, as paths below the folder; "" for those of none. Empty where there are none."""
    if path.is_file():
        return {"": [path.name]}
    found: dict[str, list[str]] = {}
    for file in sorted([*path.glob("*.tar"), *path.glob("*/*.tar")]):
        inside = file.relative_to(path)
        named = inside.parts[0] if len(inside.parts) == 2 else re.split(r"[-_.\d]", file.name)[0]
        split = SPLITS.get(named.lower(), "")
        if split or len(inside.parts) == 1:
            found.setdefault(split, []).append(inside.as_posix())
    return found


def shards(path: Path, seed: int, contents: Contents) -> Dataset:
    """The data set of a folder of shards, or of one shard. UsageError, in one line, for what is wrong with it."""
    by_split = find_shards(path)
    root = path.parent if path.is_file() else path
    if "" in by_split and len(by_split) > 1:
        raise UsageError(
            f"{path}: {by_split[''][0]} is of no split, but other shards are; name it train-... or test-..."
        )
    if "" not in by_split and not {"train", "test"} <= by_split.keys():
        raise UsageError(f"{path} has shards of {', '.join(by_split)} only: both train and test are needed")
    names = [shard for split in ("train", "val", "test", "") for shard in by_split.get(split, ())]
    index = _Index()
    starts = [0]
    for number, shard in enumerate(names):
        _read_shard(root / shard, shard, number, index)
        starts.append(len(index.paths))
    classnames, label_of, notes = read_classes(list(index.values), path, root / NAMES_FILE)
    labels = label_of[np.frombuffer(index.value, np.int32)]
    counts = np.bincount(labels, minlength=len(classnames))
    refuse_empty(path, classnames, counts)
    if "" in by_split:
        refuse_single(path, classnames, counts)
        everything = _members(root, names, index, labels, np.arange(len(labels)))
        rows: Mapping[str, NDArray[np.int64]] = draw_splits(everything, seed, contents, path)
        notes.append(drawn_note(seed))
    else:
        at = {split: [names.index(shard) for shard in found] for split, found in by_split.items()}
        rows = {s: np.arange(starts[at[s][0]], starts[at[s][-1] + 1]) for s in ("train", "val", "test") if s in at}
        notes.append("the shards' own splits")
    splits = {split: _members(root, names, index, labels, chosen) for split, chosen in rows.items()}
    notes += untrained_notes(classnames, splits)
    return Dataset(dataset_name(path), classnames, TEMPLATES, splits, tuple(notes))


def unlabelled_shards(path: Path) -> ShardSplit:
    """The images of a folder of shards, or of one shard, whatever labels they have: -1 each. UsageError as above."""
    root = path.parent if path.is_file() else path
    names = [shard for found in find_shards(path).values() for shard in found]
    index = _Index()
    for number, shard in enumerate(names):
        _read_shard(root / shard, shard, number, index, labelled=False)
    labels = np.full(len(index.paths), -1, np.int32)
    return _members(root, names, index, labels, np.arange(len(index.paths)))


def _members(
    root: Path, names: Sequence[str], index: _Index, labels: NDArray[np.int32], rows: NDArray[np.int64]
) -> ShardSplit:
    shard, offset = np.frombuffer(index.shard, np.int32), np.frombuffer(index.offset, np.int64)
    length = np.frombuffer(index.length, np.int64)
    paths = [index.paths[row] for row in rows]
    return ShardSplit(root, paths, labels[rows], shard[rows], offset[rows], length[rows], names, index.seen)


def _read_shard(file: Path, shard: str, number: int, index: _Index, *, labelled: bool = True) -> None:
    """Add the samples of one shard to the index."""
    before = len(index.paths)
    index.seen.append(_seen(file))
    for key, members in _samples(file):
        images = [m for m in members if os.path.splitext(m.name)[1].lower() in SUFFIXES]  # noqa: PTH122
        where = f"{file}, sample {shown_name(key)!r}"
        if len(images) != 1:
            raise UsageError(f"{where} has {len(images)} images; each sample needs one")
        value = _label(file, members, where) if labelled else -1
        index.paths.append(shown_path(f"{shard}/{images[0].name}"))
        index.value.append(index.values.setdefault(value, len(index.values)))
        index.shard.append(number)
        index.offset.append(images[0].offset_data)
        index.length.append(images[0].size)
    if len(index.paths) == before:
        raise UsageError(f"{file} holds no samples: expected pairs such as 0001.jpg and 0001.cls")


def _samples(file: Path) -> Iterator[tuple[str, list[tarfile.TarInfo]]]:
    """Runs of members with one key, in order. UsageError for a file that is not a whole, plain tar."""
    key, members = "", list[tarfile.TarInfo]()
    try:
        with open_regular(file) as raw, tarfile.open(fileobj=_Tar(raw.raw), mode="r:") as tar:
            whole, behind = os.fstat(raw.fileno()).st_size, 0
            while (member := tar.next()) is not None:
                tar.members = []  # type: ignore[attr-defined]  # tarfile keeps them all, for nothing here
                if member.size < 0 or tar.offset <= behind:
                    raise tarfile.ReadError(f"a member of {member.size:,} bytes")
                if tar.offset > whole:
                    raise tarfile.ReadError("unexpected end of data")
                behind = tar.offset
                if not member.isreg() or member.issparse():
                    continue
                folder, _, name = member.name.rpartition("/")
                own = f"{folder}/{name.split('.')[0]}"
                if own != key and members:
                    yield key.removeprefix("/"), members
                    members = []
                key = own
                members.append(member)
            raw.seek(tar.offset)
            if raw.read(BLOCK) != bytes(BLOCK):
                raise tarfile.ReadError("unexpected end of data")
    except (tarfile.TarError, RecursionError, ValueError, OverflowError, IndexError) as error:
        raise UsageError(f"{file} is not a whole, uncompressed tar file ({error}): get or make it again") from error
    except OSError as error:
        raise UsageError(f"{file} cannot be read ({error.strerror or error})") from error
    if members:
        yield key.removeprefix("/"), members


def _seen(file: Path) -> Stamp:
    try:
        return stamp_of(file.stat())
    except OSError as error:
        raise UsageError(f"{file} cannot be read ({error.strerror or error})") from error


def _label(file: Path, members: Sequence[tarfile.TarInfo], where: str) -> str | int:
    for member in members:
        suffix = os.path.splitext(member.name)[1].lower()  # noqa: PTH122
        if suffix not in (".cls", ".json"):
            continue
        if member.size > LABEL_BYTES:
            raise UsageError(f"{where}: {member.name} has {member.size:,} bytes, too many for a label")
        with open_regular(file) as raw:
            raw.seek(member.offset_data)
            text = raw.read(member.size).decode("utf-8", "surrogateescape")
        try:
            given = text.strip() if suffix == ".cls" else parse_json(text).get("label")
        except (ValueError, AttributeError) as error:
            raise UsageError(f"{where}: {member.name} is not a label ({error})") from error
        if (isinstance(given, str) and given) or (isinstance(given, int) and not isinstance(given, bool)):
            return given
    raise UsageError(f'{where} has no label: expected a .cls, or a .json with "label"')
