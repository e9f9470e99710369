"""Answers as lines: a table for people, CSV or JSON lines for programs; printed, or in a file that continues.

A file is `<name>.partial` until it is whole, beside a note of what it answers; each batch is appended. The same command
goes on behind its last whole line, after looking whether its rows are the first ones that are asked about. CSV has
sets of classes, margins and the nearest shots as JSON.
"""

from __future__ import annotations

import csv
import io
import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from torch import Tensor

from mma.cache.durable import open_new, write_whole
from mma.pipeline.console import plain
from mma.pipeline.errors import UsageError
from mma.pipeline.json_text import to_json
from mma.pipeline.regular_files import open_regular, parse_json, read_json
from mma.pipeline.using.model import METHODS
from mma.pipeline.using.score import Prediction, Scorer

PARTIAL = ".partial"
NOTE = ".partial.json"
SHOWN = 5  # margins, in a table


class Lines:
    """Answers in one format."""

    def __init__(self, form: str, scorer: Scorer) -> None:
        self.form = form
        self.value = "score" if scorer.temperature is None else "probability"
        self.top = min(scorer.top, len(scorer.classnames))
        self.abstains, self.sets = scorer.threshold is not None, METHODS if scorer.coverage is not None else ()
        self.why = ("margins", "nearest") if scorer.why else ()

    def head(self) -> str:
        """What comes before the first answer."""
        if self.form != "csv":
            return ""
        names = [word for n in range(1, self.top + 1) for word in (_numbered("class", n), _numbered(self.value, n))]
        return _csv(["path", *names, *(["abstained"] if self.abstains else []), *self.sets, *self.why, "reason"])

    def line(self, answer: Prediction) -> str:
        """One answer, with its end of line."""
        if self.form == "jsonl":
            return to_json(self._record(answer)) + "\n"
        if self.form == "table":
            return self._words(answer) + "\n"
        top: list[Any] = [part for pair in answer.top for part in pair] or [None] * (2 * self.top)
        abstained = ["" if answer.reason else str(answer.abstained).lower()] if self.abstains else []
        sets = ["" if answer.reason else to_json(answer.sets[method]) for method in self.sets]
        why = ["" if answer.reason else to_json(value) for value in _why(answer).values()] or [""] * len(self.why)
        return _csv([answer.path, *top, *abstained, *sets, *why, answer.reason])

    def _record(self, answer: Prediction) -> dict[str, Any]:
        if answer.reason is not None:
            return {"path": answer.path, "reason": answer.reason}
        record: dict[str, Any] = {"path": answer.path, "class": answer.label}
        record["top"] = [{"class": name, self.value: value} for name, value in answer.top]
        if self.abstains:
            record["abstained"] = answer.abstained
        return {**record, **answer.sets, **_why(answer)}

    def _words(self, answer: Prediction) -> str:
        if answer.reason is not None:
            return plain(f"{answer.path}  -  {answer.reason}")
        unit = "%" if self.value == "probability" else "% (score)"
        words = [", ".join(f"{name} {100 * value:.1f} {unit}" for name, value in answer.top)]
        words += ["abstains"] if answer.abstained else []
        words += [f"{method}: {', '.join(held)}" for method, held in answer.sets.items()]
        lines = [f"{answer.path}  {'  '.join(words)}"]
        if answer.why:
            margins = [f"{name} by {value:.2f}" for name, value in answer.why.margins[:SHOWN]]
            lines.append(f"    above {', '.join(margins)}")
            near = [f"{path} ({name}, {value:.3f})" for path, name, value in answer.why.shots]
            lines += [f"    nearest {', '.join(near)}"] if near else []
        return "\n".join(map(plain, lines))


class Printed:
    """Answers on standard output."""

    def __init__(self, lines: Lines) -> None:
        self.lines, self.done = lines, 0
        sys.stdout.write(lines.head())

    def write(self, answers: Sequence[Prediction]) -> None:
        """Some more."""
        sys.stdout.write("".join(map(self.lines.line, answers)))
        sys.stdout.flush()

    def close(self) -> None:
        """Nothing is to be done."""


class Written:
    """Answers in a file; `done` of them are there from before."""

    def __init__(self, file: Path, lines: Lines, note: dict[str, Any], paths: Iterator[str], *, force: bool) -> None:
        self.file, self.lines, self.done = file, lines, 0
        self.partial, self.note = file.with_name(file.name + PARTIAL), file.with_name(file.name + NOTE)
        if file.exists() and not force:
            raise UsageError(f"{file} is there: `force=True` replaces it")
        if force:
            self.partial.unlink(missing_ok=True)
        if self.partial.exists():
            self.done = self._continue(note, paths)
        else:
            file.parent.mkdir(parents=True, exist_ok=True)
            write_whole(self.note, to_json(note).encode())
            with open_new(self.partial) as stream:
                stream.write(lines.head().encode())
        self.stream: BinaryIO = self.partial.open("ab")

    def write(self, answers: Sequence[Prediction]) -> None:
        """Some more, on the disk when this returns."""
        self.stream.write("".join(map(self.lines.line, answers)).encode())
        self.stream.flush()
        os.fsync(self.stream.fileno())

    def close(self) -> None:
        """All are there."""
        self.stream.close()
        self.partial.replace(self.file)
        self.note.unlink(missing_ok=True)

    def _continue(self, note: dict[str, Any], paths: Iterator[str]) -> int:
        """How many answers are there, cut behind the last whole one. UsageError where they answer something else."""
        other = UsageError(f"{self.partial} answers something else: `force=True` begins anew")
        try:
            if read_json(self.note) != note:
                raise other
        except (OSError, ValueError) as error:
            raise other from error
        _cut(self.partial)
        done = 0
        with open_regular(self.partial) as raw, io.TextIOWrapper(raw, "utf-8", newline="") as stream:
            if stream.read(len(self.lines.head())) != self.lines.head():
                raise other
            try:
                for path in self._paths(stream):
                    if path != next(paths, None):
                        raise other
                    done += 1
            except (csv.Error, ValueError, KeyError, TypeError, IndexError) as error:
                raise other from error
        return done

    def _paths(self, stream: io.TextIOWrapper) -> Iterator[str]:
        if self.lines.form == "jsonl":
            yield from (parse_json(line)["path"] for line in stream)
        else:
            yield from (row[0] for row in csv.reader(stream, strict=True))


class Kept:
    """Unit embeddings [N, D] in a .npy file; a row without an embedding is NaN. With answers in a file it continues."""

    def __init__(self, file: Path, rows: int, dim: int, done: int, *, force: bool) -> None:
        self.file, self.partial = file, file.with_name(file.name + PARTIAL)
        if file.exists() and not force:
            raise UsageError(f"{file} is there: `force=True` replaces it")
        self.array = self._continued(rows, dim) if done else self._new(rows, dim)
        self.at = done

    def write(self, image: Tensor) -> None:
        """Some more rows [B, D]."""
        self.array[self.at : self.at + len(image)] = image.cpu().numpy()
        self.at += len(image)
        self.array.flush()

    def close(self) -> None:
        """All are there."""
        self.array.flush()
        self.partial.replace(self.file)

    def _new(self, rows: int, dim: int) -> np.memmap:
        self.file.parent.mkdir(parents=True, exist_ok=True)
        open_new(self.partial).close()
        array: np.memmap = np.lib.format.open_memmap(self.partial, "w+", np.float32, (rows, dim))
        return array

    def _continued(self, rows: int, dim: int) -> np.memmap:
        try:
            array: np.memmap = np.lib.format.open_memmap(self.partial, "r+")
        except (OSError, ValueError) as error:
            raise UsageError(f"{self.partial} is not there any more: `force=True` begins anew") from error
        if array.shape != (rows, dim) or array.dtype != np.float32:
            raise UsageError(f"{self.partial} has the shape {array.shape}, not {(rows, dim)}: `force=True` begins anew")
        return array


def _cut(file: Path) -> None:
    """Cut a file behind its last end of line."""
    with file.open("r+b") as stream:
        size = end = stream.seek(0, os.SEEK_END)
        while end:
            start = max(0, end - 65536)
            stream.seek(start)
            found = stream.read(end - start).rfind(b"\n")
            if found >= 0:
                end = start + found + 1
                break
            end = start
        if end < size:
            stream.truncate(end)


def _why(answer: Prediction) -> dict[str, Any]:
    """The margin over every other class, and the nearest shots; nothing where it was not asked."""
    if answer.why is None:
        return {}
    shots = [{"path": path, "class": name, "cosine": value} for path, name, value in answer.why.shots]
    return {"margins": dict(answer.why.margins), "nearest": shots}


def _csv(values: Sequence[Any]) -> str:
    stream = io.StringIO()
    csv.writer(stream, lineterminator="\n").writerow(values)
    return stream.getvalue()


def _numbered(word: str, number: int) -> str:
    return word if number == 1 else f"{word}_{number}"
