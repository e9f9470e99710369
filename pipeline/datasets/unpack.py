"""Unpack an archive: whole or not at all, bounded, and nothing outside of its folder.

It is unpacked into a draft beside its place, and moved there when all of it is out.
"""

from __future__ import annotations

import shutil
import stat
import tarfile
import zipfile
import zlib
from pathlib import Path

from mma.pipeline.datasets.paths import refuse_outside
from mma.pipeline.errors import UsageError, WorkError
from mma.pipeline.progress import size

MOST_FILES = 3_000_000  # in one archive; ImageNet has 1.3 million


def unpack(archive: Path, into: Path, most: int) -> None:
    """Unpack a .tar, .tar.gz, .tgz or .zip of at most `most` bytes, whole or not at all.

    Raises WorkError for an archive that is damaged, too large, or would write outside of `into`: by a path or a link.
    """
    into.mkdir(parents=True, exist_ok=True)
    draft = into / f".unpacking-{archive.name}"
    shutil.rmtree(draft, ignore_errors=True)
    draft.mkdir()
    try:
        if zipfile.is_zipfile(archive):
            _unzip(archive, draft, most)
        else:
            _untar(archive, draft, most)
        _move(draft, into)
    except (tarfile.FilterError, UsageError) as error:
        raise WorkError(f"{archive} is refused, it would write outside of {into}: {error}") from error
    except (tarfile.TarError, zipfile.BadZipFile, EOFError, zlib.error, RuntimeError) as error:
        if isinstance(error, WorkError):
            raise
        raise WorkError(f"{archive} is damaged ({error}): delete it, and get it again") from error
    except OSError as error:
        raise WorkError(f"{archive} cannot be unpacked ({error.strerror or error})") from error
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def _untar(archive: Path, draft: Path, most: int) -> None:
    total = count = 0
    with tarfile.open(archive, "r|*") as tar:
        for member in tar:
            if not (member.isreg() or member.isdir()):
                raise UsageError(f"{member.name} is a link or a device")
            total, count = total + member.size, count + 1
            _refuse_bomb(archive, total, count, most)
            tar.extract(member, draft, filter="data")


def _unzip(archive: Path, draft: Path, most: int) -> None:
    with zipfile.ZipFile(archive) as opened:
        members = opened.infolist()
        _refuse_bomb(archive, sum(member.file_size for member in members), len(members), most)
        for member in members:
            refuse_outside(member.filename, str(archive))
            if stat.S_ISLNK(member.external_attr >> 16):
                raise UsageError(f"{member.filename} is a link")
            opened.extract(member, draft)  # reads no more than the size it states


def _refuse_bomb(archive: Path, total: int, count: int, most: int) -> None:
    if total > most or count > MOST_FILES:
        raise WorkError(f"{archive} is refused: it unpacks to more than {size(most)} or {MOST_FILES:,} files")


def _move(draft: Path, into: Path) -> None:
    """Move what is in one folder into another, folders that are in both together."""
    for child in sorted(draft.iterdir()):
        target = into / child.name
        if child.is_dir() and target.is_dir():
            _move(child, target)
        else:
            child.replace(target)
