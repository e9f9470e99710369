"""A cache in a folder of a disk."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path

from mma.cache.durable import PARTIAL, read_file, sync, sync_files, sync_tree, write_whole
from mma.cache.errors import CacheError
from mma.cache.killpoint import step
from mma.cache.place import UNITS, Place


class Disk(Place):
    """A folder."""

    def __init__(self, path: Path) -> None:
        self.location = str(path)
        self.path = path

    def read(self, name: str) -> bytes | None:
        """As of every place. A link is not followed, and a pipe not waited for."""
        try:
            return read_file(self.path / name)
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as error:
            link = error.errno == errno.ELOOP
            reason = "it is a link" if link else error.strerror or error
            raise CacheError(f"{self.location}: {name} cannot be read ({reason})") from error

    def sizes(self, below: str = "") -> dict[str, int]:
        """As of every place."""
        base = self.path.absolute()
        files = [Path(folder, name) for folder, _, names in os.walk(base / below) for name in names]
        return {file.relative_to(base).as_posix(): file.lstat().st_size for file in sorted(files)}

    def exists(self) -> bool:
        """Whether the folder is there."""
        return self.path.exists()

    def strange_folder(self, name: str) -> str | None:
        """As of every place."""
        for above in [*Path(name).parents][-2::-1]:
            place = self.path / above
            if place.is_symlink() or (place.exists() and not place.is_dir()):
                return above.as_posix()
        return None

    def set_aside(self, name: str) -> None:
        """As of every place."""
        place = self.path / name
        aside = place.with_name(f"{place.name}.was")
        if aside.is_symlink() or aside.is_file():
            aside.unlink()
        place.rename(aside)

    def write(self, files: Mapping[str, bytes]) -> None:
        """As of every place; on return the files are on the disk, and the folders above them after `sync`."""
        for name, data in files.items():
            write_whole(self.path / name, data)

    def sync(self, names: Iterable[str]) -> None:
        """As of every place."""
        sync_files(self.path, names)

    def keep(self, name: str, data: bytes) -> bytes:
        """As of every place. It is no exclusion of others: the lock is (lock.py)."""
        if not (self.path / name).exists():
            self.write({name: data})
        return self.read(name) or b""

    def append(self, name: str, data: bytes) -> None:
        """As of every place."""
        with (self.path / name).open("ab") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())

    def delete(self, names: Collection[str]) -> None:
        """As of every place; folders that are left empty go too."""
        folders = set()
        for name in names:
            (self.path / name).unlink(missing_ok=True)
            folders |= {self.path / above for above in [*Path(name).parents][:-1]}
        for folder in sorted(folders, reverse=True):
            if folder.is_dir() and not any(folder.iterdir()):
                folder.rmdir()
        if names:
            sync(self.path)

    def sweep(self, known: Collection[str]) -> None:
        """As of every place; folders that are empty go too."""
        known = set(known)
        of_units = [file for folder in UNITS for file in self.path.glob(f"{folder}**/*")]
        for file in [*of_units, *self.path.glob(f"*{PARTIAL}")]:
            is_folder = file.is_dir() and not file.is_symlink()
            if not is_folder and file.relative_to(self.path).as_posix() not in known:
                file.unlink()
        folders = [folder for folder in self.path.rglob("*") if folder.is_dir() and not folder.is_symlink()]
        for folder in sorted(folders, reverse=True):
            if not any(folder.iterdir()):
                folder.rmdir()

    def lay_out(self, files: Mapping[str, bytes]) -> None:
        """As of every place: written beside, and renamed."""
        draft = self.path.with_name(f".{self.path.name}.creating")
        shutil.rmtree(draft, ignore_errors=True)
        with step("create.draft"):
            for name, data in files.items():
                (draft / name).parent.mkdir(parents=True, exist_ok=True)
                (draft / name).write_bytes(data)
            sync_tree(draft)
        with step("create.rename"):
            draft.rename(self.path)
            sync(self.path.parent)
