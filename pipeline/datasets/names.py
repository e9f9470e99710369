r"""File and class names as text that can be stored, shown and read back, whatever bytes they are.

Names on a disk, in a tar and in JSON need not be UTF-8. Python has their odd bytes as lone surrogates, which nothing
can store. Here such a byte is written `\xe9`, a lone surrogate that stands for no byte `\ud83d`, and, so that this can
be taken back, a backslash in a path `\\`. All other names stay as they are.
"""

from __future__ import annotations

import re

_ODD = re.compile("[\ud800-\udfff]")
_ODD_OR_BACKSLASH = re.compile("[\\\\\ud800-\udfff]")
_ESCAPED = re.compile(r"\\(\\|x[0-9a-f]{2}|u[0-9a-f]{4})")


def shown_path(path: str) -> str:
    """A path as text; `real_path` takes it back."""
    return _ODD_OR_BACKSLASH.sub(_escape, path)


def real_path(shown: str) -> str:
    """The path that `shown_path` made this text of."""
    return _ESCAPED.sub(_unescape, shown) if "\\" in shown else shown


def shown_name(name: str) -> str:
    """A class name as text; a backslash stays one."""
    return _ODD.sub(_escape, name)


def _escape(found: re.Match[str]) -> str:
    code = ord(found[0])
    if found[0] == "\\":
        return "\\\\"
    return f"\\x{code - 0xDC00:02x}" if 0xDC80 <= code <= 0xDCFF else f"\\u{code:04x}"


def _unescape(found: re.Match[str]) -> str:
    word = found[1]
    if word == "\\":
        return "\\"
    return chr(int(word[1:], 16) + (0xDC00 if word[0] == "x" else 0))
