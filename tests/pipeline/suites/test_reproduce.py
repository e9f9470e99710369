"""From images in their true layouts to a paper's table: planned, interrupted, continued, one data set absent."""

from __future__ import annotations

import json
import re
import shutil
import sqlite3
import subprocess
import time
from collections.abc import Callable
from importlib import resources
from pathlib import Path

import pytest

from mma.cache import open_cache
from mma.pipeline.datasets import entries

from ...conftest import Run
from ...forked import start
from ..datasets.conftest import LAYOUTS

PAGE = Path(__file__).resolve().parents[3] / "docs/reproduce.md"
LAID_OUT = {"dtd": "CoOp", "eurosat": "both"}
ABSENT = "stanford_cars"  # which cannot be downloaded


@pytest.fixture(scope="session")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Some small data sets below one root."""
    root = tmp_path_factory.mktemp("data")
    for name, layout in LAID_OUT.items():
        folder, fill = LAYOUTS[name, layout]
        fill(root / folder, entries()[name])
    rows = {split: [] for split in ("train", "val", "test")}  # CoOp's split: four images are too few to draw one from
    for label, (folder, name) in enumerate(entries()["eurosat"].classes.items()):
        for number, split in enumerate(("train", "train", "val", "test"), 1):
            rows[split].append([f"{folder}/image_{number:04d}.jpg", label, name])
    (root / "eurosat/split_zhou_EuroSAT.json").write_text(json.dumps(rows))
    return root


@pytest.fixture
def suite(tmp_path: Path, root: Path) -> Callable[..., list[str]]:
    """The words of `mma reproduce` for the paper's own suite, made small: suite("dtd", "eurosat")."""

    def words(*datasets: str) -> list[str]:
        text = resources.files("mma.pipeline.suites").joinpath("shipped/mma-paper.toml").read_text(encoding="utf-8")
        for old, new in (
            (r"datasets = \[.*?\]", f"datasets = {json.dumps(datasets)}"),
            (r'model = "ViT-B-16"', 'model = "tiny"'),
            ("shots = 16", "shots = 1, epochs = 2"),
            (rf"published\.(?!{'|'.join(datasets)}|average).*\n", ""),
        ):
            text, changed = re.subn(old, new, text, flags=re.DOTALL if "datasets" in old else 0)
            assert changed
        (tmp_path / "small.toml").write_text(text)
        at = ["--root", str(root), "--caches", str(tmp_path / "cache"), "--out", str(tmp_path / "runs")]
        return ["reproduce", str(tmp_path / "small.toml"), *at, "--device", "cpu"]

    return words


def lines(done: subprocess.CompletedProcess[str]) -> dict[tuple[str, str, str], dict]:
    assert done.returncode == 0, done.stderr
    (table,) = json.loads(done.stdout)["tables"]
    return {(line["dataset"], line["method"], line["metric"]): line for line in table["lines"]}


@pytest.mark.slow
def test_from_images_to_the_papers_table(suite: Callable[..., list[str]], mma_here: Run, tmp_path: Path) -> None:
    words = [*suite("dtd", ABSENT, "eurosat"), "--no-download"]
    planned = mma_here(*words, "--dry-run")
    assert planned.returncode == 0, planned.stderr
    assert f"{ABSENT} is not in" in planned.stderr
    assert "2 data sets to embed, 14 fits to run" in planned.stderr  # zero-shot, and twice three seeds
    assert not planned.stdout
    assert not (tmp_path / "cache").exists()

    made = lines(mma_here(*words, "--json", "--markdown", tmp_path / "table.md"))
    ours = made["dtd", "CLIP", "base"]
    assert (ours["published"], ours["seeds"], ours["half_width"]) == (53.24, 1, None)
    assert ours["difference"] == pytest.approx(ours["here"] - 53.24)
    assert made["dtd", "MMA", "H"]["published"] is None
    assert made["dtd", "MMA", "H"]["seeds"] == 3
    assert made[ABSENT, "MMA", "base"]["here"] is None
    assert made[ABSENT, "MMA", "base"]["published"] is None
    assert "mma datasets check stanford_cars" in made[ABSENT, "CLIP", "base"]["why_not"]
    assert made["average", "CLIP", "H"]["why_not"] == "2 of 3 data sets: no average"
    assert made["average", "CLIP", "H"]["published"] == 71.70
    page = (tmp_path / "table.md").read_text()
    assert f"| dtd | CLIP | base | {ours['here']:.2f} | 53.24 | {ours['difference']:+.2f} |" in page
    assert "- \\[1\\] stanford\\_cars is not in" in page

    again = mma_here(*words)
    assert "0 data sets to embed, 0 fits to run" in again.stderr
    assert f"{ours['here']:.2f} │     53.24 │" in again.stdout
    assert "[1] stanford_cars is not in" in again.stdout
    assert "published, MMA: dqmis/clip-mma" in again.stdout
    assert "dtd: splits: the official ones (CoOp's tables use split_zhou_DescribableTextures.json" in again.stdout


@pytest.mark.slow
def test_killed_half_way_the_same_command_continues(
    suite: Callable[..., list[str]], mma_here: Run, tmp_path: Path
) -> None:
    words = suite("dtd", "eurosat")
    running = start(words, tmp_path, tmp_path / "out", tmp_path / "err")
    while not done_cells(tmp_path) and running.is_alive():
        time.sleep(0.02)
    running.kill()
    running.join()
    kept = done_cells(tmp_path)
    assert 0 < len(kept) < 14, "it was killed on its way"
    journal = (tmp_path / "cache/dtd.zarr/journal.jsonl").read_bytes()

    continued = mma_here(*words, "--json")
    made = lines(continued)
    assert all(line["here"] is not None for line in made.values())
    assert (tmp_path / "cache/dtd.zarr/journal.jsonl").read_bytes() == journal
    assert done_cells(tmp_path).items() >= kept.items(), "what was done is not done again"
    assert len(done_cells(tmp_path)) == 14
    mean = sum(made[name, "MMA", "base"]["here"] for name in LAID_OUT) / 2
    assert made["average", "MMA", "base"]["here"] == pytest.approx(mean)


def done_cells(folder: Path) -> dict[str, float]:
    """The cells that are recorded, and the seconds each took: other seconds, if it were run again."""
    file = folder / "runs/results.sqlite"
    if not file.exists():
        return {}
    with sqlite3.connect(f"file:{file}?mode=ro", uri=True) as db:
        try:
            return dict(db.execute("select id, seconds from cells where status = 'done'").fetchall())
        except sqlite3.OperationalError:  # its tables are being made
            return {}


@pytest.mark.slow
def test_a_prompt_set_that_a_finished_cache_lacks_is_added_without_images(
    suite: Callable[..., list[str]], mma_here: Run, tmp_path: Path
) -> None:
    words = suite("eurosat")
    lines(mma_here(*words, "--json"))
    text = (tmp_path / "small.toml").read_text()
    (tmp_path / "small.toml").write_text(text.replace('"base-to-new",', '"base-to-new", prompts = "photo",'))
    nowhere = ["nowhere" if word == words[3] else word for word in words]
    assert "add photo" in mma_here(*nowhere, "--dry-run").stderr
    lines(mma_here(*nowhere, "--json"))
    assert set(open_cache(tmp_path / "cache/eurosat.zarr").prompts) == {"default", "photo"}


@pytest.mark.slow
def test_a_cache_of_another_model_is_left_out_and_said(
    suite: Callable[..., list[str]], mma_here: Run, tmp_path: Path
) -> None:
    words = suite("eurosat")
    lines(mma_here(*words, "--json"))
    text = (tmp_path / "small.toml").read_text()
    (tmp_path / "small.toml").write_text(text.replace('model = "tiny"', 'model = "ViT-B-32"'))
    done = mma_here(*words)
    assert done.returncode == 1
    assert "eurosat.zarr is of tiny openai, not of ViT-B-32 openai: use another --caches FOLDER" in done.stdout


def test_what_cannot_be_drawn_is_a_dash_and_stops_no_other(
    suite: Callable[..., list[str]], mma_here: Run, tmp_path: Path
) -> None:
    words = suite("dtd")
    text = (tmp_path / "small.toml").read_text()
    (tmp_path / "small.toml").write_text(text.replace("shots = 1,", "shots = 3,"))
    made = lines(mma_here(*words, "--json"))
    assert made["dtd", "CLIP", "base"]["here"] is not None
    assert "dtd" in made["dtd", "MMA", "base"]["why_not"]


@pytest.mark.slow
def test_what_was_chosen_on_test_rows_and_what_is_zero_shot_for_want_of_weights_is_stamped(
    suite: Callable[..., list[str]], mma_here: Run, tmp_path: Path
) -> None:
    words = suite("eurosat")
    text = (tmp_path / "small.toml").read_text()
    (tmp_path / "small.toml").write_text(
        text.replace('"clip-adapter", recipe = "clip-mma"', '"linear-probe", select = "oracle"')
    )
    done = mma_here(*words)
    assert done.returncode == 0, done.stderr
    assert "ORACLE: epochs were selected on the test rows" in done.stdout
    assert re.search(r"│ new +│ +[\d.]+\*", done.stdout)
    assert "* has no weights for classes without shots" in done.stdout


@pytest.mark.slow
def test_the_suite_of_ones_own_in_the_docs_runs(mma_here: Run, root: Path, tmp_path: Path) -> None:
    (example,) = re.findall(r"```toml\n(.*?)```", PAGE.read_text(encoding="utf-8"), flags=re.DOTALL)
    assert "ViT-B-32" in example
    (tmp_path / "talk.toml").write_text(example.replace("ViT-B-32", "tiny").replace("shots = 4", "shots = 1"))
    shutil.copytree(root / "eurosat/2750", tmp_path / "photos")
    done = mma_here("reproduce", "talk.toml", "--root", root, "--device", "cpu", "--json", cwd=tmp_path)
    made = lines(done)
    assert made["photos", "Ridge on pairs", "accuracy"]["published"] is None
    assert made["dtd", "CLIP", "accuracy"]["difference"] is not None
    assert made["average", "Ridge on pairs", "accuracy"]["here"] is not None
