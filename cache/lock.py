"""One writer per cache: a lock file beside it, `.food101.zarr.lock`, that names its holder.

(In an object store it is a claim, see claim.py.)

Shards of a cache are written at once, one process each, with a lock each: `.food101.zarr.shard-2-of-4.lock`. They take
the cache's own lock for moments alone, to lay it out, to add texts and to publish it.

It belongs to the place where the cache is, however many links lead there, and is itself never reached through one.

The kernel's lock (flock) on the file is what excludes; it ends with its process, however that ends. Where it may not
reach (another host on a shared disk, a file system without it), the holder's heartbeat decides: it touches the file
every few seconds, and who comes second watches for that before taking over. Only changes of the file's time are looked
at, never its distance to a clock.
"""

from __future__ import annotations

import errno
import glob
import json
import os
import re
import socket
import stat
import sys
import threading
import time
from pathlib import Path
from types import TracebackType
from typing import Self

from mma.cache.claim import Claim, claim_name, claimed_shards
from mma.cache.disk import Disk
from mma.cache.durable import read_file
from mma.cache.errors import CacheError, LockedError
from mma.cache.objects import Objects
from mma.cache.schema import Shard
from mma.cache.where import Location, place_of

if sys.platform != "win32":  # there, the heartbeat alone decides
    import fcntl

BEAT = 2.0  # seconds between touches
WATCH = 15.0  # seconds without one, and the holder is dead
NAMING = 1.0  # seconds that a holder has to write its name
PATIENCE = 60.0  # seconds that a shard waits for the cache's own lock: others hold it to lay out, or to publish
NO_LINK = getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)


def refuse_if_locked(cache: Location, shard: Shard | None = None) -> None:
    """LockedError where another process is writing the cache, or this shard of it: to say so early. Only a lock itself
    is safe.
    """
    if _is_locked(cache, shard):
        writer_lock(cache, shard).release()
    _refuse_shards(cache, shard)


def writer_lock(cache: Location, shard: Shard | None = None) -> CacheLock | Claim:
    """The right to write a cache, or a shard of it, at a place of whichever kind. Errors as of `CacheLock`."""
    place = place_of(cache)
    if isinstance(place, Disk):
        return CacheLock(place.path, shard)
    if isinstance(place, Objects):
        return Claim(place, shard)
    raise CacheError(f"{place.location} is only read: a cache is written to a folder, or to s3://, gs:// or az://")


def only_writer(cache: Location) -> CacheLock | Claim:
    """The right to write a cache alone. LockedError where another process writes it, or a shard of it."""
    lock = writer_lock(cache)
    try:
        _refuse_shards(cache, None)
    except BaseException:
        lock.release()
        raise
    return lock


def shard_writer(cache: Location, shard: Shard) -> CacheLock | Claim:
    """The right to write one shard, taken by who has the cache's own lock. LockedError where another process has it, or
    where the cache is being written in another number of shards.
    """
    _refuse_shards(cache, shard)
    return writer_lock(cache, shard)


def wait_for_lock(cache: Location) -> CacheLock | Claim:
    """The cache's own lock, as soon as others let go of it. LockedError where they do not for PATIENCE."""
    end = time.monotonic() + PATIENCE
    while True:
        try:
            return writer_lock(cache)
        except LockedError:
            if time.monotonic() > end:
                raise
            time.sleep(0.1)


class CacheLock:
    """The right to write one cache or one shard, held from creation to `release`. LockedError where another process
    has it, CacheError where there can be none.
    """

    def __init__(self, cache: Path, shard: Shard | None = None) -> None:
        self._path = _lock_file(cache, shard)
        self._cache = cache
        self._what = f"shard {shard} of {cache}" if shard else str(cache)
        try:
            cache.parent.mkdir(parents=True, exist_ok=True)
            self._handle = self._acquire()
        except OSError as error:
            if error.errno == errno.ELOOP and self._path.is_symlink():
                raise CacheError(f"{self._path} is a link, not a lock file: remove it") from error
            raise CacheError(f"{cache} cannot be written ({error.strerror or error}): choose another place") from error
        self._ended = threading.Event()
        self._beat = threading.Thread(target=self._keep_beating, daemon=True, name="cache-lock")
        self._beat.start()

    def check(self) -> None:
        """CacheError where the lock was taken over: this process was stopped for too long."""
        if not self._is_ours():
            raise CacheError(f"{self._what}: the lock was lost to {self._holder()}: this process stops writing")

    def release(self) -> None:
        """Give the right back. A second call does nothing."""
        if self._ended.is_set():
            return
        self._ended.set()
        self._beat.join()
        if self._is_ours():
            self._path.unlink(missing_ok=True)
        os.close(self._handle)

    def __enter__(self) -> CacheLock:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.release()

    def _acquire(self) -> int:
        while True:
            handle = os.open(self._path, os.O_RDWR | os.O_CREAT | NO_LINK, 0o644)
            try:
                if not stat.S_ISREG(os.fstat(handle).st_mode):
                    raise CacheError(f"{self._path} is not a lock file: remove it")
                kernel = self._kernel_lock(handle)
                if not self._same_file(handle):
                    os.close(handle)
                    continue  # its last holder removed it in between
                here, holder = socket.gethostname(), self._holder_record()
                certain = holder is None or (kernel and holder.get("host") == here)
                # without the kernel's lock only the heartbeat tells: another container has process ids of its own
                if not certain and self._beats():
                    raise self._refusal()
                os.ftruncate(handle, 0)
                os.lseek(handle, 0, os.SEEK_SET)
                os.write(handle, json.dumps({"host": here, "pid": os.getpid()}).encode())
                os.fsync(handle)
                if not kernel:
                    time.sleep(BEAT)  # two that came at once have both written by now, and one name stands
                    if not self._names_us():
                        raise self._refusal()
            except BaseException:
                os.close(handle)
                raise
            return handle

    def _kernel_lock(self, handle: int) -> bool:
        """Whether flock was granted; False where there is none. CacheError where another has it."""
        if sys.platform != "win32":
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return True
            except OSError as error:
                if error.errno in (errno.EWOULDBLOCK, errno.EACCES):
                    raise self._refusal() from error
        return False

    def _beats(self) -> bool:
        first = self._touched()
        end = time.monotonic() + WATCH
        while time.monotonic() < end:
            time.sleep(BEAT / 4)
            if self._touched() != first:
                return True
        return False

    def _keep_beating(self) -> None:
        while not self._ended.wait(BEAT):
            try:
                if self._is_ours():
                    os.utime(self._path, follow_symlinks=False)
            except OSError:
                pass  # `check` will find out

    def _touched(self) -> int:
        try:
            return self._path.lstat().st_mtime_ns
        except FileNotFoundError:
            return 0

    def _same_file(self, handle: int) -> bool:
        try:
            return os.path.samestat(os.fstat(handle), self._path.lstat())
        except FileNotFoundError:
            return False

    def _is_ours(self) -> bool:
        return self._names_us() and self._same_file(self._handle)

    def _names_us(self) -> bool:
        return self._holder_record() == {"host": socket.gethostname(), "pid": os.getpid()}

    def _holder_record(self) -> dict[str, object] | None:
        try:
            record = json.loads(read_file(self._path))
            return record if isinstance(record, dict) else None
        except (OSError, ValueError, RecursionError):
            return None

    def _holder(self) -> str:
        end = time.monotonic() + NAMING
        while not (record := self._holder_record()) and self._path.exists() and time.monotonic() < end:
            time.sleep(0.01)  # it has the kernel's lock, and is about to write its name
        return f"process {record.get('pid')} on {record.get('host')}" if record else "another process"

    def _refusal(self) -> LockedError:
        return LockedError(f"{self._what} is being written by {self._holder()}: wait for it, or stop it")


class LockHolder:
    """A writer under a lock. Close it, or use it as a context manager, to let another process write."""

    _lock: CacheLock | Claim

    def close(self) -> None:
        """Let another process write."""
        self._lock.release()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()


def _is_locked(cache: Location, shard: Shard | None) -> bool:
    place = place_of(cache)
    if isinstance(place, Objects):
        return place.look(claim_name(shard)) is not None
    return isinstance(place, Disk) and _lock_file(place.path, shard).exists()


def _refuse_shards(cache: Location, own: Shard | None) -> None:
    """LockedError where a shard is being written; beside a shard of one's own, only those of another number count."""
    place = place_of(cache)
    held: list[Shard] = []
    if isinstance(place, Objects):
        held = claimed_shards(place)
    elif isinstance(place, Disk):
        real = Path(os.path.realpath(place.path))
        for file in real.parent.glob(f".{glob.escape(real.name)}.shard-*.lock"):
            if named := re.fullmatch(r".*\.shard-(\d+)-of-(\d+)\.lock", file.name):
                held.append(Shard(int(named[1]), int(named[2])))
    for shard in held:
        if own is None or shard.count != own.count:
            writer_lock(cache, shard).release()


def _lock_file(cache: Path, shard: Shard | None = None) -> Path:
    place = Path(os.path.realpath(cache))
    part = f".shard-{shard.index}-of-{shard.count}" if shard else ""
    return place.parent / f".{place.name}{part}.lock"
