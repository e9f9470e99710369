"""An adapter in a file, through fit and ablate: what names its results, and what is said where its code fails."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

import mma
from mma.adapters import reference
from mma.pipeline.fitting.cells import Cell
from mma.pipeline.fitting.features import Address
from mma.pipeline.fitting.grid import Failure, Work, run_work

CODE = """
from mma import Adapter

class MyAdapter(Adapter):
    trains = False

    def __init__(self, *, lam: float = 1.0) -> None:
        super().__init__()
        self.lam = lam

    def forward(self, image, text):
        return (self.lam / (self.lam != 7)) * image @ text.mT
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "my.py"
    path.write_text(f"{CODE}# {tmp_path}")
    return path


def fitted(cache: Path, file: Path, out: Path, **options: object) -> mma.Row:
    grid = mma.fit(str(cache), adapter=f"{file}:MyAdapter", shots=2, seeds=1, out=out, **options)
    return grid[f"{file}:MyAdapter"]


def test_a_result_is_named_by_the_class_and_its_source_and_not_by_where_the_file_lies(
    small_cache: Path, file: Path, tmp_path: Path
) -> None:
    row = fitted(small_cache, file, tmp_path / "runs")
    assert row.setting.adapter == f"{os.path.realpath(file)}:MyAdapter"
    assert (row.setting.name, row.setting.flat()["adapter"]) == ("my-adapter", "my-adapter")
    assert row.setting.code
    assert (tmp_path / "runs" / f"my-adapter-{row.setting.id}" / "weights-0.safetensors").is_file()
    assert type(row.adapter()).__name__ == "MyAdapter"

    (tmp_path / "elsewhere").mkdir()
    moved = file.rename(tmp_path / "elsewhere" / "renamed.py")
    again = fitted(small_cache, moved, tmp_path / "runs")
    assert again.setting.id == row.setting.id
    assert again.results[0].seconds == row.results[0].seconds  # it was not fitted again

    moved.write_text(moved.read_text().replace("image @", "1 * image @"))
    changed = fitted(small_cache, moved, tmp_path / "runs")
    assert changed.setting.id != row.setting.id
    assert changed.setting.question == row.setting.question


def test_an_error_in_its_code_is_told_with_its_line(small_cache: Path, file: Path, tmp_path: Path) -> None:
    at = f"({os.path.realpath(file)}:{1 + file.read_text().splitlines().index(CODE.splitlines()[-1])})"
    with pytest.raises(mma.WorkError, match=r"^shapes-small, my-adapter, seed 0: ZeroDivisionError: ") as failed:
        fitted(small_cache, file, tmp_path / "runs", lam=7)
    assert at in str(failed.value)
    assert "my.py" in "".join(failed.value.__notes__)  # what --debug shows
    assert "Traceback" in "".join(failed.value.__notes__)
    grid = mma.ablate(str(small_cache), adapter=f"{file}:MyAdapter", lam=[1, 7], seed=0, shots=2, out=tmp_path / "r")
    assert [failure.reason.endswith(at) for failure in grid.failures] == [True]
    assert [row.setting.flat().get("lam") for row in grid] == [None, 1.0]


def test_an_error_in_its_constructor_is_told_with_its_line_before_any_work(
    small_cache: Path, file: Path, tmp_path: Path
) -> None:
    file.write_text(CODE.replace("self.lam = lam", "self.lam = {}[lam]"))
    with pytest.raises(mma.AdapterError, match=r"^my-adapter: KeyError: 1\.0 \(.*my\.py:9\)$"):
        fitted(small_cache, file, tmp_path / "runs")


def test_a_baseline_may_be_one_by_its_file_or_its_short_name(small_cache: Path, file: Path, tmp_path: Path) -> None:
    for baseline in (f"{file}:MyAdapter lam=2", "my-adapter lam=2"):
        mma.ablate(str(small_cache), adapter=f"{file}:MyAdapter", lam=[1, 2], seed=0, shots=2, baseline=baseline,
                   out=tmp_path / "runs")  # fmt: skip


def test_two_classes_of_one_name_cannot_be_told_apart_and_are_refused(
    small_cache: Path, file: Path, tmp_path: Path
) -> None:
    (tmp_path / "other.py").write_text(CODE)
    with pytest.raises(mma.UsageError, match="my-adapter is the name of two classes"):
        mma.fit(str(small_cache), adapter=[f"{file}:MyAdapter", f"{tmp_path}/other.py:MyAdapter"], out=tmp_path / "r")


def test_a_worker_does_not_run_another_source_than_was_planned(small_cache: Path, file: Path, tmp_path: Path) -> None:
    row = fitted(small_cache, file, tmp_path / "runs")
    work = Work(Cell(row.setting, 0), (Address(str(small_cache), "default", "unit", "cpu", False),))
    assert not isinstance(run_work(work), Failure)
    file.write_text(CODE + "# edited")
    reference(f"{file}:MyAdapter")  # as in a process that starts after the edit
    outcome = run_work(work)
    assert isinstance(outcome, Failure)
    assert "is another one than the grid was planned with" in outcome.reason
