from __future__ import annotations

import math
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from threading import Barrier
from typing import ClassVar, Literal

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from mma.adapters import Adapter, AdapterError, NamedRecipe, Recipe, Support, fit, predict, zero_shot_logits
from mma.adapters.linear_probe import LinearProbe
from mma.adapters.mm_mlp import MultiModalMLP

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


def test_by_loss_the_epoch_of_the_least_cross_entropy_is_restored_and_patience_counts_from_it() -> None:
    data = toy()
    by_loss, by_accuracy = LinearProbe(), LinearProbe()
    recipe = replace(QUICK, lr=3e-3, epochs=100)
    fit(by_accuracy, data.support, recipe, seed=0, validation=data.validation)
    history = fit(by_loss, data.support, replace(recipe, monitor="loss"), seed=0, validation=data.validation)
    assert history.best_epoch == history.validation_loss.index(min(history.validation_loss)) + 1
    assert len(history.loss) == len(history.validation_loss) == history.best_epoch + QUICK.patience < 100
    logits = predict(by_loss, data.validation.image, data.support.text)
    assert min(history.validation_loss) == pytest.approx(float(cross_entropy(logits, data.validation.label)))
    assert not torch.equal(by_loss.weight, by_accuracy.weight)


def rates(recipe: Recipe) -> list[float]:
    """The learning rate of every epoch."""
    found = []

    class Rated(Watcher):
        def optimizer(self, recipe: Recipe) -> torch.optim.Optimizer:
            self.of_training = super().optimizer(recipe)
            return self.of_training

        def loss(self, image: Tensor, text: Tensor, label: Tensor) -> Tensor:
            found.append(self.of_training.param_groups[0]["lr"])
            return super().loss(image, text, label)

    fit(Rated(), toy().support, replace(recipe, batch=100), seed=0)
    return found


def test_the_warm_up_is_at_a_rate_of_its_own_and_the_cosine_begins_after_it() -> None:
    recipe = Recipe("sgd", lr=2e-3, epochs=8, schedule="cosine", warmup=2)
    cosine = [2e-3 * (1 + math.cos(math.pi * epoch / 8)) / 2 for epoch in range(6)]
    assert rates(recipe) == pytest.approx([1e-5, 1e-5, *cosine])
    assert rates(replace(recipe, schedule="constant", epochs=4)) == pytest.approx([1e-5, 1e-5, 2e-3, 2e-3])


def test_without_a_warm_up_the_cosine_is_that_of_torch() -> None:
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=2e-3)
    schedule, expected = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 5), []
    for _ in range(5):
        expected.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    assert rates(Recipe("sgd", lr=2e-3, epochs=5, schedule="cosine")) == pytest.approx(expected)


def test_the_recipe_of_an_adapter_is_the_first_of_those_it_names() -> None:
    class Named(Watcher):
        recipes: ClassVar[dict[str, NamedRecipe]] = {
            "published": NamedRecipe(QUICK, "a paper", select="last"),
            "ours": NamedRecipe(Recipe(), "a guess"),
        }

    class Child(Named):
        pass

    assert Named.recipe is Named().recipe is Child.recipe is QUICK
    assert Watcher.recipe == Recipe()


def test_a_loss_that_is_not_finite_is_an_error_that_names_the_epoch_and_the_rate() -> None:
    data = toy()
    broken = replace(data.support, image=data.support.image * torch.nan)
    with pytest.raises(AdapterError, match=r"no longer finite in epoch 1: use a lower learning rate than 0.01"):
        fit(LinearProbe(), broken, QUICK, seed=0)


@pytest.mark.parametrize(("optimizer", "kind"), [("adam", "Adam"), ("adamw", "AdamW"), ("sgd", "SGD")])
def test_the_recipe_names_the_optimizer(optimizer: str, kind: str) -> None:
    probe = LinearProbe()
    probe.start(toy().support)
    assert type(probe.optimizer(replace(QUICK, optimizer=optimizer))).__name__ == kind


@pytest.mark.parametrize(
    ("change", "known"),
    [
        ({"optimizer": "lion"}, "adam, adamw, sgd"),
        ({"schedule": "step"}, "cosine"),
        ({"monitor": "f1"}, "accuracy, loss"),
    ],
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


def test_fits_in_threads_run_side_by_side_and_draw_what_they_draw_alone() -> None:
    """Each waits in `start` for the other: with a lock around it, neither would come."""
    both_started = Barrier(2, timeout=30)

    class Meets(MultiModalMLP):
        def start(self, support: Support) -> None:
            super().start(support)
            both_started.wait()

    def weights(kind: type[Adapter], seed: int) -> dict[str, Tensor]:
        adapter = kind()
        fit(adapter, toy().support, replace(QUICK, epochs=1), seed=seed)
        return adapter.state_dict()

    with ThreadPoolExecutor(2) as threads:
        side_by_side = list(threads.map(lambda seed: weights(Meets, seed), (0, 1)))
    for seed, found in enumerate(side_by_side):
        torch.testing.assert_close(found, weights(MultiModalMLP, seed), atol=0, rtol=0)
