"""Where in its author's own code an adapter went wrong: the line that an error's one-line reason names."""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager

from mma.adapters.base import Adapter, AdapterError


def blamed(error: BaseException, kind: type[Adapter]) -> str:
    """` (my.py:12)`: the innermost frame of an error in the files of an adapter's own package, or in its one file.

    Empty where there is none, and for adapters of this package.
    """
    roots = _roots(kind)
    for frame in reversed(traceback.extract_tb(error.__traceback__)):
        if any(frame.filename == root or frame.filename.startswith(root + os.sep) for root in roots):
            return f" ({frame.filename}:{frame.lineno})"
    return ""


@contextmanager
def blaming(kind: type[Adapter]) -> Iterator[None]:
    """What goes wrong in an author's code in here is an AdapterError with its line; a refusal is what it is."""
    try:
        yield
    except AdapterError:
        raise
    except Exception as error:
        said = f"{type(error).__name__}: {error}{blamed(error, kind)}"
        raise AdapterError(" ".join(said.split())) from error


def _roots(kind: type[Adapter]) -> set[str]:
    """The files and folders that an adapter's classes come from, but for this package's and torch's."""
    found = set()
    for name in {each.__module__ for each in kind.__mro__}:
        package = sys.modules.get(name.partition(".")[0])
        if package is None or package.__name__ in ("mma", "torch", "builtins"):
            continue
        folders = list(getattr(package, "__path__", []))
        found.update(folders or [getattr(package, "__file__", None) or ""])
    return found - {""}
