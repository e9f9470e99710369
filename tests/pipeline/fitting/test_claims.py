from __future__ import annotations

import json
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import pytest
from rich.console import Console

from mma.pipeline.fitting import claims as module
from mma.pipeline.fitting.ablate import ablate
from mma.pipeline.fitting.claims import Claims
from mma.pipeline.fitting.factors import read_factors
from mma.pipeline.fitting.settings import AblateSettings
from mma.pipeline.fitting.store import FILE, Store

from ...conftest import Run
from ...forked import start
from .test_ablate import DEADLY

QUIET = Console(quiet=True)
COUNTING = """
import mma.pipeline.fitting.grid as grid
run_cell = grid.run_cell
def counted(cell, *rest, **more):  # every cell that is run leaves a line
    with open("ran", "a") as file:
        file.write(cell.id + "\\n")
    return run_cell(cell, *rest, **more)
grid.run_cell = counted
"""


@pytest.fixture
def store(tmp_path: Path) -> Path:
    Store(tmp_path).close()
    return tmp_path / FILE


def settings(cache: Path, out: Path, words: list[str], **changes: object) -> AblateSettings:
    return AblateSettings(
        cache=(str(cache),),
        factors=read_factors(words, None),
        device="cpu",
        out=out,
        **changes,  # type: ignore[arg-type]
    )


def claimed_by_one_that_died(store: Path, cell: str, times: int = 1) -> None:
    """Another process claims a cell and is killed, so many times."""
    script = (
        "import os, sys; from pathlib import Path; from mma.pipeline.fitting.claims import Claims\n"
        "assert Claims(Path(sys.argv[1])).take(sys.argv[2])\n"
        "os.kill(os.getpid(), 9)\n"
    )
    for _ in range(times):
        subprocess.run([sys.executable, "-c", script, str(store), cell], check=False)


def test_a_cell_is_claimed_by_one_alone_and_free_when_it_is_given_back(store: Path) -> None:
    with Claims(store) as one, Claims(store) as other:
        assert one.take("a")
        assert not other.take("a")
        assert other.take("b")
        assert one.held({"a", "b"}) == {"b"}
        assert other.deaths() == {"b": 0}
        one.close()
        assert other.take("a")
        one = Claims(store)


def test_a_cell_of_a_process_that_was_killed_is_free_at_once_and_its_deaths_are_counted(store: Path) -> None:
    claimed_by_one_that_died(store, "a", 2)
    with Claims(store) as claims:
        assert claims.deaths() == {"a": 2}
        assert claims.take("a")
    with Claims(store) as claims:
        assert claims.deaths() == {"a": 2}, "giving back is no death, and forgets none"


def test_elsewhere_a_claim_that_is_not_touched_is_free_in_time_and_one_that_is_stays(
    store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "WATCH", 0.6)
    monkeypatch.setattr(module, "BEAT", 0.1)
    with Claims(store) as living:
        assert living.take("alive")
        with sqlite3.connect(store) as db:
            db.execute("update claims set owner = 'elsewhere 1 x' where cell = 'alive'")
            db.execute("insert into claims values ('dead', 'elsewhere 1 y', 1, 0, 1)")
        living._owner = "elsewhere 1 x"  # as if it ran on another machine
        with Claims(store) as here:
            assert here.held({"alive", "dead"}) == {"alive", "dead"}
            time.sleep(0.8)
            assert here.held({"alive", "dead"}) == {"alive"}
            assert here.deaths() == {"dead": 1}
            assert here.take("dead")


def test_a_claim_of_a_cluster_counts_no_death(store: Path) -> None:
    script = "import os, sys; from pathlib import Path; from mma.pipeline.fitting.claims import Claims\n"
    script += "Claims(Path(sys.argv[1]), counts=False).take('a'); os.kill(os.getpid(), 9)"
    subprocess.run([sys.executable, "-c", script, str(store)], check=False)
    with Claims(store) as claims:
        assert claims.deaths() == {"a": 0}


def test_odd_values_among_the_claims_are_no_living_owner_forever(store: Path) -> None:
    with sqlite3.connect(store) as db:
        db.execute("insert into claims values ('a', x'00ff', 'many', 'x', 'y')")
    with Claims(store) as claims:
        assert claims.held({"a"}) == {"a"}
        assert claims.deaths() == {}


@pytest.mark.slow
def test_two_grids_at_once_run_every_cell_once(small_cache: Path, tmp_path: Path) -> None:
    words = ["adapter=mma,clip-adapter", "lam=0,0.5", "shots=2,4", "seed=0:6", "epochs=8"]
    command = ["ablate", "--cache", small_cache, *words, "--device", "cpu", "--json", "--out", "."]
    both = [start(command, tmp_path, tmp_path / f"out{n}", tmp_path / f"err{n}", COUNTING) for n in range(2)]
    for process in both:
        process.join()
    said = [(tmp_path / f"out{n}").read_text() for n in range(2)]
    assert [process.exitcode for process in both] == [0, 0], [(tmp_path / f"err{n}").read_text() for n in range(2)]
    ran = (tmp_path / "ran").read_text().split()
    assert len(ran) == len(set(ran)) == 1 + 6 * (2 * 2 + 2)
    shown = [[(row["adapter"], row["H"]) for row in json.loads(out)["rows"]] for out in said]
    assert shown[0] == shown[1], "both show all of it"
    with sqlite3.connect(tmp_path / FILE) as db:
        assert db.execute("select count(*) from claims").fetchone() == (0,)


@pytest.mark.slow
def test_a_cell_with_which_processes_died_is_run_by_itself_and_kills_from_outside_are_not_its_fault(
    small_cache: Path, tmp_path: Path
) -> None:
    asked = settings(small_cache, tmp_path, ["adapter=gda", "seed=0:2", "shots=2"])
    whole = ablate(asked, QUIET)
    cells = [result.cell.id for row in whole.rows for result in row.results]
    for cell, times in ((cells[0], 1), (cells[1], 5)):
        with sqlite3.connect(tmp_path / FILE) as db:
            db.execute("delete from cells where id = ?", (cell,))
        claimed_by_one_that_died(tmp_path / FILE, cell, times)
    again = ablate(asked, QUIET)
    assert not again.failures
    assert {r.cell.id: r.metrics for row in again for r in row.results} == {
        r.cell.id: r.metrics for row in whole for r in row.results
    }


@pytest.mark.slow
def test_a_cell_that_kills_the_process_it_runs_in_is_a_failure_the_second_time(
    small_cache: Path, mma: Run, tmp_path: Path
) -> None:
    (tmp_path / "deadly.py").write_text(DEADLY)
    words = ["ablate", "--cache", small_cache, "adapter=./deadly.py:Deadly,linear-probe", "seed=0", "shots=2", "--json"]
    killed, done = (mma(*words, cwd=tmp_path) for _ in range(2))
    assert [killed.returncode, done.returncode] == [-9, 1], done.stderr
    outcome = json.loads(done.stdout)
    assert len(outcome["failures"]) == 1
    assert all("its process died" in failure["reason"] for failure in outcome["failures"])
    assert [row["adapter"] for row in outcome["rows"]] == ["zero-shot", "linear-probe"]
