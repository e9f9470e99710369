"""`mma adapters`: the list, one of them, and the checks of one's own."""

from __future__ import annotations

import json
from pathlib import Path

from ...conftest import Run

CODE = """
from mma.adapters import Adapter, zero_shot_logits
from mma.adapters.checks import Known

class Mine(Adapter):
    trains = False
    known = Known(off={"lam": 0.0}, other={"how": "twice"})

    def __init__(self, *, lam: float = 1.0, how: str = "once") -> None:
        super().__init__()
        self.lam, self.how = lam, how

    def forward(self, image, text):
        return zero_shot_logits(image, text.roll(0, 0) * (1 + self.lam), self.logit_scale)

class Broken(Mine):
    def forward(self, image, text):
        return super().forward(image, text) + image[99]
"""


def test_the_list_and_one_of_them_are_shown_with_or_without_the_word_show(mma_here: Run) -> None:
    assert "kron-ridge" in mma_here("adapters").stdout
    assert mma_here("adapters", "gda").stdout == mma_here("adapters", "show", "gda").stdout != ""
    assert len(json.loads(mma_here("adapters", "--json").stdout)) > 20
    assert json.loads(mma_here("adapters", "gda", "--json").stdout)["adapter"] == "gda"
    refused = mma_here("adapters", "gdb")
    assert refused.returncode == 2
    assert "did you mean gda?" in refused.stderr
    assert "check" in mma_here("adapters", "-h").stdout


def test_a_sound_adapter_of_ones_own_passes_its_checks(mma_here: Run, tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(CODE)
    checked = mma_here("adapters", "check", "./mine.py:Mine", "--json", cwd=tmp_path)
    found = json.loads(checked.stdout)
    assert (checked.returncode, found["adapter"], found["ok"]) == (0, "mine", True), checked.stdout
    assert "switched off it is exactly zero shot" in [check["name"] for check in found["checks"]]


def test_a_broken_promise_is_told_with_the_line_and_ends_in_1(mma_here: Run, tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(CODE)
    checked = mma_here("adapters", "check", "mine.py:Broken", cwd=tmp_path)
    assert checked.returncode == 1
    assert f"IndexError: index 99 is out of bounds for dimension 0 with size 20 ({tmp_path}/mine.py:18)" in (
        " ".join(checked.stdout.split())
    )
    assert "promises are kept" in checked.stdout


def test_one_adapter_is_shown_with_its_source_and_help_for_every_option(mma_here: Run) -> None:
    shown = mma_here("adapters", "clip-adapter").stdout
    assert "A bottleneck of two layers" in shown
    assert "CLIP-Adapter, arXiv 2110.04544; code gaopengcuhk/CLIP-Adapter" in shown
    assert " ".join(next(line for line in shown.splitlines() if "--ratio" in line).replace("│", "").split()) == (
        "--ratio float 0.2 weight of the adaptation, 0 (zero-shot) to 1"
    )
    for adapter in json.loads(mma_here("adapters", "--json").stdout):
        assert adapter["does"].endswith(".")
        assert adapter["source"]
        assert all(option["help"] for option in adapter["options"]), adapter["adapter"]
