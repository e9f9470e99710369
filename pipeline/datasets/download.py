"""Get a file from the network: resumed, checked, bounded; what is not whole never bears its name.

A download grows in `<name>.part`; it is renamed when its length and its checksum are right.
"""

from __future__ import annotations

import hashlib
import http.client
import os
import shutil
import socket
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote, urlsplit

from rich.console import Console

from mma.pipeline.datasets.catalog import Archive
from mma.pipeline.datasets.unpack import unpack
from mma.pipeline.errors import UsageError, WorkError
from mma.pipeline.progress import size, track
from mma.pipeline.regular_files import open_regular

BLOCK = 1 << 20  # bytes read at a time
MEGABYTE = 1_000_000
RESERVE = 500_000_000  # bytes of disk that a download leaves free


@dataclass(frozen=True)
class Wanted:
    """The file that is to be there."""

    file: Path
    checksum: str = ""  # "sha256:..." or "md5:...", where one is published
    length: int | None = None  # bytes it must have
    spare: int = 0  # bytes to leave free for what comes after

    @property
    def part(self) -> Path:
        """Where it grows."""
        return self.file.with_name(f"{self.file.name}.part")

    @property
    def have(self) -> int:
        """Bytes of it that are there."""
        return self.part.stat().st_size if self.part.exists() else 0


@dataclass(frozen=True)
class Patience:
    """How long to wait for a server."""

    timeout: float = 30.0  # seconds without a byte until the connection counts as dead
    tries: int = 5  # connections in a row that bring nothing, until a server counts as out of reach
    pause: float = 1.0  # seconds before the second connection, doubled for every further one


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
        wanted = Wanted(into / name, archive.checksum, archive.bytes, archive.unpacked)
        file = fetch(archive.urls, wanted, console)
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


def fetch(urls: Sequence[str], wanted: Wanted, console: Console, patience: Patience = Patience()) -> Path:
    """Download a file from the first of `urls` that has it, continuing where an earlier attempt ended.

    Raises WorkError where no server gives the right file, UsageError where the disk has no room.
    """
    file, part = wanted.file, wanted.part
    if file.exists():
        try:
            _check(file, wanted.checksum)
        except _Wrong as wrong:
            raise WorkError(f"{file}: {wrong}: delete it, and it is fetched again") from wrong
        return file
    reasons = []
    for url in urls:
        try:
            with _progress(console, file.name, wanted.length) as advance:
                _download(url, wanted, patience, advance)
            _check(part, wanted.checksum)
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
    kept = f" ({size(wanted.have)} are kept, and the same command goes on from there)" if part.exists() else ""
    raise WorkError(f"{file.name} cannot be downloaded: {'; '.join(reasons)}{kept}")


def _download(url: str, wanted: Wanted, patience: Patience, advance: Callable[[int], None]) -> None:
    """Connect until the file is whole, or `tries` connections in a row bring nothing."""
    fruitless = 0
    while True:
        before = wanted.have
        try:
            _continue(url, wanted, patience.timeout, advance)
            return
        except _Offline:
            raise
        except _Broken:
            fruitless = 0 if wanted.have > before else fruitless + 1
            if fruitless >= patience.tries:
                raise
        time.sleep(patience.pause * 2 ** max(0, fruitless - 1))


def _continue(url: str, wanted: Wanted, timeout: float, advance: Callable[[int], None]) -> None:
    """One connection: append to the part until it is whole. Raises _Broken or _Wrong."""
    part, length, have = wanted.part, wanted.length, wanted.have
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
        _check_room(part, (most or 0) - start + wanted.spare)
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
    with open_regular(part) as file:
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
