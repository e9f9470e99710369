from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from mma.adapters import NamedRecipe, Recipe, adapter_class
from mma.adapters.published import PUBLISHED
from mma.cache import import_npz
from mma.pipeline.errors import UsageError
from mma.pipeline.fitting.cells import Choice, Data, Setting, resolve
from mma.pipeline.fitting.factors import check_factors, choices_of, described, matches, read_factors
from mma.pipeline.fitting.fit import fit
from mma.pipeline.fitting.plan import GridPlan, add_grid
from mma.pipeline.fitting.protocols import FewShot
from mma.pipeline.fitting.results import Grid
from mma.pipeline.fitting.settings import FitSettings

from ...conftest import small_features

DTD = Data("dtd", "default", "unit", "0" * 12)
QUIET = Console(quiet=True)


def resolved(adapter: str, data: Data = DTD, **changes: Any) -> Setting:
    return resolve(Choice(adapter, FewShot(shots=4), **changes), data)


def values(setting: Setting, *names: str) -> tuple[Any, ...]:
    return tuple(setting.flat()[name] for name in names)


def test_each_adapter_takes_its_own_recipe_of_a_name_and_keeps_its_default_where_it_has_none() -> None:
    words = read_factors(["adapter=clip-adapter,linear-probe", "recipe=published,clip-mma"], None)
    settings = [resolve(choice, DTD) for choice in choices_of(words, "few-shot", 4)]
    told = dict.fromkeys(values(s, "adapter", "recipe", "optimizer") for s in settings if s.recipe)
    assert list(told) == [
        ("clip-adapter", "published", "sgd"),
        ("clip-adapter", "clip-mma", "adam"),
        ("linear-probe", "validated", "adam"),
    ]


def test_the_default_is_the_first_recipe_and_a_single_value_stands_in_place_of_its_own() -> None:
    default, changed = resolved("clip-adapter"), resolved("clip-adapter", recipe={"lr": 0.5}, recipe_name="clip-mma")
    own = adapter_class("clip-adapter").recipes
    assert (default.recipe_name, default.recipe) == ("published", own["published"].recipe)
    assert changed.recipe == replace(own["clip-mma"].recipe, lr=0.5)


@pytest.mark.parametrize(
    ("adapter", "asked", "select"),
    [
        ("clip-adapter", None, "last"),
        ("clip-adapter", "val", "val"),
        ("mma", None, "val"),
        ("gda", None, "val"),
        ("zero-shot", None, "none"),
    ],
)
def test_selection_is_as_given_else_the_recipes_else_val(adapter: str, asked: str | None, select: str) -> None:
    assert resolved(adapter, select=asked).select == select


def test_two_names_with_equal_values_are_one_cell(monkeypatch: pytest.MonkeyPatch) -> None:
    same: Mapping[str, NamedRecipe] = {name: NamedRecipe(Recipe(), name) for name in ("first", "second")}
    monkeypatch.setattr(adapter_class("mma"), "recipes", same)
    first, second = (resolved("mma", recipe_name=name) for name in same)
    assert first == second
    assert (first.id, first.question) == (second.id, second.question)
    assert (first.flat()["recipe"], second.flat()["recipe"]) == ("first", "second")
    assert first.config()["recipe_name"] == "first"


def test_a_recipe_is_part_of_a_description() -> None:
    setting = resolved("clip-adapter", recipe_name="clip-mma")
    assert matches(setting, described("clip-adapter recipe=clip-mma"))
    assert not matches(setting, described("clip-adapter recipe=published"))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["adapter=clip-adapter,gda", "recipe=clip-ma"], "no recipe 'clip-ma': did you mean clip-mma"),
        (["adapter=gda", "recipe=published"], "recipe is an option of training, and gda has none"),
        (["adapter=ape", "recipe=clip-mma"], "no recipe 'clip-mma': known are published"),
    ],
)
def test_a_recipe_that_no_adapter_of_the_grid_has_is_refused(words: list[str], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        check_factors(read_factors(words, None), ["few-shot"])


def test_what_authors_set_for_a_data_set_goes_with_their_recipe_where_it_is_left_open() -> None:
    wanted = PUBLISHED["ape"]["dtd"]
    assert dict(zip(wanted, values(resolved("ape", recipe_name="published"), *wanted), strict=True)) == wanted
    default = adapter_class("ape")().options()
    assert values(resolved("ape"), *wanted) == tuple(default[name] for name in wanted)
    given = resolved("ape", recipe_name="published", options={"share": 0.25})
    assert values(given, "share", "similarity") == (0.25, wanted["similarity"])
    elsewhere = resolved("ape", replace(DTD, dataset="mine"), recipe_name="published")
    assert values(elsewhere, *wanted) == tuple(default[name] for name in wanted)
    search = resolved("tip-adapter-f", recipe_name="published", options={"start_alpha": None})
    assert values(search, "start_alpha") == (None,)


def named(folder: Path, dataset: str, rows: int = 10) -> Path:
    np.savez(folder / f"{dataset}.npz", **small_features(rows=rows))
    return import_npz(folder / f"{dataset}.npz", folder / f"{dataset}.zarr", logit_scale=20.0)


def test_the_table_says_what_a_recipe_did_not_reach_and_what_it_set(tmp_path: Path) -> None:
    words = ["adapter=clip-adapter,linear-probe,gda,ape", "recipe=published", "shots=2", "patience=3"]
    plan = GridPlan()
    for dataset in ("dtd", "mine"):
        add_grid(plan, [str(named(tmp_path, dataset))], read_factors(words, None), device="cpu")
    assert list(plan.grid({}, {}, tmp_path).notes) == [
        "clip-adapter keeps its last epoch (select last), and does not look at patience",
        "recipe published: linear-probe has none of that name, and keeps validated",
        "recipe published: ape has what its authors set for dtd: share 0.390625, similarity 0.5",
        "recipe published: what the authors of ape set is for other data sets than mine",
    ]


def test_records_and_results_say_which_recipe_and_selection_was_used(small_cache: Path, tmp_path: Path) -> None:
    asked = FitSettings(
        cache=(str(small_cache),), adapter="clip-adapter,linear-probe", shots=2, seeds=1, epochs=2, out=tmp_path
    )
    records = fit(asked, QUIET).records()
    told = [(record["adapter"], record.get("recipe"), record["select"]) for record in records]
    assert told == [
        ("zero-shot", None, "none"),
        ("clip-adapter", "published", "last"),
        ("linear-probe", "validated", "val"),
    ]


def test_what_an_adapter_chose_on_its_support_is_in_the_records(small_cache: Path, tmp_path: Path) -> None:
    asked = FitSettings(cache=(str(small_cache),), adapter="kron-ridge", shots=2, seeds=1, out=tmp_path)
    row = fit(replace(asked, options={"beta": 1.0}), QUIET)["kron-ridge"]
    (record,) = (record for record in Grid([row]).records())
    chosen = {name: record[f"chosen_{name}"] for name in ("delta", "lam", "w", "w_new")}
    assert row.adapter().choices() == chosen == row.results[0].details["chosen"]
    assert "chosen_beta" not in record


def test_seeds_that_draw_one_support_are_known_from_those_that_draw_several(tmp_path: Path) -> None:
    cache = named(tmp_path, "shapes-small", rows=4)

    def supports(shots: int, **changes: Any) -> list[tuple[str, bool]]:
        asked = FitSettings(
            cache=(str(cache),), adapter="linear-probe,tda", shots=shots, epochs=2, out=tmp_path / "runs", **changes
        )
        return [(row.setting.adapter, row.one_support) for row in fit(asked, QUIET)]

    assert supports(4) == [("zero-shot", False), ("linear-probe", True), ("tda", False)]
    assert supports(3) == [("zero-shot", False), ("linear-probe", False), ("tda", False)]
    assert supports(4, label_noise=0.5)[1] == ("linear-probe", False)  # other labels are another support
    assert supports(4, seeds=1)[1] == ("linear-probe", False)
