from __future__ import annotations

from mma.pipeline.fitting.cells import Cell, Choice, Data, resolve
from mma.pipeline.fitting.protocols import BaseToNew
from mma.pipeline.fitting.results import Grid, Result, Row


def test_a_grid_shows_itself_in_a_notebook_as_escaped_text() -> None:
    rows = []
    for dataset, h in (("<script>", 54.5), ("b", 60.25)):
        setting = resolve(Choice("gda", BaseToNew(shots=2)), Data(dataset, "default", "unit", dataset))
        rows.append(Row(setting, [Result(Cell(setting, 0), {"base": 60.0, "new": 50.0, "H": h}, {}, 1.0, [])], "c"))
    shown = Grid(rows)._repr_html_()
    assert "<script>" not in shown
    assert "<tr><td>gda</td><td>&lt;script&gt;</td><td>60.00</td><td>50.00</td><td>54.50</td><td>1</td></tr>" in shown
