"""What did the adapter do? As pictures: one of each image that is explained, and one of the classes that trade."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from mma.adapters.mma import MultiModalAdapter
from mma.pipeline.explaining.at_hand import Thumbnail, thumbnails
from mma.pipeline.explaining.explain import Explanation, Shown
from mma.pipeline.explaining.trades import Trade
from mma.pipeline.explaining.words import degrees, rivals, verdict
from mma.pipeline.reports.drawing import COLOURS, INK, Picture, short

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from torch import Tensor

CLASSES, SHOTS, CHANNELS, PAIRS = 12, 10, 12, 12  # shown in a picture
SIDE = 160  # pixels of a thumbnail
WIDE = 6.9  # inches: two columns of a paper
GREY = "#b9b9b9"


def pictures_of(explanation: Explanation, root: Path | None = None) -> list[Picture]:
    """A picture for every image that could be looked into, and one of the trades; `root`: where the images are."""
    small = thumbnails(explanation.fit.features.images.cache, root)
    found = [of_image(explanation, shown, small) for shown in explanation.shown]
    if explanation.trades:
        trades = explanation.trades[:PAIRS]
        caption = "Test images that the adapter calls another class than zero-shot does, by pair of classes"
        draw = partial(_trades, trades=trades, names=explanation.classnames)
        found.append(Picture("trades", caption, 0.8 + 0.2 * len(trades), draw))
    return found


def of_image(explanation: Explanation, shown: Shown, small: Thumbnail) -> Picture:
    """What was done with one image; what is said of it, where nothing could be looked into."""
    name, caption = f"row{shown.look.row}", verdict(explanation, shown.look)
    if shown.attention:
        panels = _panels(explanation, shown)
        height = 1.2 + sum(0.12 * panel.shape[0] + 0.35 for _, panel in panels) + 1.9
        draw = partial(_attention, explanation=explanation, shown=shown, small=small)
        return Picture(f"{name}-attention", caption, height, draw)
    if shown.masked:
        draw = partial(_mask, explanation=explanation, shown=shown)
        return Picture(f"{name}-mask", caption, 1.6 + 0.11 * len(shown.masked.classes), draw, WIDE)
    if shown.said is not None:
        draw = partial(_shots, explanation=explanation, shown=shown, small=small)
        return Picture(f"{name}-shots", caption, 2.6, draw, WIDE)
    return Picture(f"{name}-answers", caption, 2.4, partial(_answers, explanation=explanation, shown=shown))


def _panels(explanation: Explanation, shown: Shown) -> list[tuple[str, Tensor]]:
    """The maps over heads and prompts that the mask leaves open: [H, C] each."""
    adapter, attention = explanation.fit.adapter, shown.attention
    assert isinstance(adapter, MultiModalAdapter)
    assert attention is not None
    panels = [("image looks at (%)", attention.to_prompts)] if adapter.mask not in ("pair", "within") else []
    return panels + ([("gate of the image (%)", attention.gate)] if adapter.mask in ("bias", "none") else [])


def _attention(figure: Figure, explanation: Explanation, shown: Shown, small: Thumbnail) -> None:
    """Heads against classes, then how far each prompt turned, then the probabilities before and after."""
    look, attention = shown.look, shown.attention
    assert attention is not None
    looked_at = attention.to_prompts.argmax(-1).tolist()  # by each head
    chosen = list(dict.fromkeys([*_foremost(shown)[: CLASSES - len(set(looked_at))], *looked_at]))
    names = _labels(explanation, shown, chosen)
    panels = _panels(explanation, shown)
    ratios = [0.12 * len(panel) + 0.35 for _, panel in panels] + [0.8, 0.9]
    axes = np.atleast_1d(figure.subplots(len(ratios), 1, sharex=True, height_ratios=ratios))
    for axis, (title, panel) in zip(axes, panels, strict=False):
        values = 100 * panel[:, chosen].cpu().numpy()  # from 0 on: what differs in the last bits looks even
        image = axis.imshow(values, cmap="cividis", vmin=0, aspect="auto", interpolation="nearest")
        axis.set_yticks(range(len(panel)), [f"head {h + 1}" for h in range(len(panel))], fontsize=5)
        axis.set_title(title, loc="left", fontsize=6)
        figure.colorbar(image, ax=axis, fraction=0.05, pad=0.01).ax.tick_params(labelsize=5)
    turned = degrees(attention.text, look.of.text)[chosen].cpu().numpy()
    axes[-2].bar(range(len(chosen)), turned, color=COLOURS[2], width=0.6)
    axes[-2].set_title("prompt turns by (degrees)", loc="left", fontsize=6)
    _before_and_after(axes[-1], shown, chosen)
    axes[-1].set_xticks(range(len(chosen)), names, rotation=90, fontsize=5)
    _inset(figure, small("test", look.row, SIDE))


def _before_and_after(axes: Axes, shown: Shown, chosen: Sequence[int]) -> None:
    """Probabilities of some classes by zero-shot and by the adapter, side by side."""
    of, at = shown.look.of, shown.look.at
    place = np.arange(len(chosen))
    for shift, logits, colour, name in (
        (-0.2, of.zero_shot[at], GREY, "zero-shot"),
        (0.2, of.adapted[at], COLOURS[0], "adapter"),
    ):
        probability = logits.softmax(-1)[chosen].cpu().numpy()
        axes.bar(place + shift, 100 * probability, color=colour, width=0.38, label=name)
    axes.set_title("probability (%)", loc="left", fontsize=6)
    axes.legend(fontsize=5, frameon=False)


def _mask(figure: Figure, explanation: Explanation, shown: Shown) -> None:
    """The mask by class and channel, and the channels that decide."""
    from matplotlib.colors import TwoSlopeNorm

    masked = shown.masked
    assert masked is not None
    best, rival = rivals(shown.look, masked)
    plain, under = masked.shares(best, rival)
    left, right = figure.subplots(1, 2, width_ratios=(2.2, 1))
    norm = TwoSlopeNorm(1, 0, max(2.0, float(masked.mask.max())))
    image = left.imshow(masked.mask.cpu().numpy(), cmap="PuOr", norm=norm, aspect="auto", interpolation="nearest")
    names = _labels(explanation, shown, masked.classes.tolist())
    left.set_yticks(range(len(names)), names, fontsize=5)
    left.set_xlabel("channel")
    figure.colorbar(image, ax=left, fraction=0.05, pad=0.01).set_label("mask (1: unchanged)")
    order = under.abs().argsort(descending=True)[:CHANNELS].flip(0).tolist()
    place = np.arange(len(order))
    right.barh(place + 0.2, plain[order].cpu().numpy(), color=GREY, height=0.38, label="unmasked")
    right.barh(place - 0.2, under[order].cpu().numpy(), color=COLOURS[0], height=0.38, label="masked")
    right.axvline(0, color=INK, linewidth=0.6)
    right.set_yticks(place, [f"channel {d}" for d in order], fontsize=5)
    right.set_title(f"{names[best]} over {names[rival]}", fontsize=6)
    right.set_xlabel("share of the difference (logits)")
    right.legend(fontsize=5, frameon=False)


def _shots(figure: Figure, explanation: Explanation, shown: Shown, small: Thumbnail) -> None:
    """The nearest shots, and what they add to the first classes."""
    said, look = shown.said, shown.look
    assert said is not None
    rows, label = explanation.shots(said)
    first = explanation.nearest_shots(look, said)[0][:SHOTS]
    chosen = _foremost(shown)[:8]
    left, right = figure.subplots(1, 2, width_ratios=(1.4, 1))
    values = said[first][:, chosen].cpu().numpy()
    most = max(float(np.abs(values).max()), 1e-6)
    image = left.imshow(values, cmap="PuOr_r", vmin=-most, vmax=most, aspect="auto", interpolation="nearest")
    own = [short(explanation.classnames[label[i]]) for i in first]
    left.set_yticks(range(len(first)), [f"{name}, row {rows[i]}" for name, i in zip(own, first, strict=True)])
    left.set_xticks(range(len(chosen)), _labels(explanation, shown, chosen), rotation=90)
    left.tick_params(labelsize=5)
    left.set_title("what the nearest shots add (logits)", loc="left", fontsize=6)
    figure.colorbar(image, ax=left, fraction=0.05).ax.tick_params(labelsize=5)
    _before_and_after(right, shown, chosen)
    right.set_xticks(range(len(chosen)), _labels(explanation, shown, chosen), rotation=90, fontsize=5)
    for at, i in enumerate(first):
        _beside(left, at, small("train", int(rows[i]), SIDE))
    _inset(figure, small("test", look.row, SIDE))


def _answers(figure: Figure, explanation: Explanation, shown: Shown) -> None:
    chosen = _foremost(shown)
    axes = figure.subplots()
    _before_and_after(axes, shown, chosen)
    axes.set_xticks(range(len(chosen)), _labels(explanation, shown, chosen), rotation=90, fontsize=5)


def _trades(figure: Figure, trades: Sequence[Trade], names: Sequence[str]) -> None:
    """Pairs of classes as bars: mended, broken, and wrong both times."""
    from matplotlib.ticker import MaxNLocator

    axes = figure.subplots()
    left = np.zeros(len(trades))
    parts = (
        ("mended", [t.mended for t in trades], COLOURS[0], ""),
        ("broken", [t.broken for t in trades], COLOURS[1], "////"),
        ("wrong both times", [t.images - t.mended - t.broken for t in trades], GREY, ""),
    )
    for name, values, colour, hatch in parts:
        bars = axes.barh(
            range(len(trades)), values, left=left, color=colour, hatch=hatch, edgecolor="white", linewidth=0, height=0.7
        )
        bars.set_label(name)
        left += np.array(values)
    axes.set_yticks(
        range(len(trades)), [f"{short(names[t.before])} → {short(names[t.after])}" for t in trades], fontsize=5
    )
    axes.invert_yaxis()
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_xlabel("test images")
    axes.legend(fontsize=5, frameon=False)


def _foremost(shown: Shown) -> list[int]:
    """The classes with the highest probability before or after, the adapter's first."""
    of, at = shown.look.of, shown.look.at
    probability = of.adapted[at].softmax(-1), of.zero_shot[at].softmax(-1)
    either = probability[0].maximum(probability[1]).topk(min(CLASSES, len(of.text))).indices
    order: list[int] = either[probability[0][either].argsort(descending=True)].tolist()
    return order


def _labels(explanation: Explanation, shown: Shown, chosen: Sequence[int]) -> list[str]:
    """Names of classes of the test; the image's own has a star."""
    of = shown.look.of
    own = int(of.label[shown.look.at])
    numbers = [int(of.classes[k]) for k in chosen]
    return [f"{short(explanation.classnames[c])}{' ★' if c == own else ''}" for c in numbers]


def _inset(figure: Figure, image: object) -> None:
    """The image itself, in a corner; nothing where it is not at hand."""
    if image is None:
        return
    axes = figure.add_axes((0.86, 0.86, 0.13, 0.13))
    axes.imshow(np.asarray(image))
    axes.axis("off")


def _beside(axes: Axes, at: int, image: object) -> None:
    """A shot's image at the left end of its line."""
    if image is None:
        return
    from matplotlib.offsetbox import AnnotationBbox, OffsetImage

    box = OffsetImage(np.asarray(image), zoom=10 / SIDE)
    axes.add_artist(AnnotationBbox(box, (-0.5, at), frameon=False, xycoords="data", box_alignment=(0, 0.5), pad=0))
