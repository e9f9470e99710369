"""A cache in an object store: the bytes of one on a disk, whatever happens on the way."""

from __future__ import annotations

import json
import os
import random
import signal
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import numpy as np
import pytest

from mma.cache import (
    CacheError,
    CacheWriter,
    Shard,
    ShardWriter,
    cache_exists,
    claim,
    export_cache,
    import_npz,
    killpoint,
    mend,
    merge_shards,
    objects,
    open_cache,
    refuse_if_locked,
    verify,
)
from mma.cache.claim import Claim
from mma.cache.objects import Objects
from mma.cache.where import place_of

from ..object_store import HANG, KEY, SECRET, ObjectStore
from .writing import (
    LAYOUTS,
    Server,
    add_text,
    content,
    embed,
    header,
    manifest,
    open_writer,
    repair,
    snapshot,
    write,
    write_pending,
    write_shard,
    write_text,
)

LAYOUT = "small"
STEPS = [step for step in killpoint.STEPS if not step.startswith(("repair", "update"))]
Expected = dict[str, dict[str, str]]


class Died(BaseException):
    """In place of SIGKILL, where a process would take too long to start."""


@pytest.fixture
def url(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A place in a store of this process, whose claims expire soon."""
    monkeypatch.setattr(claim, "BEAT", 0.02)
    monkeypatch.setattr(claim, "WATCH", 0.1)
    yield f"memory://bucket/{abs(hash(request.node.name))}/rows.zarr"
    killpoint.arm("", killpoint.die)


@pytest.fixture
def far(request: pytest.FixtureRequest, s3: ObjectStore) -> str:
    """A place in the bucket of the server."""
    return f"s3://bucket/{abs(hash(request.node.name))}/rows.zarr"


def die() -> None:
    raise Died


def dead(monkeypatch: pytest.MonkeyPatch, work: object) -> None:
    """Do some work that dies: nothing is released."""
    with monkeypatch.context() as patch:
        patch.setattr(Claim, "release", lambda self: (self._ended.set(), self._beat.join()))  # the dead beat no more
        with pytest.raises(Died):
            work()  # type: ignore[operator]
    killpoint.arm("", killpoint.die)


def test_every_object_has_the_bytes_of_the_file_of_a_cache_on_a_disk(
    far: str, url: str, s3: ObjectStore, expected: Expected
) -> None:
    for layout, place in ((LAYOUT, far), ("penultimate", url)):
        write(place, layout)
        add_text(place, layout)
        assert snapshot(place) == expected[layout]
        assert verify(place).faults == []
        assert open_cache(place).complete
    assert f"PUT /{far.removeprefix('s3://')}/zarr.json" in s3.requests


@pytest.mark.parametrize("step", STEPS)
def test_a_writer_killed_at_any_step_continues_to_the_same_bytes(
    step: str, url: str, expected: Expected, monkeypatch: pytest.MonkeyPatch
) -> None:
    for side in ("before", "after"):
        place = f"{url}/{side}"
        killpoint.arm(f"{step}:{side}", die)
        if step == "receipts.remove":
            write_shard(place, LAYOUT, Shard(1, 2))
        dead(monkeypatch, lambda place=place: (write(place, LAYOUT), add_text(place, LAYOUT)))
        if cache_exists(place):
            assert verify(place).faults == []
        write(place, LAYOUT)
        add_text(place, LAYOUT)
        assert snapshot(place) == expected[LAYOUT]


def test_a_process_killed_by_sigkill_is_continued_by_another(
    far: str, s3: ObjectStore, expected: Expected, tmp_path: Path
) -> None:
    server = Server()  # begun now, so that it finds the store
    try:
        assert server.run("write", Path(far), LAYOUT, "receipt.write:after", times=2) == -signal.SIGKILL
    finally:
        server.close()
    assert open_cache(far, partial=True).progress() == (2, 3)
    write(far, LAYOUT)  # once the claim has expired
    add_text(far, LAYOUT)
    assert snapshot(far) == expected[LAYOUT]


def test_what_a_killed_run_has_done_is_not_done_again(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    killpoint.arm("receipt.write:after", die, times=2)
    dead(monkeypatch, lambda: write(url, LAYOUT))
    with open_writer(url, LAYOUT) as writer:
        assert [chunk.unit for chunk in writer.pending()] == ["image/test/0"]


def test_of_two_writers_one_writes_and_the_other_names_it(url: str) -> None:
    with open_writer(url, LAYOUT):
        named = f"is being written by process {os.getpid()} on"
        with pytest.raises(CacheError, match=named):
            open_writer(url, LAYOUT)
        with pytest.raises(CacheError, match=named):
            refuse_if_locked(url)
    assert not place_of(url).sizes("claims/")
    open_writer(url, LAYOUT).close()


def test_of_several_that_come_at_once_to_the_claim_of_one_that_died_one_gets_it(
    far: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = place_of(far)
    assert isinstance(place, Objects)
    assert place.create("claims/cache.json", json.dumps({"host": "elsewhere", "pid": 1}).encode())
    held: list[Claim] = []
    refused: list[str] = []

    def take() -> None:
        try:
            held.append(Claim(place))
        except CacheError as error:
            refused.append(str(error))

    threads = [threading.Thread(target=take) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(held) == 1
    assert len(refused) == 3
    held[0].check()
    held[0].release()


def test_a_writer_whose_claim_was_taken_over_stops_before_it_records_a_unit(url: str) -> None:
    with open_writer(url, LAYOUT) as writer:
        place_of(url).write({"claims/cache.json": json.dumps({"host": "elsewhere", "pid": 1}).encode()})
        with pytest.raises(CacheError, match="the claim was lost to process 1 on elsewhere"):
            write_pending(writer)
    assert open_cache(url, partial=True).progress()[0] == 0
    assert place_of(url).read("claims/cache.json")  # it is another's now


def test_a_unit_that_another_has_done_otherwise_is_not_recorded_twice(url: str) -> None:
    about = header(LAYOUTS[LAYOUT])
    with ShardWriter.join(url, about, Shard(1, 1), lambda: manifest(about)) as late:
        chunk = late.pending()[0]
        values, failures = embed(about, chunk)
        late.write(chunk, values, failures, content(chunk))
        with pytest.raises(CacheError, match="was done by another process"):
            late.write(chunk, values + 1, failures, content(chunk))


def test_shards_killed_and_in_any_order_give_the_bytes_of_one_run(
    far: str, expected: Expected, monkeypatch: pytest.MonkeyPatch
) -> None:
    killpoint.arm("receipt.write:before", die)
    dead(monkeypatch, lambda: write_shard(far, LAYOUT, Shard(2, 2)))
    assert not write_shard(far, LAYOUT, Shard(1, 2))
    with pytest.raises(CacheError, match="lacks 1 of 3 chunks"):
        merge_shards(far)
    assert write_shard(far, LAYOUT, Shard(2, 2))
    assert snapshot(far) == expected[LAYOUT]
    merge_shards(far)


def test_of_two_that_claim_one_shard_the_second_refuses_and_other_shards_do_not(url: str) -> None:
    about = header(LAYOUTS[LAYOUT])

    def join(shard: Shard) -> ShardWriter:
        return ShardWriter.join(url, about, shard, lambda: manifest(about))

    with join(Shard(1, 2)):
        with pytest.raises(CacheError, match=r"shard 1/2 of .* is being written by process"):
            join(Shard(1, 2))
        with pytest.raises(CacheError, match=r"shard 1/2 of .* is being written by process"):
            open_writer(url, LAYOUT)
        join(Shard(2, 2)).close()


def test_five_percent_of_requests_that_fail_in_every_way_change_no_byte(
    far: str, s3: ObjectStore, expected: Expected, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(objects, "OPTIONS", {"timeout": timedelta(seconds=HANG / 2)})
    draw, failed = random.Random(4), Counter[str]()

    def fault(method: str, path: str) -> str | None:
        kind = draw.choice(["503", "cut", "lost", "hang"]) if draw.random() < 0.05 else None
        failed.update([kind] if kind else [])
        return kind

    s3.fault = fault
    write(far, "ragged")
    add_text(far, "ragged")
    s3.fault = lambda method, path: None
    assert set(failed) == {"503", "cut", "lost", "hang"}
    assert snapshot(far) == expected["ragged"]


@pytest.mark.parametrize("kind", ["lost", "cut", "503"])
def test_every_put_that_fails_the_first_time_changes_no_byte(
    kind: str, far: str, s3: ObjectStore, expected: Expected
) -> None:
    seen: set[str] = set()

    def first_put(method: str, path: str) -> str | None:
        fresh = method == "PUT" and path not in seen
        seen.add(path)
        return kind if fresh else None

    s3.fault = first_put
    write(far, LAYOUT)
    add_text(far, LAYOUT)
    assert snapshot(far) == expected[LAYOUT]


def test_a_store_that_stops_answering_ends_the_run_and_the_next_one_continues(
    far: str, s3: ObjectStore, expected: Expected
) -> None:
    s3.fault = lambda method, path: "503" if method == "PUT" and "/image/test/embedding/c/" in path else None
    with pytest.raises(OSError, match="the store does not answer: status 503"):
        write(far, LAYOUT)
    s3.fault = lambda method, path: None
    assert open_cache(far, partial=True).progress() == (2, 3)
    write(far, LAYOUT)
    add_text(far, LAYOUT)
    assert snapshot(far) == expected[LAYOUT]


def test_damage_is_named_and_mended_from_a_copy_and_by_computing_again(
    url: str, whole: dict[str, Path], expected: Expected
) -> None:
    write(url, LAYOUT)
    add_text(url, LAYOUT)
    place = place_of(url)
    hurt = ["image/train/embedding/c/1/0/0", "image/test/label/c/0", "zarr.json", "text/added/embedding/c/0/0/0"]
    for copy in (whole[LAYOUT], None):
        place.write(dict.fromkeys(hurt[:2], b"?"))
        place.delete(hurt[2:])
        assert {fault.file for fault in verify(url).faults} == set(hurt)
        with pytest.raises(CacheError, match="run `mma cache verify`"):
            open_cache(url)
        if copy:
            assert mend(url, copy=copy).complete
        else:
            repair(url, LAYOUT)
            with open_writer(url, LAYOUT) as writer:
                if "added" in writer.pending_text():
                    write_text(writer, "added")
                    writer.finish()
        assert snapshot(url) == expected[LAYOUT]


def test_an_export_imported_to_a_store_is_the_same_cache(
    url: str, whole: dict[str, Path], expected: Expected, tmp_path: Path
) -> None:
    export_cache(whole[LAYOUT], tmp_path / "rows.npz")
    import_npz(tmp_path / "rows.npz", url)  # type: ignore[arg-type]
    assert snapshot(url) == expected[LAYOUT]
    export_cache(url, tmp_path / "again.npz")
    with np.load(tmp_path / "rows.npz") as one, np.load(tmp_path / "again.npz") as two:
        assert all(one[name].tobytes() == two[name].tobytes() for name in one.files)


@pytest.mark.parametrize("kind", ["careless", "501"])
def test_a_store_without_conditional_put_is_refused_before_anything_is_written(
    kind: str, far: str, s3: ObjectStore
) -> None:
    s3.fault = lambda method, path: kind if method == "PUT" else None
    with pytest.raises(CacheError, match="this store has no conditional put"):
        write(far, LAYOUT)
    assert not place_of(far).sizes()


def test_credentials_that_are_refused_are_said_so_and_not_repeated(far: str, s3: ObjectStore) -> None:
    s3.fault = lambda method, path: "403"
    for work in (open_cache, verify, lambda place: write(place, LAYOUT)):
        with pytest.raises(CacheError, match=r"s3://bucket refuses these credentials") as told:
            work(far)
        whole_story = f"{told.value}{told.value.__cause__}{told.getrepr(showlocals=False, style='no')}"
        assert KEY not in str(told.value)
        assert SECRET not in whole_story
        assert "\n" not in str(told.value)


def test_a_bucket_that_is_not_there_is_named(s3: ObjectStore) -> None:
    for work in (open_cache, verify, lambda place: write(place, LAYOUT)):
        with pytest.raises(CacheError, match="there is no bucket s3://bucke7"):
            work("s3://bucke7/rows.zarr")


def test_without_credentials_it_is_said_where_they_are_looked_for(
    s3: ObjectStore, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    with pytest.raises(CacheError, match="no credentials were found: `aws configure`"):
        open_cache("s3://bucket/rows.zarr")


def test_credentials_are_found_in_the_file_of_awss_own_tools(
    far: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    (tmp_path / "credentials").write_text(f"[mine]\naws_access_key_id = {KEY}\naws_secret_access_key = {SECRET}\n")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "credentials"))
    monkeypatch.setenv("AWS_PROFILE", "mine")
    write(far, LAYOUT)
    assert open_cache(far).complete
    assert not any(
        word in data
        for data in place_of(far).read_many(place_of(far).sizes()).values()
        if data
        for word in (KEY.encode(), SECRET.encode())
    )


def test_without_the_package_it_is_said_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "obstore", None)
    with pytest.raises(CacheError, match=r"gs:// needs obstore: pip install 'mma\[remote\]'"):
        open_cache("gs://bucket/rows.zarr")


@pytest.mark.parametrize(
    ("location", "why"),
    [
        ("s3://me:hush@bucket/rows.zarr", "s3://bucket/rows.zarr is given with a name or password"),
        ("https://me@host/rows.zarr", "https://host/rows.zarr is given with a name or password"),
        ("s3://bucket/rows.zarr?X-Amz-Signature=hush", "s3://bucket/rows.zarr is given with a query"),
        ("az://container/rows.zarr#hush", "az://container/rows.zarr is given with a query"),
        ("s3://", "names no bucket"),
    ],
)
def test_an_address_that_carries_a_secret_or_no_bucket_is_refused_without_repeating_it(location: str, why: str) -> None:
    for work in (open_cache, verify, lambda place: write(place, LAYOUT)):
        with pytest.raises(CacheError, match=why) as told:
            work(location)
        assert "hush" not in str(told.value)


def test_a_url_of_a_folder_is_that_folder_and_others_are_only_read(tmp_path: Path, expected: Expected) -> None:
    write((tmp_path / "a b.zarr").as_uri(), LAYOUT)
    add_text((tmp_path / "a b.zarr").as_uri(), LAYOUT)
    assert snapshot(tmp_path / "a b.zarr") == expected[LAYOUT]
    about = header(LAYOUTS[LAYOUT])
    with pytest.raises(CacheError, match="is only read: a cache is written to a folder, or to s3://"):
        CacheWriter.create("https://host/rows.zarr", about, manifest(about))
