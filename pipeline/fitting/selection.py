"""Which epoch, and which open hyper-parameters, are best for classes that were not seen? (`select=classes`)

The classes of a support are divided by the seed into folds. For each fold, an adapter is fitted on the other classes,
without some of their rows; the fold is scored as new classes, the rows left out as base, each among their own classes.
The epoch and the values with the best H of the two, over all folds, are taken, and all classes are fitted with them.
Nothing but the support is looked at: no validation row, no test row, no new class.

Where no new class will be scored, or the adapter has weights for its classes and none for others, rows alone are left
out, and the best accuracy is taken.

Decided by principle:
- The division is made `REPEATS` times and its scores are added up before H is taken. The choice is among neighbours on
  one curve, so its noise is that of which classes were held out together, and other divisions are what averages it.
- The best mean is taken, not the first within one standard error of it (Breiman et al., 1984): that rule is for
  complexities whose cost is not in the score, and what fitting costs new classes is in H.
- All folds advance together, an epoch at a time, and stop by the recipe's patience on their common curve: a fold's own
  best epoch is never used.
- Epochs are counted as passes over the rows, of which a fold has fewer.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mma.adapters import Adapter, History, Labelled, Recipe, Support, begin, predict, train
from mma.pipeline.errors import UsageError
from mma.pipeline.fitting.protocols import LEAST, harmonic_mean

FOLDS = 3  # two thirds of the classes stay to be fitted
REPEATS = 2
STREAM = 2**32 - 3  # of seeds: apart from those of episodes

Values = tuple[tuple[str, float], ...]  # hyper-parameters, as a key


@dataclass(frozen=True)
class Part:
    """A support without some classes and some rows, and those: what a fold is fitted and scored on."""

    support: Support
    base: Labelled  # rows left out, labels within the support's classes
    new: Labelled | None  # the rows of the classes held out, labels within them
    new_text: Tensor | None  # [C', D]


@dataclass(frozen=True)
class HeldOutScore:
    """What was right of what was held out, in percent; `new` is None where no classes were."""

    base: float
    new: float | None

    @property
    def score(self) -> float:
        """What is chosen by: H, or the accuracy on rows."""
        return self.base if self.new is None else harmonic_mean(self.base, self.new)


def holds_classes(adapter: Adapter | type[Adapter], new_classes: bool) -> bool:
    """Whether classes are held out: where new ones will be scored, by an adapter that can."""
    return adapter.class_free and new_classes


def check_division(counts: NDArray[np.int64], *, classes: bool) -> None:
    """Refuse a support, of so many rows of each class, that cannot be divided. Raises UsageError."""
    if classes and len(counts) < 2 * LEAST:
        raise UsageError(
            f"`select=classes` holds out {LEAST} classes or more and fits {LEAST} or more: {len(counts)} are too few; "
            "use `select=val` or `select=last`"
        )
    if counts.max(initial=0) < 2:
        raise UsageError(
            "`select=classes` leaves rows out, and no class has two rows in the support: use `shots=2` or more, or "
            "`select=last`"
        )


def fit_by_classes(adapter: Adapter, support: Support, recipe: Recipe, *, seed: int) -> tuple[History, HeldOutScore]:
    """Fit `adapter` in place on all of a support, for as many epochs and with the open hyper-parameters that are best
    on what is held out of it.
    """
    parts = divide(support, seed=seed, classes=holds_classes(adapter, support.new_classes))
    folds = [(type(adapter)(**adapter.options()), part) for part in parts]
    for each, part in folds:
        begin(each, part.support, seed=seed)
    undecided, history = adapter.open_options(), History()
    started = {name: folds[0][0].decided(name) for name in undecided}
    values, found = best_of(score(folds))
    first = started if any(started.values()) else values  # trained with; `start` may have chosen values of its own
    if adapter.trains:
        best = -1.0
        for each, _ in folds:
            each.choose(first)
        losses = [train(each, part.support, recipe, seed=seed) for each, part in folds]
        for epoch, _ in enumerate(zip(*losses, strict=True), 1):
            now, reached = best_of(score(folds))
            for each, _ in folds:
                each.choose(first)
            history.validation.append(reached.score / 100)
            if reached.score > best:
                best, history.best_epoch, values, found = reached.score, epoch, now, reached
            elif epoch - (history.best_epoch or 0) >= recipe.patience:
                break
    begin(adapter, support, seed=seed)
    if history.best_epoch is not None:
        adapter.choose(first)
        for epoch, loss in enumerate(train(adapter, support, recipe, seed=seed), 1):
            history.loss.append(loss)
            if epoch == history.best_epoch:
                break
    adapter.eval()
    adapter.choose(values)
    history.chosen = {name: adapter.decided(name) for name in undecided}
    return history, found


def divide(support: Support, *, seed: int, classes: bool) -> list[Part]:
    """Every part of every division. Each class is held out once in a division, and each row left out at most once."""
    label, count = support.label.cpu().numpy(), len(support.text)
    folds = min(FOLDS, count // LEAST) if classes else FOLDS
    parts = []
    for repeat in range(REPEATS):
        rng = np.random.default_rng([seed, STREAM, repeat])
        of_class = rng.permutation(count) % folds
        of_row = _deal(label, count, folds, rng)
        for fold in range(folds):
            held = (of_class == fold) & classes
            new, out = held[label], ~held[label] & (of_row == fold)
            if out.any():
                parts.append(_part(support, label, held, new, out))
    return parts


def score(folds: Sequence[tuple[Adapter, Part]]) -> dict[Values, HeldOutScore]:
    """What every value of the open hyper-parameters has right, over all rows of all folds."""
    base = _shares([_right(adapter, part.base, part.support.text) for adapter, part in folds])
    if any(part.new is None for _, part in folds):
        return {values: HeldOutScore(share, None) for values, share in base.items()}
    new = _shares([_right(a, part.new, part.new_text) for a, part in folds if part.new and part.new_text is not None])
    return {values: HeldOutScore(share, new[values]) for values, share in base.items()}


def best_of(scores: Mapping[Values, HeldOutScore]) -> tuple[dict[str, float], HeldOutScore]:
    """The first of the values with the best score, and what it has right."""
    values = max(scores, key=lambda each: scores[each].score)
    return dict(values), scores[values]


@torch.no_grad()
def _right(adapter: Adapter, rows: Labelled, text: Tensor) -> tuple[dict[Values, int], int]:
    """How many rows each value of the open hyper-parameters has right, and of how many."""
    adapter.eval()
    if not adapter.open_options():
        return {(): int((predict(adapter, rows.image, text).argmax(-1) == rows.label).sum())}, len(rows.label)
    right = {
        tuple(values.items()): int((logits.argmax(-1) == rows.label).sum())
        for values, logits in adapter.combinations(rows.image, text)
    }
    return right, len(rows.label)


def _shares(right: Sequence[tuple[dict[Values, int], int]]) -> dict[Values, float]:
    total = sum(rows for _, rows in right)
    return {values: 100 * sum(counted[values] for counted, _ in right) / total for values in right[0][0]}


def _deal(label: NDArray[np.int64], classes: int, folds: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """The fold [N] in which a row is left out: those of a class are dealt in turn; the only row of one stays (-1)."""
    of_row = np.full(len(label), -1)
    for c in range(classes):
        rows = rng.permutation(np.flatnonzero(label == c))
        first = rng.integers(folds)
        if len(rows) > 1:
            of_row[rows] = (first + np.arange(len(rows))) % folds
    return of_row


def _part(
    support: Support, label: NDArray[np.int64], held: NDArray[np.bool_], new: NDArray[np.bool_], out: NDArray[np.bool_]
) -> Part:
    kept = torch.from_numpy(np.flatnonzero(~new & ~out)).to(support.label.device)
    known, unknown = np.flatnonzero(~held), np.flatnonzero(held)

    def labelled(rows: NDArray[np.bool_], within: NDArray[np.int64]) -> Labelled:
        index = torch.from_numpy(np.flatnonzero(rows)).to(support.label.device)
        counted = torch.from_numpy(np.searchsorted(within, label[rows])).to(support.label.device)
        return Labelled(support.image[index], counted)

    fitted = labelled(~new & ~out, known)
    text = support.text[torch.from_numpy(known).to(support.text.device)]
    views = None if support.views is None else support.views[kept]
    return Part(
        replace(support, image=fitted.image, label=fitted.label, text=text, views=views),
        labelled(out, known),
        labelled(new, unknown) if held.any() else None,
        support.text[torch.from_numpy(unknown).to(support.text.device)] if held.any() else None,
    )
