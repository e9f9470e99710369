"""Kill the writer anywhere, start it again: the cache is as if nothing had happened."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from mma.cache import CacheError, killpoint, open_cache, verify

from .writing import LAYOUTS, Server, open_writer, snapshot, write_pending

LAYOUT = "ragged"


def finish(server: Server, path: Path, layout: str) -> None:
    assert server.run("write", path, layout) == 0
    assert server.run("add", path, layout) == 0


def readers_see_no_half_cache(path: Path) -> None:
    if not path.exists():
        return
    cache = open_cache(path, partial=True)
    if not cache.complete:
        with pytest.raises(CacheError, match="is not complete"):
            open_cache(path)
    assert verify(path).faults == []
    for split in cache.header.rows:
        data = cache.split(split)
        assert np.isfinite(data.embedding).all(axis=(1, 2)).tolist() == data.ok.tolist()


OTHER_RUNS = ("repair", "receipt", "update")  # points of repairs, of shards, of updates


@pytest.mark.parametrize("point", [p for p in killpoint.POINTS if not p.startswith(OTHER_RUNS)])
def test_a_kill_at_every_point_leaves_a_cache_that_continues_to_the_same_bytes(
    point: str, server: Server, expected: dict[str, dict[str, str]], tmp_path: Path
) -> None:
    path = tmp_path / "rows.zarr"
    ended = server.run("write", path, LAYOUT, point)
    readers_see_no_half_cache(path)
    if ended == 0:  # a point that only adding text passes again
        pytest.fail(f"{point} was never reached")
    assert ended == -signal.SIGKILL
    finish(server, path, LAYOUT)
    assert snapshot(path) == expected[LAYOUT]
    assert [entry.name for entry in tmp_path.iterdir()] == ["rows.zarr"]


@pytest.mark.slow
@pytest.mark.parametrize("point", ["text.write", "text.sync", "journal.append", "journal.copy", "root.publish"])
@pytest.mark.parametrize("side", ["before", "after"])
def test_a_kill_while_text_is_added_leaves_the_finished_cache_readable(
    point: str, side: str, server: Server, expected: dict[str, dict[str, str]], tmp_path: Path
) -> None:
    path = tmp_path / "rows.zarr"
    assert server.run("write", path, LAYOUT) == 0
    assert server.run("add", path, LAYOUT, f"{point}:{side}") == -signal.SIGKILL
    cache = open_cache(path)
    assert cache.text("default").embedding.shape == (3, 2, 8)
    assert verify(path).faults == []
    assert server.run("add", path, LAYOUT) == 0
    assert open_cache(path).prompts == ("default", "added")
    assert snapshot(path) == expected[LAYOUT]


WHERE_UPDATE_DIES = [
    *[("update", f"{point}:{side}") for point in ("update.exchange", "update.discard") for side in ("before", "after")],
    *[
        ("update in two steps", f"{step}:{side}")
        for step in ("update.aside", "update.discard")
        for side in ("before", "after")
    ],
    ("update", "chunk.write:after"),
    ("update", "root.publish:before"),
]


@pytest.mark.parametrize(("do", "point"), WHERE_UPDATE_DIES)
def test_a_kill_of_an_update_leaves_the_old_cache_or_the_new_one_and_the_next_run_ends_in_the_new_one(
    do: str, point: str, server: Server, tmp_path: Path
) -> None:
    path, other = tmp_path / "rows.zarr", tmp_path / "unkilled" / "rows.zarr"
    other.parent.mkdir()
    for place in (path, other):
        assert server.run("write", place, "small") == 0
    old = snapshot(path)
    assert server.run("update", other, "one chunk") == 0
    new = snapshot(other)
    assert old != new
    assert server.run(do, path, "one chunk", point) == -signal.SIGKILL
    if do == "update":  # with two renames there is a moment without either, which the next run mends
        readers_see_no_half_cache(path)
        assert path.exists()
    if path.exists():
        assert snapshot(path) in (old, new)
    assert server.run(do, path, "one chunk") == 0
    assert snapshot(path) == new
    assert {entry.name for entry in tmp_path.iterdir()} == {"rows.zarr", "unkilled"}


@pytest.mark.parametrize("times", range(2, 8))
def test_a_kill_in_the_middle_of_the_chunks_keeps_those_that_were_done(
    times: int, server: Server, expected: dict[str, dict[str, str]], tmp_path: Path
) -> None:
    path = tmp_path / "rows.zarr"
    assert server.run("write", path, LAYOUT, "chunk.sync:after", times) == -signal.SIGKILL
    assert open_cache(path, partial=True).progress()[0] == times - 1
    before = {file: path.joinpath(file).stat().st_mtime_ns for file in snapshot(path) if "embedding/c/" in file}
    finish(server, path, LAYOUT)
    done = [f"image/train/embedding/c/{index}/0/0" for index in range(times - 1)][:6]
    assert [file for file in done if before[file] != path.joinpath(file).stat().st_mtime_ns] == []
    assert snapshot(path) == expected[LAYOUT]


@pytest.mark.slow
@pytest.mark.parametrize("layout", [name for name in LAYOUTS if name != "wide"])
def test_random_kills_one_after_another_end_in_the_same_bytes(
    layout: str, server: Server, expected: dict[str, dict[str, str]], tmp_path: Path
) -> None:
    rng = np.random.default_rng(len(layout))
    start = time.monotonic()
    finish(server, tmp_path / "rows.zarr", layout)
    whole = time.monotonic() - start
    kills = 0
    for attempt in range(20):
        path = tmp_path / f"rows{attempt}.zarr"
        for _ in range(3):
            kills += server.kill_after(rng.uniform(0, whole / 2), "write", path, layout)
            readers_see_no_half_cache(path)
        finish(server, path, layout)
        assert snapshot(path) == expected[layout]
        if kills >= 3:
            return
    pytest.fail(f"only {kills} kills hit")


@pytest.mark.slow
def test_a_torn_last_line_of_the_journal_is_cut_at_every_length(
    server: Server, expected: dict[str, dict[str, str]], tmp_path: Path
) -> None:
    path = tmp_path / "rows.zarr"
    assert server.run("write", path, LAYOUT, "journal.append:after", 3) == -signal.SIGKILL
    journal = path / "journal.jsonl"
    lines = journal.read_bytes().splitlines(keepends=True)
    for length in range(0, len(lines[-1]), 23):
        journal.write_bytes(b"".join(lines[:-1]) + lines[-1][:length])
        readers_see_no_half_cache(path)
        assert open_cache(path, partial=True).progress()[0] == len(lines) - 3  # less the manifest, the text, the torn
    with open_writer(path, LAYOUT) as writer:
        write_pending(writer, writer.pending()[:1])
    assert open_cache(path, partial=True).progress()[0] == len(lines) - 2
    finish(server, path, LAYOUT)
    assert snapshot(path) == expected[LAYOUT]


def test_the_environment_variable_arms_a_kill_point(tmp_path: Path) -> None:
    script = f"import {__package__}.writing as w, pathlib; w.write(pathlib.Path('rows.zarr'), '{LAYOUT}')"
    script = f"import sys; sys.path.insert(0, {str(Path(__file__).parents[2])!r}); {script}"
    armed = {**os.environ, "MMA_KILL_AT": "chunk.write:after@3"}
    killed = subprocess.run([sys.executable, "-c", script], cwd=tmp_path, env=armed, check=False)
    assert killed.returncode == -signal.SIGKILL
    assert open_cache(tmp_path / "rows.zarr", partial=True).progress()[0] == 2
