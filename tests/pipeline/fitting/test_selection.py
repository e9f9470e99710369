"""Epochs and hyper-parameters are chosen on classes and rows that are held out of the support."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from rich.console import Console
from torch import Tensor, nn

from mma.adapters import Adapter, Recipe, Shapes, Support, zero_shot_logits
from mma.cache import import_npz
from mma.pipeline.errors import UsageError
from mma.pipeline.fitting.fit import fit
from mma.pipeline.fitting.results import Result, weights_file
from mma.pipeline.fitting.selection import FOLDS, REPEATS, divide, fit_by_classes
from mma.pipeline.fitting.settings import FitSettings

from ...conftest import small_features

QUIET = Console(quiet=True)
ONE_STEP = Recipe(lr=1.0, weight_decay=0.0, batch=1000, epochs=30, patience=30)


def support(counts: Sequence[int], *, new_classes: bool = True) -> Support:
    """Rows that lie on the texts of their classes: whoever looks at cosines is right."""
    label = torch.repeat_interleave(torch.arange(len(counts)), torch.tensor(counts))
    text = torch.eye(len(counts))
    return Support(text[label], label, text, 10.0, new_classes=new_classes)


class Known(Adapter):
    """Knows the classes that it was fitted on, and is right or wrong as its subclass says."""

    def build(self, shapes: Shapes) -> None:
        super().build(shapes)
        self.register_buffer("classes", torch.empty(shapes.classes, shapes.dim))
        self.steps = nn.Parameter(torch.zeros(()))  # Adam adds 1 to it in every epoch

    @torch.no_grad()
    def start(self, support: Support) -> None:
        super().start(support)
        self.classes = support.text
        self.steps.zero_()

    def loss(self, image: Tensor, text: Tensor, label: Tensor) -> Tensor:
        return -self.steps

    def right(self, known: bool) -> bool:
        raise NotImplementedError

    def forward(self, image: Tensor, text: Tensor) -> Tensor:
        known = bool(((text @ self.classes.mT).amax(-1) > 0.9).all())
        return zero_shot_logits(image, text, self.logit_scale) * (1 if self.right(known) else -1)


class Learning(Known):
    """Knows its own classes in epochs 1, 2 and from 5 on; new ones in epochs 4 to 6. So both in 5 and 6."""

    def right(self, known: bool) -> bool:
        epoch = round(float(self.steps.detach()))
        return (epoch in (1, 2) or epoch >= 5) if known else 4 <= epoch <= 6


class Tuned(Known):
    """A closed form that is right on its own classes with 1 or 2, on new ones with 2 or 3."""

    trains = False
    tunes: ClassVar[Mapping[str, Sequence[float]]] = {"alpha": [0.0, 1.0, 2.0, 3.0]}

    def __init__(self, *, alpha: float | None = None) -> None:
        super().__init__()
        self.alpha = alpha

    def right(self, known: bool) -> bool:
        return self.decided("alpha") in ((1.0, 2.0) if known else (2.0, 3.0))


def test_the_epoch_is_the_first_that_is_best_on_held_out_classes_and_rows_together() -> None:
    adapter = Learning()
    history, held_out = fit_by_classes(adapter, support([6] * 7), ONE_STEP, seed=0)
    assert history.best_epoch == len(history.loss) == round(float(adapter.steps.detach())) == 5
    assert (held_out.base, held_out.new, held_out.score) == (100, 100, 100)
    assert history.validation[:7] == [0, 0, 0, 0, 1, 1, 0]  # H is 0 where either is


def test_where_no_new_class_will_be_scored_rows_alone_decide() -> None:
    adapter = Learning()
    history, held_out = fit_by_classes(adapter, support([6] * 7, new_classes=False), ONE_STEP, seed=0)
    assert history.best_epoch == 1
    assert held_out.new is None


def test_training_stops_by_the_patience_of_the_recipe_on_the_common_curve() -> None:
    recipe = Recipe(lr=1.0, weight_decay=0.0, batch=1000, epochs=30, patience=4)
    history, _ = fit_by_classes(Learning(), support([6] * 7), recipe, seed=0)
    assert history.best_epoch == 5
    assert len(history.validation) == 5 + 4


def test_open_hyper_parameters_are_chosen_with_their_h_and_given_ones_stay() -> None:
    adapter = Tuned()
    history, _ = fit_by_classes(adapter, support([4] * 6), ONE_STEP, seed=0)
    assert history.chosen == {"alpha": 2.0}
    assert adapter.decided("alpha") == 2.0
    rows, _ = fit_by_classes(Tuned(), support([4] * 6, new_classes=False), ONE_STEP, seed=0)
    assert rows.chosen == {"alpha": 1.0}
    given_one, held_out = fit_by_classes(Tuned(alpha=3.0), support([4] * 6), ONE_STEP, seed=0)
    assert given_one.chosen == {}
    assert (held_out.base, held_out.new) == (0, 100)


class TunedLearning(Tuned):
    """It trains, and notes the values that it is trained with."""

    trains = True
    starts_with: ClassVar[float] = 0.0
    trained_with: ClassVar[set[float]] = set()

    def start(self, support: Support) -> None:
        super().start(support)
        self.choose({"alpha": self.starts_with})

    def loss(self, image: Tensor, text: Tensor, label: Tensor) -> Tensor:
        self.trained_with.add(self.decided("alpha"))
        return super().loss(image, text, label)


@pytest.mark.parametrize("starts_with", [0.0, 1.0])
def test_training_is_with_the_values_best_at_the_start_or_those_that_the_adapter_starts_from(
    starts_with: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(TunedLearning, "starts_with", starts_with)
    TunedLearning.trained_with.clear()
    adapter = TunedLearning()
    fit_by_classes(adapter, support([4] * 6), ONE_STEP, seed=0)
    assert TunedLearning.trained_with == {starts_with or 2.0}
    assert adapter.decided("alpha") == 2.0


@hypothesis_settings(max_examples=40, deadline=None)
@given(st.lists(st.integers(1, 6), min_size=4, max_size=12).filter(lambda counts: max(counts) > 1), st.integers(0, 99))
def test_a_division_holds_every_class_out_once_and_mixes_nothing(counts: list[int], seed: int) -> None:
    data = support(counts)
    parts = divide(data, seed=seed, classes=True)
    held = np.zeros(len(counts), int)
    for part in parts:
        assert part.new is not None
        assert part.new_text is not None
        fitted, new = part.support.text.argmax(-1), part.new_text.argmax(-1)
        assert not set(fitted.tolist()) & set(new.tolist())
        assert len(fitted) + len(new) == len(counts)
        assert min(len(fitted), len(new)) >= 2
        held[new.numpy()] += 1
        for rows, text in (
            (part.support, part.support.text),
            (part.base, part.support.text),
            (part.new, part.new_text),
        ):
            assert torch.equal(text[rows.label], rows.image)  # a row lies on the text of its class
        assert set(part.support.label.tolist()) == set(range(len(fitted)))  # no class is left without a row
        assert len(part.support.label) + len(part.base.label) + len(part.new.label) == sum(counts)
    assert held.max() <= REPEATS
    if min(counts) >= FOLDS:  # rows can be left out of every fold
        assert held.tolist() == [REPEATS] * len(counts)
        assert sum(len(part.base.label) for part in parts) <= REPEATS * sum(counts)


def asked(cache: Path, out: Path, **changes: Any) -> FitSettings:
    base: dict[str, Any] = {"adapter": "clip-adapter", "shots": 4, "seeds": 1, "device": "cpu", "select": "classes"}
    return FitSettings(cache=(str(cache),), out=out, **{**base, **changes})


def many_classes(folder: Path, name: str, *, changed: bool = False) -> Path:
    """Twelve classes; `changed`: other validation rows, test rows and new classes, the last six."""
    arrays, other = small_features(classes=12, seed=0), small_features(classes=12, seed=1)
    if changed:
        arrays |= {key: other[key] for key in ("image_val", "image_test")}
        new = arrays["label_train"] >= 6
        arrays["image_train"][new] = other["image_train"][new]
        arrays["text"][6:] = other["text"][6:]
    np.savez(folder / f"shapes-{name}.npz", **arrays)
    return import_npz(folder / f"shapes-{name}.npz", folder / f"{name}.zarr", logit_scale=20.0)


def run(cache: Path, out: Path, **changes: Any) -> Result:
    return fit(asked(cache, out, **changes), QUIET).rows[1].results[0]


@pytest.mark.slow
@pytest.mark.parametrize(("adapter", "more"), [("clip-adapter", {"epochs": 12, "lr": 0.05}), ("gda", {})])
def test_no_validation_row_test_row_or_new_class_is_looked_at(
    adapter: str, more: dict[str, Any], tmp_path: Path
) -> None:
    found = []
    for name in ("plain", "changed"):
        cache, out = many_classes(tmp_path, name, changed=name == "changed"), tmp_path / f"{name}-runs"
        result = run(cache, out, adapter=adapter, **more)
        details = result.details
        chosen = [details[key] for key in ("best_epoch", "chosen", "validation", "held_out")]
        found.append((chosen, weights_file(out, result.cell).read_bytes(), result.metrics["new"]))
    assert found[0][:2] == found[1][:2]
    assert found[0][2] != found[1][2]  # the new classes are others


def test_an_adapter_with_weights_for_its_classes_chooses_by_rows_alone(tmp_path: Path) -> None:
    cache = many_classes(tmp_path, "many")
    held_out = run(cache, tmp_path / "runs", adapter="tip-adapter").details["held_out"]
    assert held_out["new"] is None
    assert held_out["base"] > 0
    assert run(cache, tmp_path / "runs", adapter="clip-adapter", epochs=3).details["held_out"]["new"] > 0


def test_an_adapter_that_trains_and_has_open_hyper_parameters_chooses_both(tmp_path: Path) -> None:
    details = run(many_classes(tmp_path, "many"), tmp_path / "runs", adapter="tip-adapter-f", epochs=3).details
    assert set(details["chosen"]) == {"alpha", "beta"}
    assert 1 <= details["best_epoch"] <= 3


def test_kron_ridge_chooses_on_its_own_support_and_is_left_alone(tmp_path: Path) -> None:
    cache = many_classes(tmp_path, "many")
    setting = fit(asked(cache, tmp_path / "runs", adapter="kron-ridge"), QUIET).rows[1].setting
    assert setting.select == "none"


def test_a_support_that_cannot_be_divided_is_refused_before_any_work(small_cache: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"no class has two rows.*`shots=2` or more"):
        fit(asked(small_cache, tmp_path / "runs", shots=1), QUIET)
    np.savez(tmp_path / "shapes-five.npz", **small_features(classes=5))
    five = import_npz(tmp_path / "shapes-five.npz", tmp_path / "five.zarr", logit_scale=20.0)
    with pytest.raises(UsageError, match="fits 2 or more: 3 are too few"):
        fit(asked(five, tmp_path / "runs"), QUIET)
    assert not (tmp_path / "runs").exists()


def test_without_validation_rows_what_needs_them_says_so(small_cache: Path, tmp_path: Path) -> None:
    none = {"val": "none", "select": "val", "shots": 10}
    with pytest.raises(UsageError, match="clip-adapter chooses its epochs on validation rows, and `val=none`"):
        fit(asked(small_cache, tmp_path / "runs", **none), QUIET)
    with pytest.raises(UsageError, match="gda chooses alpha on validation rows"):
        fit(asked(small_cache, tmp_path / "runs", adapter="gda", **none), QUIET)
    assert not (tmp_path / "runs").exists()
    rows = fit(asked(small_cache, tmp_path / "runs", adapter="kron-ridge", **none), QUIET).rows
    assert rows[1].setting.protocol.shots == 10
    by_classes = fit(asked(small_cache, tmp_path / "runs", adapter="gda", **{**none, "select": "classes"}), QUIET)
    assert by_classes.rows[1].results[0].details["chosen"]["alpha"] > 0
