from __future__ import annotations

import csv
import io
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import mma
from mma.cache import open_cache
from mma.pipeline.errors import UsageError
from mma.pipeline.fitting.features import load_features
from mma.pipeline.using import source
from mma.pipeline.using.search import nearest_rows, search
from mma.pipeline.using.settings import SearchSettings

from ...conftest import Run


def test_what_is_found_is_the_top_of_all_cosines(small_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(source, "EVAL_BATCH", 9)
    features = load_features(small_cache)
    query = features.text.embedding[3]
    every = [
        (float(cosine), split, row)
        for split in ("train", "val", "test")
        for row, cosine in enumerate(features.images.images(split) @ query)
    ]
    want = sorted(every, key=lambda each: -each[0])[:25]
    found = nearest_rows(open_cache(small_cache), ["train", "val", "test"], query, 25)
    assert [each[1:] for each in found] == [each[1:] for each in want]
    np.testing.assert_allclose([each[0] for each in found], [each[0] for each in want], rtol=1e-5)


def test_an_image_of_the_cache_finds_itself_and_rows_without_an_embedding_are_never_found(
    photos: tuple[Path, Path],
) -> None:
    folder, cache = photos
    asked = folder / "cat" / "3.jpg"
    hits = mma.search(cache, asked, top=1000)
    assert hits[0].path == "cat/3.jpg"
    assert hits[0].classname == "cat"
    assert hits[0].cosine == pytest.approx(1, abs=2e-3)
    assert len(hits) == 30
    assert [hit.cosine for hit in hits] == sorted((hit.cosine for hit in hits), reverse=True)


def test_a_text_is_encoded_by_the_model_of_the_cache(photos: tuple[Path, Path]) -> None:
    cache = str(photos[1])
    features = load_features(cache)
    (template,) = features.text.templates
    hits = search(SearchSettings(cache=cache, query=template.format("bird"), split="test", top=2))
    cosines = features.images.images("test") @ features.text.embedding[1]
    value, row = torch.sort(cosines, descending=True)
    assert [hit.row for hit in hits] == row[:2].tolist()
    assert [hit.cosine for hit in hits] == pytest.approx(value[:2].tolist(), abs=2e-3)


@pytest.mark.slow
def test_the_command_prints_a_table_csv_jsonl_and_a_sheet(
    photos: tuple[Path, Path], mma_here: Run, tmp_path: Path
) -> None:
    cache = photos[1]
    table = mma_here("search", cache, "a cat", "--top", 3, "--sheet", tmp_path / "s.png")
    assert table.returncode == 0, table.stderr
    rows = list(csv.DictReader(io.StringIO(mma_here("search", cache, "a cat", "--top", 3, "--format", "csv").stdout)))
    assert all(row["path"] in table.stdout for row in rows)
    done = mma_here("search", cache, "a cat", "--top", 3, "--out", tmp_path / "s.jsonl")
    assert done.returncode == 0, done.stderr
    lines = [json.loads(line) for line in (tmp_path / "s.jsonl").read_text().splitlines()]
    assert [line["path"] for line in lines] == [row["path"] for row in rows]
    with Image.open(tmp_path / "s.png") as sheet:
        assert sheet.size == (8 + 3 * 168, 8 + 200)


def test_what_cannot_be_searched_is_said_in_a_line(
    photos: tuple[Path, Path], small_cache: Path, mma_here: Run, tmp_path: Path
) -> None:
    (tmp_path / "bad.jpg").write_text("no image")
    for words, message in (
        ((photos[1], tmp_path / "none.jpg"), "there is no image"),
        ((photos[1], tmp_path / "bad.jpg"), "cannot be used"),
        ((photos[1], "cat", "--split", "nowhere"), "--split nowhere"),
        ((small_cache, "cat"), "nothing says which encoder made them"),
    ):
        ran = mma_here("search", *words)
        assert ran.returncode == 2
        assert message in ran.stderr
        assert ran.stderr.count("\n") == 1
    for query in (" ", "x" * 5000):
        with pytest.raises(UsageError):
            SearchSettings(cache="c", query=query)
