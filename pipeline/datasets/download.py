"""Get a file from the network, and unpack it: resumed, checked, bounded; what is not whole never bears its name.

A download grows in `<name>.part`; it is renamed when its length and its checksum are right. An archive is unpacked
beside its place and moved there when all of it is out.
"""

from __future__ import annotations

import hashlib
import http.client
import os
import shutil
import socket
import stat
import tarfile
import time
import urllib.error
import urllib.request
import zipfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import unquote, urlsplit

from rich.console import Console

from mma.pipeline.datasets.catalog import Archive
from mma.pipeline.datasets.paths import refuse_outside
from mma.pipeline.errors import UsageError, WorkError
from mma.pipeline.progress import size, track

BLOCK = 1 << 20  # bytes read at a time
TIMEOUT = 30.0  # seconds without a byte until the connection counts as dead
TRIES = 5  # connections in a row that bring nothing, until a server counts as out of reach
PAUSE = 1.0  # seconds before the second connection, doubled for every further one
MOST_FILES = 3_000_000  # in one archive; ImageNet has 1.3 million
MEGABYTE = 1_000_000
RESERVE = 500_000_000  # bytes of disk that a download leaves free


class _Broken(Exception):
    """The connection gave less than it should have: worth another one."""


class _Offline(_Broken):
    """The server's name is not known here: no use to ask again at once."""


class _Wrong(Exception):
    """What the server has is not what is wanted: no use to ask again."""


def fetch_archives(archives: Sequence[Archive], root: Path, console: Console) -> None:
    """Download and unpack what `root` does not have yet. Raises WorkError in one line; done parts are kept."""
    for archive in archives:
        if (root / archive.gives).exists():
            continue
        into = root / archive.into
        name = _filename(archive.urls[0])
        about = f" ({size(archive.bytes)})" if archive.bytes else ""
        if not (into / name).exists():
            console.print(f"fetching {name}{about} from {urlsplit(archive.urls[0]).hostname} to {into}")
        file = fetch(
            archive.urls,
            into / name,
            console,
            checksum=archive.checksum,
            length=archive.bytes,
            spare=archive.unpacked,
        )
        if not archive.unpacked:
            continue
        console.print(f"unpacking {file.name}")
        if archive.inner:
            outer = into / ".outer"
            unpack(file, outer, archive.unpacked)
            unpack(outer / archive.inner, into, archive.unpacked)
            shutil.rmtree(outer)
        else:
            unpack(file, into, archive.unpacked)
        file.unlink()


def fetch(
    urls: Sequence[str],
    file: Path,
    console: Console,
    *,
    checksum: str = "",
    length: int | None = None,
    spare: int = 0,
    timeout: float = TIMEOUT,
    tries: int = TRIES,
    pause: float = PAUSE,
) -> Path:
    """Download a file from the first of `urls` that has it, continuing where an earlier attempt ended.

    `checksum` is "sha256:..." or "md5:...", `length` the bytes it must have, `spare` bytes to leave free for what comes
    after. Raises WorkError where no server gives the right file, UsageError where the disk has no room.
    """
    if file.exists():
        try:
            _check(file, checksum)
        except _Wrong as wrong:
            raise WorkError(f"{file}: {wrong}: delete it, and it is fetched again") from wrong
        return file
    part = file.with_name(f"{file.name}.part")
    reasons = []
    for url in urls:
        try:
            with _progress(console, file.name, length) as advance:
                _download(url, part, length, spare, advance, timeout, tries, pause)
            _check(part, checksum)
        except _Wrong as wrong:
            part.unlink(missing_ok=True)
            reasons.append(f"{url}: {wrong}")
        except _Broken as broken:
            reasons.append(f"{url}: {broken}")
        except OSError as error:  # of the disk: those of the network are _Broken
            raise WorkError(f"{part} cannot be written ({error.strerror or error}); what is there is kept") from error
        else:
            part.replace(file)
            return file
    kept = f" ({size(part.stat().st_size)} are kept, and the same command goes on from there)" if part.exists() else ""
    raise WorkError(f"{file.name} cannot be downloaded: {'; '.join(reasons)}{kept}")


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


def _download(
    url: str,
    part: Path,
    length: int | None,
    spare: int,
    advance: Callable[[int], None],
    timeout: float,
    tries: int,
    pause: float,
) -> None:
    """Connect until the file is whole, or `tries` connections in a row bring nothing."""
    fruitless = 0
    while True:
        before = _length(part)
        try:
            _continue(url, part, length, spare, advance, timeout)
            return
        except _Offline:
            raise
        except _Broken:
            fruitless = 0 if _length(part) > before else fruitless + 1
            if fruitless >= tries:
                raise
        time.sleep(pause * 2 ** max(0, fruitless - 1))


def _continue(
    url: str, part: Path, length: int | None, spare: int, advance: Callable[[int], None], timeout: float
) -> None:
    """One connection: append to `part` until it is whole. Raises _Broken or _Wrong."""
    have = _length(part)
    if length is not None and have == length:
        return
    headers = {"User-Agent": "mma", "Accept-Encoding": "identity"}
    if have:
        headers["Range"] = f"bytes={have}-"
    with _open(urllib.request.Request(url, headers=headers), part, timeout) as response:
        start, total = _span(response, have)
        if length is not None and total not in (None, length):
            raise _Wrong(f"it has {total:,} bytes, not {length:,}")
        most = total if total is not None else length
        part.parent.mkdir(parents=True, exist_ok=True)
        _check_room(part, (most or 0) - start + spare)
        with part.open("r+b" if start else "wb") as file:
            file.seek(start)
            advance(start)
            for block in _blocks(response):
                start += len(block)
                if most is not None and start > most:
                    raise _Wrong(f"it sends more than {most:,} bytes")
                file.write(block)
                advance(start)
            file.truncate()
            os.fsync(file.fileno())
    if most is not None and start < most:
        raise _Broken(f"the connection ended after {start:,} of {most:,} bytes")


def _open(request: urllib.request.Request, part: Path, timeout: float) -> http.client.HTTPResponse:
    try:
        response: http.client.HTTPResponse = urllib.request.urlopen(request, timeout=timeout)
        return response
    except urllib.error.HTTPError as error:
        if error.code == 416:  # nothing after what is there: the part is whole, or of another file
            part.unlink(missing_ok=True)
            raise _Broken("the part that was kept did not fit") from error
        if error.code in (408, 429) or error.code >= 500:
            raise _Broken(f"the server says {error.code} {error.reason}") from error
        raise _Wrong(f"the server says {error.code} {error.reason}") from error
    except urllib.error.URLError as error:
        if isinstance(error.reason, socket.gaierror):
            raise _Offline(f"no network, or no such server ({error.reason.strerror})") from error
        raise _Broken(f"no network, or the server is out of reach ({error.reason})") from error
    except (OSError, http.client.HTTPException) as error:
        raise _Broken(f"no network, or the server is out of reach ({error or type(error).__name__})") from error


def _span(response: http.client.HTTPResponse, have: int) -> tuple[int, int | None]:
    """Where the answer begins within the file, and how long the file is, if the server says."""
    if response.status == 206:
        given = response.headers.get("Content-Range", "")
        try:
            span, total = given.removeprefix("bytes ").split("/")
            start = int(span.split("-")[0])
            if start <= have:
                return start, None if total == "*" else int(total)
        except ValueError:
            pass
        raise _Wrong(f"it answers with an odd range {given!r}")
    stated = response.headers.get("Content-Length", "")
    return 0, int(stated) if stated.isdecimal() else None


def _blocks(response: http.client.HTTPResponse) -> Iterator[bytes]:
    """The body, block by block."""
    while True:
        try:
            block = response.read1(BLOCK)
        except (OSError, http.client.HTTPException) as error:  # a stall is a TimeoutError
            raise _Broken(f"the connection broke ({error or type(error).__name__})") from error
        if not block:
            return
        yield block


def _check(part: Path, checksum: str) -> None:
    """Raises _Wrong where the file is not the one wanted."""
    if not checksum:
        return
    kind, _, wanted = checksum.partition(":")
    with part.open("rb") as file:
        found = hashlib.file_digest(file, kind).hexdigest()
    if found != wanted:
        raise _Wrong(f"it is another file ({kind} {found[:12]}..., not {wanted[:12]}...)")


def _check_room(part: Path, wanted: int) -> None:
    free = shutil.disk_usage(part.parent).free
    if free < wanted + RESERVE:
        raise UsageError(
            f"no room for {part.name.removesuffix('.part')}: it needs {size(wanted + RESERVE)}, "
            f"{part.parent} has {size(free)} free"
        )


def _length(part: Path) -> int:
    return part.stat().st_size if part.exists() else 0


def _filename(url: str) -> str:
    return unquote(urlsplit(url).path.rsplit("/", 1)[-1])


@contextmanager
def _progress(console: Console, label: str, length: int | None) -> Iterator[Callable[[int], None]]:
    """A bar in megabytes; call what it yields with the bytes that are there."""
    shown = 0
    with track(console, label, (length or 0) // MEGABYTE, "MB") as advance:

        def show(there: int) -> None:
            nonlocal shown
            if there // MEGABYTE != shown:
                advance(there // MEGABYTE - shown)
                shown = there // MEGABYTE

        yield show


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
