"""What the commands print on terminals of 60, 80 and 120 columns: every name and every number, whole."""

from __future__ import annotations

import csv
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from rich.text import Text

from mma.adapters import adapters
from mma.pipeline.datasets import known

from ...conftest import Run

Say = Callable[..., str]
SUITE = """
title = "of tests"
source = "nobody"
embed = { model = "tiny" }
[[tables]]
title = "one"
datasets = ["shapes"]
fit = { protocol = "base-to-new", shots = 1, seeds = 2 }
[[tables.methods]]
name = "a method whose name is rather long"
fit = { adapter = "gda" }
published.shapes = { base = 12.34, new = 23.45, H = 34.56 }
"""
WIDTHS = (60, 80, 120)


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A results folder for all widths: what was fitted for one is shown on the others."""
    return tmp_path_factory.mktemp("runs")


@pytest.fixture(params=WIDTHS)
def say(request: pytest.FixtureRequest, mma_here: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Say:
    """A command's table as a terminal of so many columns shows it; no line of a table is longer."""
    monkeypatch.setenv("COLUMNS", str(request.param))
    monkeypatch.setenv("FORCE_COLOR", "1")

    def run(*words: object) -> str:
        done = mma_here(*words, cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        text = Text.from_ansi(done.stdout).plain
        assert "…" not in text
        assert all(len(line) <= request.param for line in text.splitlines() if line[:1] in tuple("┏┃┡│└"))
        return text

    return run


def test_names_of_data_sets_and_adapters_can_be_typed(say: Say) -> None:
    listed = say("datasets").split()
    assert set(known()) <= set(listed)
    assert set(adapters()) <= set(say("adapters").split())
    assert "cross|pair|bias|none|within" in say("adapters", "mma")


@pytest.mark.slow
def test_findings_of_runs_are_whole(say: Say, mma_here: Run, small_cache: Path, runs: Path, tmp_path: Path) -> None:
    grid = (
        "ablate",
        "--cache",
        small_cache,
        "--out",
        runs / "findings",
        "adapter=gda,tip-adapter",
        "alpha=0.123456",
        "seed=0,1",
    )
    assert mma_here(*grid, "shots=1,2", cwd=tmp_path).returncode == 0
    shown = " ".join(say("report", runs / "findings", "--csv", "all.csv").split())
    with (tmp_path / "all.csv").open(newline="") as file:
        records = list(csv.DictReader(file))
    assert len(records) == 15
    for record in records:
        assert record["method"] in shown
        assert f"{float(record['mean']):.2f} [{float(record['low']):.2f}, {float(record['high']):.2f}]" in shown


def test_findings_of_an_audit_are_whole(say: Say, small_cache: Path, tmp_path: Path) -> None:
    shown = say("audit", small_cache, "--first", 1000, "--near", 0.5, "--out", "all.csv")
    with (tmp_path / "all.csv").open(newline="") as file:
        findings = list(csv.DictReader(file))
    assert len(findings) > 20
    words = shown.split()
    for finding in findings:
        assert finding["path"] in words or finding["kind"] == "texts"


@pytest.mark.slow
def test_rows_of_a_suite_have_their_data_set_and_method(say: Say, small_cache: Path, tmp_path: Path) -> None:
    shutil.copytree(small_cache, tmp_path / "caches/shapes.zarr")
    (tmp_path / "suite.toml").write_text(SUITE)
    shown = say("reproduce", "suite.toml", "--caches", "caches")
    assert "a method whose name is rather long" in shown
    for row in json.loads(say("reproduce", "suite.toml", "--caches", "caches", "--json"))["tables"][0]["lines"]:
        assert f"{row['here']:.2f}" in shown
        assert f"{row['published']:.2f}" in shown


def test_how_caches_differ_is_whole(say: Say, small_cache: Path) -> None:
    words = say("cache", "diff", small_cache, small_cache).split()
    for name in ("image/train", "image/val", "image/test", "text/default"):
        assert name in words


def test_what_is_in_a_cache_is_whole(say: Say, small_cache: Path) -> None:
    words = "".join(say("cache", "info", small_cache).split())
    assert str(small_cache) in words
    assert "train70,val28,test70" in words


def test_rows_of_a_fit_have_their_names_and_intervals(say: Say, mma_here: Run, small_cache: Path, runs: Path) -> None:
    words = ("fit", "--cache", small_cache, "--adapter", "linear-probe,gda", "--shots", 2, "--alpha", "0.123456")
    words = (*words, "--out", runs / "fit")
    shown = say(*words)
    for row in json.loads(mma_here(*words, "--json").stdout)["rows"]:
        for metric in ("base", "new", "H"):
            assert f"{row[metric]['mean']:.2f}" in shown
            half = row[metric]["half_width"]
            assert half is None or not half or f"± {half:.2f}" in shown
    assert "gda alpha=0.123456" in shown


@pytest.mark.slow
def test_rows_of_a_grid_have_their_factors(say: Say, small_cache: Path, runs: Path) -> None:
    grid = (
        "ablate",
        "--cache",
        small_cache,
        "--out",
        runs / "grid",
        "adapter=gda,tip-adapter",
        "alpha=0.123456,0.234567",
        "seed=0,1",
    )
    shown = say(*grid, "shots=1,2", "label_noise=0,0.25", "--pivot", "alpha,shots", "--over", "label_noise")
    for value in ("0.123456", "0.234567", "0.25", "tip-adapter", "zero-shot", "label_noise", "difference"):
        assert value in shown
    assert "alpha \\ shots" in shown
    assert "mean over label_noise 0, 0.25" in " ".join(shown.split())
