"""Labels of one's own data, as people write them: names, or numbers with or without a list of names."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mma.pipeline.datasets.folder import clean_name, clean_names
from mma.pipeline.errors import UsageError
from mma.pipeline.regular_files import read_text

NAMES_FILE = "classnames.txt"  # one name per line, in label order; lies beside a manifest or among shards


def read_classes(
    given: Sequence[str | int], where: Path, names_file: Path
) -> tuple[tuple[str, ...], NDArray[np.int32], list[str]]:
    """Class names, the label of each of the distinct values `given`, and notes.

    Names are in alphabetical order, numbers in theirs, unless `names_file` exists, whose line i names label i. A value
    that is all digits is a number. UsageError for numbers mixed with names, and for what the names file does not have.
    """
    numbers = [value for value in given if isinstance(value, int) or value.isdecimal()]
    if numbers and len(numbers) < len(given):
        name = next(value for value in given if isinstance(value, str) and not value.isdecimal())
        raise UsageError(f"{where} mixes labels that are numbers ({numbers[0]}) and names ({name!r}): use one kind")
    if names_file.is_file():
        return _named(given, bool(numbers), where, names_file)
    ranked = sorted(given, key=int) if numbers else sorted(str(value) for value in given)
    names = clean_names(where, [str(value) for value in ranked])
    label = {value: number for number, value in enumerate(ranked)}
    note = f"labels are numbers, and so are the names in prompts: put names, one per line, in {names_file}"
    return names, np.array([label[value] for value in given], np.int32), [note] if numbers else []


def _named(
    given: Sequence[str | int], numbers: bool, where: Path, names_file: Path
) -> tuple[tuple[str, ...], NDArray[np.int32], list[str]]:
    try:
        lines = [line.strip() for line in read_text(names_file).splitlines() if line.strip()]
    except OSError as error:
        raise UsageError(f"{names_file} cannot be read ({error.strerror or error})") from error
    names = clean_names(names_file, lines)
    label = {name: number for number, name in enumerate(names)}
    found = [int(value) if numbers else label.get(clean_name(str(value)), -1) for value in given]
    for value, number in zip(given, found, strict=True):
        if not 0 <= number < len(names):
            raise UsageError(f"{where} has label {value!r}, but {names_file.name} has {len(names)} names without it")
    return names, np.array(found, np.int32), [f"class names and their order: {names_file.name}"]
