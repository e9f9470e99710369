from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from mma.pipeline.json_text import to_json

PIPELINE = Path(__file__).parents[2] / "pipeline"
NOT_SHOWN = {"fitting/cells.py", "embedding/clip.py", "embedding/seen.py"}  # hashed, copied, or of whole numbers


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf"), np.float64("nan")])
def test_a_number_that_json_does_not_have_is_null(bad: float) -> None:
    assert json.loads(to_json({"a": [bad, 1.5, (bad, {"b": bad})]})) == {"a": [None, 1.5, [None, {"b": None}]]}


def test_json_is_written_in_one_place() -> None:
    writers = {p.relative_to(PIPELINE).as_posix() for p in PIPELINE.rglob("*.py") if "json.dumps(" in p.read_text()}
    assert writers == {"json_text.py", *NOT_SHOWN}
