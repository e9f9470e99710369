"""`mma explain` says what a saved fit did with test images, in words, arrays and pictures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import mma
from mma.pipeline.errors import UsageError
from mma.pipeline.explaining.explain import arrays_of, explain, explained
from mma.pipeline.explaining.looks import row_of
from mma.pipeline.explaining.of_report import ImageFinder, pictures_of_fits
from mma.pipeline.explaining.settings import ExplainSettings
from mma.pipeline.explaining.trades import Trade, trades_of
from mma.pipeline.explaining.words import headline, paragraph
from mma.pipeline.fitting.results import setting_folder
from mma.pipeline.fitting.saved import saved_fit
from mma.pipeline.reports.make_report import make_report

ADAPTERS = ("mma", "rada", "tip-adapter", "linear-probe")
EPOCHS = {"epochs": 3}


@pytest.fixture(scope="module")
def runs(small_cache: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Folders of saved fits, base-to-new."""
    out = tmp_path_factory.mktemp("runs")
    grid = mma.fit(small_cache, adapter=list(ADAPTERS), heads=4, shots=3, seeds=1, out=out, **EPOCHS)
    return {name: setting_folder(out, grid[name].setting) for name in ADAPTERS}


@pytest.mark.parametrize("name", ADAPTERS)
def test_every_image_has_a_paragraph_with_both_answers(name: str, runs: dict[str, Path]) -> None:
    found = explain(ExplainSettings(run=runs[name]))
    assert len(found.shown) == 4
    assert f"{name} on shapes-small" in headline(found)
    for shown in found.shown:
        text = paragraph(found, shown)
        assert f"Row {shown.look.row} " in text
        assert "zero-shot says class" in text


def test_the_answers_are_those_that_fit_recorded(runs: dict[str, Path]) -> None:
    for name in ADAPTERS:
        found = explain(ExplainSettings(run=runs[name]))
        stored = np.load(runs[name] / "predictions-0.npz", allow_pickle=False)
        for answered in found.answers:
            assert np.array_equal(stored[f"{answered.test}_rows"], answered.rows)
            assert np.array_equal(stored[f"{answered.test}_predicted"], answered.said(answered.adapted))


def test_classes_without_weights_are_said_to_be_scored_zero_shot(runs: dict[str, Path]) -> None:
    found = explain(ExplainSettings(run=runs["tip-adapter"], image=("69",)))
    assert "no weights for the new classes" in headline(found)
    assert "no weights for this class" in paragraph(found, found.shown[0])


@pytest.mark.slow
def test_the_command_writes_arrays_without_pickle_and_pictures(
    runs: dict[str, Path], tmp_path: Path, mma_here: object
) -> None:
    done = mma_here("explain", "--run", runs["mma"], "--image", 5, "--arrays", "a.npz", "--figures", "f", cwd=tmp_path)  # type: ignore[operator]
    assert done.returncode == 0, done.stderr
    assert "Row 5 (test/5), class 0" in done.stdout
    arrays = np.load(tmp_path / "a.npz", allow_pickle=False)
    assert arrays["image5_to_prompts"].shape == (4, 4)
    np.testing.assert_allclose(arrays["image5_to_prompts"].sum(1), 1, atol=1e-5)
    assert (tmp_path / "f" / "row5-attention.svg").stat().st_size > 1000
    assert (tmp_path / "f" / "trades.png").is_file() == bool(len(arrays["trades"]))


def test_the_page_shows_what_the_best_fits_did_where_cache_and_weights_are_at_hand(
    runs: dict[str, Path], small_cache: Path
) -> None:
    report = make_report(runs["mma"].parent)
    shown = pictures_of_fits(report)
    assert any(picture.name.endswith("-attention") for picture in shown)
    find = ImageFinder()
    assert find(str(small_cache), 5) == ("test/5", None)  # an imported cache has no image files
    assert find("gone.zarr", 5) is None
    group = report.groups[0]
    gone = [replace(row, setting=replace(row.setting, id="gone")) for row in group.rows]
    assert pictures_of_fits(replace(report, groups=[replace(group, rows=gone)])) == []


def test_shots_are_named_by_their_rows_of_train(runs: dict[str, Path]) -> None:
    fit = saved_fit(runs["tip-adapter"], 0)
    found = explained(fit, ["5"])
    arrays = arrays_of(found)
    assert np.array_equal(arrays["shot_rows"], fit.episode().support.rows)
    assert np.array_equal(fit.features.labels["train"].label[arrays["shot_rows"]], arrays["shot_label"])


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"image": ("999",)}, "image"),
        ({"image": ("nothing.jpg",)}, "is no test image of the cache"),
        ({"seed": 7}, "cannot be read"),
        ({"arrays": Path("a.csv")}, "kept as .npz"),
    ],
)
def test_what_is_not_there_is_refused_in_one_line(given: dict, said: str, runs: dict[str, Path]) -> None:
    with pytest.raises(UsageError, match=said) as refused:
        explain(ExplainSettings(run=runs["mma"], **given))
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(("name", "row"), [("1", 1), ("b/x.jpg", 1), ("/data/b/x.jpg", 1), ("y.jpg", 2)])
def test_an_image_is_named_by_its_row_its_path_or_the_end_of_it(name: str, row: int) -> None:
    assert row_of(name, ["a/x.jpg", "b/x.jpg", "b/y.jpg"]) == row


def test_the_end_of_two_paths_is_refused() -> None:
    with pytest.raises(UsageError, match="the end of 2 paths"):
        row_of("x.jpg", ["a/x.jpg", "b/x.jpg"])


def test_trades_count_mended_and_broken_and_leave_out_what_stayed() -> None:
    label, before, after = np.array([[1, 0, 0, 2, 0], [0, 0, 0, 0, 0], [1, 1, 1, 1, 0]])
    assert trades_of(label, before, after) == [Trade(0, 1, 4, 1, 2)]
    empty: Sequence[Trade] = trades_of(label, label, label)
    assert empty == []
