from __future__ import annotations

import shlex
from pathlib import Path

import numpy as np
import pytest

from mma.pipeline.errors import UsageError
from mma.pipeline.fitting.factors import read_factors
from mma.pipeline.fitting.protocols import BaseToNew, FewShot
from mma.pipeline.reports.aggregates import h_of_means
from mma.pipeline.reports.comparisons import difference, holm
from mma.pipeline.reports.findings import Finding, Report
from mma.pipeline.reports.make_report import make_report

from . import runs


def rows_of(report: Report, dataset: str = "birds", protocol: str = "few-shot") -> dict[tuple[str, object], Finding]:
    """By method and shots."""
    return {
        (row.method, row.setting.factors.get("shots")): row
        for group in report.groups
        if (group.dataset, group.protocol) == (dataset, protocol)
        for row in group.rows
    }


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Report:
    return make_report(runs.usual(tmp_path_factory.mktemp("usual")))


def test_a_difference_is_that_of_the_stored_answers_on_the_same_rows(report: Report) -> None:
    right = {}
    for adapter, shots, share in (("zero-shot", 16, 0.5), ("clip-adapter", 8, 0.8)):
        setting = runs.setting_of(adapter, "birds", FewShot(shots=shots))
        answers = [runs.predictions(setting, seed, share)[0] for seed in range(1 if adapter == "zero-shot" else 3)]
        right[adapter] = np.stack([each.label == each.predicted for each in answers])
    expected = difference(right["clip-adapter"], right["zero-shot"])
    assert rows_of(report)["clip-adapter", 8].change == expected
    assert "better after Holm's correction over 6 comparisons" in rows_of(report)["clip-adapter", 8].verdict


def test_p_values_are_corrected_over_the_differences_of_one_table(report: Report) -> None:
    rows = [row for row in rows_of(report).values() if row.change]
    assert len(rows) == 6
    expected = holm(np.array([row.change.p for row in rows if row.change]))
    assert [row.p for row in rows] == pytest.approx(list(expected))


def test_the_best_is_marked_among_settings_under_the_same_conditions_and_what_cannot_be_told_from_it(
    report: Report,
) -> None:
    rows = rows_of(report)
    for shots in (2, 8):
        assert rows["clip-adapter", shots].marks["accuracy"] == "best"
        assert rows["taskres", shots].marks["accuracy"] == "tied"
        assert rows["linear-probe", shots].marks["accuracy"] == ""
    assert rows["zero-shot", None].marks["accuracy"] == ""


def test_the_average_over_data_sets_is_named_and_its_h_is_of_the_means(report: Report) -> None:
    average = next(a for a in report.averages if a.method == "mma lam=0.5")
    sides = [
        np.array(
            [rows_of(report, dataset, "base-to-new")["mma lam=0.5", 8].measures[name].mean for dataset in average.rows]
        )
        for name in ("base", "new")
    ]
    assert average.measures["H"][0] == pytest.approx(h_of_means(*sides))
    low, high = average.measures["H"][1:]
    assert low < average.measures["H"][0] < high
    assert (average.won, average.lost) == (2, 0)


def test_methods_are_named_by_what_differs_between_their_settings(report: Report) -> None:
    assert {method for method, _ in rows_of(report, protocol="base-to-new")} == {
        "zero-shot",
        "mma lam=0.1",
        "mma lam=0.5",
    }


def test_settings_of_other_conditions_are_not_compared(tmp_path: Path) -> None:
    runs.record(tmp_path, runs.setting_of("taskres", protocol=FewShot(shots=2)), range(3), 0.5)
    runs.record(tmp_path, runs.setting_of("clip-adapter", protocol=FewShot(shots=4)), range(3), 0.7)
    row = rows_of(make_report(tmp_path, "taskres"))["clip-adapter", 4]
    assert row.change is None
    assert row.verdict == "no baseline under the same conditions"


def test_a_cache_that_was_made_again_gets_a_table_of_its_own(tmp_path: Path) -> None:
    runs.record(tmp_path, runs.setting_of("zero-shot", protocol=FewShot()), [0], 0.5)
    runs.record(tmp_path, runs.setting_of("taskres", digest="d2"), range(3), 0.7)
    runs.record(tmp_path, runs.setting_of("zero-shot", protocol=FewShot(), digest="d2"), [0], 0.5)
    report = make_report(tmp_path)
    assert sorted(len(group.rows) for group in report.groups) == [1, 2]
    assert any("birds was read from several caches" in note for note in report.notes)
    assert not report.averages


def test_what_is_missing_stale_failed_or_of_one_seed_is_said(tmp_path: Path) -> None:
    runs.record(tmp_path, runs.setting_of("zero-shot", protocol=FewShot()), [0], 0.5)
    runs.record(tmp_path, runs.setting_of("taskres"), range(3), 0.6)
    runs.record(tmp_path, runs.setting_of("clip-adapter"), [0, 2], 0.7)
    runs.record(tmp_path, runs.setting_of("linear-probe"), [1], 0.7)
    runs.record(tmp_path, runs.setting_of("gda"), range(3), 0.9, numerics=1)
    runs.fail(tmp_path, runs.setting_of("mma"), 1, "loss is not finite")
    report = make_report(tmp_path)
    rows = rows_of(report)
    assert ("gda", 4) not in rows
    assert rows["clip-adapter", 4].notes == ["2 of 3 seeds: seed 1 missing"]
    assert rows["linear-probe", 4].notes == [
        "1 of 3 seeds: seeds 0, 2 missing",
        "one seed: the interval is over test images alone",
    ]
    told = "\n".join(report.notes)
    assert "3 cells of an earlier version's numerics are stale" in told
    assert "failed: mma on birds, seed 1: loss is not finite" in told
    assert "2 rows lack seeds" in told


def test_a_difference_is_over_the_seeds_that_both_have(tmp_path: Path) -> None:
    runs.record(tmp_path, runs.setting_of("taskres"), range(3), 0.6)
    runs.record(tmp_path, runs.setting_of("clip-adapter"), [1, 2, 5], 0.7)
    change = rows_of(make_report(tmp_path, "taskres"))["clip-adapter", 4].change
    assert change
    assert change.seeds == 2


def test_what_was_selected_on_the_test_rows_is_an_upper_bound_and_never_the_best(tmp_path: Path) -> None:
    runs.record(tmp_path, runs.setting_of("zero-shot", protocol=FewShot()), [0], 0.5)
    runs.record(tmp_path, runs.setting_of("taskres"), range(3), 0.6)
    runs.record(tmp_path, runs.setting_of("clip-adapter", select="oracle"), range(3), 0.9)
    report = make_report(tmp_path)
    rows = rows_of(report)
    assert rows["taskres", 4].marks["accuracy"] == "best"
    assert not rows["clip-adapter", 4].marks
    assert "taskres has the highest accuracy" in report.headline
    assert any("1 rows were selected on the test rows" in note for note in report.notes)
    assert rows_of(make_report(tmp_path, "taskres"))["clip-adapter", 4].change is None


def test_without_predictions_the_interval_is_over_seeds_alone_and_says_so(tmp_path: Path) -> None:
    runs.record(tmp_path, runs.setting_of("zero-shot", protocol=FewShot()), [0], 0.5, keep=False)
    runs.record(tmp_path, runs.setting_of("taskres"), range(3), 0.6, keep=False)
    row = rows_of(make_report(tmp_path))["taskres", 4]
    assert row.measures["accuracy"].images == 0
    assert "no predictions were kept: the interval is over seeds alone" in row.notes
    assert "over seeds alone" in row.verdict


def test_a_method_that_is_not_on_every_data_set_has_no_average(tmp_path: Path) -> None:
    runs.usual(tmp_path)
    runs.record(tmp_path, runs.setting_of("gda", protocol=FewShot(shots=8)), range(3), 0.9)
    report = make_report(tmp_path)
    average = next(a for a in report.averages if a.method == "gda")
    assert not average.measures
    assert average.missing == ("boats & <b>cars</b>",)
    assert any("have no average" in note for note in report.notes)


def test_the_command_of_a_row_asks_for_just_that_setting(report: Report) -> None:
    row = rows_of(report, protocol="base-to-new")["mma lam=0.1", 8]
    assert row.command
    words = shlex.split(row.command)
    assert words[:4] == ["mma", "ablate", "--cache", "cache/birds.zarr"]
    factors = read_factors(words[4:], None)
    assert factors["seed"] == ["0", "1", "2"]
    from mma.pipeline.fitting.cells import resolve
    from mma.pipeline.fitting.factors import check_factors, choices_of

    check_factors(factors, ["base-to-new"])
    asked = [resolve(choice, runs.setting_of("mma", "birds").data) for choice in choices_of(factors, "base-to-new", 16)]
    assert row.setting.id in [setting.id for setting in asked]


def test_a_folder_without_results_and_a_baseline_that_is_not_there_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"has no results\.sqlite"):
        make_report(tmp_path / "nowhere")
    assert not (tmp_path / "nowhere").exists()
    runs.record(tmp_path, runs.setting_of("taskres"), range(2), 0.6)
    with pytest.raises(UsageError, match="baseline=gda"):
        make_report(tmp_path, "gda")


def test_settings_of_base_to_new_are_compared_by_h(report: Report) -> None:
    group = next(group for group in report.groups if group.protocol == BaseToNew.name)
    assert (group.metrics, group.main) == (("base", "new", "H"), "H")
