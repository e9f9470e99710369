from __future__ import annotations

import doctest
import subprocess
import sys
from pathlib import Path

import pytest
from rich.console import Console

import mma
from mma.pipeline.using.export import export
from mma.pipeline.using.settings import ExportSettings


@pytest.mark.slow
@pytest.mark.parametrize("name", ["embed", "fit", "ablate", "load_model"])
def test_the_examples_of_the_library_are_what_it_does(name: str, small_cache: Path, tmp_path: Path) -> None:
    if name == "load_model":
        settings = ExportSettings(cache=str(small_cache), adapter="gda", out=tmp_path / "model")
        export(settings, Console(quiet=True))
    given = {"mma": mma, "cache": mma.open_cache(small_cache), "folder": tmp_path}
    (example,) = (e for e in doctest.DocTestFinder(recurse=False).find(getattr(mma, name), name, globs=given))
    found = doctest.DocTestRunner(verbose=False).run(example)
    assert found.attempted > 0
    assert found.failed == 0


def test_the_story_of_the_library_is_what_it_does(tmp_path: Path) -> None:
    (example,) = doctest.DocTestFinder(recurse=False).find(mma, "mma", globs={"mma": mma, "folder": tmp_path})
    assert doctest.DocTestRunner(verbose=False).run(example).failed == 0


def test_import_mma_loads_neither_torch_nor_numpy() -> None:
    code = "import sys, mma; sys.exit(any(name in sys.modules for name in ('torch', 'numpy', 'zarr', 'open_clip')))"
    assert subprocess.run([sys.executable, "-c", code], check=False, timeout=60).returncode == 0


def test_every_public_name_is_there_and_there_are_at_most_twenty() -> None:
    assert len(mma.__all__) <= 20
    for name in mma.__all__:
        assert getattr(mma, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'fitt'"):
        _ = mma.fitt


def test_a_library_call_that_cannot_work_is_a_usage_error(small_cache: Path, tmp_path: Path) -> None:
    with pytest.raises(mma.UsageError, match="heads"):
        mma.fit(small_cache, adapter="mma", head=4, out=tmp_path)
    with pytest.raises(mma.AdapterError, match=r"heads = 4\.7"):
        mma.fit(small_cache, adapter="mma", heads=4.7, shots=2, out=tmp_path)


def test_records_are_one_flat_dict_for_every_cell(small_cache: Path, tmp_path: Path) -> None:
    grid = mma.ablate(small_cache, adapter="gda", shots=[2, 4], seed=range(2), out=tmp_path)
    records = grid.records()
    assert len(records) == 1 + 2 * 2
    assert all(isinstance(record["H"], float) for record in records)
    assert not any(isinstance(value, dict | list) for record in records for value in record.values())
