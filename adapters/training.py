"""Fit an adapter: start it, take gradient steps if it trains, keep the epoch that is best on validation, and choose the
hyper-parameters that were left open.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor
from torch.nn import functional

from mma.adapters.base import Adapter, AdapterError, Recipe, Support, check_choice
from mma.adapters.registry import title

WARMUP_LR = 1e-5  # CoOp's, and of what was built on it
EVAL_BATCH = 1024  # images a forward pass where no gradient is kept


@dataclass(frozen=True)
class Labelled:
    """Rows with their labels."""

    image: Tensor  # [N, D] unit
    label: Tensor  # [N] int64


@dataclass
class History:
    """What happened in a fit; empty for a closed form that chose nothing."""

    loss: list[float] = field(default_factory=list)  # mean over the support, an entry per epoch
    validation: list[float] = field(default_factory=list)  # accuracy, an entry per epoch
    validation_loss: list[float] = field(default_factory=list)  # mean cross-entropy, an entry per epoch
    best_epoch: int | None = None  # counted from 1; None where nothing was selected
    chosen: dict[str, float] = field(default_factory=dict)  # `Adapter.choices`: hyper-parameters left open


def fit(
    adapter: Adapter, support: Support, recipe: Recipe, *, seed: int, validation: Labelled | None = None
) -> History:
    """Train `adapter` on `support` in place, from `seed` alone.

    With `validation`, training stops after `recipe.patience` epochs without a better accuracy, or a lower loss
    (`recipe.monitor`), and the weights of the first best epoch are restored; without, it runs all epochs and keeps the
    last. Hyper-parameters left open are chosen on `validation` too: before training, from the starting weights, and
    again after it. Raises AdapterError where they are open and there is none, and where the loss is no longer finite.
    """
    adapter.check(support.dim, recipe)
    undecided = adapter.open_options()
    if undecided and validation is None:
        names = ", ".join(undecided)
        raise AdapterError(
            f"{title(adapter)} chooses {names} on validation rows, and there are none: give {names}, "
            "or rows to validate on"
        )
    begin(adapter, support, seed=seed)
    history = History()
    if adapter.trains:
        if undecided and validation is not None:
            adapter.tune_start(validation.image, support.text, validation.label)
        _select_epoch(adapter, support, recipe, seed, validation, history)
    adapter.eval()
    if undecided and validation is not None:
        adapter.tune(validation.image, support.text, validation.label)
    history.chosen = adapter.choices()
    return history


def begin(adapter: Adapter, support: Support, *, seed: int) -> None:
    """Start an adapter: its weights, from the support and the seed; of a closed form, all of its fit."""
    adapter.start(replace(support, seed=seed))


def train(adapter: Adapter, support: Support, recipe: Recipe, *, seed: int) -> Iterator[float]:
    """Take the gradient steps of one epoch after the other, of an adapter that was begun; after each, its mean loss.

    The epochs that are asked for are made: stop where you like. Raises AdapterError where the loss is not finite.
    """
    generator = torch.Generator().manual_seed(seed)
    optimizer = adapter.optimizer(recipe)
    schedule = _schedule(optimizer, recipe)
    rows, device = len(support.label), support.image.device
    for epoch in range(1, recipe.epochs + 1):
        adapter.train()
        total = torch.zeros((), device=device, dtype=torch.float64)
        image = _draw_views(adapter, support, generator)
        for batch in torch.split(torch.randperm(rows, generator=generator).to(device), recipe.batch):
            optimizer.zero_grad(set_to_none=True)
            loss = adapter.loss(image[batch], support.text, support.label[batch])
            if not loss.requires_grad:
                return  # a blend weight of 0: no weight has a part in the logits
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            total += loss.detach() * len(batch)
        schedule.step()
        if not torch.isfinite(total):
            raise AdapterError(
                f"the loss is no longer finite in epoch {epoch}: use a lower learning rate than {recipe.lr}"
            )
        yield float(total) / rows


@torch.no_grad()
def predict(adapter: Adapter, image: Tensor, text: Tensor) -> Tensor:
    """Logits [N, C] of unit `image` [N, D] against unit `text` [C, D].

    `image` is [N, V, D] for an adapter that uses the views of test images. Rows go in blocks, but for a transductive
    adapter, to which all are given at once. Raises AdapterError where a logit is not finite.
    """
    adapter.eval()
    blocks = [image] if adapter.transductive != "no" else torch.split(image, EVAL_BATCH)
    logits = torch.cat([adapter(block, text) for block in blocks])
    if logits.shape != (len(image), len(text)):
        raise AdapterError(
            f"{title(adapter)} gives logits {list(logits.shape)} for {len(image)} images, {len(text)} classes"
        )
    if not torch.isfinite(logits).all():
        raise AdapterError(
            f"{title(adapter)} gives logits that are not finite: an option of it is too large or too small"
        )
    return logits


def accuracy(logits: Tensor, label: Tensor) -> float:
    """Top-1 accuracy in [0, 1] of logits [N, C] against labels [N]."""
    return float((logits.argmax(dim=-1) == label).double().mean())


def _select_epoch(
    adapter: Adapter, support: Support, recipe: Recipe, seed: int, validation: Labelled | None, history: History
) -> None:
    check_choice("monitor", recipe.monitor, ("accuracy", "loss"))
    best: dict[str, Tensor] | None = None
    most = -math.inf
    for epoch, loss in enumerate(train(adapter, support, recipe, seed=seed), 1):
        history.loss.append(loss)
        if validation is None:
            continue
        logits = predict(adapter, validation.image, support.text)
        history.validation.append(accuracy(logits, validation.label))
        history.validation_loss.append(float(functional.cross_entropy(logits, validation.label)))
        score = -history.validation_loss[-1] if recipe.monitor == "loss" else history.validation[-1]
        if score > most:
            most, history.best_epoch = score, epoch
            best = copy.deepcopy(adapter.state_dict())
        elif epoch - (history.best_epoch or 0) >= recipe.patience:
            break
    if best is not None:
        adapter.load_state_dict(best)


def _draw_views(adapter: Adapter, support: Support, generator: torch.Generator) -> Tensor:
    """The images of one epoch [N, D]: a random view of each row where the adapter is trained on views."""
    if support.views is None or adapter.uses_views != "train":
        return support.image
    rows, views = support.views.shape[:2]
    view = torch.randint(views, (rows,), generator=generator)
    return support.views[torch.arange(rows), view.to(support.views.device)]


def _schedule(optimizer: torch.optim.Optimizer, recipe: Recipe) -> torch.optim.lr_scheduler.LRScheduler:
    """The learning rate of each epoch. As in the released Dassl, on which CoOp and many others are built, the cosine is
    as long as all epochs and begins after the warm-up: it stops short of zero by as many epochs.
    """
    check_choice("schedule", recipe.schedule, ("constant", "cosine"))

    def share(epoch: int) -> float:
        """The part of `recipe.lr` in an epoch, counted from 0."""
        if epoch < recipe.warmup:
            return WARMUP_LR / recipe.lr
        if recipe.schedule == "constant":
            return 1.0
        return (1 + math.cos(math.pi * (epoch - recipe.warmup) / max(1, recipe.epochs))) / 2

    return torch.optim.lr_scheduler.LambdaLR(optimizer, share)
