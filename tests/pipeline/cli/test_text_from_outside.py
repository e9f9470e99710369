"""Names that look like markup, in every place from which a name can come, through every command that shows it."""

from __future__ import annotations

import shlex
from pathlib import Path

import numpy as np
import pytest

from ...conftest import Run, small_features
from ..conftest import photo

ODD = ("x[/b]", "[bold]x", "[red]x[/]")
SUITE = """
title = "suite [/b]"
source = "source [red]"
embed = { model = "tiny" }
[[tables]]
title = "table [/b]"
datasets = ["shapes"]
fit = { protocol = "few-shot", shots = 1, seeds = 1 }
[[tables.methods]]
name = "method [bold]x[/]"
fit = { adapter = "gda" }
source = "who [/b]"
published.shapes = { accuracy = 50.0 }
"""
CLASSES = [f"{odd} {number}" for number in range(2) for odd in ODD]
SET = "[b]photos[/b]"


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """A folder whose name, classes and files look like markup; a class with "/" in it cannot be a folder."""
    for label, name in enumerate(("[bold]x", "[red]y", "[b")):
        folder = tmp_path / "[bold]images" / name
        folder.mkdir(parents=True)
        for number in range(6):
            (folder / f"[i]{number}.jpg").write_bytes(photo(10 * label + number))
    (tmp_path / "[bold]images" / "[b" / "[i]9.jpg").write_bytes(b"no image")
    return tmp_path / "[bold]images"


@pytest.fixture
def odd_cache(tmp_path: Path, mma_here: Run) -> str:
    """A cache whose name, classes and data set look like markup."""
    arrays = small_features(classes=len(CLASSES))
    np.savez(tmp_path / f"{SET.replace('/', '')}.npz", **{**arrays, "classnames": np.array(CLASSES)})  # type: ignore[arg-type]
    out = "[bold]x.zarr"
    done = mma_here("cache", "import", "--npz", f"{SET.replace('/', '')}.npz", "--out", out, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert f"mma fit --cache {shlex.quote(out)}" in done.stderr
    return out


@pytest.mark.slow
def test_caches_grids_and_results(odd_cache: str, mma_here: Run, tmp_path: Path) -> None:
    def run(*words: object) -> str:
        done = mma_here(*words, cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        return done.stdout + done.stderr

    assert odd_cache in run("cache", "info", odd_cache)
    assert odd_cache in run("cache", "verify", odd_cache)
    assert odd_cache in run("cache", "repair", odd_cache)
    run("cache", "diff", odd_cache, odd_cache)
    assert "[i]y.npz" in run("cache", "export", odd_cache, "--out", "[i]y.npz")
    small = ("--cache", odd_cache, "--out", "[b]runs[i]")
    fitted = run("fit", *small, "--adapter", "gda", "--shots", 1, "--seeds", 1)
    assert "[b]photos[b]" in fitted
    assert "[b]runs[i]" in fitted
    grid = run("ablate", *small, "adapter=gda", "shots=1,2", "seed=0", "--export", "[b]c.csv")
    assert "[b]photos[b]" in grid
    assert "[b]c.csv" in grid
    report = run("report", "[b]runs[i]", "--markdown", "[b]r.md", "--latex", "[b]r.tex", "--html", "[b]r.html")
    for told in ("[b]photos[b]", "[b]r.md", "[b]r.tex", "[b]r.html"):
        assert told in report
    assert "[/bold]" not in report  # how it marks the best is no text


@pytest.mark.slow
def test_models_their_answers_and_audits(odd_cache: str, mma_here: Run, tmp_path: Path) -> None:
    def run(*words: object) -> str:
        done = mma_here(*words, cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        return done.stdout + done.stderr

    model = ("--cache", odd_cache, "--adapter", "gda", "--out", "[b]model")
    assert "[b]model is written" in run("export", *model)
    asked = run("predict", "[b]model", odd_cache, "--split", "val", "--coverage", "0.9")
    assert "x[/b] 0" in asked
    assert "lac: " in asked
    assert "[b]a.csv: 6 of 24 are there" not in run("predict", "[b]model", odd_cache, "--out", "[b]a.csv")
    assert "x[/b] 0" in (tmp_path / "[b]a.csv").read_text()
    audit = run("audit", odd_cache, "--first", 100, "--out", "[b]audit.csv")
    assert "[b]audit.csv is written" in audit
    found = (tmp_path / "[b]audit.csv").read_text()
    assert all((name in audit) == (name in found) for name in CLASSES)
    assert any(name in audit for name in CLASSES)


def test_tables_of_a_suite(odd_cache: str, mma_here: Run, tmp_path: Path) -> None:
    (tmp_path / "caches").mkdir()
    (tmp_path / odd_cache).rename(tmp_path / "caches/shapes.zarr")
    (tmp_path / "[b]suite.toml").write_text(SUITE)
    words = ("reproduce", "[b]suite.toml", "--caches", "caches", "--out", "[b]out", "--markdown", "[b]page.md")
    done = mma_here(*words, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    for told in ("table [/b]", "method [bold]x[/]", "published, method [bold]x[/]: who [/b]"):
        assert told in done.stdout
    assert "suite [/b]" in done.stderr
    assert "[b]page.md" in done.stderr


@pytest.mark.slow
def test_images_templates_and_their_cache(images: Path, small_clip: str, mma_here: Run, tmp_path: Path) -> None:
    words = ("embed", "--dataset", images, "--model", small_clip, "--cache", "[bold]c.zarr", "--workers", 1)
    done = mma_here(*words, "--templates", "[/b] a {} [bold]", "--prompts", "odd", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "[/b] a " in done.stderr
    assert "[b/[i]9.jpg" in done.stderr
    assert "mma fit --cache '[bold]c.zarr'" in done.stderr
    again = mma_here(*words, "--templates", "[/b] a {} [bold]", "--prompts", "odd", cwd=tmp_path)
    assert "mma fit --cache '[bold]c.zarr'" in again.stderr
    info = mma_here("cache", "info", "[bold]c.zarr", cwd=tmp_path)
    assert "[/b] a {} [bold]" in info.stdout
    assert "[b/[i]9.jpg" in info.stdout
    check = mma_here("datasets", "check", images, cwd=tmp_path)
    assert str(images) in check.stdout


WRONG = [
    ["embed", "--dataset", "ODD"],
    ["embed", "--dataset", "shapes", "--model", "ODD"],
    ["embed", "--dataset", "shapes", "--model", "tiny", "--prompts", "ODD"],
    ["embed", "--dataset", "shapes", "--model", "tiny", "--templates", "ODD"],
    ["embed", "--dataset", "shapes", "--model", "tiny", "--image-noise", "ODD"],
    ["fit", "--cache", "ODD"],
    ["fit", "--cache", "ODD", "--adapter", "ODD"],
    ["fit", "--cache", "ODD", "--ODD", "ODD"],
    ["ablate", "--cache", "ODD", "ODD=ODD"],
    ["ablate", "--cache", "ODD", "--grid", "ODD"],
    ["ablate", "--cache", "ODD", "--pivot", "ODD"],
    ["adapters", "ODD"],
    ["cache", "info", "ODD"],
    ["cache", "import", "--npz", "ODD", "--out", "ODD"],
    ["datasets", "check", "ODD"],
    ["audit", "ODD"],
    ["export", "--cache", "ODD", "--adapter", "ODD", "--out", "ODD"],
    ["export", "--run", "ODD", "--out", "ODD"],
    ["predict", "ODD", "ODD"],
    ["report", "ODD"],
    ["reproduce", "ODD"],
    ["ODD"],
]


@pytest.mark.parametrize("words", WRONG, ids=" ".join)
@pytest.mark.parametrize("odd", ["[/b]", "[bold]x"])
def test_an_error_names_what_was_given(words: list[str], odd: str, mma_here: Run, tmp_path: Path) -> None:
    done = mma_here(*(word.replace("ODD", odd) for word in words), cwd=tmp_path)
    assert done.returncode == 2, done.stderr
    assert odd in done.stderr
    assert "a defect" not in done.stderr
    assert len(done.stderr.splitlines()) == 1
