"""The example of docs/new-adapter.md goes through the contract, as a file and installed as another package would be."""

from __future__ import annotations

import re
import shlex
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from mma.adapters import (
    AdapterError,
    adapter_class,
    adapters,
    fit,
    from_bytes,
    name_of,
    options_of,
    predict,
    to_bytes,
    zero_shot_logits,
)
from mma.adapters.checks import check_adapter
from mma.adapters.registry import BUILT_IN, registered

from ..conftest import Run
from .toy import toy

PAGE = Path(__file__).resolve().parents[2] / "docs" / "new-adapter.md"
EXAMPLE = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), flags=re.DOTALL)[0]
COMMANDS = re.findall(r"```sh\n(.*?)```", PAGE.read_text(encoding="utf-8"), flags=re.DOTALL)[0].splitlines()


def install(folder: Path, module: str, code: str, entry: str) -> None:
    """What pip leaves of a package: the module, and metadata with an entry point."""
    (folder / f"{module}.py").write_text(code, encoding="utf-8")
    info = folder / f"{module}-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {module}\nVersion: 1.0\n", encoding="utf-8")
    (info / "entry_points.txt").write_text(f"[mma.adapters]\n{entry}\n", encoding="utf-8")


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder that packages can be installed in; what they register is gone afterwards."""
    monkeypatch.syspath_prepend(str(tmp_path))
    registered.cache_clear()
    yield tmp_path
    registered.cache_clear()
    for name in ("prototypes_of_mine", "taken", "unloadable"):
        sys.modules.pop(name, None)


def test_the_example_is_short() -> None:
    assert len(EXAMPLE.strip().splitlines()) <= 30


@pytest.mark.slow
def test_a_file_outside_the_repository_is_checked_fitted_swept_and_compared_by_the_commands_of_the_page(
    mma: Run, small_cache: Path, tmp_path: Path
) -> None:
    (tmp_path / "prototypes.py").write_text(EXAMPLE)
    (tmp_path / "cache").mkdir()
    shutil.copytree(small_cache, tmp_path / "cache" / "dtd.zarr")
    done = []
    for command in COMMANDS:
        first, *words = shlex.split(command)
        assert first == "mma"
        done.append(mma(*words, cwd=tmp_path))
        assert done[-1].returncode == 0, done[-1].stderr
    checked, fitted, swept, compared = (each.stdout for each in done)
    assert "broken" not in checked
    assert re.search(r"(\d+) of \1 promises are kept", checked)
    assert re.search(r"prototypes share=0.5 +│ +\d", fitted)
    assert [share for share in ("0", "0.5", "1") if re.search(rf"prototypes +│ +{share} +│ +\d", swept)] == [
        "0",
        "0.5",
        "1",
    ]
    assert "4 done" in done[2].stderr  # zero-shot and share 0.5 are there from the fit
    assert [name for name in ("zero-shot", "tip-adapter", "gda", "prototypes") if f"│ {name} " in compared] == [
        "zero-shot",
        "tip-adapter",
        "gda",
        "prototypes",
    ]
    assert "difference in H to gda" in compared
    assert len(list((tmp_path / "runs").glob("prototypes-*/weights-*.safetensors"))) == 3


def test_another_package_registers_the_example_by_an_entry_point(site: Path) -> None:
    assert "prototypes" not in adapters()
    registered.cache_clear()
    install(site, "prototypes_of_mine", EXAMPLE, "prototypes = prototypes_of_mine:Prototypes")
    kind = adapter_class("prototypes")
    assert list(adapters()) == [*BUILT_IN, "prototypes"]
    assert [option.meaning for option in options_of(kind)] == ["float|none"]

    check_adapter(kind)

    data = toy()
    adapter = kind()
    history = fit(adapter, data.support, adapter.recipe, seed=0, validation=data.validation)
    assert set(history.chosen) == {"share"}
    assert name_of(adapter) == "prototypes"
    logits = predict(adapter, data.test.image, data.support.text)
    loaded = from_bytes(to_bytes(adapter))
    assert torch.equal(predict(loaded, data.test.image, data.support.text), logits)

    off = kind(share=0.0)
    fit(off, data.support, off.recipe, seed=0)
    expected = zero_shot_logits(data.test.image, data.support.text, 100.0)
    torch.testing.assert_close(predict(off, data.test.image, data.support.text), expected)
    with pytest.raises(AdapterError, match="weights are for the 5 classes"):
        predict(adapter, data.test.image, data.new_text)
    with pytest.raises(AdapterError, match=r"share = 2.0 is outside \[0, 1\]"):
        kind(share=2.0)


def test_a_name_that_is_taken_is_refused(site: Path) -> None:
    install(site, "taken", EXAMPLE, "gda = taken:Prototypes")
    with pytest.raises(AdapterError, match=r"^taken:Prototypes registers an adapter as 'gda', a name that is taken$"):
        adapters()


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        ("import a_module_that_is_not_there", "No module named"),
        ("class Prototypes: pass", "unloadable:Prototypes is not a subclass of Adapter"),
        (EXAMPLE.replace("Annotated[float | None", "Annotated[int | float"), "too many values"),
    ],
)
def test_a_package_that_cannot_be_loaded_is_no_trouble_until_it_is_asked_for(
    site: Path, code: str, reason: str
) -> None:
    install(site, "unloadable", code, "prototypes = unloadable:Prototypes")
    assert list(adapters()) == list(BUILT_IN)
    with pytest.raises(AdapterError, match=f"^the adapter 'prototypes' of another package cannot be used: .*{reason}"):
        adapter_class("prototypes")


def test_an_unknown_name_is_refused_with_those_known() -> None:
    with pytest.raises(AdapterError, match=r"unknown adapter 'gdb': did you mean gda\? .known: zero-shot, mma,"):
        adapter_class("gdb")
