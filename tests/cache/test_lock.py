from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from mma.cache import CacheError, CacheWriter, lock, open_cache, refuse_if_locked
from mma.cache.durable import write_whole

from .writing import LAYOUTS, Server, header, manifest, open_writer, snapshot, write, write_pending


def lock_file(path: Path) -> Path:
    return path.parent / f".{path.name}.lock"


def test_a_second_writer_refuses_and_names_the_first(tmp_path: Path) -> None:
    path = tmp_path / "rows.zarr"
    with open_writer(path, "even"):
        named = f"written by process {os.getpid()} on {socket.gethostname()}"
        with pytest.raises(CacheError, match=named):
            CacheWriter.resume(path, header(LAYOUTS["even"]))
        with pytest.raises(CacheError, match=named):
            refuse_if_locked(path)
    assert not lock_file(path).exists()
    write(path, "even")


@pytest.mark.slow
def test_two_processes_at_once_make_one_right_cache(
    server: Server, expected: dict[str, dict[str, str]], tmp_path: Path
) -> None:
    path = tmp_path / "rows.zarr"
    script = f"import sys; sys.path.insert(0, {str(Path(__file__).parents[2])!r})\n"
    script += f"from pathlib import Path; from {__package__}.writing import write\nwrite(Path({str(path)!r}), 'wide')"
    both = [subprocess.Popen([sys.executable, "-c", script], stderr=subprocess.PIPE, text=True) for _ in range(2)]
    errors = [process.communicate(timeout=60)[1] for process in both]
    refused = [error for error, process in zip(errors, both, strict=True) if process.returncode]
    assert len(refused) <= 1
    # or it looked when nothing was there, and came when the first had ended
    assert all("is being written by process" in error or "exists already" in error for error in refused)
    assert server.run("write", path, "wide") == 0
    assert server.run("add", path, "wide") == 0
    assert snapshot(path) == expected["wide"]


def test_a_holder_that_has_not_yet_written_its_name_is_waited_for(tmp_path: Path) -> None:
    path = tmp_path / "rows.zarr"
    with open_writer(path, "small"):
        name = lock_file(path).read_text()
        lock_file(path).write_text("")  # as between the kernel's lock and the name
        late = threading.Timer(0.1, lock_file(path).write_text, [name])
        late.start()
        with pytest.raises(CacheError, match=f"is being written by process {os.getpid()} on"):
            open_writer(path, "small")
        late.join()


def test_a_killed_holders_lock_is_taken_over_at_once(server: Server, tmp_path: Path) -> None:
    path = tmp_path / "rows.zarr"
    assert server.run("write", path, "even", "chunk.write:after") == -signal.SIGKILL
    assert lock_file(path).exists()
    start = time.monotonic()
    write(path, "even")
    assert time.monotonic() - start < lock.WATCH / 2
    assert not lock_file(path).exists()


def test_a_stopped_holder_still_holds(server: Server, tmp_path: Path) -> None:
    path = tmp_path / "rows.zarr"
    child = server.start("write", path, "wide")
    while not lock_file(path).exists() or not lock_file(path).read_text():
        time.sleep(0.001)
    os.kill(child, signal.SIGSTOP)
    with pytest.raises(CacheError, match=f"process {child} on"):
        open_writer(path, "wide")
    os.kill(child, signal.SIGCONT)
    assert server.ended() == 0


def test_a_beating_holder_on_another_host_is_respected_and_a_silent_one_replaced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "rows.zarr"
    monkeypatch.setattr(lock, "WATCH", 0.4)
    monkeypatch.setattr(lock, "BEAT", 0.05)
    lock_file(path).write_text(json.dumps({"host": "elsewhere", "pid": 1}))
    toucher = "import os, sys, time\nwhile True: os.utime(sys.argv[1]); time.sleep(0.02)"
    beating = subprocess.Popen([sys.executable, "-c", toucher, str(lock_file(path))])
    try:
        time.sleep(0.5)
        with pytest.raises(CacheError, match="written by process 1 on elsewhere"):
            open_writer(path, "even")
    finally:
        beating.kill()
        beating.wait()
    write(path, "even")
    assert open_cache(path).complete


def test_a_writer_whose_lock_was_taken_over_stops_before_it_journals(tmp_path: Path) -> None:
    path = tmp_path / "rows.zarr"
    with open_writer(path, "even") as writer:
        lock_file(path).write_text(json.dumps({"host": "elsewhere", "pid": 1}))
        with pytest.raises(CacheError, match="the lock was lost to process 1 on elsewhere"):
            write_pending(writer)
    assert open_cache(path, partial=True).progress()[0] == 0
    assert lock_file(path).exists()  # it is another's now


def test_the_lock_belongs_to_the_cache_whatever_link_leads_there(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    path, link, folder = tmp_path / "real/rows.zarr", tmp_path / "link.zarr", tmp_path / "folder"
    write(path, "small")
    link.symlink_to(path)
    folder.symlink_to("real")
    for one, other in ((path, link), (link, path), (folder / "rows.zarr", link)):
        with CacheWriter.reopen(one), pytest.raises(CacheError, match=f"written by process {os.getpid()}"):
            CacheWriter.reopen(other)
    assert [file.name for file in tmp_path.rglob("*.lock")] == []


def test_planted_links_are_not_followed(tmp_path: Path) -> None:
    path, victim = tmp_path / "rows.zarr", tmp_path / "victim"
    victim.write_text("precious")
    lock_file(path).symlink_to(victim)
    with pytest.raises(CacheError, match=r"\.rows\.zarr\.lock is a link, not a lock file: remove it"):
        open_writer(path, "small")
    lock_file(path).unlink()
    os.mkfifo(lock_file(path))
    with pytest.raises(CacheError, match="is not a lock file: remove it"):
        open_writer(path, "small")
    lock_file(path).unlink()
    open_writer(path, "small").close()
    for name in ("journal.jsonl", "journal.copy.jsonl", "zarr.json"):
        (path / f".{name}.{os.getpid()}.partial").symlink_to(victim)
    write_whole(path / "zarr.json", (path / "zarr.json").read_bytes())
    write(path, "small")
    assert victim.read_text() == "precious"
    assert not list(path.rglob("*.partial"))


def test_without_the_kernels_lock_a_beating_holder_of_another_container_is_respected(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of the same host name, and with a process id that is nobody's here."""
    path = tmp_path / "rows.zarr"
    monkeypatch.setattr(lock, "WATCH", 1.0)
    monkeypatch.setattr(lock, "BEAT", 0.05)
    monkeypatch.setattr(lock.CacheLock, "_kernel_lock", lambda self, handle: False)
    lock_file(path).write_text(json.dumps({"host": socket.gethostname(), "pid": 2**22 + 1}))
    ended = threading.Event()

    def beat() -> None:
        while not ended.wait(0.02):
            os.utime(lock_file(path))

    beating = threading.Thread(target=beat)
    beating.start()
    try:
        with pytest.raises(CacheError, match=f"written by process {2**22 + 1}"):
            open_writer(path, "small")
    finally:
        ended.set()
        beating.join()
    write(path, "small")
    assert open_cache(path).complete


@pytest.mark.parametrize("content", ["", "not json", "[]", "{}"])
def test_a_lock_file_that_says_nothing_stops_nobody_who_gets_the_kernels_lock(content: str, tmp_path: Path) -> None:
    path = tmp_path / "rows.zarr"
    lock_file(path).write_text(content)
    if content == "{}":
        lock_file(path).write_text(json.dumps({"host": socket.gethostname()}))
    write(path, "even")
    assert open_cache(path).complete


def test_a_writer_that_fails_to_open_leaves_no_lock(tmp_path: Path) -> None:
    path = tmp_path / "rows.zarr"
    about = header(LAYOUTS["even"])
    CacheWriter.create(path, about, manifest(about)).close()
    with pytest.raises(CacheError, match="exists already"):
        CacheWriter.create(path, about, manifest(about))
    with pytest.raises(CacheError, match="made differently"):
        CacheWriter.resume(path, header(LAYOUTS["even"], fingerprint={"model": "another"}))
    assert not lock_file(path).exists()
