from __future__ import annotations

import io
import json
import os
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from rich.console import Console
from typer.testing import CliRunner

from mma.cache import CacheError, open_cache, verify
from mma.pipeline.caches.convert import clip_benchmark, clip_retrieval, read_classnames, tip_adapter
from mma.pipeline.caches.repair import repair_cache
from mma.pipeline.cli.cache import cache_app
from mma.pipeline.embedding import chunk as chunk_file
from mma.pipeline.embedding import run as stage_one
from mma.pipeline.errors import UsageError, WorkError
from mma.pipeline.fitting.features import load_features

from ...cache.writing import snapshot
from ...conftest import small_features
from ..conftest import photo

Embed = Callable[..., tuple[Path, str]]
Words = Callable[..., tuple[int, str]]


@pytest.fixture
def cache_command() -> Words:
    """`mma cache ...` in this process: the exit code and what went to stdout; errors are raised."""

    def run(*words: object) -> tuple[int, str]:
        result = CliRunner().invoke(cache_app, [*map(str, words)], catch_exceptions=False, env={"COLUMNS": "300"})
        return result.exit_code, result.stdout

    return run


@pytest.fixture
def copy(small_cache: Path, tmp_path: Path) -> Path:
    """A cache that may be harmed."""
    return Path(shutil.copytree(small_cache, tmp_path / "copy.zarr"))


def test_verify_of_a_sound_cache_says_so(cache_command: Words, small_cache: Path) -> None:
    code, said = cache_command("verify", small_cache)
    assert code == 0
    assert "every byte is as it was written; complete" in said


def test_verify_names_every_fault_and_exits_1(cache_command: Words, copy: Path) -> None:
    (copy / "image/test/embedding/c/0/0/0").unlink()
    (copy / "journal.jsonl").write_bytes(b"")
    code, said = cache_command("verify", copy)
    assert code == 1
    assert "image/test/embedding, chunk 0 (rows 0 to 69): is missing" in said
    assert "journal.jsonl: is missing or empty" in said
    assert f"2 files are damaged ({verify(copy).files} files" in said
    assert "run mma cache repair" in said


def test_an_unfinished_cache_verifies_as_far_as_it_is(cache_command: Words, embed: Embed, tmp_path: Path) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(stage_one, "embed_images", interrupt)
        with pytest.raises(KeyboardInterrupt):
            embed()
    code, said = cache_command("verify", tmp_path / "photos.zarr")
    assert code == 0
    assert "unfinished, 0 of 3 chunks done" in said


def test_repair_of_a_sound_cache_does_nothing(cache_command: Words, copy: Path) -> None:
    before = snapshot(copy)
    code, said = cache_command("repair", copy)
    assert (code, "nothing is wrong" in said) == (0, True)
    assert snapshot(copy) == before


def test_repair_computes_again_what_is_damaged_and_nothing_else(
    embed: Embed, cache_command: Words, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(chunk_file, "MOST_PICTURES", 4)
    embedded = {"views": 2, "view_splits": "train,val", "image_noise": "blur2,jpeg10", "noise_splits": "val,test"}
    path, _ = embed(prompts="photo,simple", **embedded)
    before = snapshot(path)
    for name in ("image/train/embedding/c/2/0/0", "image/test/status/c/1", "text/simple/embedding/c/0/0/0"):
        (path / name).write_bytes(b"?")
    (path / "image/val/label/c/0").unlink()
    (path / "image/zarr.json").write_bytes(b"{}")
    untouched = (path / "image/train/embedding/c/0/0/0").stat().st_mtime_ns
    code, said = cache_command("repair", path)
    assert code == 0
    assert "2 files restored, 3 units computed again" in said
    assert "image/train/embedding, chunk 2 (rows 8 to 11): is not what was written" in said
    assert snapshot(path) == before
    assert (path / "image/train/embedding/c/0/0/0").stat().st_mtime_ns == untouched


@pytest.mark.slow
def test_repair_asks_for_the_data_set_where_it_is_no_longer_there(
    embed: Embed, photo_folder: Path, tmp_path: Path, cache_command: Words
) -> None:
    path, _ = embed()
    before = snapshot(path)
    moved = photo_folder.rename(tmp_path / "moved")
    (path / "image/test/embedding/c/0/0/0").unlink()
    damaged = snapshot(path)
    with pytest.raises(UsageError, match=r"the images are needed, and not where they were .*: give `dataset=NAME`"):
        cache_command("repair", path)
    assert snapshot(path) == damaged  # what cannot be computed again is not given up
    assert cache_command("repair", path, "--dataset", moved)[0] == 0
    # the folder's name is the data set's, and no part of what decides the embeddings
    assert snapshot(path) == before


@pytest.mark.slow
def test_repair_with_other_images_or_another_model_is_refused(
    embed: Embed, photo_folder: Path, other_clip: str, cache_command: Words
) -> None:
    path, _ = embed()
    (path / "image/test/embedding/c/0/0/0").unlink()
    with pytest.raises(CacheError, match="weights_sha256"):
        cache_command("repair", path, "--model", other_clip)
    (photo_folder / "cat/0.jpg").write_bytes(b"changed")
    with pytest.raises(CacheError, match=r"other images than photos has now: 1 have changed, the first is cat/0.jpg"):
        cache_command("repair", path)


@pytest.mark.slow
def test_repair_of_text_needs_no_images(embed: Embed, photo_folder: Path, tmp_path: Path, cache_command: Words) -> None:
    path, _ = embed(prompts="photo,photo-typo10")
    before = snapshot(path)
    photo_folder.rename(tmp_path / "moved")
    (path / "text/photo-typo10/embedding/c/0/0/0").write_bytes(b"?")
    assert cache_command("repair", path)[0] == 0
    assert snapshot(path) == before


@pytest.mark.slow
def test_values_that_come_out_otherwise_than_before_are_announced(embed: Embed) -> None:
    path, _ = embed()
    (path / "image/test/embedding/c/0/0/0").unlink()
    said = io.StringIO()
    with pytest.MonkeyPatch.context() as patch:
        true = stage_one.embed_images

        def louder(console: Console, clip: object, *rest: object) -> None:
            clip.model.visual.proj.data *= 1.01  # type: ignore[attr-defined]  # as another processor might
            true(console, clip, *rest)  # type: ignore[arg-type]

        patch.setattr("mma.pipeline.caches.repair.embed_images", louder)
        repair_cache(path, {}, None, Console(file=said, width=300))
    assert "image/test/0: computed again, but not with the bytes that were lost" in said.getvalue()
    assert "no image of known hash has changed" in said.getvalue()
    assert verify(path).faults == []


@pytest.mark.slow
def test_repair_tells_changed_images_from_changed_arithmetic_where_their_hashes_are_damaged(
    embed: Embed, photo_folder: Path
) -> None:
    path, _ = embed()
    for number, image in enumerate(open_cache(path).split("test").path):
        (photo_folder / image).write_bytes(photo(1000 + number))
    for name in ("embedding/c/0/0/0", "content/c/0/0"):
        (path / f"image/test/{name}").write_bytes(b"?")
    said = io.StringIO()
    repair_cache(path, {}, None, Console(file=said, width=400))
    assert "(their images have changed since the cache was made)" in said.getvalue()
    assert "sums round otherwise" not in said.getvalue()
    assert verify(path).faults == []


@pytest.mark.slow
def test_repair_tries_missing_rows_again(embed: Embed, photo_folder: Path, listed: Path, cache_command: Words) -> None:
    whole, _ = embed(dataset=str(listed), cache=photo_folder.parent / "whole.zarr")
    image, away = photo_folder / "cat/3.jpg", photo_folder / "cat/3.was"
    image.rename(away)
    image.symlink_to("nowhere.jpg")
    path, _ = embed(dataset=str(listed))
    image.unlink()
    away.rename(image)
    missing = [row for rows in open_cache(path).failures().values() for row in rows]
    assert len(missing) == 1
    _, said = cache_command("repair", path)
    assert "1 units computed again" in said
    assert snapshot(path) == snapshot(whole)
    assert "nothing is wrong" in cache_command("repair", path)[1]


@pytest.mark.parametrize(
    "names",
    [
        ["image/test/embedding/c/0/0/0", "image/train/label/c/0", "text/default/embedding/c/0/0/0"],
        ["image/test/embedding/c/0/0/0"],
        ["text/default/embedding/c/0/0/0"],
    ],
)
def test_an_imported_cache_is_repaired_from_another_copy(
    small_cache: Path, copy: Path, cache_command: Words, names: list[str]
) -> None:
    for name in names:
        (copy / name).write_bytes(b"?")
    with pytest.raises(UsageError, match="was imported: import it again beside, and repair `from=THAT_COPY`"):
        cache_command("repair", copy)
    assert cache_command("repair", copy, "--from", small_cache)[0] == 0
    assert snapshot(copy) == snapshot(small_cache)


@pytest.mark.parametrize("name", ["image/train/embedding/c/0/0/0", "image/test/label/c/0", "image/val/status/c/0",
                                  "text/default/embedding/c/0/0/0", "zarr.json", "journal.jsonl",
                                  "image/train/embedding/zarr.json"])  # fmt: skip
def test_a_flipped_bit_never_reaches_fit(name: str, copy: Path) -> None:
    good = load_features(copy).images.images("train")
    data = bytearray((copy / name).read_bytes())
    data[len(data) // 2] ^= 4
    (copy / name).write_bytes(data)
    with pytest.raises(CacheError, match="run `mma cache verify` on it"):
        load_features(copy)
    assert good.isfinite().all()


def test_diff_prints_a_table_and_exits_1_where_caches_differ(
    cache_command: Words, small_cache: Path, copy: Path, tmp_path: Path
) -> None:
    code, said = cache_command("diff", small_cache, copy)
    assert (code, "the caches hold the same" in said) == (0, True)
    np.savez(tmp_path / "other.npz", **small_features(seed=1))
    cache_command("import", "--npz", tmp_path / "other.npz", "--out", tmp_path / "other.zarr")
    code, said = cache_command("diff", small_cache, tmp_path / "other.zarr")
    assert code == 1
    assert "fingerprint: sha256:" in said
    assert "header: logit scale: 20.0 (A), 100.0 (B)" in said
    code, said = cache_command("diff", small_cache, tmp_path / "other.zarr", "--json")
    told = json.loads(said)
    assert told["same"] is False
    assert told["embeddings"]["image/train"]["differ"] == 70


@pytest.mark.parametrize("kind", ["npz", "safetensors", "parquet"])
def test_export_and_import_give_the_cache_back(
    kind: str, cache_command: Words, small_cache: Path, tmp_path: Path
) -> None:
    if kind == "parquet":
        pytest.importorskip("pyarrow")
    assert cache_command("export", small_cache, "--out", tmp_path / f"a.{kind}")[0] == 0
    cache_command("import", f"--{kind}", tmp_path / f"a.{kind}", "--out", tmp_path / "b.zarr")
    assert snapshot(tmp_path / "b.zarr") == snapshot(small_cache)


def test_import_wants_exactly_one_source(cache_command: Words, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no source is given: name one of --npz, --safetensors"):
        cache_command("import", "--out", tmp_path / "a.zarr")
    with pytest.raises(UsageError, match="--npz and --parquet are given"):
        cache_command("import", "--out", tmp_path / "a.zarr", "--npz", "a.npz", "--parquet", "b")


def test_a_place_that_cannot_be_written_is_said_in_one_line(
    cache_command: Words, small_cache: Path, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("mine")
    np.savez(tmp_path / "small.npz", **small_features())
    with pytest.raises(CacheError, match=r"a.zarr cannot be written \(File exists\): choose another place"):
        cache_command("import", "--npz", tmp_path / "small.npz", "--out", tmp_path / "file" / "a.zarr")
    with pytest.raises(WorkError, match=r"a\.npz could not be written"):
        cache_command("export", small_cache, "--out", tmp_path / "file" / "a.npz")


def tip_adapter_folder(at: Path, shots: int = 4, classes: int = 5, dim: int = 16) -> dict[str, torch.Tensor]:
    """The files that Tip-Adapter's main.py leaves in its cache_dir."""
    draw = torch.Generator().manual_seed(shots)
    keys = torch.nn.functional.normalize(torch.randn(classes * shots, dim, generator=draw), dim=-1).half()
    target = torch.arange(classes).repeat(shots)
    tensors = {
        f"keys_{shots}shots": keys.permute(1, 0),
        f"values_{shots}shots": torch.nn.functional.one_hot(target).half(),
        "test_f": torch.nn.functional.normalize(torch.randn(30, dim, generator=draw), dim=-1).half(),
        "test_l": torch.randint(0, classes, (30,), generator=draw),
        "val_f": torch.nn.functional.normalize(torch.randn(10, dim, generator=draw), dim=-1).half(),
        "val_l": torch.randint(0, classes, (10,), generator=draw),
    }
    at.mkdir(exist_ok=True)
    for name, tensor in tensors.items():
        torch.save(tensor, at / f"{name}.pt")
    return tensors


def test_a_tip_adapter_cache_becomes_train_val_and_test(cache_command: Words, tmp_path: Path) -> None:
    given = tip_adapter_folder(tmp_path / "caltech101")
    (tmp_path / "names.txt").write_text("a\nb\nc\nd\ne\n")
    words = ["--tip-adapter", tmp_path / "caltech101", "--classnames", tmp_path / "names.txt"]
    code, _ = cache_command("import", *words, "--out", tmp_path / "a.zarr")
    assert code == 0
    cache = open_cache(tmp_path / "a.zarr")
    assert cache.header.rows == {"train": 20, "val": 10, "test": 30}
    assert cache.header.dataset == "caltech101"
    assert cache.header.classnames == list("abcde")
    assert "support of 4 shots" in cache.header.notes[1]
    train = cache.split("train")
    assert np.array_equal(train.embedding[:, 0], given["keys_4shots"].T.numpy())
    assert train.label.tolist() == [0, 1, 2, 3, 4] * 4
    assert np.array_equal(cache.split("test").embedding[:, 0], given["test_f"].numpy())
    assert cache.split("val").label.tolist() == given["val_l"].tolist()
    assert cache.prompts == ()


@pytest.mark.slow
def test_texts_are_added_to_an_imported_cache_by_naming_the_model(
    cache_command: Words, embed: Embed, small_clip: str, tmp_path: Path
) -> None:
    tip_adapter_folder(tmp_path / "tip", dim=24)
    path = tmp_path / "a.zarr"
    cache_command("import", "--tip-adapter", tmp_path / "tip", "--out", path)
    with pytest.raises(UsageError, match="does not say which model made it: give `model=NAME`"):
        embed(cache=path, text_only=True, dataset=None, model=None)
    _, said = embed(cache=path, text_only=True, dataset=None, templates=("a {}.",))
    assert "it cannot be checked that its model is this one" in said
    features = load_features(path)
    assert features.text.embedding.shape == (5, 24)
    tip_adapter_folder(tmp_path / "narrow", dim=16)
    cache_command("import", "--tip-adapter", tmp_path / "narrow", "--out", tmp_path / "b.zarr")
    with pytest.raises(UsageError, match="has D = 16, this model 24"):
        embed(cache=tmp_path / "b.zarr", text_only=True, dataset=None)


def test_a_folder_of_several_supports_asks_which(tmp_path: Path) -> None:
    tip_adapter_folder(tmp_path / "tip", shots=1)
    tip_adapter_folder(tmp_path / "tip", shots=16)
    with pytest.raises(CacheError, match="supports of 1, 16 shots: choose with `shots=K`"):
        tip_adapter(tmp_path / "tip", None, None)
    found, _ = tip_adapter(tmp_path / "tip", 1, None)
    assert len(found.image["train"]) == 5
    with pytest.raises(CacheError, match="no support of 8 shots; it has 1, 16"):
        tip_adapter(tmp_path / "tip", 8, None)


def test_a_folder_of_clip_benchmark_becomes_a_cache(cache_command: Words, tmp_path: Path) -> None:
    folder = tmp_path / "Flowers-ViT-B-32"
    folder.mkdir()
    for split, rows in (("train", 12), ("val", 8)):
        torch.save(torch.randn(rows, 16), folder / f"features_{split}.pt")
        torch.save(torch.arange(rows) % 4, folder / f"targets_{split}.pt")
    cache_command("import", "--clip-benchmark", folder, "--out", tmp_path / "a.zarr")
    cache = open_cache(tmp_path / "a.zarr")
    assert cache.header.rows == {"train": 12, "test": 8}  # its `val` is what it evaluates on
    assert cache.header.classnames == [f"class {c}" for c in range(4)]
    assert cache.header.dtype == "float32"
    torch.save(torch.randn(6, 16), folder / "features_test.pt")
    torch.save(torch.arange(6) % 4, folder / "targets_test.pt")
    found, _ = clip_benchmark(folder, None)
    assert {split: len(rows) for split, rows in found.image.items()} == {"train": 12, "val": 8, "test": 6}


def test_a_folder_of_clip_retrieval_becomes_a_cache(cache_command: Words, tmp_path: Path) -> None:
    pa, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    for name in ("img_emb", "metadata"):
        (tmp_path / "out" / name).mkdir(parents=True)
    values, paths = np.random.default_rng(0).standard_normal((8, 16)).astype(np.float16), []
    for part in range(2):
        rows = [f"/data/{s}/{c}/{part}.jpg" for s in ("train", "test") for c in ("cat", "dog")]
        paths += rows
        np.save(tmp_path / f"out/img_emb/img_emb_{part}.npy", values[4 * part : 4 * part + 4])
        parquet.write_table(pa.table({"image_path": rows}), tmp_path / f"out/metadata/metadata_{part}.parquet")
    cache_command("import", "--clip-retrieval", tmp_path / "out", "--out", tmp_path / "a.zarr")
    cache = open_cache(tmp_path / "a.zarr")
    assert cache.header.classnames == ["cat", "dog"]
    for split in ("train", "test"):
        data = cache.split(split)
        assert data.label.tolist() == [0, 1, 0, 1]
        for row, path in enumerate(data.path):
            assert split in path
            assert np.array_equal(data.embedding[row, 0], values[paths.index(path)])


def test_clip_retrievals_columns_say_label_and_split(tmp_path: Path) -> None:
    pa, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    for name in ("img_emb", "metadata"):
        (tmp_path / name).mkdir()
    np.save(tmp_path / "img_emb/img_emb_0.npy", np.ones((3, 4), np.float16))
    columns = {"image_path": ["a", "b", "c"], "label": ["x", "y", "x"], "split": ["test", "train", "train"]}
    parquet.write_table(pa.table(columns), tmp_path / "metadata/metadata_0.parquet")
    found, _ = clip_retrieval(tmp_path, None)
    assert found.path == {"test": ["a"], "train": ["b", "c"]}
    assert found.label["train"].tolist() == [1, 0]
    assert clip_retrieval(tmp_path, ["y", "x"])[0].label["train"].tolist() == [0, 1]
    with pytest.raises(CacheError, match="the metadata gives the classes 'x'"):
        clip_retrieval(tmp_path, ["y", "z"])


def test_tensor_files_that_would_run_code_run_none(tmp_path: Path) -> None:
    import pickle

    class Evil:
        def __reduce__(self) -> tuple[object, tuple[Path]]:
            return Path.touch, (tmp_path / "ran",)

    tip_adapter_folder(tmp_path / "tip")
    for content in (pickle.dumps(Evil()), b"", b"hello", (tmp_path / "tip/test_f.pt").read_bytes()[:200]):
        (tmp_path / "tip/test_f.pt").write_bytes(content)
        with pytest.raises(CacheError, match="is not a file of tensors alone") as refused:
            tip_adapter(tmp_path / "tip", None, None)
        assert "\n" not in str(refused.value)
    assert not (tmp_path / "ran").exists()


def test_tensor_files_that_unpack_to_far_more_than_they_are_are_refused_unread(tmp_path: Path) -> None:
    torch.save(torch.zeros(20_000_000), tmp_path / "plain.pt")
    with zipfile.ZipFile(tmp_path / "plain.pt") as plain, zipfile.ZipFile(tmp_path / "features_test.pt", "w") as packed:
        for part in plain.infolist():
            packed.writestr(part, plain.read(part), zipfile.ZIP_DEFLATED, compresslevel=1)
    assert (tmp_path / "features_test.pt").stat().st_size < 400_000
    torch.save(torch.zeros(1).expand(50_000, 400), tmp_path / "features_train.pt")  # 80 megabytes, claimed
    for split in ("train", "test"):
        with pytest.raises(CacheError, match=f"features_{split}.pt unpacks to more than"):
            clip_benchmark(tmp_path, None)
        (tmp_path / f"features_{split}.pt").unlink()


def test_a_pipe_in_place_of_a_tensor_file_or_of_class_names_is_not_waited_for(tmp_path: Path) -> None:
    for name in ("features_train.pt", "names"):
        os.mkfifo(tmp_path / name)
    with pytest.raises(CacheError, match="not a regular file"):
        clip_benchmark(tmp_path, None)
    with pytest.raises(CacheError, match="not a regular file"):
        read_classnames(tmp_path / "names")


def test_feature_folders_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    for reader in (lambda: tip_adapter(tmp_path, None, None), lambda: clip_benchmark(tmp_path, None)):
        with pytest.raises(CacheError, match="has no"):
            reader()
    tip_adapter_folder(tmp_path / "tip")
    with pytest.raises(CacheError, match=r"3 class names are given, and .* has 5 classes"):
        tip_adapter(tmp_path / "tip", None, ["a", "b", "c"])
    torch.save(torch.ones(20, 5), tmp_path / "tip/values_4shots.pt")
    with pytest.raises(CacheError, match="is not one-hot"):
        tip_adapter(tmp_path / "tip", None, None)
    (tmp_path / "tip/test_l.pt").unlink()
    with pytest.raises(CacheError, match="there is no file"):
        tip_adapter(tmp_path / "tip", None, None)
