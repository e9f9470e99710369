"""An adapter in a file outside of any package: loaded once for each text, refused in one line, saved and restored."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest
import torch

from mma.adapters import AdapterError, adapter_class, fit, from_bytes, name_of, predict, reference, short_name, to_bytes
from mma.adapters.blame import blamed
from mma.adapters.registry import title

from .toy import toy

CODE = """
import torch
from mma import Adapter

class ScaledMore(Adapter):
    trains = False

    def __init__(self, *, lam: float = 2.0) -> None:
        super().__init__()
        self.lam = lam

    def forward(self, image, text):
        return self.lam * image @ text.mT

class Other: pass
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "my own.py"
    path.write_text(f"{CODE}# {tmp_path}")  # a text of its own: classes of one text stand for each other
    return path


def test_a_class_is_loaded_from_its_file_once(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(file.parent)
    kind = adapter_class("./my own.py:ScaledMore")
    assert kind is adapter_class(f"{file}:ScaledMore")
    assert kind().options() == {"lam": 2.0}
    assert name_of(kind()) == reference("my own.py:ScaledMore") == f"{os.path.realpath(file)}:ScaledMore"
    assert title(kind()) == short_name(name_of(kind())) == "scaled-more"
    assert not list(file.parent.glob("**/*.pyc"))


def test_an_edited_file_is_run_again_when_a_grid_is_planned_and_not_before(file: Path) -> None:
    name = f"{file}:ScaledMore"
    before = adapter_class(name)
    file.write_text(CODE.replace("lam: float = 2.0", "lam: float = 3.0"))
    assert adapter_class(name) is before
    reference(name)
    assert adapter_class(name)().options() == {"lam": 3.0}
    assert adapter_class(name) is not before


@pytest.mark.parametrize(
    ("name", "short"),
    [
        ("gda", "gda"),
        ("my.py:MyAdapter", "my-adapter"),
        ("../my.py:RAda2", "r-ada2"),
        ("a/b.py:GDAHead", "gda-head"),
        ("a/b.py:_my_adapter", "my-adapter"),
        ("a/b.py:__", "adapter"),
        ("a/b.py:" + "A" * 300, "a" * 60),
    ],
)
def test_the_short_name_is_the_class_in_words(name: str, short: str) -> None:
    assert short_name(name) == short


@pytest.mark.parametrize(
    ("code", "name", "message"),
    [
        (CODE, "none.py:ScaledMore", r"^there is no file .*none\.py$"),
        (CODE, "my own.py", r"is not FILE\.py:CLASS"),
        (CODE, "my own.py:Scaled More", r"is not FILE\.py:CLASS"),
        (CODE, "my own.py:ScaledLess", r"my own\.py has no class 'ScaledLess' \(its classes: ScaledMore, Other\)$"),
        (CODE, "my own.py:Other", r"^Other in .*my own\.py is no adapter: derive it from mma\.Adapter$"),
        (CODE.replace("ScaledMore", "Gda"), "my own.py:Gda", "would be called gda, a name that is taken"),
        ("\nimport a_module_that_is_not_there", "my own.py:A", r"^ModuleNotFoundError: .*my own\.py:2\)$"),
        ("x = 1\ndef f():\n    return 1 / 0\nf()", "my own.py:A", r"^ZeroDivisionError: .*my own\.py:3\)$"),
        ("class A\n    pass", "my own.py:A", r"^SyntaxError: .*my own\.py:1\)$"),
        ("import sys\nsys.exit(3)", "my own.py:A", r"^SystemExit: 3 .*my own\.py:2\)$"),
        (CODE.replace("lam: float", "lam: int | float"), "my own.py:ScaledMore", "its options cannot be read"),
    ],
)
def test_what_is_wrong_with_it_is_one_line(
    file: Path, monkeypatch: pytest.MonkeyPatch, code: str, name: str, message: str
) -> None:
    file.write_text(code)
    monkeypatch.chdir(file.parent)
    with pytest.raises(AdapterError, match=message) as refused:
        adapter_class(name)
    assert "\n" not in str(refused.value)


def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.py")
    with pytest.raises(AdapterError, match="there is no file"):
        adapter_class(f"{tmp_path}/pipe.py:A")


def test_it_is_saved_and_restored_where_its_class_was_asked_for_and_its_file_is_not_named(file: Path) -> None:
    data, kind = toy(), adapter_class(f"{file}:ScaledMore")
    adapter = kind(lam=3.0)
    fit(adapter, data.support, adapter.recipe, seed=0)
    saved = to_bytes(adapter)
    assert str(file.parent).encode() not in saved
    loaded = from_bytes(saved)
    assert type(loaded) is kind
    expected = predict(adapter, data.test.image, data.support.text)
    assert torch.equal(predict(loaded, data.test.image, data.support.text), expected)


def test_weights_run_no_code_that_was_not_asked_for(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data, kind = toy(), adapter_class(f"{file}:ScaledMore")
    adapter = kind()
    fit(adapter, data.support, adapter.recipe, seed=0)
    saved = to_bytes(adapter)
    monkeypatch.delitem(sys.modules, kind.__module__)
    with pytest.raises(
        AdapterError, match=r"first call adapter_class\('FILE.py:ScaledMore'\), with the file as it was"
    ):
        from_bytes(saved)


def test_an_error_is_blamed_on_the_innermost_line_of_the_authors_file(file: Path) -> None:
    file.write_text(CODE.replace("self.lam * image", "torch.zeros(2) @ torch.zeros(3) * image"))
    kind, data = adapter_class(f"{file}:ScaledMore"), toy()
    adapter = kind()
    adapter.start(data.support)
    with pytest.raises(RuntimeError) as raised:
        predict(adapter, data.test.image, data.support.text)
    line = 1 + CODE.splitlines().index("        return self.lam * image @ text.mT")
    assert blamed(raised.value, kind) == f" ({os.path.realpath(file)}:{line})"
    assert blamed(raised.value, adapter_class("gda")) == ""
