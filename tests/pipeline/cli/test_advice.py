"""What a command says to do next can be done, and what the docs say of files is what is written."""

from __future__ import annotations

import re
import sqlite3
import subprocess
from pathlib import Path

import numpy as np
import pytest

from mma.pipeline.cli.commands import as_flags

from ...conftest import COMMAND, Run

DOCS = Path(__file__).resolve().parents[3] / "docs"


@pytest.mark.slow
def test_fit_prints_the_folder_of_every_adapter(mma_here: Run, small_cache: Path, tmp_path: Path) -> None:
    done = mma_here("fit", "--cache", small_cache, "--adapter", "gda,linear-probe", "--shots", 2, cwd=tmp_path)
    folders = dict(re.findall(r"^ +(\S+) +(runs/\S+) *$", done.stderr, re.MULTILINE))
    assert list(folders) == ["zero-shot", "gda", "linear-probe"]
    assert all((tmp_path / folder / "weights-0.safetensors").is_file() for folder in folders.values())
    again = mma_here("fit", "--cache", small_cache, "--adapter", "gda", "--shots", 2, cwd=tmp_path)
    assert "already (--force fits again)" in again.stderr, "notes have the options of the command line too"


def test_the_keys_of_predictions_and_the_query_of_the_page_are_what_is_written(
    mma_here: Run, small_cache: Path, tmp_path: Path
) -> None:
    page = (DOCS / "fit.md").read_text(encoding="utf-8")
    mma_here("fit", "--cache", small_cache, "--adapter", "gda", "--shots", 2, "--seeds", 2, cwd=tmp_path)
    (query,) = re.findall(r'sqlite3 runs/results.sqlite "(.*?)"', page, re.DOTALL)
    with sqlite3.connect(tmp_path / "runs" / "results.sqlite") as db:
        rows = db.execute(query).fetchall()
    assert [row[:3] for row in rows] == [("gda", 2, 0), ("gda", 2, 1), ("zero-shot", 0, 0)]
    assert all(0 <= row[3] <= 100 for row in rows)
    (folder,) = (tmp_path / "runs").glob("gda-*")
    with np.load(folder / "predictions-0.npz") as arrays:
        assert all(f"`{re.sub('^(base|new)', '<test>', name)}`" in page for name in arrays)
    assert {
        file.name for file in folder.iterdir() if "`" + re.sub(r"-\d", "-<seed>", file.name) + "`" not in page
    } == set()


def test_ablate_advises_in_its_own_words(mma_here: Run, small_cache: Path, tmp_path: Path) -> None:
    done = mma_here("ablate", "--cache", small_cache, "adapter=gda", "shots=99", "seed=0", cwd=tmp_path)
    assert done.returncode == 2
    assert "use shots=10" in done.stderr
    assert "small: " in done.stderr
    done = mma_here("ablate", "--cache", small_cache, "--workers", 0, cwd=tmp_path)
    assert "--workers 0: it must be from 1" in done.stderr


def test_options_in_a_message_are_written_as_a_command_has_them() -> None:
    said = (
        "`update=True` embeds anew, `max_pixels=N` bounds, `model=ViT-B-32` names; `mma datasets` lists, x=True is not"
    )
    assert as_flags(said) == (
        "--update embeds anew, --max-pixels N bounds, --model ViT-B-32 names; `mma datasets` lists, x=True is not"
    )


@pytest.mark.parametrize("pivot", ["lam,shotz", "lamm,shots", "alpha,shots"])
def test_a_pivot_that_cannot_be_is_told_before_the_grid_runs(
    pivot: str, mma_here: Run, small_cache: Path, tmp_path: Path
) -> None:
    done = mma_here("ablate", "--cache", small_cache, "lam=0,1", "shots=1,2", "--pivot", pivot, cwd=tmp_path)
    assert done.returncode == 2
    assert "unknown factor" in done.stderr
    assert not (tmp_path / "runs").exists()


def test_options_without_a_value_are_refused_before_anything_is_opened(mma_here: Run, tmp_path: Path) -> None:
    for words in (["--dataset", ""], ["--dataset", "shapes", "--model", ""], ["--dataset", "shapes", "--cache", ""]):
        done = mma_here("embed", *words, cwd=tmp_path)
        assert done.returncode == 2
        assert "is not a" in done.stderr
        assert not list(tmp_path.iterdir())


@pytest.mark.slow
@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full here")
def test_a_full_disk_names_what_could_not_be_written(tmp_path: Path) -> None:
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            [COMMAND, "adapters"], stdout=full, stderr=subprocess.PIPE, text=True, cwd=tmp_path, check=False
        )
    assert done.stderr == "mma: the output: No space left on device\n"
    assert done.returncode == 1


def test_a_reader_that_has_seen_enough_is_no_error(tmp_path: Path) -> None:
    done = subprocess.run(
        f"{COMMAND} datasets --json | head -c 1", shell=True, capture_output=True, text=True, cwd=tmp_path, check=False
    )
    assert done.stderr == ""
