from __future__ import annotations

import errno
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from mma.cache import CacheError, CacheWriter, Chunk, Status, open_cache, verify
from mma.pipeline.datasets.base import NO_FILE, Dataset, Stamp
from mma.pipeline.embedding import chunk as chunk_file
from mma.pipeline.embedding import rows as rows_file
from mma.pipeline.embedding.clip import load_clip
from mma.pipeline.embedding.encode import Encoding, encode_chunks
from mma.pipeline.embedding.images import decode
from mma.pipeline.embedding.rows import limit
from mma.pipeline.embedding.settings import EmbedSettings, failure_limit
from mma.pipeline.embedding.views import Views
from mma.pipeline.errors import UsageError, WorkError

from ...cache.writing import snapshot
from ..conftest import photo

Embed = Callable[..., tuple[Path, str]]
Run = Callable[..., subprocess.CompletedProcess[str]]

KILL = "from mma.cache import killpoint; killpoint.arm({!r}, killpoint.die, {})"


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chunk_file, "MOST_PICTURES", 4)


def by_hand(model: str, file: Path) -> np.ndarray:
    """The embedding of one image, as a reader of open_clip's documentation would compute it."""
    import open_clip

    net, preprocess = open_clip.create_model_from_pretrained(model)
    with torch.inference_mode():
        return net.eval().encode_image(preprocess(Image.open(file).convert("RGB"))[None])[0].numpy()


def test_a_folder_of_classes_becomes_a_cache_with_drawn_splits(
    embed: Embed, photo_folder: Path, small_clip: str
) -> None:
    path, said = embed()
    cache = open_cache(path)
    assert cache.header.classnames == ["big dog", "bird", "cat"]
    assert cache.header.rows.keys() == {"train", "val", "test"}
    assert "each image is drawn by its own bytes, 50% / 20% / 30% train / val / test, seed 0" in said
    train = cache.split("train")
    assert train.ok.all()
    assert train.embedding.shape == (cache.header.rows["train"], 1, 24)
    assert train.embedding.dtype == np.float16
    for row in (0, len(train.path) // 2, len(train.path) - 1):
        expected = by_hand(small_clip, photo_folder / train.path[row])
        assert train.path[row].startswith(["big_dog", "bird", "cat"][train.label[row]])
        assert np.allclose(train.embedding[row, 0].astype(np.float32), expected, rtol=2e-3, atol=1e-3)
    every = [path for split in cache.header.rows for path in cache.split(split).path]
    assert len(every) == len(set(every)) == 30


def test_a_folder_with_splits_keeps_them(embed: Embed, photo_folder: Path, tmp_path: Path) -> None:
    for split, numbers in (("train", range(6)), ("valid", range(6, 8)), ("test", range(8, 10))):
        for name in ("big_dog", "bird", "cat"):
            (tmp_path / "split" / split / name).mkdir(parents=True)
            for number in numbers:
                shutil.copy(photo_folder / name / f"{number}.jpg", tmp_path / "split" / split / name)
    cache = open_cache(embed(dataset=str(tmp_path / "split"))[0])
    assert cache.header.rows == {"train": 18, "val": 6, "test": 6}
    assert cache.split("val").path[0] == "valid/big_dog/6.jpg"


@pytest.mark.slow
def test_text_embeddings_are_those_of_the_filled_templates(embed: Embed, small_clip: str) -> None:
    path, _ = embed(templates=("a photo of a {}.", "{} up close"), prompts="mine")
    text = open_cache(path).text("mine")
    assert text.templates == ["a photo of a {}.", "{} up close"]
    clip = load_clip(small_clip, "")
    for row, name in enumerate(("big dog", "bird", "cat")):
        expected = clip.encode_text([f"a photo of a {name}.", f"{name} up close"])
        assert np.allclose(text.embedding[row], expected, atol=1e-5)


def test_the_fingerprint_says_all_that_decides_an_embedding(embed: Embed, small_clip: str) -> None:
    about = open_cache(embed()[0]).header.fingerprint
    assert set(about) >= {
        "model",
        "weights_sha256",
        "quick_gelu",
        "precision",
        "preprocess",
        "decoder",
        "dtype",
        "manifest_sha256",
        "classnames",
        "views",
        "view_seed",
        "open_clip",
        "torch",
    }
    assert about["preprocess"]["size"] == [32, 32]
    assert about["model"] == "local-dir:small"


def interrupt_after(chunks: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C when so many chunks are stored."""
    true_write, stored = CacheWriter.write, []

    def write(self: CacheWriter, chunk: Chunk, *rest: Any) -> None:
        if len(stored) == chunks:
            raise KeyboardInterrupt
        stored.append(chunk)
        true_write(self, chunk, *rest)

    monkeypatch.setattr(CacheWriter, "write", write)


def test_an_interrupted_run_continues_and_ends_in_the_same_bytes(embed: Embed, tmp_path: Path) -> None:
    whole, _ = embed(cache=tmp_path / "whole.zarr")
    with pytest.MonkeyPatch.context() as patch:
        interrupt_after(3, patch)
        with pytest.raises(KeyboardInterrupt):
            embed()
    path = tmp_path / "photos.zarr"
    with pytest.raises(CacheError, match=r"not complete \(3 of \d chunks\)"):
        open_cache(path)
    chunks = open_cache(path, partial=True).progress()[1]
    _, said = embed(workers=1)
    assert f"to do in {chunks - 3} chunks" in said
    assert snapshot(path) == snapshot(whole)
    assert "nothing to do" in embed()[1]


@pytest.mark.slow
def test_a_resumed_run_keeps_the_batches_of_the_first(embed: Embed, tmp_path: Path) -> None:
    whole, _ = embed(cache=tmp_path / "whole.zarr")
    with pytest.MonkeyPatch.context() as patch:
        interrupt_after(3, patch)
        with pytest.raises(KeyboardInterrupt):
            embed()
    path, _ = embed(batch_size=3)
    assert open_cache(path).header.batch == 4
    assert snapshot(path) == snapshot(whole)


def test_a_command_killed_twice_continues_to_the_same_bytes(
    embed: Embed, mma: Run, small_clip: str, photo_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(chunk_file, "MOST_PICTURES", 1024)
    monkeypatch.setattr(chunk_file, "MOST_SECONDS", 1e9)  # the probe of a busy machine would make smaller chunks
    same = "from mma.pipeline.embedding import chunk\nchunk.MOST_SECONDS = 1e9\n"
    whole, _ = embed(cache=tmp_path / "whole.zarr")
    words = ["embed", "--dataset", photo_folder, "--model", small_clip, "--batch-size", 4, "--cache", "photos.zarr"]
    for point in (("chunk.write:before", 2), ("journal.append:after", 1)):
        assert mma(*words, cwd=tmp_path, first=same + KILL.format(*point)).returncode == -9
    path, said = embed()
    assert f"{open_cache(path).header.rows['test']} to do in 1 chunks" in said
    assert snapshot(path) == snapshot(whole)


@pytest.mark.slow
def test_a_second_command_at_once_refuses_and_names_the_first(
    mma: Run, small_clip: str, photo_folder: Path, tmp_path: Path
) -> None:
    words = ["embed", "--dataset", str(photo_folder), "--model", small_clip, "--cache", "photos.zarr"]
    lock = tmp_path / ".photos.zarr.lock"
    holder = subprocess.Popen(
        [sys.executable, "-c", "from mma.cache.lock import CacheLock; from pathlib import Path\n"
         "CacheLock(Path('photos.zarr')); input()"],
        cwd=tmp_path, stdin=subprocess.PIPE,
    )  # fmt: skip
    while not lock.exists() or not lock.read_text():
        time.sleep(0.01)
    ran = mma(*words, cwd=tmp_path)
    holder.communicate(b"\n")
    assert ran.returncode == 2
    assert f"photos.zarr is being written by process {holder.pid} on" in ran.stderr
    assert not (tmp_path / "photos.zarr").exists()


@pytest.mark.slow
def test_another_fingerprint_is_refused_with_what_differs(embed: Embed, other_clip: str) -> None:
    embed()
    with pytest.raises(CacheError) as refused:
        embed(model=other_clip)
    assert "weights_sha256: " in str(refused.value)
    assert "choose another place, or delete it" in str(refused.value)
    with pytest.raises(CacheError, match=r"dtype: float16 \(stored\), float32 \(asked for\)"):
        embed(dtype="float32")


@pytest.mark.slow
def test_bad_images_keep_their_row_and_are_listed(
    embed: Embed, photo_folder: Path, listed: Path, tmp_path: Path
) -> None:
    good = open_cache(embed(dataset=str(listed), cache=tmp_path / "good.zarr")[0])
    (photo_folder / "cat/5.jpg").write_bytes(b"")
    (photo_folder / "cat/6.jpg").write_bytes(b"hello")
    (photo_folder / "bird/1.jpg").unlink()
    (photo_folder / "bird/1.jpg").symlink_to("/etc/hostname")
    path, said = embed(dataset=str(listed))
    cache = open_cache(path)
    assert "3 images have no embedding" in said
    bad = {"cat/5.jpg": Status.UNREADABLE, "cat/6.jpg": Status.UNREADABLE, "bird/1.jpg": Status.MISSING}
    for split in cache.header.rows:
        data, before = cache.split(split), good.split(split)
        assert list(data.path) == list(before.path)
        for row, name in enumerate(data.path):
            if name in bad:
                assert data.status[row] == bad[name]
                assert np.isnan(data.embedding[row]).all()
            else:  # a bad neighbour changes no bit
                assert data.embedding[row].tobytes() == before.embedding[row].tobytes()
    assert {reason for found in cache.failures().values() for *_, reason in found} == {
        "the file is empty",
        "not an image file that can be read",
        "a link that leaves the data set's folder",
    }


@pytest.mark.slow
@pytest.mark.parametrize(("most", "ends"), [("2", True), ("3", False), ("9%", True), ("10%", False), ("0", True)])
def test_too_many_failures_end_the_run_and_what_is_done_is_kept(
    most: str, ends: bool, embed: Embed, photo_folder: Path, tmp_path: Path
) -> None:
    for number in (3, 4, 5):
        (photo_folder / f"cat/{number}.jpg").write_bytes(b"")
    if not ends:
        assert "3 images have no embedding" in embed(max_failures=most)[1]
        return
    with pytest.raises(WorkError, match=r"images have failed, and \d may \(`max_failures=N`; .*the file is empty"):
        embed(max_failures=most)
    done = open_cache(tmp_path / "photos.zarr", partial=True).progress()[0]
    assert 0 < done < 9
    assert "30 to do" not in embed()[1]


@pytest.mark.parametrize("text", ["-1", "ten", "101%", "5%%", "", "nan%", "1.5"])
def test_a_limit_of_failures_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="neither a count nor a percentage"):
        EmbedSettings(max_failures=text)


def test_a_limit_of_failures_is_a_count_or_a_share() -> None:
    assert [failure_limit(text, 400) for text in ("0", "12", "5%", "0.5%", "100%")] == [0, 12, 20, 2, 400]


class Failing:
    """A split whose every read ends in the same error."""

    def __init__(self, error: OSError) -> None:
        self.paths, self.labels, self.error = ["a.jpg"], np.zeros(1, np.int32), error

    def stamp(self, row: int) -> Stamp:
        return NO_FILE

    def read(self, row: int) -> bytes:
        raise self.error


@pytest.fixture(scope="module")
def clip(small_clip: str) -> Any:
    return load_clip(small_clip, "")


def encoded(clip: Any, split: Any, dtype: str = "float16") -> Any:
    dataset = Dataset("one", ("a", "b"), (), {"test": split})
    how = Encoding(Views(clip.preprocess), 1, 1, 10**6, dtype)
    return next(iter(encode_chunks(clip, dataset, [Chunk("test", 0, 0, 1)], how)))


def test_an_error_of_the_disk_ends_the_run_and_an_error_of_a_file_does_not(clip: Any) -> None:
    for code in (errno.EIO, errno.ESTALE, errno.ENOTCONN):
        with pytest.raises(WorkError, match=r"a.jpg could not be read .*; what is done is kept"):
            encoded(clip, Failing(OSError(code, os.strerror(code), "a.jpg")))
    for code in (errno.ENOENT, errno.EACCES, errno.ELOOP, errno.ENAMETOOLONG):
        done = encoded(clip, Failing(OSError(code, os.strerror(code), "a.jpg")))
        assert not done.content.any()
        assert done.failures == [(0, Status.MISSING, os.strerror(code))]


def test_values_that_float16_cannot_hold_are_a_failed_row(clip: Any) -> None:
    class Bright(Failing):
        def read(self, row: int) -> Any:
            return np.full((40, 40, 3), 255, np.uint8)

    loud = torch.nn.Module()
    loud.encode_image = lambda images: 1e6 * clip.model.encode_image(images)  # type: ignore[assignment]
    model = replace(clip, model=loud)
    assert encoded(model, Bright(OSError())).failures == [(0, Status.NON_FINITE, "the model returned NaN or infinity")]
    done = encoded(model, Bright(OSError()), "float32")
    assert done.failures == []
    assert np.isfinite(done.embedding).all()


class Photo(Failing):
    """A split of one photo."""

    def read(self, row: int) -> bytes:
        return photo(0)


def test_what_a_view_raises_is_its_rows_failure_and_a_lack_of_memory_is_not(clip: Any) -> None:
    def raising(error: Exception) -> Any:
        def view(image: Image.Image) -> torch.Tensor:
            if image.size == (48, 40):
                raise error
            return clip.preprocess(image)

        return replace(clip, preprocess=view)

    done = encoded(raising(OverflowError("too long\nby far")), Photo(OSError()))
    assert done.failures == [(0, Status.UNREADABLE, "OverflowError: too long")]
    with pytest.raises(WorkError, match=r"not enough memory for a.jpg; what is done is kept"):
        encoded(raising(MemoryError()), Photo(OSError()))


@pytest.mark.slow
def test_a_small_bound_on_pixels_bounds_images_and_not_the_models_own_pictures(
    embed: Embed, small_clip: str, tmp_path: Path
) -> None:
    side = 8
    tiny = Image.new("RGB", (side, side), "red")
    for split in ("train", "test"):
        for name in ("red", "blue"):
            (tmp_path / "tiny" / split / name).mkdir(parents=True)
            tiny.save(tmp_path / "tiny" / split / name / "0.png")
    path, _ = embed(dataset=str(tmp_path / "tiny"), max_pixels=side * side, views=2)  # the model's have 32 x 32
    assert open_cache(path).split("train").ok.all()
    with pytest.raises(WorkError, match="48 x 40 pixels; at most 64 are decoded"):
        embed(max_pixels=side * side, cache=tmp_path / "photos.zarr2")


@pytest.mark.slow
def test_a_data_set_that_is_lost_during_the_run_stops_it_in_one_line(
    embed: Embed, photo_folder: Path, tmp_path: Path
) -> None:
    true_write = CacheWriter.write

    def write(self: CacheWriter, chunk: Chunk, *rest: Any) -> None:
        true_write(self, chunk, *rest)
        if photo_folder.exists() and chunk.index == 1:
            photo_folder.rename(tmp_path / "unmounted")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(CacheWriter, "write", write)
        with pytest.raises(WorkError, match="is gone; what is done is kept"):
            embed(workers=1, max_failures="100%")
    done = open_cache(tmp_path / "photos.zarr", partial=True)
    assert all(not failures for failures in done.failures().values())
    assert done.progress()[0] >= 2
    (tmp_path / "unmounted").rename(photo_folder)
    path, _ = embed()
    assert open_cache(path).split("test").ok.all()


def test_limit_takes_some_of_every_class_and_names_its_cache(
    embed: Embed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    path, said = embed(limit=6, cache=None)
    assert path == Path("cache/photos-limit6.zarr")
    cache = open_cache(path)
    assert cache.header.rows == {"train": 6, "val": 6, "test": 6}
    assert np.bincount(cache.split("train").label).tolist() == [2, 2, 2]
    assert "limited to 6 images per split" in said


def test_a_limit_above_the_rows_changes_none() -> None:
    class Rows:
        labels = np.array([0, 0, 1], np.int32)
        paths = ("a", "b", "c")

    limited = limit(Dataset("x", ("a", "b"), (), {"test": Rows()}), 10).splits["test"]  # type: ignore[dict-item]
    assert list(limited.paths) == ["a", "b", "c"]
    assert limited.labels.tolist() == [0, 0, 1]


@pytest.mark.slow
def test_prompt_sets_are_added_to_a_finished_cache_without_the_images(
    embed: Embed, photo_folder: Path, tmp_path: Path
) -> None:
    path, _ = embed()
    before = snapshot(path)
    photo_folder.rename(tmp_path / "elsewhere")
    file = tmp_path / "templates.txt"
    file.write_text("a drawing of a {}.\n\nthe {}\n")
    _, said = embed(dataset=None, model=None, text_only=True, prompts="drawn", templates=(str(file),))
    assert "prompts default, drawn" in said
    cache = open_cache(path)
    assert cache.text("drawn").templates == ["a drawing of a {}.", "the {}"]
    assert not np.array_equal(cache.text("drawn").embedding[:, 0], cache.text("default").embedding[:, 0])
    after = snapshot(path)
    assert {name: after[name] for name in before if name.startswith("image")} == {
        name: checksum for name, checksum in before.items() if name.startswith("image")
    }
    assert verify(path).faults == []


@pytest.mark.slow
def test_text_only_gives_the_bytes_that_the_whole_command_gives(embed: Embed, tmp_path: Path) -> None:
    path, _ = embed()
    embed(text_only=True, prompts="b", templates=("the {}",))
    other, _ = embed(cache=tmp_path / "other.zarr")
    embed(cache=other, prompts="b", templates=("the {}",))
    assert snapshot(path) == snapshot(other)


@pytest.mark.slow
def test_text_by_another_model_is_refused(embed: Embed, other_clip: str) -> None:
    path, _ = embed()
    before = snapshot(path)
    with pytest.raises(UsageError, match="was made with another model"):
        embed(text_only=True, model=other_clip, prompts="b", templates=("the {}",))
    assert snapshot(path) == before


@pytest.mark.slow
def test_a_prompt_set_of_other_templates_needs_another_name(embed: Embed) -> None:
    embed()
    for text_only in (False, True):
        with pytest.raises(UsageError, match="name another with `prompts=NAME`"):
            embed(templates=("the {}",), text_only=text_only)


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"dataset": None}, "`dataset=NAME` is missing"),
        ({"dataset": "fod101"}, "food101"),
        ({"dataset": "no/such/folder"}, "there is no .*no/such/folder"),
        ({"model": "ViT-B-17"}, "unknown model"),
        ({"model": "local-dir:nowhere"}, "open_clip_config.json"),
        ({"precision": "fp8"}, "unknown precision"),
        ({"device": "tpu"}, "unknown device|tpu"),
        ({"dtype": "int8"}, "unknown dtype"),
        ({"batch_size": 0}, "`batch_size=0`"),
        ({"workers": -1}, "`workers=-1`"),
        ({"limit": 0}, "`limit=0`"),
        ({"views": 0}, "`views=0`"),
        ({"view_seed": -1}, "`view_seed=-1`"),
        ({"max_pixels": 0}, "`max_pixels=0`"),
        ({"max_failures": "many"}, "`max_failures="),
        ({"prompts": "../x", "templates": ("{}",)}, "not a usable name"),
        ({"templates": ("a photo",)}, "neither a template"),
        ({"dataset": None, "cache": None, "text_only": True}, "`text_only=True` adds to a cache"),
    ],
)
def test_wrong_use_is_refused_in_one_line_and_nothing_is_written(
    changes: dict[str, Any], why: str, embed: Embed, tmp_path: Path
) -> None:
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises((UsageError, CacheError), match=why) as refused:
        embed(**changes)
    assert "\n" not in str(refused.value)
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"model": "ViT-B16"}, "unknown model 'ViT-B16': did you mean ViT-B-16"),
        ({"model": "ViT-B-16", "pretrained": "opnai"}, "neither a file nor weights of ViT-B-16: did you mean openai"),
        ({"precision": "fp17"}, "unknown precision"),
        ({"device": "mps"}, "device mps is not available"),
        ({"dtype": "float8"}, "unknown dtype"),
        ({"prompts": "cupl=nowhere.json"}, "prompts nowhere.json cannot be read"),
        ({"prompts": "ensembel"}, "unknown prompt set"),
        ({"split_seed": -1}, "`split_seed=-1`"),
        ({"split_seed": 10**40}, "`split_seed=1000"),
        ({"limit": 10**40}, "`limit=1000"),
        (
            {"cache": "https://host/x.zarr"},
            "`cache=https://host/x.zarr` is only read: a cache is written to a folder, or",
        ),
        ({"cache": "memory://x.zarr", "update": True}, "`update=True` is for a cache on a disk"),
        ({"cache": Path("a-file/x.zarr")}, "is a file, not a folder"),
    ],
)
def test_all_that_can_be_is_checked_before_the_data_set_is_opened(
    changes: dict[str, Any], why: str, embed: Embed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a-file").touch()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(rows_file, "find_dataset", None)  # it would be a defect to get there
    with pytest.raises(UsageError, match=why):
        embed(**changes)


def test_a_place_that_is_a_file_is_refused(embed: Embed, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    for place in ("file", "file/photos.zarr"):
        with pytest.raises(UsageError, match="is a file"):
            embed(cache=tmp_path / place)
    (tmp_path / "folder").mkdir()
    with pytest.raises(CacheError, match="is not an mma cache"):
        embed(cache=tmp_path / "folder")


def on_a_small_disk(work: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    """Run a shell command where small/ is a disk of 1.2 MB."""
    shell = f"mkdir -p small && mount -t tmpfs -o size=1200k none small && {work}"
    return subprocess.run(
        ["unshare", "-rm", "sh", "-c", shell], cwd=cwd, capture_output=True, text=True, timeout=200, check=False
    )


@pytest.fixture
def small_disk(tmp_path: Path) -> None:
    if shutil.which("unshare") is None or on_a_small_disk("true", tmp_path).returncode:
        pytest.skip("a user may not mount a disk here")


@pytest.mark.slow
@pytest.mark.usefixtures("small_disk")
def test_a_disk_without_space_is_refused_before_work(small_clip: str, photo_folder: Path, tmp_path: Path) -> None:
    mma = Path(sys.executable).with_name("mma")
    ran = on_a_small_disk(
        f"head -c 500000 /dev/zero > small/filler; {mma} embed --dataset {photo_folder} --model {small_clip} "
        "--cache small/a.zarr; echo $?; ls -A small",
        tmp_path,
    )
    assert ran.stdout == "2\nfiller\n"
    assert "no disk space for small/a.zarr: it needs 1.0 MB" in ran.stderr
    assert ran.stderr.count("mma:") == 1


@pytest.mark.slow
@pytest.mark.usefixtures("small_disk")
def test_a_disk_that_fills_up_stops_the_run_in_one_line_and_loses_nothing(
    embed: Embed, small_clip: str, photo_folder: Path, tmp_path: Path
) -> None:
    whole, _ = embed(cache=tmp_path / "whole.zarr", dtype="float32")
    script = f"""
import sys
from pathlib import Path
from rich.console import Console
from mma.pipeline.embedding import chunk, embed as e, run
chunk.MOST_PICTURES, run.check_space = 4, lambda *a: None
try:
    e.embed(e.EmbedSettings(dataset={str(photo_folder)!r}, model={small_clip!r}, cache=Path("small/photos.zarr"),
            batch_size=4, workers=2, dtype="float32"), Console(stderr=True))
except Exception as error:
    print(type(error).__name__, error)
"""
    (tmp_path / "run.py").write_text(script)
    run = f"{sys.executable} run.py"
    ran = on_a_small_disk(
        f"head -c 1060000 /dev/zero > small/filler; {run}; cp -r small/photos.zarr half.zarr; rm small/filler; {run}; "
        "cp -r small/photos.zarr .; ls -A small",
        tmp_path,
    )
    lines = ran.stdout.splitlines()
    assert lines[0].startswith("WorkError small/photos.zarr: No space left on device; what is done is kept"), ran
    assert lines[1:] == [".photos.zarr.seen", "photos.zarr"]
    assert verify(tmp_path / "half.zarr").faults == []
    assert 0 < open_cache(tmp_path / "half.zarr", partial=True).progress()[0] < 9
    assert snapshot(tmp_path / "photos.zarr") == snapshot(whole)


def test_decoded_pixels_reach_the_model_as_its_own_transform_makes_them(small_clip: str, photo_folder: Path) -> None:
    clip = load_clip(small_clip, "")
    data = (photo_folder / "cat/0.jpg").read_bytes()
    assert torch.equal(
        clip.preprocess(decode(data)), clip.preprocess(Image.open(photo_folder / "cat/0.jpg").convert("RGB"))
    )


@pytest.mark.slow
def test_a_folder_of_hostile_files_is_embedded_to_the_end(embed: Embed, photo_folder: Path) -> None:
    from .test_images import BROKEN, LONG, READ, READ_TRANSPARENT, TOO_LARGE

    statuses = {}
    for made, status in (
        (READ, Status.OK),
        (READ_TRANSPARENT, Status.OK),
        (BROKEN, Status.UNREADABLE),
        (TOO_LARGE, Status.TOO_LARGE),
        ({name: make for name, make in LONG.items() if "million" in name}, Status.TOO_LARGE),
    ):
        for name, make in made.items():
            file = photo_folder / "cat" / f"hostile-{len(statuses)}.png"
            file.write_bytes(make())
            statuses[f"cat/{file.name}"] = (name, status)
    os.mkfifo(photo_folder / "cat/pipe.png")
    statuses["cat/pipe.png"] = ("pipe", Status.MISSING)
    odd = photo_folder / "cat" / os.fsdecode(b"caf\xe9.jpg")
    odd.write_bytes(photo(1))
    statuses["cat/caf\\xe9.jpg"] = ("not UTF-8", Status.OK)
    path, said = embed(max_failures="60%")
    cache = open_cache(path)
    seen = 0
    for split in cache.header.rows:
        data = cache.split(split)
        for row, name in enumerate(data.path):
            what, status = statuses.get(name, ("photo", Status.OK))
            assert data.status[row] == status, what
            seen += name in statuses
    assert seen == len(statuses) > 60
    assert f"{sum(status != Status.OK for _, status in statuses.values())} images have no embedding" in said
    assert verify(path).faults == []
