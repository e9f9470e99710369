"""The same numbers in every form, each read back."""

from __future__ import annotations

import csv
import io
import os
import re
import shutil
import subprocess
from pathlib import Path
from xml.etree import ElementTree

import pytest
from matplotlib.figure import Figure

from mma.pipeline.console import make_console
from mma.pipeline.errors import UsageError
from mma.pipeline.fitting.protocols import FewShot
from mma.pipeline.reports.drawing import FORMATS, as_inline_svg
from mma.pipeline.reports.figures import pictures, write_figures
from mma.pipeline.reports.make_report import make_report
from mma.pipeline.reports.sheets import Layout, lay_out
from mma.pipeline.reports.written import as_csv, latex, markdown, show_report

from . import runs

HOSTILE = '</script><script>alert(1)</script> $x_1$ \u202egnp.exe [0] |a| *b* 50% #1 ~^\\ "q"'


@pytest.fixture(scope="module")
def layout(tmp_path_factory: pytest.TempPathFactory) -> Layout:
    return lay_out(make_report(runs.usual(tmp_path_factory.mktemp("usual"))))


def hostile(folder: Path) -> Layout:
    runs.record(folder, runs.setting_of("zero-shot", HOSTILE, FewShot()), [0], 0.5, cache=HOSTILE)
    names = [HOSTILE, *"abc"]
    for adapter, right in (("taskres", 0.6), ("clip-adapter", 0.7)):
        runs.record(folder, runs.setting_of(adapter, HOSTILE), range(2), right, fingerprint={"classnames": names})
    return lay_out(make_report(folder))


def expected(layout: Layout, sheets: list) -> list[list[str]]:
    """The numbers of tables as they are printed: one list per line."""
    return [
        [f"{entry.mean:+.2f}" if entry.signed else f"{entry.mean:.2f}" for entry in line.entries if entry]
        for sheet in sheets
        for line in sheet.lines
    ]


def test_markdown_has_the_numbers_of_every_table(layout: Layout) -> None:
    lines = [line for line in markdown(layout).splitlines() if line.startswith("| ") and "---" not in line]
    numbers = []
    for sheet in layout.sheets:
        own, lines = lines[1 : 1 + len(sheet.lines)], lines[1 + len(sheet.lines) :]
        for line in own:
            cells = [re.sub(r"\*\*|</?ins>", "", cell) for cell in re.split(r"(?<!\\)\|", line)[1:-1]]
            cells = cells[len(sheet.heads) : len(sheet.heads) + len(sheet.columns)]
            numbers.append([cell.split()[0] for cell in cells if cell.strip() != "-"])
    assert numbers == expected(layout, layout.sheets)


def test_latex_has_the_numbers_of_the_wide_tables_and_marks_by_the_test(layout: Layout) -> None:
    text = latex(layout)
    bodies = re.findall(r"\\midrule\n(.*?)\\bottomrule", text, re.DOTALL)
    rows = [row for body in bodies for row in body.split("\\\\\n") if row.strip()]
    plain = [re.sub(r"\{\\scriptsize.*?\}(?= |$)", "", row) for row in rows]
    numbers = [re.findall(r"(?:^|\{|& )([+-]?\d+\.\d\d)(?:\}| |$)", row) for row in plain]
    assert numbers == expected(layout, list(layout.wide))
    marked = {"best": r"\textbf", "tied": r"\underline"}
    for sheet in layout.wide:
        for line in sheet.lines:
            for entry in line.entries:
                if entry and entry.mark:
                    assert f"{marked[entry.mark]}{{{entry.mean:.2f}}}" in text


def test_csv_has_every_metric_at_full_precision_with_its_difference(layout: Layout) -> None:
    read = {
        (r["protocol"], r["dataset"], r["setting"], r["metric"]): r
        for r in csv.DictReader(io.StringIO(as_csv(layout.report)))
    }
    count = 0
    for group in layout.report.groups:
        for row in group.rows:
            for metric, estimate in row.measures.items():
                found = read[group.protocol, group.dataset, row.setting.id, metric]
                assert (float(found["mean"]), float(found["low"])) == (estimate.mean, estimate.low)
                if metric == group.main and row.change:
                    assert float(found["difference"]) == row.change.mean
                    assert float(found["p_holm"]) == row.p
                count += 1
    assert count == len(read)


def test_the_terminal_has_the_same_numbers_and_no_markup(layout: Layout) -> None:
    said = io.StringIO()
    show_report(make_console(file=said, width=400), layout)
    lines = [line for line in said.getvalue().splitlines() if line.startswith("│") and line[2] != " "]
    for line, numbers in zip(lines, expected(layout, layout.sheets), strict=True):
        assert all(number in line for number in numbers)
    assert "[bold]" not in said.getvalue()


def test_a_narrow_terminal_cuts_no_number(layout: Layout) -> None:
    said = io.StringIO()
    show_report(make_console(file=said, width=60), layout)
    assert all(number in said.getvalue() for numbers in expected(layout, layout.sheets) for number in numbers)


def test_text_from_outside_is_text_in_every_form(tmp_path: Path) -> None:
    layout = hostile(tmp_path)
    said = io.StringIO()
    show_report(make_console(file=said, width=600), layout)
    for text in (said.getvalue(), markdown(layout), latex(layout)):
        assert "\u202e" not in text
    assert "[0]" in said.getvalue()
    assert "<script>" not in markdown(layout)
    assert r"\$x\_1\$" in latex(layout)
    formulas = as_csv(lay_out(make_report(formula(tmp_path / "formula"))).report)
    assert "'=1+1" in formulas


def formula(folder: Path) -> Path:
    runs.record(folder, runs.setting_of("zero-shot", "=1+1", FewShot()), [0], 0.5)
    return folder


@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="no pdflatex (Debian: texlive-latex-base)")
@pytest.mark.slow
def test_latex_compiles(tmp_path: Path) -> None:
    runs.usual(tmp_path)
    for layout in (lay_out(make_report(tmp_path)), hostile(tmp_path / "hostile")):
        head = "\\documentclass{article}\\usepackage{booktabs}\\usepackage[T1]{fontenc}\\begin{document}\n"
        (tmp_path / "t.tex").write_text(f"{head}{latex(layout)}\\end{{document}}\n")
        command = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "t.tex"]
        ran = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
        assert ran.returncode == 0, ran.stdout[-2000:]


def test_a_factor_that_is_named_becomes_the_columns(tmp_path: Path) -> None:
    report = make_report(runs.usual(tmp_path))
    layout = lay_out(report, ["lam"])
    sheet = next(sheet for sheet in layout.wide if sheet.title.startswith("H by lam, birds"))
    assert sheet.columns == ("0.1", "0.5")
    assert [line.words for line in sheet.lines] == [("zero-shot",), ("mma",)]
    zero_shot = sheet.lines[0].entries
    assert zero_shot[0]
    assert zero_shot[1]
    assert zero_shot[0].mean == zero_shot[1].mean
    with pytest.raises(UsageError, match="by=lamb"):
        lay_out(report, ["lamb"])


@pytest.mark.slow
def test_figures_are_written_as_pdf_svg_and_png(tmp_path: Path) -> None:
    runs.record(tmp_path, runs.setting_of("zero-shot", protocol=FewShot()), [0], 0.5)
    for shots, right in ((2, 0.6), (8, 0.8)):
        runs.record(tmp_path, runs.setting_of("taskres", protocol=FewShot(shots=shots)), range(2), right)
        runs.record(tmp_path, runs.setting_of("gda", protocol=FewShot(shots=shots)), range(2), right)
    written = write_figures(lay_out(make_report(tmp_path)), tmp_path / "figures")
    kinds = {path.stem.split("-", 1)[1] for path in written}
    assert kinds == {"curve", "pairs", "classes", "confusion"}
    assert {path.suffix[1:] for path in written} == set(FORMATS)
    heads = {".pdf": b"%PDF", ".png": b"\x89PNG", ".svg": b"<?xml"}
    assert all(path.read_bytes().startswith(heads[path.suffix]) for path in written)


def test_two_numeric_factors_that_vary_make_a_heat_map_and_another_factor_none(tmp_path: Path) -> None:
    runs.record(tmp_path, runs.setting_of("zero-shot", protocol=FewShot()), [0], 0.5)
    for lam_text in (0.1, 0.2):
        for lam_image in (0.1, 0.4):
            setting = runs.setting_of("mma", lam_text=lam_text, lam_image=lam_image)
            runs.record(tmp_path, setting, range(2), 0.5 + lam_text + lam_image / 2)
    layout = lay_out(make_report(tmp_path))
    (heat,) = (picture for picture in pictures(layout) if "-heat" in picture.name)
    assert "mma by lam_image and lam_text" in heat.caption
    svg = as_inline_svg(heat)
    for row in layout.report.groups[0].rows:
        if row.setting.adapter == "mma":
            assert f">{row.measures['accuracy'].mean:.1f}<" in svg
    runs.record(tmp_path, runs.setting_of("mma", lam_text=0.1, lam_image=0.1, mask="pair"), range(2), 0.6)
    assert not any("-heat" in picture.name for picture in pictures(lay_out(make_report(tmp_path))))


def test_a_method_has_one_colour_in_all_figures(tmp_path: Path) -> None:
    for dataset, better in (("birds", "gda"), ("boats", "tip-adapter")):
        for adapter in ("gda", "tip-adapter"):
            for shots in (2, 8):
                setting = runs.setting_of(adapter, dataset, FewShot(shots=shots))
                runs.record(tmp_path, setting, range(2), 0.8 if adapter == better else 0.6)
    curves = [picture for picture in pictures(lay_out(make_report(tmp_path, "gda"))) if "-curve" in picture.name]
    found = []
    for picture in curves:
        figure = Figure()
        picture.draw(figure)
        found.append({str(line.get_label()): line.get_color() for line in figure.axes[0].get_lines()})
    assert {tuple(colours) for colours in found} >= {("gda", "tip-adapter"), ("tip-adapter", "gda")}  # best first
    assert len({(name, colour) for colours in found for name, colour in colours.items()}) == 2


@pytest.mark.slow
def test_names_in_figures_are_text(tmp_path: Path) -> None:
    layout = hostile(tmp_path)
    for path in write_figures(layout, tmp_path / "figures"):
        if path.suffix == ".svg":
            tags = {element.tag for element in ElementTree.parse(path).iter()}
            assert not any(tag.endswith("script") for tag in tags)


def test_the_command_writes_what_is_asked_for(tmp_path: Path, mma_here) -> None:  # type: ignore[no-untyped-def]
    runs.usual(tmp_path / "runs")
    done = mma_here("report", tmp_path / "runs", "--csv", tmp_path / "new/a.csv", "--latex", tmp_path / "a.tex")
    assert done.returncode == 0, done.stderr
    assert "clip-adapter has the highest accuracy" in done.stdout
    assert (tmp_path / "new/a.csv").read_text().startswith("protocol,dataset,cache,method,")
    assert r"\toprule" in (tmp_path / "a.tex").read_text()
    refused = mma_here("report", tmp_path / "runs", "--html", tmp_path)
    assert refused.returncode == 2
    assert f"--html {tmp_path} is a folder" in refused.stderr
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    for name in ("pipe", "loop"):
        refused = mma_here("report", tmp_path / "runs", "--markdown", tmp_path / name)
        assert refused.returncode == 2
        assert f"{name} is not a regular file" in refused.stderr
    missing = mma_here("report", tmp_path / "nothing")
    assert missing.returncode == 2
    assert "has no results.sqlite" in missing.stderr
