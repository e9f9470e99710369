"""Downloads end with the right file or with one line, whatever the server does; archives stay where they belong."""

from __future__ import annotations

import hashlib
import io
import stat
import tarfile
import threading
import time
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from mma.pipeline.datasets import Lookup, download, entries, find_dataset
from mma.pipeline.datasets import unpack as unpacking
from mma.pipeline.datasets.catalog import Archive
from mma.pipeline.datasets.download import Patience, Wanted, fetch, fetch_archives
from mma.pipeline.datasets.unpack import unpack
from mma.pipeline.errors import UsageError, WorkError

DATA = np.random.default_rng(0).integers(0, 255, 300_000, np.uint8).tobytes()
SHA = f"sha256:{hashlib.sha256(DATA).hexdigest()}"
MD5 = f"md5:{hashlib.md5(DATA).hexdigest()}"
CUT = 100_000  # bytes after which a bad server stops


@dataclass
class Server:
    """An HTTP server on this machine that serves DATA, and is bad in a way that each test chooses."""

    url: str
    behave: Callable[[Handler, Server], None]
    files: dict[str, bytes] = field(default_factory=dict)
    ranges: list[str] = field(default_factory=list)  # the Range header of every request
    done: threading.Event = field(default_factory=threading.Event)


class Handler(BaseHTTPRequestHandler):
    server: Web

    def do_GET(self) -> None:
        given = self.server.given
        given.ranges.append(self.headers.get("Range", ""))
        given.behave(self, given)

    def log_message(self, *args: object) -> None:
        """Say nothing."""

    @property
    def data(self) -> bytes:
        return self.server.given.files.get(self.path.split("?")[0], DATA)

    @property
    def start(self) -> int:
        return int(self.headers.get("Range", "bytes=0-").removeprefix("bytes=").rstrip("-"))

    def head(self, code: int, **headers: object) -> None:
        self.send_response(code)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), str(value))
        self.end_headers()


class Web(ThreadingHTTPServer):
    given: Server
    daemon_threads = True

    def handle_error(self, *args: object) -> None:
        """A client that hangs up is what some tests want."""


def well(handler: Handler, server: Server) -> None:
    start, data = handler.start, handler.data
    if start:
        span = f"bytes {start}-{len(data) - 1}/{len(data)}"
        handler.head(206, Content_Length=len(data) - start, Content_Range=span)
    else:
        handler.head(200, Content_Length=len(data))
    handler.wfile.write(data[start:])


def cut(handler: Handler, server: Server) -> None:
    """Send a piece, then hang up; the next request gets the next piece."""
    start = handler.start
    span = f"bytes {start}-{len(DATA) - 1}/{len(DATA)}"
    handler.head(206 if start else 200, Content_Length=len(DATA) - start, **({"Content_Range": span} if start else {}))
    handler.wfile.write(DATA[start : start + CUT])


def stall(handler: Handler, server: Server) -> None:
    """Send a piece, then nothing, with the line open."""
    cut(handler, server)
    handler.wfile.flush()
    if handler.start + CUT < len(DATA):
        server.done.wait(5)


def hang(handler: Handler, server: Server) -> None:
    server.done.wait(5)


def without_ranges(handler: Handler, server: Server) -> None:
    """Always the whole file; the first time it hangs up half way."""
    handler.head(200, Content_Length=len(DATA))
    handler.wfile.write(DATA if len(server.ranges) > 1 else DATA[:CUT])


def too_little_said(handler: Handler, server: Server) -> None:
    """Say a shorter length than is sent."""
    handler.head(200, Content_Length=CUT)
    handler.wfile.write(DATA)


def more_than_wanted(handler: Handler, server: Server) -> None:
    """No length, and no end either."""
    handler.head(200)
    for _ in range(100):
        handler.wfile.write(DATA)


def wrong_file(handler: Handler, server: Server) -> None:
    handler.head(200, Content_Length=len(DATA))
    handler.wfile.write(DATA[::-1])


def login_page(handler: Handler, server: Server) -> None:
    page = b"<html>Sign in to continue</html>"
    handler.head(200, Content_Length=len(page), Content_Type="text/html")
    handler.wfile.write(page)


def status(code: int) -> Callable[[Handler, Server], None]:
    def answer(handler: Handler, server: Server) -> None:
        handler.head(code, Content_Length=0)

    return answer


def odd_range(handler: Handler, server: Server) -> None:
    handler.head(206, Content_Length=5, Content_Range="bytes of a kind")
    handler.wfile.write(b"12345")


@pytest.fixture
def server() -> Iterator[Server]:
    web = Web(("127.0.0.1", 0), Handler)
    given = Server(f"http://127.0.0.1:{web.server_port}/data.tar.gz", well)
    web.given = given
    thread = threading.Thread(target=web.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    yield given
    given.done.set()
    web.shutdown()
    web.server_close()


@pytest.fixture(autouse=True)
def _room(monkeypatch: pytest.MonkeyPatch) -> None:
    """These downloads are small: they may be made on a disk that is nearly full."""
    monkeypatch.setattr(download, "RESERVE", 0)


QUIET = Console(file=io.StringIO())


FAST = Patience(timeout=0.3, pause=0.01, tries=3)


def get(server: Server, file: Path, checksum: str = SHA, length: int | None = len(DATA)) -> Path:
    return fetch([server.url], Wanted(file, checksum, length), QUIET, FAST)


def refused(server: Server, file: Path, **options: object) -> str:
    with pytest.raises(WorkError) as told:
        get(server, file, **options)  # type: ignore[arg-type]
    assert not file.exists()
    assert "\n" not in str(told.value)
    return str(told.value)


@pytest.mark.parametrize("checksum", [SHA, MD5, ""])
def test_a_file_is_fetched_checked_and_not_fetched_again(server: Server, tmp_path: Path, checksum: str) -> None:
    assert get(server, tmp_path / "a/file", checksum).read_bytes() == DATA
    assert get(server, tmp_path / "a/file", checksum).read_bytes() == DATA
    assert len(server.ranges) == 1
    assert [path.name for path in (tmp_path / "a").iterdir()] == ["file"]


@pytest.mark.parametrize("bad", [cut, stall])
def test_a_connection_that_breaks_or_stalls_is_continued(
    server: Server, tmp_path: Path, bad: Callable[[Handler, Server], None]
) -> None:
    server.behave = bad
    assert get(server, tmp_path / "file").read_bytes() == DATA
    assert server.ranges == ["", f"bytes={CUT}-", f"bytes={2 * CUT}-"]


def test_an_interrupted_download_goes_on_with_the_next_command(server: Server, tmp_path: Path) -> None:
    (tmp_path / "file.part").write_bytes(DATA[:1234])
    assert get(server, tmp_path / "file").read_bytes() == DATA
    assert server.ranges == ["bytes=1234-"]


def test_a_whole_part_is_checked_without_a_connection(server: Server, tmp_path: Path) -> None:
    (tmp_path / "file.part").write_bytes(DATA)
    assert get(server, tmp_path / "file").read_bytes() == DATA
    assert server.ranges == []


def test_a_server_without_ranges_is_asked_from_the_start(server: Server, tmp_path: Path) -> None:
    server.behave = without_ranges
    assert get(server, tmp_path / "file").read_bytes() == DATA
    assert server.ranges == ["", f"bytes={CUT}-"]


def test_a_server_that_never_answers_is_given_up_in_time_and_what_is_there_is_kept(
    server: Server, tmp_path: Path
) -> None:
    (tmp_path / "file.part").write_bytes(DATA[:CUT])
    server.behave = hang
    start = time.perf_counter()
    assert "100.0 kB are kept" in refused(server, tmp_path / "file")
    assert time.perf_counter() - start < 4
    assert (tmp_path / "file.part").read_bytes() == DATA[:CUT]


def test_a_server_that_says_too_short_a_length_is_found_out(server: Server, tmp_path: Path) -> None:
    server.behave = too_little_said
    assert "it has 100,000 bytes, not 300,000" in refused(server, tmp_path / "file")
    assert "it is another file" in refused(server, tmp_path / "file", length=None)
    assert list(tmp_path.iterdir()) == []


def test_a_server_that_sends_without_end_is_cut_off(server: Server, tmp_path: Path) -> None:
    server.behave = more_than_wanted
    assert "it sends more than 300,000 bytes" in refused(server, tmp_path / "file")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("bad", "says"), [(wrong_file, "another file"), (login_page, "it has 32 bytes")])
def test_a_wrong_file_is_found_out_and_not_kept(
    server: Server, tmp_path: Path, bad: Callable[[Handler, Server], None], says: str
) -> None:
    server.behave = bad
    assert says in refused(server, tmp_path / "file")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("code", "tries"), [(403, 1), (404, 1), (410, 1), (500, 3), (503, 3), (429, 3)])
def test_a_refusal_is_told_with_its_number_and_asked_again_only_where_that_helps(
    server: Server, tmp_path: Path, code: int, tries: int
) -> None:
    server.behave = status(code)
    assert f"the server says {code}" in refused(server, tmp_path / "file")
    assert len(server.ranges) == tries


def test_a_part_that_does_not_fit_the_file_is_dropped(server: Server, tmp_path: Path) -> None:
    (tmp_path / "file.part").write_bytes(b"x" * 500_000)
    server.behave = lambda handler, given: (status(416) if handler.start else well)(handler, given)
    assert get(server, tmp_path / "file", length=None).read_bytes() == DATA


def test_an_odd_range_is_refused(server: Server, tmp_path: Path) -> None:
    (tmp_path / "file.part").write_bytes(DATA[:10])
    server.behave = odd_range
    assert "odd range" in refused(server, tmp_path / "file")


def test_without_a_network_the_answer_is_one_clear_line(tmp_path: Path) -> None:
    with pytest.raises(WorkError, match="no network, or the server is out of reach"):
        fetch(["http://127.0.0.1:9/file"], Wanted(tmp_path / "file"), QUIET, FAST)


def test_a_server_that_nobody_knows_is_asked_once(tmp_path: Path) -> None:
    start = time.perf_counter()
    with pytest.raises(WorkError, match="no network, or no such server"):
        fetch(["http://no-such-server.invalid/file"], Wanted(tmp_path / "file"), QUIET, Patience(pause=60))
    assert time.perf_counter() - start < 30


def test_a_file_put_there_by_hand_is_checked(server: Server, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(DATA)
    assert get(server, tmp_path / "file").read_bytes() == DATA
    (tmp_path / "file").write_bytes(DATA[1:])
    with pytest.raises(WorkError, match=r"another file .*: delete it"):
        get(server, tmp_path / "file")
    assert server.ranges == []


def test_the_next_server_is_asked_where_one_has_the_wrong_file(server: Server, tmp_path: Path) -> None:
    server.files["/bad"] = DATA[::-1]
    bad = server.url.replace("/data.tar.gz", "/bad")
    file = fetch([bad, server.url], Wanted(tmp_path / "file", SHA, len(DATA)), QUIET, FAST)
    assert file.read_bytes() == DATA


def test_a_full_disk_is_found_out_before_the_first_byte(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(download, "RESERVE", 10**18)
    with pytest.raises(UsageError, match=r"no room for file: it needs .* free"):
        get(server, tmp_path / "file")
    assert not (tmp_path / "file.part").exists()


# Archives


def tar(file: Path, *members: tuple[str, bytes] | tarfile.TarInfo, mode: str = "w:gz") -> Path:
    with tarfile.open(file, mode) as out:  # type: ignore[call-overload]
        for member in members:
            info = member if isinstance(member, tarfile.TarInfo) else tarfile.TarInfo(member[0])
            data = b"" if isinstance(member, tarfile.TarInfo) else member[1]
            info.size = len(data)
            out.addfile(info, io.BytesIO(data))
    return file


def special(name: str, kind: bytes, target: str = "") -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, target
    return info


def zipped(file: Path, *members: tuple[str | zipfile.ZipInfo, bytes]) -> Path:
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as out:
        for name, data in members:
            out.writestr(name, data)
    return file


GOOD = ("images/a.jpg", b"a")
MB = 1_000_000


@pytest.mark.parametrize("mode", ["w:gz", "w:", "w:bz2", "w:xz"])
def test_a_tar_is_unpacked_into_what_is_there(tmp_path: Path, mode: str) -> None:
    (tmp_path / "into/images").mkdir(parents=True)
    (tmp_path / "into/images/b.jpg").write_bytes(b"b")
    unpack(tar(tmp_path / "a.tar", GOOD, ("labels.txt", b"x"), mode=mode), tmp_path / "into", MB)
    found = {
        path.relative_to(tmp_path / "into").as_posix() for path in (tmp_path / "into").rglob("*") if path.is_file()
    }
    assert found == {"images/a.jpg", "images/b.jpg", "labels.txt"}


def test_a_zip_is_unpacked(tmp_path: Path) -> None:
    unpack(zipped(tmp_path / "a.zip", ("2750/River/1.jpg", b"r")), tmp_path / "into", MB)
    assert (tmp_path / "into/2750/River/1.jpg").read_bytes() == b"r"


def link_in_zip() -> zipfile.ZipInfo:
    info = zipfile.ZipInfo("images/link")
    info.external_attr = (stat.S_IFLNK | 0o777) << 16
    return info


EVIL: dict[str, Callable[[Path], Path]] = {
    "a path that goes up": lambda at: tar(at / "a.tar", GOOD, ("../evil", b"x")),
    "a path that goes up later": lambda at: tar(at / "a.tar", GOOD, ("images/../../evil", b"x")),
    "a symbolic link": lambda at: tar(at / "a.tar", GOOD, special("link", tarfile.SYMTYPE, "/etc")),
    "a link within": lambda at: tar(at / "a.tar", GOOD, special("link", tarfile.SYMTYPE, "images")),
    "a hard link": lambda at: tar(at / "a.tar", GOOD, special("link", tarfile.LNKTYPE, "../evil")),
    "a device": lambda at: tar(at / "a.tar", GOOD, special("tty", tarfile.CHRTYPE)),
    "a pipe": lambda at: tar(at / "a.tar", GOOD, special("pipe", tarfile.FIFOTYPE)),
    "a zip that goes up": lambda at: zipped(at / "a.zip", GOOD, ("../evil", b"x")),
    "a zip with an absolute path": lambda at: zipped(at / "a.zip", GOOD, ("/tmp/evil", b"x")),
    "a zip with a link": lambda at: zipped(at / "a.zip", GOOD, (link_in_zip(), b"/etc")),
}


@pytest.mark.parametrize("evil", EVIL)
def test_an_archive_that_would_write_elsewhere_is_refused_whole(tmp_path: Path, evil: str) -> None:
    (tmp_path / "at").mkdir()
    archive = EVIL[evil](tmp_path / "at")
    with pytest.raises(WorkError, match="refused, it would write outside") as told:
        unpack(archive, tmp_path / "at/into", MB)
    assert "\n" not in str(told.value)
    assert list((tmp_path / "at/into").iterdir()) == []
    assert [path.name for path in tmp_path.iterdir()] == ["at"]


def test_an_absolute_path_in_a_tar_lands_inside(tmp_path: Path) -> None:
    unpack(tar(tmp_path / "a.tar", ("/images/a.jpg", b"a")), tmp_path / "into", MB)
    assert (tmp_path / "into/images/a.jpg").read_bytes() == b"a"


@pytest.mark.parametrize("kind", ["tar", "zip", "many"])
def test_a_bomb_is_refused_before_it_fills_the_disk(tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    zeros = bytes(20 * MB)
    if kind == "tar":
        archive = tar(tmp_path / "a.tar.gz", GOOD, ("big", zeros))
    elif kind == "zip":
        archive = zipped(tmp_path / "a.zip", GOOD, ("big", zeros))
    else:
        monkeypatch.setattr(unpacking, "MOST_FILES", 3)
        archive = tar(tmp_path / "a.tar.gz", *((f"{n}.txt", b"") for n in range(5)))
    assert archive.stat().st_size < MB
    with pytest.raises(WorkError, match=r"is refused: it unpacks to more than 1.0 MB or"):
        unpack(archive, tmp_path / "into", MB)
    assert list((tmp_path / "into").iterdir()) == []


@pytest.mark.parametrize("name", ["a.tar.gz", "a.zip", "a.tar"])
def test_a_damaged_archive_is_refused_and_leaves_nothing(tmp_path: Path, name: str) -> None:
    noise = np.random.default_rng(0).integers(0, 255, 50_000, np.uint8).tobytes()
    make = zipped if name.endswith("zip") else tar
    archive = make(tmp_path / name, GOOD, ("noise", noise))
    whole = archive.read_bytes()
    for damaged in (whole[: len(whole) // 2], b"", b"<html>not found</html>"):
        archive.write_bytes(damaged)
        with pytest.raises(WorkError, match=r"is damaged .*: delete it, and get it again") as told:
            unpack(archive, tmp_path / "into", MB)
        assert "\n" not in str(told.value)
        assert list((tmp_path / "into").iterdir()) == []


def test_what_is_there_is_not_fetched_and_what_is_done_is_cleared_away(server: Server, tmp_path: Path) -> None:
    inner = tar(tmp_path / "inner.tar.gz", ("objects/cat/1.jpg", b"c")).read_bytes()
    server.files["/outer.zip"] = zipped(tmp_path / "outer.zip", ("deep/inner.tar.gz", inner)).read_bytes()
    server.files["/labels.mat"] = b"labels"
    base = server.url.removesuffix("/data.tar.gz")
    archives = [
        Archive((f"{base}/outer.zip?download=1",), "set", "set/objects", unpacked=MB, inner="deep/inner.tar.gz"),
        Archive((f"{base}/labels.mat",), "set", "set/labels.mat", bytes=6),
    ]
    for _ in range(2):
        fetch_archives(archives, tmp_path / "root", QUIET)
    assert len(server.ranges) == 2
    found = {
        path.relative_to(tmp_path / "root").as_posix() for path in (tmp_path / "root").rglob("*") if path.is_file()
    }
    assert found == {"set/objects/cat/1.jpg", "set/labels.mat"}


def test_a_named_data_set_is_downloaded_where_it_is_not_there(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    classes = entries()["eurosat"].classes
    members = [(f"2750/{key}/{key}_{n}.jpg", f"{key} {n}".encode()) for key in classes for n in range(4)]
    server.files["/EuroSAT.zip"] = data = zipped(tmp_path / "EuroSAT.zip", *members).read_bytes()
    url = server.url.replace("data.tar.gz", "EuroSAT.zip")
    here = Archive((url,), "eurosat", "eurosat/2750", f"sha256:{hashlib.sha256(data).hexdigest()}", len(data), MB)
    monkeypatch.setitem(entries()["eurosat"].__dict__, "archives", (here,))
    with pytest.raises(UsageError, match="eurosat is not in"):
        find_dataset("eurosat", Lookup(tmp_path / "data"))
    dataset = find_dataset("eurosat", Lookup(tmp_path / "data", download=True))
    assert sum(len(rows.labels) for rows in dataset.splits.values()) == 40
    assert not (tmp_path / "data/eurosat/EuroSAT.zip").exists()
