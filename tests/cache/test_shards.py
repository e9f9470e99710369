"""Shards of one cache: any order, any number at once, killed anywhere; the cache is as one process would write it."""

from __future__ import annotations

import os
import signal
import socket
from pathlib import Path

import pytest

from mma.cache import (
    CacheError,
    CacheWriter,
    Shard,
    ShardWriter,
    lock,
    mend_replacement,
    merge_shards,
    open_cache,
    replacing,
    verify,
)

from .writing import LAYOUTS, Server, header, manifest, open_writer, snapshot, write, write_shard

LAYOUT, SMALL = "ragged", "small"
TWO = ["1/2", "2/2"]
SHARD_POINTS = [
    *("create.rename:before", "create.rename:after", "text.sync:after", "chunk.sync:after"),
    *("receipt.write:before", "receipt.write:after", "receipts.remove:before", "receipts.remove:after"),
    *("journal.append:after", "root.publish:before"),
]


def join(path: Path, shard: Shard, **changes: object) -> ShardWriter:
    about = header(LAYOUTS[LAYOUT], **changes)
    return ShardWriter.join(path, about, shard, lambda: manifest(about))


@pytest.mark.parametrize("order", [[1], [2, 1], [3, 1, 2], [2, 5, 4, 1, 3]])
def test_shards_in_any_order_give_the_bytes_of_one_run(
    order: list[int], expected: dict[str, dict[str, str]], tmp_path: Path
) -> None:
    path = tmp_path / "rows.zarr"
    ended = [write_shard(path, SMALL, Shard(index, len(order))) for index in order]
    assert ended[-1]
    assert snapshot(path) == expected[SMALL]
    assert [entry.name for entry in tmp_path.iterdir()] == ["rows.zarr"]


@pytest.mark.slow
@pytest.mark.parametrize("point", SHARD_POINTS)
def test_a_shard_killed_at_any_point_continues_to_the_same_bytes(
    point: str, server: Server, expected: dict[str, dict[str, str]], tmp_path: Path
) -> None:
    path = tmp_path / "rows.zarr"
    killed = [server.run(shard, path, SMALL, point) for shard in ("2/2", "1/2")]
    assert -signal.SIGKILL in killed, f"{point} was never reached"
    if path.exists():
        assert verify(path).faults == []
    assert [server.run(shard, path, SMALL) for shard in ("2/2", "1/2")] == [0, 0]
    assert snapshot(path) == expected[SMALL]
    assert [entry.name for entry in tmp_path.iterdir()] == ["rows.zarr"]


@pytest.mark.slow
def test_two_processes_at_once_make_one_right_cache(expected: dict[str, dict[str, str]], tmp_path: Path) -> None:
    path, servers = tmp_path / "rows.zarr", [Server() for _ in TWO]
    try:
        for server, shard in zip(servers, TWO, strict=True):
            server.start(shard, path, LAYOUT)
        assert [server.ended() for server in servers] == [0, 0]
    finally:
        for server in servers:
            server.close()
    assert snapshot(path) == expected[LAYOUT]


def test_a_shard_that_was_killed_does_again_only_what_has_no_receipt(server: Server, tmp_path: Path) -> None:
    path = tmp_path / "rows.zarr"
    assert server.run("2/2", path, LAYOUT, "chunk.sync:after", times=3) == -signal.SIGKILL
    assert open_cache(path, partial=True).progress() == (2, 10)
    with join(path, Shard(2, 2)) as writer:
        assert [chunk.unit for chunk in writer.pending()] == ["image/train/5", "image/test/0", "image/test/2"]


def test_of_two_that_claim_one_shard_the_second_refuses_and_names_the_first(tmp_path: Path) -> None:
    path = tmp_path / "rows.zarr"
    with join(path, Shard(2, 4)):
        named = f"shard 2/4 of .* is being written by process {os.getpid()} on {socket.gethostname()}"
        with pytest.raises(CacheError, match=named):
            join(path, Shard(2, 4))
        join(path, Shard(3, 4)).close()


def test_shards_and_a_run_of_the_whole_exclude_each_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "rows.zarr"
    monkeypatch.setattr(lock, "PATIENCE", 0.2)
    with join(path, Shard(1, 4)):
        for open_whole in (lambda: open_writer(path, LAYOUT), lambda: CacheWriter.reopen(path)):
            with pytest.raises(CacheError, match=r"shard 1/4 of .* is being written by process"):
                open_whole()
        with pytest.raises(CacheError, match=r"shard 1/4 of .* is being written by process"):
            lock.refuse_if_locked(path)
        with (
            pytest.raises(CacheError, match=r"shard 1/4 of .* is being written by process"),
            replacing(path, header(LAYOUTS[SMALL]), manifest(header(LAYOUTS[SMALL]))),
        ):
            pass
        with pytest.raises(CacheError, match=r"shard 1/4 of .* is being written by process"):
            join(path, Shard(1, 8))
    with open_writer(path, LAYOUT), pytest.raises(CacheError, match=r"rows.zarr is being written by process"):
        join(path, Shard(1, 4))


def test_a_killed_replacement_is_mended_by_nobody_while_a_shard_is_written(tmp_path: Path) -> None:
    path, aside = tmp_path / "rows.zarr", tmp_path / ".rows.zarr.was"
    with join(path, Shard(1, 4)):
        path.rename(aside)
        with pytest.raises(CacheError, match=r"shard 1/4 of .* is being written by process"):
            mend_replacement(path)
        assert aside.exists()
    mend_replacement(path)
    assert open_cache(path, partial=True).progress() == (0, 10)


def test_a_run_of_the_whole_takes_up_what_shards_have_done(
    server: Server, expected: dict[str, dict[str, str]], tmp_path: Path
) -> None:
    path = tmp_path / "rows.zarr"
    assert server.run("1/4", path, LAYOUT) == 0
    assert server.run("3/4", path, LAYOUT, "receipt.write:after") == -signal.SIGKILL
    done = list(path.rglob("image/*/embedding/c/*/0/0"))
    before = {file: file.stat().st_mtime_ns for file in done}
    write(path, LAYOUT)
    assert {file: file.stat().st_mtime_ns for file in done} == before
    assert len(done) == 4
    assert snapshot(path) == expected[LAYOUT]


def test_a_shard_of_another_fingerprint_is_refused_with_the_difference(tmp_path: Path) -> None:
    path = tmp_path / "rows.zarr"
    join(path, Shard(1, 2)).close()
    with pytest.raises(CacheError, match=r"made differently.*\n  model: rows \(stored\), another \(asked for\)"):
        join(path, Shard(2, 2), fingerprint={"model": "another", "views": 1})
    join(path, Shard(2, 2), chunk=7, batch=7).close()  # the cache's own sizes hold


def test_merge_publishes_finished_shards_and_names_what_is_missing(
    server: Server, expected: dict[str, dict[str, str]], tmp_path: Path
) -> None:
    path = tmp_path / "rows.zarr"
    assert server.run("1/2", path, LAYOUT) == 0
    with pytest.raises(CacheError, match="lacks 5 of 10 chunks, the first is image/train/1: run the shards"):
        merge_shards(path)
    assert server.run("2/2", path, LAYOUT, "journal.append:before") == -signal.SIGKILL  # as it published
    merge_shards(path)
    assert snapshot(path) == expected[LAYOUT]
    merge_shards(path)


def test_a_receipt_that_is_none_counts_for_nothing(expected: dict[str, dict[str, str]], tmp_path: Path) -> None:
    path = tmp_path / "rows.zarr"
    write_shard(path, LAYOUT, Shard(1, 2))
    folder = path / "receipts/image/train"
    (folder / "0.json").write_text("{}\n")
    (folder / "2.json").write_bytes((folder / "4.json").read_bytes())
    (folder / "x.json").write_text("\xff")
    assert open_cache(path, partial=True).progress() == (3, 10)
    write_shard(path, LAYOUT, Shard(2, 2))
    write_shard(path, LAYOUT, Shard(1, 2))
    assert snapshot(path) == expected[LAYOUT]
