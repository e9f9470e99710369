"""An adapter in a file of a user's own, named by both: `./my.py:MyAdapter`.

A file is run once for each text it has. A process keeps to the text it ran first until it is asked for `reference`,
which looks at the file again: so what was planned with one text is not run with another.
"""

from __future__ import annotations

import hashlib
import os
import re
import sys
import threading
import traceback
from importlib.abc import ExecutionLoader
from importlib.util import module_from_spec, spec_from_loader
from types import CodeType, ModuleType

from mma.adapters.base import Adapter, AdapterError

MOST_BYTES = 10_000_000  # of a source file
MOST_LETTERS = 60  # of a short name: it becomes part of a folder's name
PREFIX = "mma_adapter_"  # of the modules made here; then digests of the path and of the text
_CURRENT: dict[str, ModuleType] = {}  # by path
_RUNNING = threading.RLock()


class TextLoader(ExecutionLoader):
    """Runs a source file from the text that was read, and remembers that: no bytecode is written, or found stale."""

    def __init__(self, path: str, text: str) -> None:
        self.path, self.text = path, text

    def get_source(self, fullname: str) -> str:
        """What was run, whatever the file says now."""
        return self.text

    def get_filename(self, fullname: str) -> str:
        """Where it was read."""
        return self.path

    def get_code(self, fullname: str) -> CodeType:
        """The text, compiled under the file's name."""
        return self.source_to_code(self.text, self.path)


def is_in_file(name: str) -> bool:
    """Whether a name is FILE.py:CLASS, or was meant to be."""
    return ".py:" in name or name.endswith(".py")


def reference(name: str) -> str:
    """The absolute form of FILE.py:CLASS, by which every process finds the class, as the file is now; any other name as
    it is. Raises AdapterError as `class_in_file`.
    """
    if not is_in_file(name):
        return name
    path, kind = _parted(name)
    with _RUNNING:
        text = _read(path)
        if path not in _CURRENT or text_of(_CURRENT[path].__name__) != text:
            _run(path, text)
    class_in_file(f"{path}:{kind}")
    return f"{path}:{kind}"


def class_in_file(name: str) -> type[Adapter]:
    """The class of FILE.py:CLASS; the file is run, if this process has not done so.

    Raises AdapterError where there is no such file, or no such class in it, or it is no adapter, or running the file
    fails: then with the line.
    """
    path, wanted = _parted(name)
    with _RUNNING:
        module = _CURRENT.get(path) or _run(path, _read(path))
    kind = getattr(module, wanted, None)
    if not isinstance(kind, type):
        there = [n for n, k in vars(module).items() if isinstance(k, type) and k.__module__ == module.__name__]
        raise AdapterError(f"{path} has no class {wanted!r} (its classes: {', '.join(there) or 'none'})")
    if not issubclass(kind, Adapter):
        raise AdapterError(f"{wanted} in {path} is no adapter: derive it from mma.Adapter")
    return kind


def short_name(name: str) -> str:
    """What tables, records and folders call an adapter: CLASS of FILE.py:CLASS as `my-adapter`; any other name as it
    is.
    """
    if not is_in_file(name):
        return name
    words = re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "-", _parted(name)[1])
    return words.replace("_", "-").strip("-").lower()[:MOST_LETTERS] or "adapter"


def name_in_file(kind: type[Adapter]) -> str | None:
    """FILE.py:CLASS of a class that comes from there; else None."""
    loader = _loader(kind.__module__)
    return f"{loader.path}:{kind.__name__}" if loader else None


def text_of(module: str) -> str | None:
    """The source of a module that was made here; else None."""
    loader = _loader(module)
    return loader.text if loader else None


def find_class(kind: str, source: str) -> type[Adapter] | None:
    """The class of this name, of a file that this process has run with a text of this digest; None if there is none."""
    for name, module in list(sys.modules.items()):
        text = text_of(name) if name.startswith(PREFIX) else None
        if text is not None and text_sha256(text) == source:
            found = getattr(module, kind, None)
            return found if isinstance(found, type) and issubclass(found, Adapter) else None
    return None


def text_sha256(text: str) -> str:
    """SHA-256 of a text, in hexadecimal."""
    return hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()


def _loader(module: str) -> TextLoader | None:
    spec = getattr(sys.modules.get(module), "__spec__", None)
    return spec.loader if spec is not None and isinstance(spec.loader, TextLoader) else None


def _parted(name: str) -> tuple[str, str]:
    """The absolute path, and the class."""
    path, _, kind = name.rpartition(":")
    if not path.endswith(".py") or not kind.isidentifier() or "\0" in path:
        raise AdapterError(f"{name!r} is not FILE.py:CLASS: write the file, a colon, and a class in it")
    return os.path.realpath(os.path.expanduser(path)), kind  # noqa: PTH111 (adapters/ knows no pathlib)


def _read(path: str) -> str:
    if not os.path.isfile(path):  # noqa: PTH113
        raise AdapterError(f"there is no file {path}")
    try:
        with open(path, "rb") as stream:  # noqa: PTH123
            data = stream.read(MOST_BYTES + 1)
        if len(data) > MOST_BYTES:
            raise AdapterError(f"{path} is larger than {MOST_BYTES:,} bytes")
        return data.decode("utf-8-sig")
    except OSError as error:
        raise AdapterError(f"{path} cannot be read ({error.strerror})") from error
    except UnicodeDecodeError as error:
        raise AdapterError(f"{path} is not UTF-8 ({error.reason})") from error


def _run(path: str, text: str) -> ModuleType:
    name = f"{PREFIX}{text_sha256(path)[:16]}_{text_sha256(text)[:16]}"
    spec = spec_from_loader(name, TextLoader(path, text))
    assert spec is not None
    module = sys.modules[name] = module_from_spec(spec)
    try:
        assert spec.loader is not None
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:
        del sys.modules[name]
        raise AdapterError(_failed(path, error)) from error
    _CURRENT[path] = module
    return module


def _failed(path: str, error: BaseException) -> str:
    """What went wrong while a file was run, with the innermost line of that file."""
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == path]
    said = " ".join(str(error).split())
    if isinstance(error, SyntaxError) and error.filename == path:
        lines, said = [error.lineno], error.msg
    return (
        f"{type(error).__name__}: {said} ({path}:{lines[-1]})" if lines else f"{path}: {type(error).__name__}: {said}"
    )
