"""One's own data: folders, manifests, shards; and ten ways to get each wrong, one line each."""

from __future__ import annotations

import csv
import errno
import io
import json
import os
import resource
import subprocess
import sys
import tarfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from mma.pipeline.datasets import Dataset, Lookup, find_dataset
from mma.pipeline.datasets.base import Stamp, no_stamps
from mma.pipeline.datasets.contents import read_contents
from mma.pipeline.datasets.draw import SHARES, draw_splits
from mma.pipeline.embedding.header import manifest_hash
from mma.pipeline.errors import UsageError


def jpeg(seed: int) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(np.random.default_rng(seed).integers(0, 255, (9, 8, 3), np.uint8)).save(stream, "JPEG")
    return stream.getvalue()


JPEG = jpeg(0)
ROWS = [
    (f"{split}/{name}_{n}.jpg", name, split)
    for split in ("train", "test")
    for name in ("a cat", "a dog")
    for n in (1, 2)
]


def write_photos(folder: Path, rows: Sequence[tuple[str, ...]] = ROWS) -> None:
    for path, *_ in rows:
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(JPEG)


def write_csv(file: Path, rows: Sequence[Sequence[object]], header: Sequence[str] = ("path", "label", "split")) -> Path:
    with file.open("w", newline="", encoding="utf-8") as stream:
        csv.writer(stream).writerows([header, *rows])
    return file


def write_jsonl(file: Path, rows: Sequence[dict[str, object]]) -> Path:
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return file


def write_tar(file: Path, members: Sequence[tuple[str, bytes]]) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(file, "w:") as tar:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return file


def samples(labels: Sequence[str], start: int = 0) -> list[tuple[str, bytes]]:
    return [
        member
        for n, label in enumerate(labels, start=start)
        for member in ((f"{n:04d}.jpg", jpeg(n)), (f"{n:04d}.cls", label.encode()))
    ]


def load(path: Path | str, **lookup: object) -> Dataset:
    return find_dataset(str(path), Lookup(**lookup))  # type: ignore[arg-type]


def rows_of(dataset: Dataset) -> list[tuple[str, str, str]]:
    return [
        (path, dataset.classnames[label], split)
        for split, rows in dataset.splits.items()
        for path, label in zip(rows.paths, rows.labels.tolist(), strict=True)
    ]


def refused(path: Path | str, **lookup: object) -> str:
    with pytest.raises(UsageError) as told:
        load(path, **lookup)
    assert "\n" not in str(told.value)
    return str(told.value)


# Manifests


def test_a_csv_and_json_lines_say_the_same_and_rows_keep_their_order(tmp_path: Path) -> None:
    write_photos(tmp_path)
    shuffled = [ROWS[i] for i in np.random.default_rng(0).permutation(len(ROWS))]
    named = [dict(zip(("path", "label", "split"), row, strict=True)) for row in shuffled]
    from_csv = load(write_csv(tmp_path / "photos.csv", shuffled))
    from_jsonl = load(write_jsonl(tmp_path / "photos.jsonl", named))
    assert from_csv.name == "photos"
    assert from_csv.classnames == from_jsonl.classnames == ("a cat", "a dog")
    assert rows_of(from_csv) == rows_of(from_jsonl) == sorted(shuffled, key=lambda row: row[2] != "train")
    assert manifest_hash(from_csv) == manifest_hash(from_jsonl)


def test_a_parquet_manifest_says_the_same_as_a_csv(tmp_path: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow", reason="pip install 'mma[parquet]'")
    from pyarrow import parquet

    write_photos(tmp_path)
    columns = dict(zip(("path", "label", "split"), map(list, zip(*ROWS, strict=True)), strict=True))
    parquet.write_table(pyarrow.table(columns), tmp_path / "photos.parquet")
    assert rows_of(load(tmp_path / "photos.parquet")) == rows_of(load(write_csv(tmp_path / "p.csv", ROWS)))
    (tmp_path / "broken.parquet").write_bytes(b"PAR1 not really PAR1")
    assert "cannot be read" in refused(tmp_path / "broken.parquet")


def test_without_splits_they_are_drawn_and_it_is_said(tmp_path: Path) -> None:
    rows = [(f"{name}{n}.jpg", name) for name in ("cat", "dog") for n in range(10)]
    for number, (path, _) in enumerate(rows):
        (tmp_path / path).write_bytes(jpeg(number))
    dataset = load(write_csv(tmp_path / "photos.csv", rows, ("path", "label")), seed=3)
    assert dataset.splits.keys() == {"train", "val", "test"}
    assert sorted(path for split in dataset.splits.values() for path in split.paths) == sorted(path for path, _ in rows)
    assert any("drawn" in note and "seed 3" in note for note in dataset.notes)


def test_numbers_take_their_names_from_a_file_or_stay_numbers(tmp_path: Path) -> None:
    write_photos(tmp_path)
    rows = [(path, 1 if label == "a dog" else 0, split) for path, label, split in ROWS]
    file = write_csv(tmp_path / "photos.csv", rows)
    numbered = load(file)
    assert numbered.classnames == ("0", "1")
    assert any("classnames.txt" in note for note in numbered.notes)
    (tmp_path / "classnames.txt").write_text("a_cat\na dog\n")
    assert load(file).classnames == ("a cat", "a dog")
    assert rows_of(load(file)) == rows_of(load(write_csv(tmp_path / "named.csv", ROWS)))


def test_paths_may_lie_below_a_root_of_their_own(tmp_path: Path) -> None:
    write_photos(tmp_path / "images")
    file = write_csv(tmp_path / "photos.csv", ROWS)
    assert "`root=FOLDER`" in refused(file)
    dataset = load(file, root=tmp_path / "images")
    assert dataset.splits["train"].read(0) == JPEG


def test_duplicates_and_images_in_two_splits_are_reported(tmp_path: Path) -> None:
    write_photos(tmp_path)
    path, label, _ = ROWS[0]
    dataset = load(write_csv(tmp_path / "photos.csv", [*ROWS, ROWS[1], (path, label, "test")]))
    assert any(note.startswith("2 rows name an image that an earlier row has") for note in dataset.notes)
    assert any(note.startswith(f"1 images are in two splits, such as {path}") for note in dataset.notes)


A, B = ("train/a cat_1.jpg", "a cat", "train"), ("test/a dog_1.jpg", "a dog", "test")
BAD_ROWS = {
    "an unknown split": ([A, B, ("c.jpg", "a cat", "dev")], "row 3: unknown split 'dev'"),
    "no test": ([A, ("b.jpg", "a dog", "train")], "no rows of split 'test'"),
    "some without a split": ([A, B, ("c.jpg", "a cat", "")], "rows with a split and rows without"),
    "an empty label": ([A, B, ("c.jpg", " ", "train")], "row 3: label ' ' is neither"),
    "numbers and names": ([A, B, ("c.jpg", "3", "train")], "mixes labels that are numbers (3) and names ('a cat')"),
    "a path outside": ([A, B, ("../c.jpg", "a cat", "train")], "row 3: path '../c.jpg' is not below"),
    "an absolute path": ([A, B, ("/c.jpg", "a cat", "train")], "row 3: path '/c.jpg' is not below"),
    "an empty path": ([A, B, ("", "a cat", "train")], "row 3: path '' is not below"),
    "two labels": ([A, B, (A[0], "a dog", "train")], "has another label in row 1; one image, one class"),
    "one class": ([A, (B[0], "a cat", "test")], "at least two are needed"),
    "twins": ([A, B, ("c.jpg", "a_cat", "train")], "two classes called 'a cat'"),
    "a short row": ([A, B, ("c.jpg", "a cat")], "row 3 has 2 values, the header 3"),
    "no rows": ([], "has no rows"),
}


@pytest.mark.parametrize("wrong", BAD_ROWS)
def test_a_wrong_csv_is_refused_in_one_line(wrong: str, tmp_path: Path) -> None:
    write_photos(tmp_path)
    rows, says = BAD_ROWS[wrong]
    assert says in refused(write_csv(tmp_path / "photos.csv", rows))


BAD_FILES = {
    "a wrong column": ("p.csv", b"file,label\na.jpg,cat\n", "has no column path (it has file, label)"),
    "no header": ("p.csv", b"", "has no column path and label"),
    "a NUL": ("p.csv", b"path,label\n\xff\xfe\x00,cat\n", "is not below the images' folder"),
    "a line without end": ("p.csv", b"path,label\n" + b"x" * 2_000_000, "a line of more than 1,048,576 letters"),
    "JSON without end": ("p.jsonl", b'{"path": "' + b"x" * 2_000_000, "a line of more than 1,048,576 letters"),
    "deep JSON": ("p.jsonl", b"[" * 100_000, "line 1 is not JSON (nested too deeply)"),
    "an open quote": ("p.csv", b'path,label\n"a.jpg,cat\n', "cannot be read"),
    "not JSON": ("p.jsonl", b'{"path": "a.jpg"', "line 1 is not JSON"),
    "no object": ("p.jsonl", b"[1, 2]\n", "line 1 is not an object"),
    "a key is missing": ("p.jsonl", b'{"path": "a.jpg"}\n', "has no column label"),
    "a label that is a list": ("p.jsonl", b'{"path": "a.jpg", "label": ["x", "y"]}\n', "neither a name nor a number"),
    "a label that is a share": ("p.jsonl", b'{"path": "a.jpg", "label": 0.5}\n', "neither a name nor a number"),
    "a path that is a number": ("p.jsonl", b'{"path": 7, "label": "x"}\n', "path 7 is not text"),
    "another kind of file": ("p.xlsx", b"PK", "not a kind of data set that is known"),
    "a compressed tar": ("p.tar.gz", b"\x1f\x8b", "compressed tar is to be decompressed first"),
}


@pytest.mark.parametrize("wrong", BAD_FILES)
def test_a_file_that_is_no_manifest_is_refused_in_one_line(wrong: str, tmp_path: Path) -> None:
    name, content, says = BAD_FILES[wrong]
    (tmp_path / name).write_bytes(content)
    assert says in refused(tmp_path / name)


def test_a_names_file_that_does_not_fit_is_refused(tmp_path: Path) -> None:
    write_photos(tmp_path)
    file = write_csv(tmp_path / "photos.csv", [(path, 2, split) for path, _, split in ROWS])
    (tmp_path / "classnames.txt").write_text("cat\ndog\n")
    assert "classnames.txt has 2 names without it" in refused(file)
    (tmp_path / "classnames.txt").write_text("cat\ndog\nbird\n")
    assert "class 'cat' of" in refused(file)


@dataclass(frozen=True)
class Images:
    """A split in memory."""

    data: list[bytes]
    paths: list[str]

    @property
    def labels(self) -> np.ndarray:
        return np.zeros(len(self.data), np.int32)

    def stamp(self, row: int) -> Stamp:
        return len(self.data[row]), 0, 0

    def stamps(self) -> np.ndarray:
        return no_stamps(len(self.data))

    def read(self, row: int) -> bytes:
        return self.data[row]


def drawn_by_bytes(data: list[bytes], names: str, seed: int) -> dict[bytes, set[str]]:
    """The splits in which each image is."""
    drawn = draw_splits(Images(data, [f"{names}{row}" for row in range(len(data))]), seed, read_contents, "photos")
    assert sorted(np.concatenate(list(drawn.values()))) == list(range(len(data)))
    found: dict[bytes, set[str]] = {}
    for split, rows in drawn.items():
        for row in rows:
            found.setdefault(data[row], set()).add(split)
    return found


MANY = [str(number).encode() for number in range(1000, 1060)]  # enough that train and test have some for every seed


@settings(max_examples=30, deadline=None)
@given(st.lists(st.binary(max_size=3), max_size=40), st.randoms(use_true_random=False), st.integers(0, 20))
def test_what_was_drawn_stays_where_it_was_whatever_is_added_or_renamed(
    added: list[bytes], order: Random, seed: int
) -> None:
    then, now = drawn_by_bytes(MANY, "a", seed), [*MANY, *added, *MANY[:5]]
    order.shuffle(now)
    later = drawn_by_bytes(now, "b", seed)
    assert all(len(splits) == 1 for splits in later.values())  # the same image twice is in one split
    assert {data: later[data] for data in then} == then


def test_another_seed_draws_other_splits_and_shares_hold_on_average() -> None:
    data = [str(number).encode() for number in range(3000)]
    zero, one = drawn_by_bytes(data, "a", 0), drawn_by_bytes(data, "a", 1)
    assert zero != one
    for split, share in SHARES.items():
        assert abs(sum(splits == {split} for splits in zero.values()) / len(data) - share) < 0.03


def test_too_few_images_to_draw_from_are_refused_in_one_line() -> None:
    with pytest.raises(UsageError, match=r"photos has no splits, and drawn by their bytes none of its 1 images is "):
        drawn_by_bytes([b"one"], "a", 0)


@pytest.mark.slow
def test_many_images_in_many_folders_are_all_listed(tmp_path: Path) -> None:
    for folder in range(100):
        (tmp_path / f"{folder:02d}").mkdir()
    rows = [(f"{n % 100:02d}/{n:06d}.jpg", f"class {n % 500}", "train" if n % 4 else "test") for n in range(10_000)]
    for path, *_ in rows:
        (tmp_path / path).touch()
    file = write_csv(tmp_path / "photos.csv", rows)
    dataset = load(file)
    assert sum(len(split.labels) for split in dataset.splits.values()) == 10_000


@pytest.mark.slow
def test_a_million_rows_are_read_in_bounded_memory(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    (tmp_path / "images/0000000.jpg").write_bytes(JPEG)
    rows = ((f"images/{n:07d}.jpg", f"class {n % 1000}", "train" if n % 4 else "test") for n in range(1_000_000))
    file = write_csv(tmp_path / "photos.csv", list(rows))
    code = (
        "import resource, sys; from mma.pipeline.datasets import Lookup, find_dataset\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "dataset = find_dataset(sys.argv[1], Lookup()); assert len(dataset.splits['train'].labels) == 750_000\n"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)"
    )
    shown = subprocess.run(
        [sys.executable, "-c", code, str(file)], capture_output=True, text=True, check=True, timeout=120
    )
    assert int(shown.stdout) < 300_000 * (1 if sys.platform.startswith("linux") else 1024)


# Shards


def test_shards_are_read_in_place_in_their_own_splits(tmp_path: Path) -> None:
    write_tar(tmp_path / "train-0000.tar", samples(["cat", "dog"]))
    write_tar(tmp_path / "train-0001.tar", samples(["dog", "cat"], start=2))
    write_tar(tmp_path / "test-0000.tar", samples(["cat", "dog"], start=4))
    before = sorted(path.name for path in tmp_path.iterdir())
    dataset = load(tmp_path)
    assert dataset.classnames == ("cat", "dog")
    assert [row[1] for row in rows_of(dataset)] == ["cat", "dog", "dog", "cat", "cat", "dog"]
    assert dataset.splits["train"].paths[2] == "train-0001.tar/0002.jpg"
    assert [dataset.splits["test"].read(row) for row in (1, 0)] == [jpeg(5), jpeg(4)]
    assert dataset.splits["test"].stamp(0)[0] == len(jpeg(4))
    assert sorted(path.name for path in tmp_path.iterdir()) == before


def test_shards_may_lie_in_folders_and_be_numbered_or_carry_json(tmp_path: Path) -> None:
    write_tar(
        tmp_path / "train/0.tar",
        [("a.x.jpg", JPEG), ("a.json", b'{"label": 1}'), ("b.png", JPEG), ("b.json", b'{"label": 0}')],
    )
    write_tar(tmp_path / "test/0.tar", [("d/a.jpg", JPEG), ("d/a.cls", b"0\n"), ("e/a.jpg", JPEG), ("e/a.cls", b"1\n")])
    (tmp_path / "classnames.txt").write_text("cat\ndog\n")
    dataset = load(tmp_path)
    assert [row[1:] for row in rows_of(dataset)] == [
        ("dog", "train"),
        ("cat", "train"),
        ("cat", "test"),
        ("dog", "test"),
    ]


def test_one_shard_without_a_split_is_split_by_a_seed(tmp_path: Path) -> None:
    file = write_tar(tmp_path / "photos.tar", samples(["cat", "dog"] * 10))
    dataset = load(file, seed=1)
    assert sum(len(rows.labels) for rows in dataset.splits.values()) == 20
    rows = dataset.splits["test"]
    assert rows.read(1) == jpeg(int(rows.paths[1].split("/")[1][:4]))


BAD_TARS: dict[str, tuple[list[tuple[str, bytes]], str]] = {
    "no label": ([("a.jpg", JPEG), ("b.jpg", JPEG), ("b.cls", b"x")], "sample 'a' has no label"),
    "no image": ([("a.cls", b"x")], "has 0 images"),
    "two images": ([("a.jpg", JPEG), ("a.png", JPEG), ("a.cls", b"x")], "has 2 images"),
    "nothing": ([], "holds no samples"),
    "an empty label": ([("a.jpg", JPEG), ("a.cls", b"")], "has no label"),
    "a label that is no JSON": ([("a.jpg", JPEG), ("a.json", b"\xff\xfe")], "is not a label"),
    "a label that is a list": ([("a.jpg", JPEG), ("a.json", b"[1]")], "is not a label"),
    "a huge label": ([("a.jpg", JPEG), ("a.cls", b"x" * 1_000_001)], "too many for a label"),
    "one class": (samples(["cat", "cat"]), "at least two are needed"),
    "mixed labels": (samples(["cat", "cat", "1", "1"]), "mixes labels"),
    "a single image": (samples(["cat", "dog", "dog"]), "class 'cat' of"),
}


@pytest.mark.parametrize("wrong", BAD_TARS)
def test_a_wrong_shard_is_refused_in_one_line(wrong: str, tmp_path: Path) -> None:
    members, says = BAD_TARS[wrong]
    assert says in refused(write_tar(tmp_path / "photos.tar", members))


@pytest.mark.parametrize("keep", [0, 100, 700, 5000, -1024, -10240])
def test_a_shard_that_was_cut_off_is_refused(keep: int, tmp_path: Path) -> None:
    file = write_tar(tmp_path / "photos.tar", samples(["cat", "dog"] * 10))
    whole = file.read_bytes().rstrip(b"\0") + bytes(10240)
    file.write_bytes(whole[:keep] if keep >= 0 else whole.rstrip(b"\0"))
    says = refused(file)
    assert "not a whole, uncompressed tar file" in says or "holds no samples" in says


def header(name: str, size: int, kind: bytes = tarfile.REGTYPE) -> bytes:
    """A tar header that says what a test wants."""
    info = tarfile.TarInfo(name)
    info.size, info.type = size, kind
    return info.tobuf(tarfile.USTAR_FORMAT)


def pax(*said: bytes) -> bytes:
    """An extended header of some records."""
    records = b"".join(
        next(f"{n} ".encode() + one + b"\n" for n in range(1000) if len(f"{n} ".encode() + one) + 1 == n)
        for one in said
    )
    return header("pax", len(records), tarfile.XHDTYPE) + records.ljust(-(-len(records) // 512) * 512, b"\0")


def old_sparse() -> bytes:
    """The header of a sparse file as GNU tar once wrote it, whose map goes on in the block behind it."""
    block = bytearray(header("a.jpg", 0, tarfile.GNUTYPE_SPARSE))
    block[482] = 1
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\0 " % sum(block)
    return bytes(block)


SPARSE = pax(b"GNU.sparse.major=1", b"GNU.sparse.minor=0", b"GNU.sparse.name=a.jpg")
HOSTILE_TARS = {  # and what is said of it
    "a size below nothing, which leads back": (pax(b"size=-1536") + header("a.jpg", 0), "a member of -1,536 bytes"),
    "a size below nothing, further on": (pax(b"size=-512") + header("a.jpg", 0), "a member of -512 bytes"),
    "an extended header of gigabytes": (header("pax", 3 * 2**30, tarfile.XHDTYPE), "a header of 3,221,225,472 bytes"),
    "a long name of gigabytes": (header("@", 3 * 2**30, tarfile.GNUTYPE_LONGNAME), "a header of 3,221,225,472 bytes"),
    "extended headers without end": (pax(b"path=a.jpg") * 5000 + header("a.jpg", 0), "not a whole, uncompressed tar"),
    "a sparse map without end": (SPARSE + header("a.jpg", 512) + b"9\n".ljust(512, b"1"), "not a whole, uncompressed"),
    "an old sparse map without end": (old_sparse(), "not a whole, uncompressed"),
    "a size of forty digits": (pax(b"size=" + b"9" * 40) + header("a.jpg", 0), "unexpected end of data"),
}


@pytest.mark.parametrize("what", HOSTILE_TARS)
def test_a_hostile_shard_is_refused_in_one_line_at_once(what: str, tmp_path: Path) -> None:
    file, (data, says) = tmp_path / "photos.tar", HOSTILE_TARS[what]
    file.write_bytes(data + bytes(0 if "map" in what else 1024))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    start = time.process_time()
    assert says in refused(file)
    assert time.process_time() - start < 5
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100_000


def test_a_member_of_gigabytes_is_one_row_that_is_too_large(tmp_path: Path) -> None:
    def member(name: str, data: bytes) -> bytes:
        return header(name, len(data)) + data.ljust(512, b"\0")

    samples = [(str(n), b"ab"[n % 2 : n % 2 + 1], f"image {n}".encode()) for n in range(20)]
    small = b"".join(member(f"{n}.cls", label) + member(f"{n}.jpg", data) for n, label, data in samples)
    huge = member("huge.cls", b"a") + header("huge.jpg", 3 * 2**30)
    with (tmp_path / "photos.tar").open("wb") as file:
        file.write(small + huge)
        file.truncate(len(small + huge) + 3 * 2**30 + 1024)
    dataset = load(tmp_path / "photos.tar")
    rows = [(split, row) for split in dataset.splits.values() for row in range(len(split.paths))]
    split, row = next((split, row) for split, row in rows if split.paths[row].endswith("/huge.jpg"))
    with pytest.raises(OSError, match="3,221,225,472 bytes; at most 268,435,456 are read") as large:
        split.read(row)
    assert large.value.errno == errno.EFBIG


def test_pipes_and_folders_called_as_data_are_refused_at_once(tmp_path: Path) -> None:
    write_tar(tmp_path / "shards/test-0.tar", samples(["cat", "dog"]))
    os.mkfifo(tmp_path / "shards/train-0.tar")
    assert "train-0.tar cannot be read (not a regular file)" in refused(tmp_path / "shards")
    write_photos(tmp_path)
    file = write_csv(tmp_path / "photos.csv", [(path, 1, split) for path, _, split in ROWS])
    (tmp_path / "classnames.txt").symlink_to("/dev/zero")
    assert "has 1 class" in refused(file)
    for name in ("photos.csv", "photos.jsonl", "photos.tar"):
        (tmp_path / name).unlink(missing_ok=True)
        os.mkfifo(tmp_path / name)
        assert refused(tmp_path / name)


def test_shards_of_half_a_split_and_mixed_names_are_refused(tmp_path: Path) -> None:
    write_tar(tmp_path / "train-0.tar", samples(["cat", "dog"]))
    assert "both train and test" in refused(tmp_path)
    write_tar(tmp_path / "more.tar", samples(["cat", "dog"]))
    assert "more.tar is of no split" in refused(tmp_path)


def test_a_shard_that_shrinks_after_listing_is_an_error_of_its_rows(tmp_path: Path) -> None:
    file = write_tar(tmp_path / "photos.tar", samples(["cat", "dog"] * 10))
    rows = load(file).splits["test"]
    file.write_bytes(file.read_bytes()[:600])
    with pytest.raises(OSError, match="shorter than it was"):
        rows.read(len(rows.labels) - 1)


# Folders, and what is not there


BAD_FOLDERS = {
    "empty": ([], "has no folders"),
    "one class": (["cat/a.jpg"], "at least two are needed"),
    "an empty class": (["cat/a.jpg", "cat/b.jpg", "dog/notes.txt"], "class 'dog' of"),
    "twins": (["a cat/a.jpg", "a_cat/b.jpg"], "two classes called 'a cat'"),
    "a class with one image": (["cat/a.jpg", "dog/a.jpg", "dog/b.jpg"], "holds one image"),
    "no test": (["train/cat/a.jpg", "train/dog/a.jpg"], "has no folder test"),
    "a split twice": (
        ["train/cat/a.jpg", "val/cat/a.jpg", "valid/cat/a.jpg", "test/cat/a.jpg"],
        "has the split of 'val'",
    ),
    "files and no folders": (["a.jpg", "b.jpg"], "has no folders"),
    "splits alone": (["train/a.jpg", "test/a.jpg"], "at least two are needed"),
    "an empty split": (["train/cat/a.jpg", "train/dog/a.jpg", "test/cat/x.txt", "test/dog/x.txt"], "holds no images"),
}


@pytest.mark.parametrize("wrong", BAD_FOLDERS)
def test_a_wrong_folder_is_refused_in_one_line(wrong: str, tmp_path: Path) -> None:
    paths, says = BAD_FOLDERS[wrong]
    write_photos(tmp_path, [(path,) for path in paths])
    assert says in refused(tmp_path)


def test_a_class_that_is_in_one_split_only_is_told(tmp_path: Path) -> None:
    write_photos(
        tmp_path, [(f"{split}/{name}/a.jpg",) for split, name in (("train", "cat"), ("train", "dog"), ("test", "cat"))]
    )
    assert "1 classes have no test image, such as 'dog'" in load(tmp_path).notes


def test_what_is_not_there_is_refused_with_the_nearest_name(tmp_path: Path) -> None:
    assert "did you mean food101" in refused("fod101")
    assert "there is no folder" in refused(tmp_path / "nowhere.csv")
