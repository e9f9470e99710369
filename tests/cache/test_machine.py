"""Any sequence of writing, dying, resuming, damage, verifying, repairing and adding text ends in the same bytes."""

from __future__ import annotations

import shutil
import tempfile
from functools import cache
from pathlib import Path

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import settings
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from mma.cache import CacheError, killpoint, mend, open_cache, verify

from .writing import (
    LAYOUTS,
    TEMPLATES,
    embed,
    embed_text,
    header,
    manifest,
    open_writer,
    snapshot,
    write,
    write_pending,
)

LAYOUT = "small"


class Died(BaseException):
    """What stands here for SIGKILL: nothing of the library catches it."""


def die() -> None:
    raise Died


class CacheMachine(RuleBasedStateMachine):
    @initialize()
    def begin(self) -> None:
        self.folder = Path(tempfile.mkdtemp())
        self.path = self.folder / "rows.zarr"
        self.damaged: set[str] = set()
        self.added = False

    def teardown(self) -> None:
        killpoint.arm("", die)
        if not hasattr(self, "folder"):
            return
        for _ in range(2):  # as the user would: repair, and run the command again
            if self.path.exists():
                mend(self.path, manifest)
            write(self.path, LAYOUT)
        with open_writer(self.path, LAYOUT) as writer:
            if "added" not in writer.prompts:
                writer.write_text("added", TEMPLATES["added"], embed_text(writer.header, "added"))
        assert verify(self.path).faults == []
        assert snapshot(self.path) == reference()
        shutil.rmtree(self.folder)

    @precondition(lambda self: not self.damaged)
    @rule(chunks=st.integers(0, 3), backwards=st.booleans())
    def write_some(self, chunks: int, backwards: bool) -> None:
        with open_writer(self.path, LAYOUT) as writer:
            todo = writer.pending()[:: -1 if backwards else 1]
            write_pending(writer, todo[:chunks])

    @precondition(lambda self: not self.damaged)
    @rule()
    def finish(self) -> None:
        write(self.path, LAYOUT)

    @precondition(lambda self: not self.damaged)
    @rule(point=st.sampled_from(killpoint.POINTS), times=st.integers(1, 4))
    def die_while_writing(self, point: str, times: int) -> None:
        self.die_in(lambda: write(self.path, LAYOUT), point, times)

    @precondition(lambda self: not self.damaged and self.path.exists() and self.complete())
    @rule(point=st.sampled_from(["", *killpoint.POINTS]))
    def add_text(self, point: str) -> None:
        def add() -> None:
            with open_writer(self.path, LAYOUT) as writer:
                if "added" not in writer.prompts:
                    writer.write_text("added", TEMPLATES["added"], embed_text(writer.header, "added"))

        self.die_in(add, point, 1)

    @precondition(lambda self: not self.damaged and self.path.exists() and self.complete())
    @rule(data=st.data(), how=st.sampled_from(["flip", "cut", "empty", "delete"]))
    def damage(self, data: st.DataObject, how: str) -> None:
        """Any one file of the cache."""
        names = sorted(snapshot(self.path))
        name = data.draw(st.sampled_from(names))
        file = self.path / name
        content = file.read_bytes()
        bit = data.draw(st.integers(0, len(content) * 8 - 1))
        worse = bytearray(content)
        worse[bit // 8] ^= 1 << bit % 8
        if how == "delete":
            file.unlink()
        else:
            file.write_bytes({"flip": bytes(worse), "cut": content[: bit // 8], "empty": b""}[how])
        self.damaged.add(name)

    @precondition(lambda self: self.damaged)
    @rule()
    def verify_names_the_damage(self) -> None:
        assert {fault.file for fault in verify(self.path).faults} == self.damaged

    @precondition(lambda self: self.damaged)
    @rule(point=st.sampled_from(["", *killpoint.POINTS]), times=st.integers(1, 3))
    def repair(self, point: str, times: int) -> None:
        def work() -> None:
            mend(self.path, manifest)
            write(self.path, LAYOUT)

        self.die_in(work, point, times)
        self.die_in(work, "", 1)
        self.damaged.clear()

    @invariant()
    def what_is_read_is_right_or_refused(self) -> None:
        if not hasattr(self, "path") or not self.path.exists():
            return
        try:
            found = open_cache(self.path, partial=True)
            splits = {split: found.split(split) for split in found.header.rows}
        except CacheError:
            assert self.damaged
            return
        about = header(LAYOUTS[LAYOUT])
        for chunk in about.chunks():
            if chunk.unit in found.journal:
                values, failures = embed(about, chunk)
                for row, *_ in failures:
                    values[row - chunk.start] = np.nan
                stored = splits[chunk.split].embedding[chunk.start : chunk.stop]
                assert np.array_equal(stored, values.astype(np.float16), equal_nan=True)

    def complete(self) -> bool:
        return open_cache(self.path, partial=True).complete

    def die_in(self, work: object, point: str, times: int) -> None:
        killpoint.arm(point, die, times)
        try:
            work()  # type: ignore[operator]
        except Died:
            pass
        finally:
            killpoint.arm("", die)


@cache
def reference() -> dict[str, str]:
    """The files of a cache to which nothing happened."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "rows.zarr"
        write(path, LAYOUT)
        with open_writer(path, LAYOUT) as writer:
            writer.write_text("added", TEMPLATES["added"], embed_text(writer.header, "added"))
        return snapshot(path)


CacheMachine.TestCase.settings = settings(max_examples=12, stateful_step_count=12, deadline=None)
test_any_history_ends_in_the_same_bytes = pytest.mark.slow(CacheMachine.TestCase)
