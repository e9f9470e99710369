"""One's own images by a manifest: CSV, TSV, JSON lines or Parquet with columns path, label and, if wanted, split.

Paths are below the manifest's folder, or below `root` where that is given. Rows stay in their order. A million rows are
a matter of seconds and of some hundred bytes each.
"""

from __future__ import annotations

import csv
import itertools
from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from mma.pipeline.datasets.base import ABSENT, Dataset
from mma.pipeline.datasets.contents import Contents
from mma.pipeline.datasets.draw import draw_splits, drawn_note
from mma.pipeline.datasets.folder import (
    SPLITS,
    TEMPLATES,
    FileSplit,
    dataset_name,
    refuse_empty,
    refuse_single,
    some_rows,
    untrained_notes,
)
from mma.pipeline.datasets.image_files import stamp_image_file
from mma.pipeline.datasets.labels import NAMES_FILE, read_classes
from mma.pipeline.datasets.names import shown_path
from mma.pipeline.datasets.paths import refuse_outside
from mma.pipeline.errors import UsageError
from mma.pipeline.regular_files import open_regular, parse_json, read_lines

SUFFIXES = {".csv", ".tsv", ".jsonl", ".ndjson", ".parquet"}
FORM = "expected columns path, label and, if wanted, split"
PROBED = 100  # rows whose files are looked for before anything else

Row = tuple[Any, Any, Any]  # path, label, split or None; unchecked


@dataclass
class _Read:
    """A manifest as it is read; values of label and split are numbered in order of appearance."""

    file: Path
    paths: list[str] = field(default_factory=list)
    value: array = field(default_factory=lambda: array("i"))  # [N] index into `values`
    split: array = field(default_factory=lambda: array("b"))  # [N] index into `splits`
    values: dict[str | int, int] = field(default_factory=dict)
    splits: dict[str | None, int] = field(default_factory=dict)
    first: dict[str, int] = field(default_factory=dict)  # path -> row
    twice: int = 0
    leaks: list[str] = field(default_factory=list)  # paths in two splits

    def add(self, path: Any, label: Any, split: Any, line: int) -> None:
        """Check and keep one row."""
        where = f"{self.file}, row {line}"
        if not isinstance(path, str):
            raise UsageError(f"{where}: path {path!r} is not text")
        refuse_outside(path, where)
        path = shown_path(path)
        value = self.values.setdefault(_label(label, where), len(self.values))
        at = self.splits.setdefault(_split(split, where), len(self.splits))
        row = self.first.setdefault(path, len(self.paths))
        if row < len(self.paths):
            if self.value[row] != value:
                raise UsageError(f"{where}: {path} has another label in row {row + 1}; one image, one class")
            if self.split[row] != at:
                self.leaks.append(path)
            self.twice += 1
        self.paths.append(path)
        self.value.append(value)
        self.split.append(at)


def manifest(file: Path, root: Path | None, seed: int, contents: Contents, follow_links: bool = False) -> Dataset:
    """The data set of a manifest. UsageError, in one line that names the row, for what is wrong with it."""
    read = _Read(file)
    for line, (path, label, split) in enumerate(_rows(file), start=1):
        read.add(path, label, split, line)
    if not read.paths:
        raise UsageError(f"{file} has no rows: {FORM}")
    read.first.clear()
    base = root or file.parent
    _refuse_elsewhere(read, base)
    classnames, label_of, notes = read_classes(list(read.values), file, file.parent / NAMES_FILE)
    labels = label_of[np.frombuffer(read.value, np.int32)]
    counts = np.bincount(labels, minlength=len(classnames))
    refuse_empty(file, classnames, counts)
    everything = FileSplit(base, read.paths, labels, follow_links)
    if None in read.splits:
        if len(read.splits) > 1:
            raise UsageError(f"{file} has rows with a split and rows without: fill the column, or leave it out")
        refuse_single(file, classnames, counts)
        splits = draw_splits(everything, seed, contents, file)
        notes.append(drawn_note(seed))
    else:
        missing = " and ".join(repr(name) for name in ("train", "test") if name not in read.splits)
        if missing:
            raise UsageError(f"{file} has no rows of split {missing}: both train and test are needed (val is welcome)")
        of_row = np.frombuffer(read.split, np.int8)
        splits = {n: np.flatnonzero(of_row == read.splits[n]) for n in ("train", "val", "test") if n in read.splits}
        notes.append("the manifest's own splits")
    if read.twice:
        notes.append(f"{read.twice:,} rows name an image that an earlier row has")
    if read.leaks:
        notes.append(f"{len(read.leaks):,} images are in two splits, such as {read.leaks[0]}: test is too easy")
    chosen = {name: some_rows(everything, rows) for name, rows in splits.items()}
    notes += untrained_notes(classnames, chosen)
    return Dataset(dataset_name(file), classnames, TEMPLATES, chosen, tuple(notes))


def _label(given: Any, where: str) -> str | int:
    if isinstance(given, str) and given.strip():
        return given.strip()
    if isinstance(given, int) and not isinstance(given, bool) and given >= 0:
        return given
    raise UsageError(f"{where}: label {given!r} is neither a name nor a number from 0")


def _split(given: Any, where: str) -> str | None:
    if given is None or given == "":
        return None
    if not isinstance(given, str) or given.lower() not in SPLITS:
        raise UsageError(f"{where}: unknown split {given!r}: train, val or test")
    return SPLITS[given.lower()]


def _refuse_elsewhere(read: _Read, base: Path) -> None:
    """UsageError where not one of the first files is there: the paths are below another folder."""
    if all(stamp_image_file(base, path) == ABSENT for path in read.paths[:PROBED]):
        raise UsageError(
            f"{read.file}: there is no {base / read.paths[0]}; paths are below the manifest's folder, or below "
            "`root=FOLDER`"
        )


def manifest_paths(file: Path) -> list[str]:
    """The paths of a manifest, whatever else it has; labels are not needed. UsageError as for `manifest`."""
    paths = []
    for line, (path, _, _) in enumerate(_rows(file, needed=("path",)), start=1):
        where = f"{file}, row {line}"
        if not isinstance(path, str):
            raise UsageError(f"{where}: path {path!r} is not text")
        refuse_outside(path, where)
        paths.append(shown_path(path))
    return paths


def _rows(file: Path, needed: Sequence[str] = ("path", "label")) -> Iterator[Row]:
    suffix = file.suffix.lower()
    try:
        if suffix == ".parquet":
            yield from _parquet(file, needed)
        elif suffix in (".jsonl", ".ndjson"):
            yield from _jsonl(file, needed)
        else:
            yield from _csv(file, "\t" if suffix == ".tsv" else ",", needed)
    except (OSError, csv.Error) as error:
        reason = getattr(error, "strerror", None) or error
        raise UsageError(f"{file} cannot be read ({reason}): {FORM}") from error


def _csv(file: Path, delimiter: str, needed: Sequence[str]) -> Iterator[Row]:
    reader = csv.reader(read_lines(file), delimiter=delimiter, strict=True)
    header = [name.strip().lower() for name in next(reader, [])]
    _check_columns(file, header, needed)
    path = header.index("path")
    label, split = (header.index(name) if name in header else None for name in ("label", "split"))
    for number, row in enumerate(reader, start=1):
        if len(row) == len(header):
            yield row[path], None if label is None else row[label], None if split is None else row[split]
        elif row:
            raise UsageError(f"{file}, row {number} has {len(row)} values, the header {len(header)}")


def _jsonl(file: Path, needed: Sequence[str]) -> Iterator[Row]:
    for number, line in enumerate(read_lines(file), start=1):
        if not line.strip():
            continue
        try:
            row = parse_json(line)
        except ValueError as error:
            raise UsageError(f"{file}, line {number} is not JSON ({error})") from error
        if not isinstance(row, dict):
            raise UsageError(f"{file}, line {number} is not an object with path and label")
        _check_columns(file, row, needed)
        yield row["path"], row.get("label"), row.get("split")


def _parquet(file: Path, needed: Sequence[str]) -> Iterator[Row]:
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError as error:
        raise UsageError(f"{file}: Parquet needs pyarrow: pip install 'mma[parquet]', or give a CSV") from error
    try:
        with open_regular(file) as stream, parquet.ParquetFile(stream) as opened:
            names = opened.schema_arrow.names
            _check_columns(file, names, needed)
            columns = [name for name in ("path", "label", "split") if name in names]
            for batch in opened.iter_batches(columns=columns):
                values = {name: batch.column(name).to_pylist() for name in columns}
                absent = itertools.repeat(None, len(batch))
                yield from zip(*(values.get(name, absent) for name in ("path", "label", "split")), strict=True)
    except pyarrow.ArrowException as error:
        raise UsageError(f"{file} cannot be read ({error}): {FORM}") from error


def _check_columns(file: Path, names: Any, needed: Sequence[str]) -> None:
    missing = [name for name in needed if name not in names]
    if missing:
        has = ", ".join(str(name) for name in names) or "no columns"
        raise UsageError(f"{file} has no column {' and '.join(missing)} (it has {has[:200]}): {FORM}")
