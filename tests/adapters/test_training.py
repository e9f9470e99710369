from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import ClassVar, Literal

import pytest
import torch
from torch import Tensor, nn

from mma.adapters import Adapter, AdapterError, Recipe, Support, fit, predict, zero_shot_logits
from mma.adapters.linear_probe import LinearProbe

from .toy import toy

QUICK = Recipe(optimizer="adam", lr=1e-2, weight_decay=0.0, batch=4, epochs=12, patience=3)


class Watcher(Adapter):
    """Zero-shot with one idle weight, that writes down which images it sees."""

    uses_views: ClassVar[Literal["no", "train", "test"]] = "train"
    idle: nn.Parameter

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[Tensor] = []

    def start(self, support: Support) -> None:
        super().start(support)
        self.idle = nn.Parameter(torch.zeros(()))

    def forward(self, image: Tensor, text: Tensor) -> Tensor:
        self.seen.append(image.detach().clone())
        return zero_shot_logits(image, text, self.logit_scale) + self.idle


class TransductiveWatcher(Watcher):
    transductive: ClassVar[Literal["no", "stream", "batch"]] = "batch"


def test_an_epoch_sees_every_row_once_in_batches() -> None:
    data, adapter = toy(), Watcher()
    fit(adapter, data.support, replace(QUICK, epochs=1), seed=0)
    assert [len(batch) for batch in adapter.seen] == [4, 4, 4, 3]
    seen = torch.cat(adapter.seen)
    assert not torch.equal(seen, data.support.image)
    torch.testing.assert_close(seen.sum(0), data.support.image.sum(0))


def test_each_row_shows_one_random_view_an_epoch() -> None:
    data, adapter = toy(views=5), Watcher()
    fit(adapter, data.support, replace(QUICK, epochs=20, batch=100), seed=0)
    views = data.support.views
    assert views is not None
    shown = torch.stack([(views == row[:, None]).all(-1).any(0) for row in torch.cat(adapter.seen)[:, None]])
    assert shown.any(-1).all()  # every image seen is a view
    assert shown.any(0).all()  # and every view is seen


def test_without_validation_all_epochs_run_and_the_last_is_kept() -> None:
    probe = LinearProbe()
    history = fit(probe, toy().support, QUICK, seed=0)
    assert (len(history.loss), history.validation, history.best_epoch) == (12, [], None)


def test_training_stops_without_a_better_accuracy_and_the_first_best_epoch_is_restored() -> None:
    data = toy()
    probe = LinearProbe()
    history = fit(probe, data.support, replace(QUICK, epochs=100), seed=0, validation=data.validation)
    assert history.best_epoch == history.validation.index(max(history.validation)) + 1
    assert len(history.loss) == history.best_epoch + QUICK.patience < 100
    again = LinearProbe()
    fit(again, data.support, replace(QUICK, epochs=history.best_epoch), seed=0)
    assert torch.equal(again.weight, probe.weight)


def test_a_loss_that_is_not_finite_is_an_error_that_names_the_epoch_and_the_rate() -> None:
    data = toy()
    broken = replace(data.support, image=data.support.image * torch.nan)
    with pytest.raises(AdapterError, match=r"no longer finite in epoch 1: use a lower learning rate than 0.01"):
        fit(LinearProbe(), broken, QUICK, seed=0)


def test_cosine_lowers_the_learning_rate_to_zero() -> None:
    data = toy()
    after = []
    for epochs in (12, 11):
        recipe = replace(QUICK, schedule="cosine", epochs=12)
        probe = LinearProbe()
        probe.start(data.support)
        optimizer = probe.optimizer(recipe)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 12)
        for _ in range(epochs):
            optimizer.step()
            schedule.step()
        after.append(optimizer.param_groups[0]["lr"])
    assert after[0] < 1e-9 < after[1]
    constant, cosine = LinearProbe(), LinearProbe()
    for probe, schedule_name in ((constant, "constant"), (cosine, "cosine")):
        fit(probe, data.support, replace(QUICK, schedule=schedule_name), seed=0)
    start = data.support.text
    assert (cosine.weight - start).norm() < (constant.weight - start).norm()


@pytest.mark.parametrize(("optimizer", "kind"), [("adam", "Adam"), ("adamw", "AdamW"), ("sgd", "SGD")])
def test_the_recipe_names_the_optimizer(optimizer: str, kind: str) -> None:
    probe = LinearProbe()
    probe.start(toy().support)
    assert type(probe.optimizer(replace(QUICK, optimizer=optimizer))).__name__ == kind


@pytest.mark.parametrize(
    ("change", "known"), [({"optimizer": "lion"}, "adam, adamw, sgd"), ({"schedule": "step"}, "cosine")]
)
def test_an_unknown_word_in_a_recipe_is_refused_with_those_known(change: dict[str, str], known: str) -> None:
    with pytest.raises(AdapterError, match=known):
        fit(LinearProbe(), toy().support, replace(QUICK, **change), seed=0)  # type: ignore[arg-type]


def test_prediction_goes_in_blocks_unless_the_adapter_is_transductive(monkeypatch: pytest.MonkeyPatch) -> None:
    data = toy()
    monkeypatch.setattr("mma.adapters.training.EVAL_BATCH", 8)
    for kind, sizes in ((Watcher, [8, 8, 4]), (TransductiveWatcher, [20])):
        adapter = kind()
        adapter.start(data.support)
        predict(adapter, data.test.image, data.support.text)
        assert [len(block) for block in adapter.seen] == sizes


def test_choices_are_made_on_validation_alone() -> None:
    class Scaled(Adapter):
        trains: ClassVar[bool] = False
        tunes: ClassVar[dict[str, list[float]]] = {"sign": [-1.0, 1.0, 2.0]}

        def __init__(self, *, sign: float | None = None) -> None:
            super().__init__()
            self.sign = sign

        def forward(self, image: Tensor, text: Tensor) -> Tensor:
            return self.decided("sign") * zero_shot_logits(image, text, self.logit_scale)

    data = toy()
    adapter = Scaled()
    history = fit(adapter, data.support, QUICK, seed=0, validation=data.validation)
    assert history.chosen == {"sign": 1.0}  # the first of the best
    given = Scaled(sign=-1.0)
    assert fit(given, data.support, QUICK, seed=0, validation=data.validation).chosen == {}
    assert given.decided("sign") == -1.0
    with pytest.raises(AdapterError, match=r"^Scaled chooses sign on validation rows"):
        fit(Scaled(), data.support, QUICK, seed=0)


@pytest.mark.parametrize(
    ("scored", "message"),
    [
        (lambda logits: logits * torch.inf, "logits that are not finite"),
        (lambda logits: logits[:, :-1], r"gives logits \[10, 4\] for 10 images, 5 classes"),
    ],
)
def test_logits_that_cannot_be_are_refused(scored: Callable[[Tensor], Tensor], message: str) -> None:
    class Odd(Adapter):
        trains = False

        def forward(self, image: Tensor, text: Tensor) -> Tensor:
            return scored(zero_shot_logits(image, text, 100.0))

    data = toy()
    with pytest.raises(AdapterError, match=message):
        predict(Odd(), data.test.image[:10], data.support.text)
