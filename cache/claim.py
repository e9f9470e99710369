"""One writer per cache in an object store: a claim, `claims/cache.json` in the cache, or `claims/shard-2-of-4.json`.

A claim is an object that is created on the condition that there is none, and names its holder. It expires: the holder
puts it anew every few seconds, on the condition that it still is what it was, and who comes second watches whether it
changes. One that does not for WATCH seconds is another's to replace, on that same condition: of two that try, one wins.
Only changes are looked at, never a clock.
"""

from __future__ import annotations

import json
import os
import re
import socket
import threading
import time
import uuid
from types import TracebackType

from mma.cache.errors import CacheError, LockedError
from mma.cache.objects import Objects, StoredObject, unconditional
from mma.cache.schema import Shard

CLAIMS = "claims/"
BEAT = 5.0  # seconds between puts
WATCH = 30.0  # seconds without one, and the holder is dead


class Claim:
    """The right to write one cache or one shard, held from creation to `release`. LockedError where another has it,
    CacheError where the store cannot give it.
    """

    def __init__(self, place: Objects, shard: Shard | None = None) -> None:
        self._place, self._name = place, claim_name(shard)
        self._what = f"shard {shard} of {place.location}" if shard else place.location
        self._token, self._beats = uuid.uuid4().hex, 0
        self._seen = self._acquire()
        self._ended = threading.Event()
        try:
            self._check_conditions()
        except BaseException:
            self._place.delete([self._name])
            raise
        self._beat = threading.Thread(target=self._keep_beating, daemon=True, name="cache-claim")
        self._beat.start()

    def check(self) -> None:
        """CacheError where the claim was taken over: this process was stopped, or cut off, for too long."""
        seen = self._place.look(self._name)
        if not self._ours(seen):
            raise CacheError(f"{self._what}: the claim was lost to {_holder(seen)}: this process stops writing")

    def release(self) -> None:
        """Give the right back. A second call does nothing. A claim that cannot be removed expires."""
        if self._ended.is_set():
            return
        self._ended.set()
        self._beat.join()
        try:
            if self._ours(self._place.look(self._name)):
                self._place.delete([self._name])
        except (CacheError, OSError):
            pass

    def __enter__(self) -> Claim:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.release()

    def _acquire(self) -> StoredObject:
        while True:
            if made := self._place.create(self._name, self._body()):
                return made
            there = self._place.look(self._name)
            if there is None:
                continue  # its holder has just let go
            if self._ours(there):
                return there  # it was this put, and its answer was lost
            if self._changes(there):
                raise self._refusal(there)
            if made := self._place.replace(self._name, self._body(), there):
                return made
            now = self._place.look(self._name)
            if self._ours(now) and now:
                return now
            raise self._refusal(now)

    def _changes(self, first: StoredObject) -> bool:
        end = time.monotonic() + WATCH
        while time.monotonic() < end:
            time.sleep(BEAT / 4)
            seen = self._place.look(self._name)
            if seen is None or seen.data != first.data:
                return True
        return False

    def _check_conditions(self) -> None:
        """CacheError where the store puts objects although a condition does not hold."""
        first = self._seen
        if self._place.create(self._name, self._body()):
            raise CacheError(unconditional(self._place.location))
        self._renew()
        if self._place.replace(self._name, self._body(), first):
            raise CacheError(unconditional(self._place.location))

    def _keep_beating(self) -> None:
        while not self._ended.wait(BEAT):
            try:
                if not self._renew():
                    return  # `check` says so
            except (CacheError, OSError):
                pass  # the next beat may come through; `check` finds out where none does

    def _renew(self) -> bool:
        """Put the claim anew; whether it still is ours."""
        self._beats += 1
        made = self._place.replace(self._name, self._body(), self._seen)
        if made is None:
            there = self._place.look(self._name)
            made = there if self._ours(there) else None  # the put came through, and its answer did not
        if made:
            self._seen = made
        return made is not None

    def _body(self) -> bytes:
        holder = {"host": socket.gethostname(), "pid": os.getpid(), "token": self._token, "beat": self._beats}
        return json.dumps(holder).encode()

    def _ours(self, seen: StoredObject | None) -> bool:
        return seen is not None and _record(seen).get("token") == self._token

    def _refusal(self, seen: StoredObject | None) -> LockedError:
        return LockedError(f"{self._what} is being written by {_holder(seen)}: wait for it, or stop it")


def claim_name(shard: Shard | None) -> str:
    """The object of a claim."""
    return f"{CLAIMS}shard-{shard.index}-of-{shard.count}.json" if shard else f"{CLAIMS}cache.json"


def claimed_shards(place: Objects) -> list[Shard]:
    """The shards of a cache that have a claim, be it of a process that is dead."""
    named = [re.fullmatch(rf"{CLAIMS}shard-(\d+)-of-(\d+)\.json", name) for name in place.sizes(CLAIMS)]
    return [Shard(int(one[1]), int(one[2])) for one in named if one]


def _record(seen: StoredObject | None) -> dict[str, object]:
    try:
        record = json.loads(seen.data) if seen else {}
        return record if isinstance(record, dict) else {}
    except (ValueError, RecursionError):
        return {}


def _holder(seen: StoredObject | None) -> str:
    record = _record(seen)
    return f"process {record.get('pid')} on {record.get('host')}" if "pid" in record else "another process"
