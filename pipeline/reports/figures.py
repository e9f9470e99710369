"""Findings as figures, by matplotlib: sized for a column of a paper, and readable in grey (line styles and markers).

Every figure is made of the numbers that the tables have. What cannot be computed from stored classes, such as a
reliability curve, which needs probabilities, is left out.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from mma.pipeline.fitting.factors import described
from mma.pipeline.reports.comparisons import LEVEL, change_per_class, holm
from mma.pipeline.reports.drawing import COLOURS, DASHES, INK, MARKERS, Picture, short, write_pictures
from mma.pipeline.reports.findings import Finding, Group, main_block
from mma.pipeline.reports.metrics import classified
from mma.pipeline.reports.pairing import baseline_of, common_seeds, compare, tests_of, values_of
from mma.pipeline.reports.records import predicted
from mma.pipeline.reports.sheets import Layout, Line, Sheet, marked_name
from mma.pipeline.reports.tables import FALLBACK, TEST_TIME
from mma.pipeline.reports.written import plain

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MOST_LINES, MOST_PAIRS, MOST_BARS = 8, 16, 20
MOST_NUMBERS = 64  # in the places of a heat map


def pictures(layout: Layout) -> list[Picture]:
    """All figures that the findings allow."""
    found: list[Picture] = []
    colours = _colours(layout)
    for sheet in layout.wide:
        if len(sheet.columns) > 1 and all(map(_is_number, sheet.columns)):
            draw = partial(_curves, sheet=sheet, colours=colours)
            found.append(Picture("curve", _curve_caption(sheet), 2.4, draw))
    for group in layout.report.groups:
        found += _of_group(layout, group, colours)
    return [Picture(f"{i:02d}-{p.name}", p.caption, p.height, p.draw) for i, p in enumerate(found, 1)]


def write_figures(layout: Layout, folder: Path) -> list[Path]:
    """Every figure as PDF, SVG and PNG. Returns the files."""
    return write_pictures(pictures(layout), folder)


def _of_group(layout: Layout, group: Group, colours: Mapping[str, str]) -> list[Picture]:
    _, rows = main_block(group)
    found: list[Picture] = []
    if {"base", "new"} <= set(group.metrics) and rows:
        caption = f"Base against new, {plain(group.title)}: dotted curves are of equal H"
        found.append(Picture("base-new", caption, 2.8, partial(_base_new, rows=rows, colours=colours)))
    if len(rows) > 2:
        few = sorted(rows, key=lambda row: -row.measures[group.main].mean)[:MOST_PAIRS]
        best = f", the best {MOST_PAIRS}" if len(rows) > MOST_PAIRS else ""
        caption = (
            f"Row minus column in points of {group.main}, {plain(group.title)}{best}: bold where the difference is "
            "distinguishable after Holm's correction over all pairs"
        )
        size = 0.9 + 0.28 * len(few)
        found.append(Picture("pairs", caption, size, lambda figure: _pairs(figure, few, group)))
    for adapter in dict.fromkeys(row.setting.adapter for row in rows):
        own = [row for row in rows if row.setting.adapter == adapter]
        names = _varying_numbers(own)
        if len(names) == 2:
            caption = f"{group.main} of {plain(adapter)} by {names[0]} and {names[1]}, {plain(group.title)}; means in %"
            found.append(Picture("heat", caption, 2.4, partial(_heat, rows=own, names=names, metric=group.main)))
    if rows:
        top = max(rows, key=lambda row: row.measures[group.main].mean)
        found += _of_top(layout, group, top)
    return found


def _of_top(layout: Layout, group: Group, top: Finding) -> list[Picture]:
    """The method with the best mean: its change on each class, and its confusion."""
    found = []
    others = [row.setting for row in group.rows]
    base = baseline_of(top.setting, others, described(layout.report.baseline))
    test = tests_of(group.main)[0]
    if base is not None and top.change is not None and test in top.setting.scored:
        metric = "accuracy" if test == "all" else test
        seeds = common_seeds(top.setting, base)
        ours, theirs = values_of(top.setting, metric, seeds), values_of(base, metric, seeds)
        label = top.setting.scored[test].test.label
        if ours is not None and theirs is not None and len(np.unique(label)) > 1:
            changes = change_per_class(ours, theirs, label)
            order = sorted(changes, key=lambda c: changes[c].mean)
            half = MOST_BARS // 2
            shown = order if len(order) <= MOST_BARS else order[:half] + order[-half:]
            some = f", the {half} that lose most and the {half} that gain most" if shown is not order else ""
            caption = (
                f"Change in accuracy per class, {plain(marked_name(top))} minus {plain(layout.report.baseline)}, "
                f"{plain(group.title)}{some}; 95 % intervals"
            )
            names = [_class_name(top, c) for c in shown]
            values = [(changes[c].mean, changes[c].low, changes[c].high) for c in shown]
            height = 0.6 + 0.13 * len(shown)
            found.append(Picture("classes", caption, height, lambda figure: _bars(figure, names, values)))
    if test in top.setting.scored:
        caption = f"Confusion of {plain(marked_name(top))}, {plain(group.title)} ({test} classes, all seeds)"
        folder = layout.report.folder
        found.append(Picture("confusion", caption, 2.8, lambda figure: _confusion(figure, folder, top, test)))
    return found


def _curve_caption(sheet: Sheet) -> str:
    few = f"; the {MOST_LINES} best of {len(sheet.lines)} at the right end" if len(sheet.lines) > MOST_LINES else ""
    return f"{plain(sheet.title)}; bands are 95 % intervals{few}"


def _curves(figure: Figure, sheet: Sheet, colours: Mapping[str, str]) -> None:
    axes = figure.subplots()
    x = [float(column) for column in sheet.columns]
    for style, line in zip(_styles(), _shown_lines(sheet), strict=False):
        colour = colours[_unmarked(line.words[0])]
        there = [(at, entry) for at, entry in zip(x, line.entries, strict=True) if entry]
        at, mean = [each for each, _ in there], [entry.mean for _, entry in there]
        label = ", ".join(plain(word) for word in line.words if word)
        axes.plot(at, mean, color=colour, marker=style[0], linestyle=style[1], label=short(label))
        low, high = [entry.low for _, entry in there], [entry.high for _, entry in there]
        axes.fill_between(at, low, high, color=colour, alpha=0.12, linewidth=0)
    if min(x) > 0 and max(x) / min(x) >= 8:
        axes.set_xscale("log", base=2)
    axes.set_xticks(x, [plain(column) for column in sheet.columns])
    axes.minorticks_off()
    axes.set_xlabel(sheet.title.split(" by ")[1].split(",")[0] if " by " in sheet.title else "")
    axes.set_ylabel(f"{sheet.metric} (%)")
    _legend(figure, axes)


def _base_new(figure: Figure, rows: Sequence[Finding], colours: Mapping[str, str]) -> None:
    axes = figure.subplots()
    for style, row in zip(_styles(), _best_by_h(rows), strict=False):
        base, new = row.measures["base"], row.measures["new"]
        axes.errorbar(
            base.mean,
            new.mean,
            xerr=[[base.mean - base.low], [base.high - base.mean]],
            yerr=[[new.mean - new.low], [new.high - new.mean]],
            color=colours[row.method],
            marker=style[0],
            linestyle="none",
            linewidth=0.7,
            label=short(plain(marked_name(row))),
        )
    (left, right), (low, high) = axes.get_xlim(), axes.get_ylim()
    grid = np.linspace(left, right, 200)
    for h in range(5, 100, 5):
        with np.errstate(divide="ignore"):
            new_of = np.where(2 * grid > h, h * grid / (2 * grid - h), np.nan)  # of H = 2bn / (b + n)
        inside = (new_of >= low) & (new_of <= high)
        if inside.any():
            axes.plot(grid[inside], new_of[inside], color="#888888", linestyle=":", linewidth=0.6)
            axes.annotate(f"H {h}", (grid[inside][-1], new_of[inside][-1]), fontsize=5, color="#888888")
    axes.set_xlim(left, right)
    axes.set_ylim(low, high)
    axes.set_xlabel("base (%)")
    axes.set_ylabel("new (%)")
    _legend(figure, axes)


def _pairs(figure: Figure, rows: Sequence[Finding], group: Group) -> None:
    from matplotlib.colors import TwoSlopeNorm

    axes = figure.subplots()
    pairs = list(itertools.combinations(range(len(rows)), 2))
    changes = [compare(rows[a].setting, rows[b].setting, group.main) for a, b in pairs]
    mean, p = np.full((len(rows), len(rows)), np.nan), np.ones((len(rows), len(rows)))
    told = [(pair, change) for pair, change in zip(pairs, changes, strict=True) if change and not math.isnan(change.p)]
    adjusted = holm(np.array([change.p for _, change in told]))
    for ((a, b), change), of_p in zip(told, adjusted, strict=True):
        mean[a, b], mean[b, a], p[a, b], p[b, a] = change.mean, -change.mean, of_p, of_p
    most = max(float(np.nanmax(np.abs(mean))) if told else 1.0, 1e-9)
    axes.imshow(mean, cmap="PuOr_r", norm=TwoSlopeNorm(0, -most, most), aspect="auto")
    for a, b in itertools.permutations(range(len(rows)), 2):
        if not math.isnan(mean[a, b]):
            dark = abs(mean[a, b]) > 0.6 * most
            weight = "bold" if p[a, b] < LEVEL else "normal"
            colour = "white" if dark else "black"
            axes.text(b, a, f"{mean[a, b]:+.1f}", ha="center", va="center", fontsize=5, color=colour, weight=weight)
    names = [short(plain(marked_name(row))) for row in rows]
    axes.set_xticks(range(len(rows)), names, rotation=90, fontsize=5)
    axes.set_yticks(range(len(rows)), names, fontsize=5)


def _varying_numbers(rows: Sequence[Finding]) -> list[str]:
    """The factors that differ between settings of one adapter, where all of them are numbers; none where one is not,
    or where two settings agree in all: then a map would hide some.
    """
    factors = [row.setting.factors for row in rows]
    values = {name: [each.get(name) for each in factors] for name in factors[0]}
    names = [name for name, found in values.items() if len(set(map(str, found))) > 1]
    numbers = all(isinstance(v, int | float) and not isinstance(v, bool) for name in names for v in values[name])
    places = {tuple(each[name] for name in names) for each in factors} if numbers else set()
    return names if len(places) == len(rows) else []


def _heat(figure: Figure, rows: Sequence[Finding], names: Sequence[str], metric: str) -> None:
    """A metric by two numeric factors: lighter is higher, the number in each place; none where there is no setting."""
    downs, acrosses = ([float(row.setting.factors[name]) for row in rows] for name in names)
    y, x = sorted(set(downs)), sorted(set(acrosses))
    mean = np.full((len(y), len(x)), np.nan)
    for row, down, across in zip(rows, downs, acrosses, strict=True):
        mean[y.index(down), x.index(across)] = row.measures[metric].mean
    axes = figure.subplots()
    image = axes.imshow(mean, cmap="cividis", aspect="auto", origin="lower", interpolation="nearest")
    middle = (float(np.nanmin(mean)) + float(np.nanmax(mean))) / 2
    if mean.size <= MOST_NUMBERS:
        for i, j in itertools.product(range(len(y)), range(len(x))):
            if not math.isnan(mean[i, j]):
                colour = "black" if mean[i, j] > middle else "white"
                axes.text(j, i, f"{mean[i, j]:.1f}", ha="center", va="center", fontsize=5, color=colour)
    axes.set_xticks(range(len(x)), [f"{value:g}" for value in x])
    axes.set_yticks(range(len(y)), [f"{value:g}" for value in y])
    axes.set_xlabel(names[1])
    axes.set_ylabel(names[0])
    figure.colorbar(image, ax=axes, shrink=0.8).set_label(f"{metric} (%)")


def _bars(figure: Figure, names: Sequence[str], values: Sequence[tuple[float, float, float]]) -> None:
    axes = figure.subplots()
    mean = np.array([value[0] for value in values])
    ends = np.array([(value[0] - value[1], value[2] - value[0]) for value in values]).T
    colours = [COLOURS[0] if value >= 0 else COLOURS[1] for value in mean]
    error = {"elinewidth": 0.6, "ecolor": INK}
    axes.barh(range(len(names)), mean, xerr=ends, color=colours, height=0.7, error_kw=error)
    axes.axvline(0, color=INK, linewidth=0.6)
    axes.set_yticks(range(len(names)), names, fontsize=5)
    axes.set_xlabel("points")


def _confusion(figure: Figure, folder: Path, top: Finding, test: str) -> None:
    label = top.setting.scored[test].test.label
    said = predicted(folder, top.setting, test)
    classes, index = np.unique(np.concatenate([label, said.ravel()]), return_inverse=True)
    own, told = index[: len(label)], index[len(label) :].reshape(said.shape)
    counts = np.sum([classified(own, row, len(classes)).confusion for row in told], 0)  # [C, C]
    share = 100 * counts / np.maximum(counts.sum(1, keepdims=True), 1)
    axes = figure.subplots()
    image = axes.imshow(share, cmap="cividis", vmin=0, vmax=100, interpolation="nearest")
    bar = figure.colorbar(image, ax=axes, shrink=0.8)
    bar.set_label("% of the class's rows")
    axes.set_xlabel("predicted class")
    axes.set_ylabel("class")
    if len(classes) <= 12:
        names = [_class_name(top, c) for c in classes]
        axes.set_xticks(range(len(classes)), names, rotation=90, fontsize=5)
        axes.set_yticks(range(len(classes)), names, fontsize=5)


def _class_name(row: Finding, c: int) -> str:
    names = row.setting.classnames
    return short(plain(names[c])) if c < len(names) else f"class {c}"


def _styles() -> Iterator[tuple[str, str]]:
    """Marker and line style of each line: no two lines share a marker, so that grey suffices."""
    return zip(itertools.cycle(MARKERS), itertools.cycle(DASHES), strict=False)


def _colours(layout: Layout) -> dict[str, str]:
    """By method: its colour, the same in all figures; given out in the order in which methods are first drawn."""
    drawn = [_unmarked(line.words[0]) for sheet in layout.wide for line in _shown_lines(sheet)]
    drawn += [row.method for group in layout.report.groups for row in _best_by_h(main_block(group)[1])]
    return dict(zip(dict.fromkeys(drawn), itertools.cycle(COLOURS), strict=False))


def _unmarked(name: str) -> str:
    """The method of a marked name."""
    return name.removesuffix(" (ORACLE)").rstrip(FALLBACK + TEST_TIME)


def _shown_lines(sheet: Sheet) -> list[Line]:
    """The lines of a curve: the best at its right end."""
    known = [line for line in sheet.lines if any(line.entries)]
    return sorted(known, key=lambda line: -(line.entries[-1].mean if line.entries[-1] else -math.inf))[:MOST_LINES]


def _best_by_h(rows: Sequence[Finding]) -> list[Finding]:
    known = [row for row in rows if {"base", "new", "H"} <= set(row.measures)]
    return sorted(known, key=lambda row: -row.measures["H"].mean)[:MOST_LINES]


def _legend(figure: Figure, axes: Axes) -> None:
    figure.legend(*axes.get_legend_handles_labels(), loc="outside lower center", ncols=2, frameon=False)


def _is_number(text: str) -> bool:
    try:
        return math.isfinite(float(text))
    except ValueError:
        return False
