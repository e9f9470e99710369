from __future__ import annotations

import importlib
import os
from collections import Counter
from pathlib import Path

import pytest

from mma.adapters import AdapterError, adapter_class
from mma.pipeline.errors import UsageError
from mma.pipeline.fitting.cells import Setting, cells_of, code_of, resolve
from mma.pipeline.fitting.factors import Factors, check_factors, choices_of, expand, read_factors, seeds_of
from mma.pipeline.fitting.features import Features, load_features


@pytest.fixture
def features(small_cache: Path) -> Features:
    return load_features(small_cache)


def settings_of(factors: Factors, features: Features) -> list[Setting]:
    choices = choices_of(factors, "base-to-new", 10)
    return list(dict.fromkeys(resolve(choice, features.data) for choice in choices))


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("0:3", ["0", "1", "2"]),
        ("0:1:0.25", ["0", "0.25", "0.50", "0.75"]),
        ("0,0.1,0.5", ["0", "0.1", "0.5"]),
        ("1,4:6,9", ["1", "4", "5", "9"]),
        ("cross,pair,cross", ["cross", "pair"]),
    ],
)
def test_values_are_listed_or_ranged_without_the_last_and_never_twice(text: str, values: list[str]) -> None:
    assert expand("key", text) == values


@pytest.mark.parametrize("text", ["5:5", "3:1", "0:1:0", "0:1:-1", "a:b", "", ",", "0:1e9", "1:2:3:4"])
def test_an_empty_or_endless_range_is_refused_in_one_line(text: str) -> None:
    with pytest.raises(UsageError, match="factor key") as caught:
        expand("key", text)
    assert "\n" not in str(caught.value)


def test_a_grid_file_and_words_make_the_same_factors_and_words_win(tmp_path: Path) -> None:
    grid = tmp_path / "grid.toml"
    grid.write_text('lam = [0, 0.1, 0.5]\nmask = "cross,pair"\nseed = "0:3"\nrank = ["none", 32]\n')
    assert read_factors([], grid) == read_factors(
        ["lam=0,0.1,0.5", "mask=cross,pair", "seed=0:3", "rank=none,32"], None
    )
    assert read_factors(["seed=7"], grid)["seed"] == ["7"]


def test_a_pipe_in_place_of_a_grid_file_is_refused_and_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "grid.toml")
    with pytest.raises(UsageError, match=r"grid\.toml cannot be read \(not a regular file"):
        read_factors([], tmp_path / "grid.toml")


def test_shots_are_a_number_or_left_out() -> None:
    with pytest.raises(UsageError, match="factor shots: none is not a number"):
        check_factors(read_factors(["adapter=gda", "shots=none"], None), ["few-shot"])


def test_a_factor_is_not_multiplied_into_an_adapter_that_lacks_it(features: Features) -> None:
    factors = read_factors(["adapter=mma,clip-adapter,linear-probe", "lam=0,0.1,0.2", "lr=0.001,0.01"], None)
    settings = settings_of(factors, features)
    counts = {name: sum(s.adapter == name for s in settings) for name in ("zero-shot", "mma", "clip-adapter")}
    assert counts == {"zero-shot": 1, "mma": 6, "clip-adapter": 2}
    assert settings[0].adapter == "zero-shot"


def test_zero_shot_is_one_setting_whatever_the_shots_and_noise(features: Features) -> None:
    settings = settings_of(read_factors(["shots=1,2,4", "label_noise=0,0.5"], None), features)
    assert sum(s.adapter == "zero-shot" for s in settings) == 1
    assert sum(s.adapter == "mma" for s in settings) == 6


def test_what_the_seed_and_the_shots_do_not_touch_is_one_cell(features: Features) -> None:
    factors = read_factors(["adapter=tda,rada-ttt,gda", "shots=1,2", "seed=0:3"], None)
    cells = [cell for s in settings_of(factors, features) for cell in cells_of(s, seeds_of(factors))]
    counts = Counter(cell.setting.adapter for cell in cells)
    assert counts == {"zero-shot": 1, "tda": 1, "rada-ttt": 3, "gda": 6}


def test_the_message_of_a_value_that_cannot_be_names_the_adapter(features: Features) -> None:
    with pytest.raises(AdapterError, match=r"^proker: lam = 0.0 is not above 0$"):
        settings_of(read_factors(["adapter=mma,proker", "lam=0,1"], None), features)


def test_an_adapter_of_another_package_is_known_by_its_source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(tmp_path))
    found = []
    for name, body in (("first_form", "lam = 1"), ("second_form", "lam = 2"), ("third_form", "lam = 2")):
        (tmp_path / f"{name}.py").write_text(f"from mma.adapters import Adapter\n\nclass Mine(Adapter):\n    {body}\n")
        found.append(code_of(importlib.import_module(name).Mine))
    assert found[0] != found[1] == found[2]
    assert code_of(adapter_class("mma")) is None


def test_a_setting_reads_back_as_its_factors(features: Features) -> None:
    (_, setting) = settings_of(read_factors(["lam=0.5", "shots=2", "lr=0.01", "select=last"], None), features)
    values = setting.flat()
    assert (values["lam"], values["shots"], values["lr"], values["select"]) == (0.5, 2, 0.01, "last")


def test_seeds_are_three_unless_given(features: Features) -> None:
    assert seeds_of({}) == [0, 1, 2]
    assert seeds_of({"seed": ["4", "7"]}) == [4, 7]
    with pytest.raises(UsageError):
        seeds_of({"seed": ["x"]})


def test_an_unknown_factor_is_refused_with_the_nearest_name() -> None:
    with pytest.raises(UsageError, match="did you mean heads"):
        check_factors({"head": ["1"]}, ["base-to-new"])


@pytest.mark.parametrize(
    ("factors", "message"),
    [
        ({"adapter": ["gda", "ape"], "lr": ["1"]}, "lr is an option of training, and gda, ape has none"),
        (
            {"protocol": ["few-shot"], "base_ratio": ["1", "3"]},
            "base_ratio is an option of base-to-new, and few-shot does not look at it",
        ),
    ],
)
def test_a_factor_that_nothing_of_the_grid_looks_at_is_refused(factors: Factors, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        check_factors(factors, factors.get("protocol", ["base-to-new"]))


def test_a_factor_that_one_of_the_grid_looks_at_is_taken() -> None:
    both = ["few-shot", "base-to-new"]
    check_factors({"adapter": ["gda", "mma"], "lr": ["1"], "protocol": both, "base_ratio": ["3"]}, both)


@pytest.mark.parametrize("word", ["lam", "=3", "lam:3"])
def test_a_word_that_is_no_factor_is_refused(word: str) -> None:
    with pytest.raises(UsageError, match="is not a factor"):
        read_factors([word], None)
