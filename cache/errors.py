"""The errors of this package."""

from __future__ import annotations

from typing import ClassVar


class CacheError(ValueError):
    """A cache cannot be read or written as asked. The message is one line: what, where, and how to mend it."""

    exit_code: ClassVar[int] = 2  # of a command that ends with it


class LockedError(CacheError):
    """Another process has the right to write."""
