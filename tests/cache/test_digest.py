"""A cache is known by what is in it: results of one are never taken for those of another."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from mma.cache import Cache, CacheError, CacheWriter, Header, ManifestSplit, open_cache
from mma.cache.importer import import_npz

from ..conftest import small_features
from .writing import LAYOUTS, TEMPLATES, content, embed, embed_text, header, manifest

ABOUT = header(LAYOUTS["even"])
SPLITS = ("train", "test")


def made(
    path: Path,
    about: Header = ABOUT,
    *,
    labels: dict[str, ManifestSplit] | None = None,
    image: float = 0.0,
    text: float = 0.0,
    failed: bool = True,
    chunks: int = 99,
) -> Cache:
    """A cache of `about`, its fingerprint whatever the rest: with other labels, embeddings, texts or failures."""
    with CacheWriter.create(path, about, labels or manifest(about)) as writer:
        writer.write_text("default", TEMPLATES["default"], embed_text(about, "default") + np.float32(text))
        for chunk in writer.pending()[:chunks]:
            embedding, failures = embed(about, chunk)
            writer.write(chunk, embedding + image, failures if failed else (), content(chunk))
        if not writer.pending():
            writer.finish()
    return open_cache(path, partial=True)


@pytest.mark.slow
def test_caches_of_one_fingerprint_and_other_bytes_have_other_digests(tmp_path: Path) -> None:
    rows = manifest(ABOUT)
    turned = {split: replace(of, labels=of.labels[::-1]) for split, of in rows.items()}
    caches = [
        made(tmp_path / "a.zarr"),
        made(tmp_path / "labels.zarr", labels=turned),
        made(tmp_path / "image.zarr", image=0.5),
        made(tmp_path / "text.zarr", text=0.5),
        made(tmp_path / "failed.zarr", failed=False),
        made(tmp_path / "names.zarr", replace(ABOUT, classnames=["x", "y", "z"])),
        made(tmp_path / "scale.zarr", replace(ABOUT, logit_scale=50.0)),
        made(tmp_path / "unfinished.zarr", chunks=2),
        made(tmp_path / "further.zarr", chunks=3),
    ]
    assert all(cache.header.fingerprint == ABOUT.fingerprint for cache in caches)
    digests = [cache.digest(SPLITS, "default") for cache in caches]
    assert len(set(digests)) == len(caches)
    assert all(len(digest) == 12 and int(digest, 16) >= 0 for digest in digests)


def test_a_copy_has_the_same_digest_wherever_it_lies_and_however_the_splits_are_named(tmp_path: Path) -> None:
    for chunks in (2, 99):
        one = made(tmp_path / f"{chunks}.zarr", chunks=chunks)
        shutil.copytree(tmp_path / f"{chunks}.zarr", tmp_path / f"copy{chunks}.zarr")
        two = open_cache(tmp_path / f"copy{chunks}.zarr", partial=True)
        assert one.digest(SPLITS, "default") == two.digest(("test", "train", "test"), "default")


def test_only_what_is_read_counts(tmp_path: Path) -> None:
    """Other images, but only in train, and other words of the fingerprint, notes and paths."""
    rows = manifest(ABOUT)
    one = made(tmp_path / "one.zarr")
    two = made(
        tmp_path / "two.zarr",
        replace(ABOUT, fingerprint={"model": "called otherwise"}, notes=["other"]),
        labels={"train": replace(rows["train"], labels=rows["train"].labels[::-1]), "test": rows["test"]},
        text=0.5,
    )
    assert one.digest(["test"], None) == two.digest(["test"], None)
    assert one.digest(["train"], None) != two.digest(["train"], None)
    assert one.digest(["test"], "default") != two.digest(["test"], "default")


def test_two_imports_of_one_name_and_other_arrays_differ(tmp_path: Path) -> None:
    digests = set()
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        arrays = small_features()
        arrays["text"] = arrays["text"] * (1 if folder == "a" else 2)
        np.savez(tmp_path / folder / "features.npz", **arrays)
        cache = open_cache(import_npz(tmp_path / folder / "features.npz", tmp_path / folder / "c.zarr"))
        digests.add(cache.digest(cache.header.rows, "default"))
    assert len(digests) == 2


def test_a_digest_of_what_the_cache_lacks_is_refused(whole: dict[str, Path]) -> None:
    cache = open_cache(whole["even"])
    with pytest.raises(CacheError, match="has no split 'dev'; it has train, test"):
        cache.digest(["dev"], None)
    with pytest.raises(CacheError, match="has no prompt set 'mine'; it has default, added"):
        cache.digest(["test"], "mine")


def test_a_digest_is_the_same_after_more_text_is_added(tmp_path: Path) -> None:
    before = made(tmp_path / "a.zarr").digest(SPLITS, "default")
    with CacheWriter.reopen(tmp_path / "a.zarr") as writer:
        writer.write_text("added", TEMPLATES["added"], embed_text(ABOUT, "added"))
    assert open_cache(tmp_path / "a.zarr").digest(SPLITS, "default") == before


def test_the_noises_of_a_split_are_read_from_the_header() -> None:
    noisy = replace(ABOUT, fingerprint={"image_noise": {"test": ["blur:2", "jpeg:10"]}})
    assert noisy.noises("test") == ["blur:2", "jpeg:10"]
    assert noisy.noises("train") == ABOUT.noises("test") == []
