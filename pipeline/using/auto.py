"""`--adapter auto`: fit every fast adapter, and choose one by validation rows alone.

Every validation row is judged by a fit that chose nothing on it: the rows are parted in two, one part chooses the epoch
and the hyper-parameters that are left open, the other judges, and then the other way round. An image that several
seeds judged counts once, with the mean over these. How far the best is from the second best is told with the 95 %
interval over images, and with how many images such a difference would be seen with 80 % power.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from rich.console import Console

from mma.adapters import Adapter, Labelled, Recipe, Support, adapter_class, predict
from mma.adapters import fit as fit_adapter
from mma.pipeline.device import pick_device
from mma.pipeline.errors import UsageError
from mma.pipeline.fitting.features import Address, Loader
from mma.pipeline.fitting.fit import fit
from mma.pipeline.fitting.results import Grid, Row
from mma.pipeline.fitting.run import labelled, support_of
from mma.pipeline.fitting.settings import AUTO, FitSettings
from mma.pipeline.reports.calibration import split_rows
from mma.pipeline.reports.comparisons import difference, images_needed
from mma.pipeline.reports.statistics import Estimate
from mma.pipeline.using.threads import one_thread

# Closed forms, and the linear probe: under a second per fit at 16 shots of a hundred classes. Of equals the first wins.
FAST = ("zero-shot", "linear-probe", "tip-adapter", "gda", "proker", "kron-ridge", "ape", "ss-text")
LEAST = 4  # validation rows; fewer say nothing
SEED = 0  # parts the rows


@dataclass(frozen=True)
class Pick:
    """What was chosen, and by how much."""

    name: str
    images: int  # that judged
    accuracies: Mapping[str, float]  # in percent, of every adapter
    second: str
    change: Estimate  # over the second best, in points

    def __str__(self) -> str:
        change, needed = self.change, images_needed(self.change)
        told = f"{change.mean:+.1f} points over {self.second} (95 % interval {change.low:.1f} to {change.high:.1f})"
        if change.p < 0.05:
            settled = "settled"
        elif needed is None or not change.mean:
            settled = "not settled, and no practicable number of labels would settle it: take either"
        else:
            settled = f"not settled: about {needed - self.images:,} more labels to validate on would settle it"
        return (
            f"auto: {self.name} is chosen of {', '.join(self.accuracies)} on {self.images:,} validation images, with "
            f"{self.accuracies[self.name]:.1f} % right, {told}: {settled}"
        )

    def plain(self) -> dict[str, Any]:
        """The same as plain data."""
        change = self.change
        return {
            "images": self.images,
            "accuracies": dict(self.accuracies),
            "second": self.second,
            "points_over_second": {"mean": change.mean, "low": change.low, "high": change.high},
            "images_needed": images_needed(change) if change.mean else None,
        }


def pick(correct: Mapping[str, Sequence[NDArray[np.bool_]]], images: Sequence[Sequence[Hashable]]) -> Pick:
    """The adapter that is right most often: by name, for each seed, which validation rows it had right; `images` says
    which images these rows are.
    """
    number: dict[Hashable, int] = {}
    at = np.array([number.setdefault(image, len(number)) for of_seed in images for image in of_seed])
    times = np.bincount(at)
    shares = {name: np.bincount(at, weights=np.concatenate(seeds)) / times for name, seeds in correct.items()}  # [N]
    order = sorted(shares, key=lambda name: -shares[name].mean())  # stable: of equals the first
    best, second = order[0], order[1]
    change = difference(shares[best][None], shares[second][None])
    return Pick(best, len(times), {name: 100 * float(of.mean()) for name, of in shares.items()}, second, change)


def judge(
    adapter: Adapter, recipe: Recipe, support: Support, validation: Labelled, *, seed: int, selects: bool
) -> NDArray[np.bool_]:
    """Which validation rows [N] a fit of the adapter has right that chose nothing on them. The adapter is not fitted.

    Raises UsageError where there are too few rows.
    """
    label = validation.label.cpu().numpy()
    if len(label) < LEAST:
        raise UsageError(
            f"`adapter=auto` chooses on validation rows, and there are {len(label)}: label more images, or name an "
            "adapter"
        )
    if not type(adapter).few_shot:
        support = replace(support, image=support.image[:0], label=support.label[:0], views=None)
    whole = np.arange(len(label))
    chooses = selects and (type(adapter).trains or bool(adapter.open_options()))
    first, second = split_rows(label, SEED) if chooses else (whole[:0], whole)
    right = np.zeros(len(label), bool)
    for choosing, judging in ((first, second), (second, first)) if chooses else ((first, second),):
        fitted = type(adapter)(**adapter.options())
        some = _some(validation, choosing) if chooses else None
        fit_adapter(fitted, support, recipe, seed=seed, validation=some)
        logits = predict(fitted, _some(validation, judging).image, support.text)
        right[judging] = logits.argmax(dim=-1).cpu().numpy() == label[judging]
    return right


def fit_auto(settings: FitSettings, console: Console) -> Grid:
    """`mma fit --adapter auto`: the rows of every fast adapter, and for each cache which of them was chosen.

    Raises as `fit`; UsageError where nothing is left to choose on.
    """
    if settings.select in ("classes", "oracle") or settings.val == "none":
        word = "`val=none`" if settings.val == "none" else f"`select={settings.select}`"
        raise UsageError(f"`adapter=auto` chooses on validation rows: leave out {word}")
    adapters = tuple(dict.fromkeys([*FAST, *(name for name in settings.adapter if name != AUTO)]))
    grid = fit(replace(settings, adapter=adapters), console)
    loader, picks = Loader(), {}
    with one_thread():
        for cache in dict.fromkeys(row.cache for row in grid.rows):
            rows = [row for row in grid.rows if row.cache == cache and row.setting.adapter in FAST]
            picks[cache] = _pick_row(rows, settings, loader)
    several = len(picks) > 1
    notes = [f"{cache}: {found}" if several else str(found) for cache, found in picks.items()]
    chosen = {cache: found.name for cache, found in picks.items()}
    return replace(grid, notes=[*grid.notes, *notes], chosen=chosen)


def _pick_row(rows: Sequence[Row], settings: FitSettings, loader: Loader) -> Pick:
    drawing = next(row.setting for row in rows if row.setting.protocol.shots)
    device = pick_device(settings.device).type
    data, protocol = drawing.data, drawing.protocol
    features = loader.features(Address(rows[0].cache, data.prompts, data.reduce, device, settings.partial))
    correct: dict[str, list[NDArray[np.bool_]]] = {row.setting.adapter: [] for row in rows}
    images: list[list[Hashable]] = []
    for seed in settings.seeds:
        episode = features.images.episode(protocol, seed, True, ())
        assert episode.validation is not None
        validation = labelled(features, episode.validation, episode.classes)
        images.append([(episode.validation.split, int(row)) for row in episode.validation.rows])
        support = support_of(features, episode, protocol)
        for row in rows:
            setting = row.setting
            adapter = adapter_class(setting.adapter)(**dict(setting.options))
            recipe, selects = setting.recipe or adapter.recipe, setting.select == "val"
            correct[setting.adapter].append(judge(adapter, recipe, support, validation, seed=seed, selects=selects))
    return pick(correct, images)


def pick_for(support: Mapping[str, Support], validation: Labelled, *, seed: int) -> Pick:
    """The fast adapter for a model: by name, what each is fitted on; and the rows that judge."""
    correct = {}
    for name in FAST:
        adapter = adapter_class(name)()
        correct[name] = [judge(adapter, adapter.recipe, support[name], validation, seed=seed, selects=True)]
    return pick(correct, [range(len(validation.label))])


def _some(rows: Labelled, chosen: NDArray[np.int64]) -> Labelled:
    at = torch.from_numpy(chosen).to(rows.label.device)
    return Labelled(rows.image[at], rows.label[at])
