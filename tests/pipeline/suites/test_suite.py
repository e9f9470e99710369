"""What a suite may say, and what the shipped ones say."""

from __future__ import annotations

from pathlib import Path

import pytest

from mma.adapters import adapter_class
from mma.pipeline.datasets import known
from mma.pipeline.errors import UsageError
from mma.pipeline.fitting.protocols import harmonic_mean
from mma.pipeline.suites.suite import AVERAGE, read_suite, shipped

SUITE = """
title = "Ours"
source = "a talk"
embed = { model = "tiny" }

[[tables]]
title = "Few shots"
datasets = ["dtd", "eurosat"]
fit = { protocol = "few-shot", shots = 2, seeds = "0,2" }

[[tables.methods]]
name = "GDA"
fit = { adapter = "gda", alpha = 0.5 }
source = "slide 4"
published.dtd = { accuracy = 60.5 }
"""


def write(folder: Path, text: str) -> str:
    (folder / "ours.toml").write_text(text)
    return str(folder / "ours.toml")


@pytest.mark.parametrize("name", shipped())
def test_a_shipped_suite_names_data_sets_and_adapters_that_there_are(name: str) -> None:
    suite = read_suite(name)
    assert suite.tables
    for table in suite.tables:
        assert set(table.embeds) <= set(known())
        assert all(method.source or not method.published for method in table.methods)
        assert all(adapter_class(method.adapter) for method in table.methods)


@pytest.mark.parametrize("name", shipped())
def test_published_numbers_of_a_shipped_suite_agree_with_each_other(name: str) -> None:
    """A misprint would show: H is that of base and new, and an average is that of all data sets where all are known."""
    checked = 0
    for table in read_suite(name).tables:
        for method in table.methods:
            for numbers in method.published.values():
                if {"base", "new", "H"} <= numbers.keys():
                    assert harmonic_mean(numbers["base"], numbers["new"]) == pytest.approx(numbers["H"], abs=0.03)
                    checked += 1
            average = method.published.get(AVERAGE, {})
            for metric in average.keys() - {"H"}:
                known_of = [of[metric] for key, of in method.published.items() if key != AVERAGE and metric in of]
                if len(known_of) == len(table.embeds):
                    assert sum(known_of) / len(known_of) == pytest.approx(average[metric], abs=0.02)
                    checked += 1
    assert checked


def test_options_of_a_table_go_to_its_methods_and_data_sets(tmp_path: Path) -> None:
    (table,) = read_suite(write(tmp_path, SUITE)).tables
    (method,) = table.methods
    assert {name: embed.model for name, embed in table.embeds.items()} == {"dtd": "tiny", "eurosat": "tiny"}
    assert method.factors["shots"] == [2]
    assert method.factors["alpha"] == [0.5]
    assert list(method.seeds) == [0, 2]
    assert table.metrics == ("accuracy",)


WRONG = {
    "no TOML": ("title =", "Ours", "is not TOML"),
    "an unknown key": ("source =", "sauce =", "unknown key 'sauce': did you mean source"),
    "a missing title": ('title = "Ours"', "", "the suite: title is missing"),
    "an option of neither": ("alpha = 0.5", "alfa = 0.5", "unknown option 'alfa': did you mean alpha"),
    "an option of the machine": ('model = "tiny"', 'device = "cpu"', "a suite sets no embed option 'device'"),
    "a value that cannot be": ("shots = 2", "shots = 0", "shots"),
    "two adapters": ('"gda"', '"gda,mma"', "names 2 adapters"),
    "no protocol": ('protocol = "few-shot", ', "", "write fit.protocol"),
    "a protocol with targets": ("few-shot", "cross-dataset", "a suite has no targets"),
    "an option of the table that no method has": (
        "shots = 2",
        "shot = 2",
        "none of its methods looks at the option 'shot'",
    ),
    "training of what does not train": ("alpha = 0.5", "epochs = 5", "gda has none"),
    "a number of another data set": ("published.dtd", "published.food101", "published 'food101' is not in it"),
    "a number of another metric": ("accuracy = 60.5", "base = 60.5", "published 'base' is not in it"),
    "a number that is none": ("60.5", '"60.5"', "has numbers by metric"),
    "a data set twice": ('"dtd", "eurosat"', '"dtd", "dtd"', "two data sets are called dtd"),
    "a method twice": (
        "published.dtd",
        '[[tables.methods]]\nname = "GDA"\nfit = { adapter = "gda" }\npublished.dtd',
        "two methods are called GDA",
    ),
    "no data set": ('["dtd", "eurosat"]', "[]", "datasets is a list"),
}


@pytest.mark.parametrize("wrong", WRONG)
def test_what_is_wrong_in_a_suite_is_one_line(wrong: str, tmp_path: Path) -> None:
    old, new, says = WRONG[wrong]
    assert old in SUITE
    text = SUITE.replace(old, new) if wrong != "no TOML" else "title ="
    with pytest.raises(UsageError) as error:
        read_suite(write(tmp_path, text))
    assert says in str(error.value)
    assert "\n" not in str(error.value)


def test_a_name_that_no_suite_has_is_told_the_nearest() -> None:
    with pytest.raises(UsageError, match="did you mean mma-paper"):
        read_suite("mma-papr")
