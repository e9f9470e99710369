"""What goes wrong, in one line a person can act on."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from typing import ClassVar


class UsageError(ValueError):
    """The command was given something that cannot work: refused before work starts."""

    exit_code: ClassVar[int] = 2


class WorkError(RuntimeError):
    """Work that was begun could not go on; what is done is kept."""

    exit_code: ClassVar[int] = 1


def nearest(name: str, known: Iterable[str]) -> str:
    """Known names for an error message, the nearest first if one is near: `did you mean food101? (cifar10, ...)`."""
    known = list(known)
    close = difflib.get_close_matches(name, known, n=2, cutoff=0.5)
    hint = f"did you mean {' or '.join(close)}? " if close else ""
    return f"{hint}(known: {', '.join(known)})" if hint else f"known are {', '.join(known)}"
