"""A cache that keeps the features before the projection: whole, checked, mended, and no burden to other caches."""

from __future__ import annotations

import json
import shutil
import signal
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from mma.cache import (
    CacheError,
    CacheWriter,
    diff_caches,
    export_cache,
    import_export,
    mend,
    open_cache,
    verify,
    write_bundle,
)
from mma.cache import writer as writer_file

from .writing import (
    LAYOUTS,
    Server,
    add_text,
    drawn,
    embed,
    header,
    manifest,
    open_writer,
    projections,
    repair,
    snapshot,
    write,
    write_pending,
)

LAYOUT = "penultimate"
ABOUT = header(LAYOUTS[LAYOUT])


def test_features_and_projections_are_read_as_they_were_written(whole: dict[str, Path]) -> None:
    cache = open_cache(whole[LAYOUT])
    chunk = next(iter(ABOUT.chunks()))
    features, ok = cache.penultimate("train")[: chunk.stop], cache.split("train").ok[: chunk.stop]
    assert features.shape == (4, 2, 6)
    assert np.array_equal(features[ok], drawn(ABOUT, chunk)[ok].astype(np.float16))
    assert np.isnan(features[~ok]).all()
    layers = cache.projections()
    assert np.array_equal(layers["text"].weight, projections(ABOUT)["text"].weight)
    texts = cache.text_penultimate("default") @ layers["text"].weight + layers["text"].bias
    np.testing.assert_allclose(texts, cache.text("default").embedding, rtol=1e-5, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("point", ["text.write:after", "journal.append:after", "chunk.write:after", "chunk.sync:after"])
@pytest.mark.parametrize("times", [1, 2])
def test_a_kill_anywhere_continues_to_the_same_bytes(
    point: str, times: int, server: Server, expected: dict[str, dict[str, str]], tmp_path: Path
) -> None:
    path = tmp_path / "rows.zarr"
    assert server.run("write", path, LAYOUT, point, times) == -signal.SIGKILL
    assert not path.exists() or verify(path).faults == []
    write(path, LAYOUT)
    add_text(path, LAYOUT)
    assert snapshot(path) == expected[LAYOUT]


@pytest.mark.slow
def test_any_damaged_file_is_named_and_healed(
    whole: dict[str, Path], expected: dict[str, dict[str, str]], tmp_path: Path
) -> None:
    names = [name for name in expected[LAYOUT] if "penultimate" in name or "projection" in name]
    assert len(names) == 21
    path = tmp_path / "rows.zarr"
    shutil.copytree(whole[LAYOUT], path)
    for name in names:
        right = (path / name).read_bytes()
        (path / name).write_bytes(right[:-1] + bytes([right[-1] ^ 1]))
        assert {fault.file for fault in verify(path).faults} == {name}
        repair(path, LAYOUT)
        assert snapshot(path) == expected[LAYOUT], name


def test_lost_projections_are_computed_again_without_the_images(whole: dict[str, Path], tmp_path: Path) -> None:
    path = tmp_path / "rows.zarr"
    shutil.copytree(whole[LAYOUT], path)
    (path / "projection/image/weight/c/0/0").unlink()
    asked = []
    assert mend(path, can_compute=lambda about, images: asked.append(images)).to_compute == ["projection"]
    assert asked == [False]


def test_embeddings_that_are_not_features_times_projection_are_refused_when_written(tmp_path: Path) -> None:
    with CacheWriter.create(tmp_path / "rows.zarr", ABOUT, manifest(ABOUT)) as writer:
        chunk = writer.pending()[0]
        values, failures = embed(ABOUT, chunk)
        with pytest.raises(CacheError, match="no projections yet"):
            writer.write(chunk, values, failures, None, drawn(ABOUT, chunk))
        writer.write_projections(projections(ABOUT))
        with pytest.raises(CacheError, match="6 rows that are not penultimate features times projection"):
            writer.write(chunk, values[::-1], failures, None, drawn(ABOUT, chunk))
        with pytest.raises(CacheError, match="lacks penultimate features"):
            writer.write(chunk, values, failures)
        with pytest.raises(CacheError, match=r"penultimate features are \(4, 2, 5\), with W = 6"):
            writer.write(chunk, values, failures, None, drawn(ABOUT, chunk)[..., :5])
        writer.write(chunk, values, failures, None, drawn(ABOUT, chunk))


def test_verify_finds_embeddings_of_other_features_though_every_checksum_is_right(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    path = tmp_path / "rows.zarr"
    monkeypatch.setattr(writer_file, "product_fault", lambda *_: None)
    with open_writer(path, LAYOUT) as writer:
        layers = projections(ABOUT)
        writer.write_projections({**layers, "image": replace(layers["image"], weight=layers["image"].weight + 1)})
        write_pending(writer)
        writer.finish()
    assert {fault.unit for fault in verify(path).faults} == {chunk.unit for chunk in ABOUT.chunks()}
    assert "are not penultimate features times projection" in str(verify(path).faults[0])


def test_the_version_is_raised_only_where_there_are_such_features(whole: dict[str, Path]) -> None:
    versions = {name: json.loads((whole[name] / "zarr.json").read_text())["attributes"] for name in ("small", LAYOUT)}
    assert versions["small"]["version"] == 2
    assert "penultimate" not in versions["small"]
    assert versions[LAYOUT]["version"] == 3
    assert versions[LAYOUT]["penultimate"] == {"image": 6, "text": 5}


def test_a_cache_without_them_says_how_to_get_them(whole: dict[str, Path]) -> None:
    with pytest.raises(CacheError, match="no features before the projection: make a cache with them"):
        open_cache(whole["small"]).penultimate("train")


def test_an_export_leaves_them_out(whole: dict[str, Path], tmp_path: Path) -> None:
    file = export_cache(whole[LAYOUT], tmp_path / "a.npz")
    bundle = import_export(file)
    assert bundle is not None
    back = open_cache(write_bundle(bundle, tmp_path / "b.zarr"))
    assert back.header.penultimate is None
    found = diff_caches(open_cache(whole[LAYOUT]), back)
    assert [gap.differ for gap in found.embeddings.values()] == [0] * len(found.embeddings)


def test_a_difference_in_features_alone_is_told(whole: dict[str, Path], tmp_path: Path) -> None:
    path = tmp_path / "rows.zarr"
    with open_writer(path, LAYOUT) as writer:
        layers = projections(ABOUT)
        layers["text"] = replace(layers["text"], bias=layers["text"].bias + 1)
        writer.write_projections(layers)
        write_pending(writer)
        writer.finish()
    found = diff_caches(open_cache(whole[LAYOUT]), open_cache(path))
    assert found.header == ["projection of text: other weights in A than in B"]
    assert found.embeddings["image/train, penultimate"].differ == 0
    assert open_cache(whole[LAYOUT]).digest(["train"], None) != open_cache(path).digest(["train"], None)
