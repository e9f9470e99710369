"""Who runs which cell: two grids over one store run every cell once.

A cell is claimed when it is about to be run; its record takes the claim away. While a process lives it touches its
claims every few seconds. A claim is left over where its process is known to be dead (it was of this machine and this
container), or where WATCH seconds have brought no touch: then the cell is free again, and its claim remembers that a
process died with it. Only changes of `beat` are looked at, never its distance to a clock.
"""

from __future__ import annotations

import os
import socket
import sqlite3
import sys
import threading
import time
import uuid
from collections.abc import Collection
from contextlib import suppress
from pathlib import Path

from mma.pipeline.errors import WorkError

BEAT = 2.0  # seconds between touches
WATCH = 20.0  # seconds without one, and the process is dead
NOBODY = ""

TABLE = """
create table if not exists claims (
    cell text primary key, owner text not null, beat integer not null, deaths integer not null, counts integer not null
);
"""
# owner   place, process id and a random word, or nobody
# beat    goes up while the owner lives
# deaths  how many processes have died while they ran the cell
# counts  whether the cell is run on the owner's machine, so that it may be what the owner dies of
COLUMNS = "cast(owner as text), cast(beat as integer), cast(deaths as integer), cast(counts as integer)"


class Claims:
    """The claims of one process on the cells of a store. Use from one thread; `close` gives back what is left."""

    def __init__(self, path: Path, *, counts: bool = True) -> None:
        self._path, self._counts = path, counts
        self._owner = f"{_place()} {os.getpid()} {uuid.uuid4().hex[:8]}"
        self._seen: dict[str, tuple[int, float]] = {}  # by cell: the last beat of another's claim, and when it came
        self._db = _connect(path)
        self._ended = threading.Event()
        self._beating = threading.Thread(target=self._beat, daemon=True, name="claims")
        self._beating.start()

    def take(self, cell: str, *, recorded: bool = False) -> bool:
        """Claim a cell. False where another process runs it; or has recorded it, unless it was `recorded` before."""
        try:
            self._db.execute("begin immediate")
            try:
                done = not recorded and self._db.execute("select 1 from cells where id = ?", (cell,)).fetchone()
                row = self._db.execute(f"select {COLUMNS} from claims where cell = ?", (cell,))
                owner, beat, deaths, counts = row.fetchone() or (NOBODY, 0, 0, 0)
                free = not done and not self._lives(cell, owner, beat)
                if free:
                    deaths += bool(counts) and owner not in (NOBODY, self._owner)
                    values = (cell, self._owner, beat + 1, deaths, self._counts)
                    self._db.execute("insert or replace into claims values (?, ?, ?, ?, ?)", values)
            finally:
                self._db.execute("commit")
        except sqlite3.DatabaseError as error:
            raise WorkError(f"{self._path} cannot be written ({error}); what is recorded is kept") from error
        return free

    def deaths(self) -> dict[str, int]:
        """By cell that no living process runs: how many processes have died while they ran it."""
        rows = self._db.execute(f"select cell, {COLUMNS} from claims").fetchall()
        return {
            cell: deaths + bool(counts and owner not in (NOBODY, self._owner))
            for cell, owner, beat, deaths, counts in rows
            if not self._lives(cell, owner, beat)
        }

    def held(self, cells: Collection[str]) -> set[str]:
        """Those of some cells that another process runs."""
        rows = self._db.execute(f"select cell, {COLUMNS} from claims").fetchall()
        return {cell for cell, owner, beat, _, _ in rows if cell in cells and self._lives(cell, owner, beat)}

    def __enter__(self) -> Claims:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        """Give back what is claimed and not recorded."""
        self._ended.set()
        self._beating.join()
        with suppress(sqlite3.DatabaseError):  # they are left over then, and found to be
            self._db.execute("delete from claims where owner = ? and deaths = 0", (self._owner,))
            self._db.execute("update claims set owner = ? where owner = ?", (NOBODY, self._owner))
        self._db.close()

    def _lives(self, cell: str, owner: str, beat: int) -> bool:
        """Whether a claim is of another process that may be running."""
        if owner in (NOBODY, self._owner):
            return False
        place, _, process = owner.partition(" ")
        pid = process.partition(" ")[0]
        if place == _place() and pid.isdecimal() and not _runs(int(pid)):
            return False
        before, when = self._seen.get(cell, (None, 0.0))
        if beat != before:
            self._seen[cell] = (beat, time.monotonic())
            return True
        return time.monotonic() - when < WATCH

    def _beat(self) -> None:
        while not self._ended.wait(BEAT):
            with suppress(sqlite3.DatabaseError):  # busy: the next one will do
                db = _connect(self._path)
                db.execute("update claims set beat = beat + 1 where owner = ?", (self._owner,))
                db.close()


def _connect(path: Path) -> sqlite3.Connection:
    db = sqlite3.connect(path, timeout=60.0, isolation_level=None)
    db.text_factory = lambda text: text.decode(errors="replace")
    db.execute("pragma synchronous = normal")  # a claim need not outlive a loss of power
    return db


def _place() -> str:
    """Where a process id means what it means here: this start of this machine, this container."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot}/{os.readlink('/proc/self/ns/pid')}"  # noqa: PTH115 (no path, but a word)
    except OSError:
        return socket.gethostname().replace(" ", "-")


def _runs(pid: int) -> bool:
    if sys.platform == "win32":
        return True  # there, the beats alone tell
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True
    return True
