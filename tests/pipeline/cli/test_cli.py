from __future__ import annotations

import json
import sqlite3
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pytest

from ...conftest import COMMAND, Run, small_features


def test_help_loads_no_torch_and_no_zarr() -> None:
    script = (
        "import sys; sys.argv = ['mma', '--help']\n"
        "from mma.pipeline.cli.main import main\n"
        "try: main()\n"
        "finally: print(sorted({'torch', 'zarr', 'numpy', 'scipy'} & set(sys.modules)), file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0
    assert done.stderr.strip() == "[]"
    assert "embed" in done.stdout


@pytest.mark.slow
def test_stage_two_loads_no_model_and_no_image_library(small_cache: Path, tmp_path: Path) -> None:
    script = (
        "import sys\n"
        f"sys.argv = ['mma', 'fit', '--cache', {str(small_cache)!r}, '--shots', '2', '--seeds', '1', '--json']\n"
        "from mma.pipeline.cli.main import main\n"
        "try: main()\n"
        "finally: print(sorted({'open_clip', 'torchvision', 'PIL', 'timm'} & set(sys.modules)), file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, cwd=tmp_path, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stderr.splitlines()[-1] == "[]"


def test_fit_prints_its_table_to_stdout_and_all_else_to_stderr(mma: Run, small_cache: Path, tmp_path: Path) -> None:
    done = mma("fit", "--cache", small_cache, "--adapter", "linear-probe", "--shots", 4, cwd=tmp_path)
    assert done.returncode == 0
    assert "linear-probe" in done.stdout
    assert "no weights for classes without shots" in done.stdout
    assert "fits" not in done.stdout
    again = mma("fit", "--cache", small_cache, "--adapter", "linear-probe", "--shots", 4, cwd=tmp_path)
    assert again.stdout == done.stdout
    assert "3 of 3 seeds are in" in again.stderr


def test_fit_json_is_json(mma_here: Run, small_cache: Path, tmp_path: Path) -> None:
    done = mma_here("fit", "--cache", small_cache, "--shots", 4, "--lam", 0.5, "--mask=pair", "--json", cwd=tmp_path)
    rows = json.loads(done.stdout)["rows"]
    assert [row["adapter"] for row in rows] == ["zero-shot", "mma"]
    assert rows[1]["options"]["lam"] == 0.5
    assert rows[1]["options"]["mask"] == "pair"
    assert len(rows[1]["H"]["seeds"]) == 3


def test_an_oracle_is_stamped_on_the_table(mma_here: Run, small_cache: Path, tmp_path: Path) -> None:
    words = ("fit", "--cache", small_cache, "--shots", 4, "--seeds", 1, "--select", "oracle", "--epochs", 2)
    done = mma_here(*words, cwd=tmp_path)
    assert "ORACLE" in done.stdout
    assert "selected on TEST" in done.stdout


def test_the_version_is_the_packages() -> None:
    done = subprocess.run([COMMAND, "--version"], capture_output=True, text=True, check=True)
    assert done.stdout == f"mma {version('mma')}\n"


def test_a_results_file_that_is_damaged_is_one_line(mma_here: Run, small_cache: Path, tmp_path: Path) -> None:
    words = ("fit", "--cache", small_cache, "--adapter", "zero-shot")
    assert mma_here(*words, cwd=tmp_path).returncode == 0
    file = tmp_path / "runs" / "results.sqlite"
    file.write_bytes(file.read_bytes()[:4096] + b"?" * (file.stat().st_size - 4096))
    done = mma_here(*words, cwd=tmp_path)
    assert done.returncode != 0
    assert "a defect" not in done.stderr
    assert "--out" in done.stderr or "results file" in done.stderr


WRONG = {
    "unknown command": (["fitt"], "Did you mean 'fit'"),
    "no cache there": (["fit", "--cache", "nowhere.zarr"], "nowhere.zarr: make one with `mma embed`"),
    "not a cache": (["fit", "--cache", "."], "is not an mma cache"),
    "unknown adapter": (["fit", "--cache", "CACHE", "--adapter", "mmma"], "unknown adapter 'mmma'"),
    "unknown option": (["fit", "--cache", "CACHE", "--lamm", "1"], "did you mean lam"),
    "option with underscores": (["fit", "--cache", "CACHE", "--weight_decay", "1"], "is written --weight-decay"),
    "option twice": (["fit", "--cache", "CACHE", "--lam", "0", "--lam", "1"], "--lam is given twice"),
    "optimiser of its own": (
        ["fit", "--cache", "CACHE", "--adapter", "lp++", "--optimizer", "adamw"],
        "lp++ has its own",
    ),
    "heads and dimensions": (["fit", "--cache", "CACHE", "--adapter", "rada", "--heads", "7"], "heads = 7 does not"),
    "infinite option": (["fit", "--cache", "CACHE", "--adapter", "gda", "--alpha", "inf"], "alpha = inf is not finite"),
    "option without value": (["fit", "--cache", "CACHE", "--lam"], "--lam needs a value"),
    "stray word": (["fit", "--cache", "CACHE", "lam=1"], "unexpected argument 'lam=1'"),
    "lambda out of range": (["fit", "--cache", "CACHE", "--lam", "2"], "lam = 2.0 is outside [0, 1]"),
    "not a number": (["fit", "--cache", "CACHE", "--lam", "much"], "lam = 'much' is not a number"),
    "heads not dividing": (["fit", "--cache", "CACHE", "--heads", "3"], "heads = 3 does not divide width = 128"),
    "unknown mask": (["fit", "--cache", "CACHE", "--mask", "cros"], "mask = 'cros' is not one of cross"),
    "unknown protocol": (["fit", "--cache", "CACHE", "--protocol", "base-to-knew"], "did you mean base-to-new"),
    "unknown selection": (["fit", "--cache", "CACHE", "--select", "best"], "unknown select 'best'"),
    "unknown recipe": (
        ["fit", "--cache", "CACHE", "--adapter", "clip-adapter", "--recipe", "clip-ma"],
        "clip-adapter: no recipe 'clip-ma': did you mean clip-mma?",
    ),
    "unknown device": (["fit", "--cache", "CACHE", "--device", "gpu"], "unknown device 'gpu'"),
    "too many shots": (["fit", "--cache", "CACHE", "--shots", "99"], "use --shots 10"),
    "no shots": (["fit", "--cache", "CACHE", "--shots", "0"], "--shots 0: it must be from 1"),
    "shots in words": (["fit", "--cache", "CACHE", "--shots", "many"], "--shots many is not a whole number"),
    "no seeds": (["fit", "--cache", "CACHE", "--seeds", "0"], "--seeds 0: it must be from 1"),
    "no learning rate": (["fit", "--cache", "CACHE", "--lr", "-1"], "--lr -1: it must be 0 or more"),
    "huge learning rate": (["fit", "--cache", "CACHE", "--lr", "1e30"], "--lr 1e30: it must be at most 1,000,000,000"),
    "huge option": (
        ["fit", "--cache", "CACHE", "--adapter", "gda", "--alpha", "1e30"],
        "alpha = 1e+30 is not between -1,000,000,000 and 1,000,000,000",
    ),
    "prompt set not there": (["fit", "--cache", "CACHE", "--prompts", "cupl"], "no prompt set 'cupl'; it has default"),
    "results in a file": (["fit", "--cache", "CACHE", "--shots", "2", "--out", "FILE"], "is a file"),
    "unknown factor": (["ablate", "--cache", "CACHE", "lamda=1"], "unknown factor 'lamda': did you mean lam"),
    "factor out of range": (["ablate", "--cache", "CACHE", "lam=0,3"], "lam = 3.0 is outside [0, 1]"),
    "empty range": (["ablate", "--cache", "CACHE", "seed=5:5"], "the range '5:5' is empty"),
    "unknown baseline": (["ablate", "--cache", "CACHE", "--baseline", "nothing"], "names no adapter"),
    "empty baseline": (["ablate", "--cache", "CACHE", "--baseline", ""], "is not a word"),
    "two baselines": (["ablate", "--cache", "CACHE", "--baseline", "mma lam=0.1,0.2"], "is not key=value"),
    "range of nothing": (["ablate", "--cache", "CACHE", "lam=nan:1"], "'nan:1' is not a range"),
    "pivot of one": (["ablate", "--cache", "CACHE", "--pivot", "mask"], "needs two factors"),
    "pivot over what was not named": (
        ["ablate", "--cache", "CACHE", "shots=1,2", "lam=0,1", "--pivot", "adapter,lam"],
        "would average over shots (1, 2): give one value, or say so with --over shots",
    ),
    "over alone": (["ablate", "--cache", "CACHE", "shots=1,2", "--over", "shots"], "none is given: --pivot ONE,OTHER"),
    "over an unknown factor": (["ablate", "--cache", "CACHE", "--pivot", "lam,mask", "--over", "shotz"], "shots"),
    "metric alone": (["ablate", "--cache", "CACHE", "--metric", "H"], "--metric H is of a pivot"),
    "unknown optimizer": (["ablate", "--cache", "CACHE", "optimizer=adan"], "unknown optimizer 'adan'"),
    "rate not a number": (["ablate", "--cache", "CACHE", "lr=nan"], "lr=nan is not a number that can be used"),
    "ratio not a number": (
        ["fit", "--cache", "CACHE", "--base-ratio", "nan"],
        "--base-ratio nan is not a number that can be used",
    ),
    "export below a file": (["ablate", "--cache", "CACHE", "--export", "file/x.csv"], "is a file"),
    "unknown export": (["ablate", "--cache", "CACHE", "--export", "x.xlsx"], "must end in .csv"),
    "no scheduler": (["ablate", "--cache", "CACHE", "seed=0:4", "--scheduler", "127.0.0.1:1"], "does not answer"),
    "unknown data set": (["embed", "--dataset", "food11"], "did you mean food101"),
    "missing folder": (["embed", "--dataset", "./nowhere"], "there is no folder ./nowhere"),
}


@pytest.mark.parametrize("case", WRONG)
def test_wrong_use_is_one_line_and_exit_2_and_writes_nothing(
    case: str, mma_here: Run, small_cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mma.pipeline.fitting.grid.CONNECT_SECONDS", 0.5)
    words, expected = WRONG[case]
    (tmp_path / "file").write_text("mine")
    words = [str(small_cache) if w == "CACHE" else str(tmp_path / "file") if w == "FILE" else w for w in words]
    done = mma_here(*words, cwd=tmp_path)
    lines = [line for line in done.stderr.splitlines() if line.startswith("mma: ")]
    assert done.returncode == 2, done.stderr
    assert len(lines) == 1
    assert expected in lines[0]
    assert "Traceback" not in done.stderr
    assert [path.name for path in tmp_path.iterdir() if not _is_empty_store(path)] == ["file"]


def _is_empty_store(path: Path) -> bool:
    """A results folder that was opened, and in which nothing was recorded."""
    if [child.name for child in path.glob("*")] != ["results.sqlite"]:
        return False
    with sqlite3.connect(path / "results.sqlite") as db:
        return db.execute("select count(*) from cells").fetchone() == (0,)


def damaged(case: str) -> dict[str, np.ndarray]:
    arrays = small_features()
    if case == "non-finite":
        arrays["image_train"][3, 5] = np.nan
    elif case == "zero row":
        arrays["image_test"][2] = 0
    elif case == "another dimension":
        arrays["text"] = arrays["text"][:, :16]
    elif case == "flat image":
        arrays["image_test"] = arrays["image_test"].reshape(-1)
    elif case == "too few labels":
        arrays["label_train"] = arrays["label_train"][:-1]
    elif case == "label out of range":
        arrays["label_test"][0] = 7
    elif case == "labels as text":
        arrays["label_test"] = arrays["label_test"].astype(str)
    elif case == "missing text":
        del arrays["text"]
    elif case == "too few names":
        arrays["classnames"] = arrays["classnames"][:-1]
    elif case == "names twice":
        arrays["classnames"][1] = arrays["classnames"][0]
    return arrays


IMPORTS = ["non-finite", "zero row", "another dimension", "flat image", "too few labels", "label out of range"]
IMPORTS += ["labels as text", "missing text", "too few names", "names twice"]


@pytest.mark.parametrize("case", IMPORTS)
def test_features_that_cannot_be_are_refused_in_one_line_and_no_cache_is_left(
    case: str, mma_here: Run, tmp_path: Path
) -> None:
    np.savez(tmp_path / "features.npz", **damaged(case))
    done = mma_here("cache", "import", "--npz", "features.npz", "--out", "features.zarr", cwd=tmp_path)
    assert done.returncode == 2
    assert len(done.stderr.strip().splitlines()) == 1
    assert done.stderr.startswith("mma: features.npz")
    assert [path.name for path in tmp_path.iterdir()] == ["features.npz"]


def test_an_adapter_shows_its_recipes_with_their_sources(mma_here: Run) -> None:
    shown = mma_here("adapters", "clip-adapter").stdout
    assert "published (the default): optimizer sgd, lr 0.002" in shown
    assert "gaopengcuhk/CLIP-Adapter" in shown
    assert "clip-mma: optimizer adam" in shown
    (first, second) = json.loads(mma_here("adapters", "clip-adapter", "--json").stdout)["recipes"]
    assert (first["name"], first["select"], second["name"], second["select"]) == (
        "published",
        "last",
        "clip-mma",
        "val",
    )
    assert "published  on dtd: start_alpha 2" in mma_here("adapters", "tip-adapter-f").stdout
    assert "recipe" not in mma_here("adapters", "gda").stdout
