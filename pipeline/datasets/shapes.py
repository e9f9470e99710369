"""`shapes`: coloured forms drawn on demand, the data set that needs no download.

48 classes, 6 colours x 8 forms ("red circle" ... "purple moon"). Size, place, rotation, fill, background, clutter,
light and noise vary. The pixels of a row depend on (seed, split, row) alone: any order of reading, nothing stored.
"""

from __future__ import annotations

import colorsys
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from mma.pipeline.datasets.base import NO_FILE, Dataset, Pixels, Stamp, no_stamps

Points = NDArray[np.float64]  # [n, 2], x then y, in units of the form's radius, y down
Plane = NDArray[np.float32]  # [SIDE, SIDE]

SIDE = 72  # pixels; a little more than the embedded model's 64, so that its resize is exercised
OVERSAMPLE = 4  # drawn this many times larger, then averaged: smooth edges
ROWS = {"train": 32, "val": 8, "test": 25}  # per class
TEMPLATES = ("a photo of a {}.",)

# Hue of each colour in turns, and how far it may stray to either side. All lean away from the textbook hue, red towards
# crimson, yellow towards amber: a name here means something a little else than where `tiny` learnt it, as names do.
HUES = {
    "red": (0.97, 0.015),
    "green": (0.41, 0.03),
    "blue": (0.57, 0.03),
    "yellow": (0.125, 0.015),
    "purple": (0.73, 0.025),
    "orange": (0.05, 0.012),
}
FORMS = ("circle", "square", "triangle", "star", "cross", "ring", "heart", "moon")

# The first half takes every other cell of the colour x form board, the second half the rest: base and new classes each
# have all colours and all forms, in other combinations.
_BOARD = [(colour, form) for colour in range(len(HUES)) for form in range(len(FORMS))]
CLASSES = tuple(
    (list(HUES)[colour], FORMS[form]) for half in (0, 1) for colour, form in _BOARD if (colour + form) % 2 == half
)

_Y, _X = np.mgrid[-1 : 1 : SIDE * 1j, -1 : 1 : SIDE * 1j].astype(np.float32)


def shapes(seed: int = 0) -> Dataset:
    """The data set drawn from `seed`; another seed gives other images of the same classes."""
    classnames = tuple(f"{colour} {form}" for colour, form in CLASSES)
    splits = {
        name: DrawnSplit((seed, index), name, classnames, rows) for index, (name, rows) in enumerate(ROWS.items())
    }
    notes = ("drawn by mma: no result on it is evidence",)
    return Dataset("shapes", classnames, TEMPLATES, splits, notes, made_by=f"seed {seed}")


class DrawnSplit:
    """One split, class by class; `read` draws the row."""

    def __init__(self, key: tuple[int, ...], name: str, classnames: Sequence[str], rows: int) -> None:
        self.key = key
        self.paths: Sequence[str] = [f"{name}/{classname}/{i:04d}" for classname in classnames for i in range(rows)]
        self.labels: NDArray[np.int32] = np.repeat(np.arange(len(classnames), dtype=np.int32), rows)

    def stamp(self, row: int) -> Stamp:
        """Rows are no files."""
        return NO_FILE

    def stamps(self) -> NDArray[np.int64]:
        """[N, 3] the stamps of all rows."""
        return no_stamps(len(self.paths))

    def read(self, row: int) -> Pixels:
        """The row's pixels, uint8 [SIDE, SIDE, 3]."""
        colour, form = CLASSES[self.labels[row]]
        return draw_form(colour, form, np.random.default_rng([*self.key, row]))


def draw_form(colour: str, form: str, rng: Generator) -> Pixels:
    """One picture of a coloured form, uint8 [SIDE, SIDE, 3]."""
    image = _background(rng)
    inside = _coverage(posed(form, pose(rng, size=(0.38, 0.72), turn=0.5)))[..., None]
    image += (_fill(colour, rng) - image) * inside
    image *= 1 + rng.uniform(0, 0.35) * _ramp(rng)[..., None]
    image += rng.uniform(0.01, 0.07) * rng.standard_normal(image.shape, dtype=np.float32)
    return (image.clip(0, 1) * 255 + 0.5).astype(np.uint8)


@dataclass(frozen=True)
class Pose:
    """Where a form lies: centre and radius in half sides of the picture, turn in radians, squeeze across."""

    x: float
    y: float
    radius: float
    turn: float
    squeeze: float


def pose(rng: Generator, size: tuple[float, float], turn: float) -> Pose:
    """A random pose whose form stays inside the picture; `size` bounds the radius, `turn` the rotation."""
    radius = rng.uniform(*size)
    x, y = rng.uniform(-1, 1, 2) * (0.97 - radius)
    return Pose(x, y, radius, rng.uniform(-turn, turn), rng.uniform(0.8, 1))


def posed(form: str, at: Pose) -> list[Points]:
    """The form's outlines in the picture's coordinates, -1 .. 1."""
    cos, sin = np.cos(at.turn), np.sin(at.turn)
    rotation = np.array([[cos, sin], [-sin, cos]])
    return [at.radius * (loop * [at.squeeze, 1]) @ rotation + [at.x, at.y] for loop in _OUTLINES[form]]


def _arc(start: float, stop: float, points: int = 48) -> Points:
    """Points of the unit circle between two angles in turns."""
    angle = 2 * np.pi * np.linspace(start, stop, points)
    return np.stack([np.cos(angle), np.sin(angle)], axis=1)


def _outlines(form: str) -> list[Points]:
    """The loops of a form: the first is filled, a second is a hole."""
    match form:
        case "circle":
            return [_arc(0, 1)]
        case "ring":
            return [_arc(0, 1), 0.55 * _arc(0, 1)]
        case "square":
            return [_arc(0.125, 0.875, 4)]
        case "triangle":
            return [_arc(-0.25, 0.75, 4)[:3]]
        case "star":
            return [_arc(-0.25, 0.75, 11)[:10] * np.where(np.arange(10) % 2, 0.42, 1)[:, None]]
        case "cross":
            a, b = 0.3, 0.95
            corners = [(-a, -b), (a, -b), (a, -a), (b, -a), (b, a), (a, a), (a, b), (-a, b), (-a, a), (-b, a), (-b, -a)]
            return [np.array([*corners, (-a, -a)])]
        case "heart":
            t = np.linspace(0, 2 * np.pi, 48)
            y = 13 * np.cos(t) - 5 * np.cos(2 * t) - 2 * np.cos(3 * t) - np.cos(4 * t)
            return [np.stack([np.sin(t) ** 3 * 16, -y - 2.5], axis=1) / 16]
        case "moon":  # a circle less a smaller one to its right, which meets it at the two horns
            horn = 0.14
            x, y = _arc(horn, horn, 1)[0] - [0.5, 0]
            inner = np.arctan2(y, x) / (2 * np.pi)
            bite = np.hypot(x, y) * _arc(1 - inner, inner) + [0.5, 0]
            return [np.concatenate([_arc(horn, 1 - horn), bite]) + np.array([0.15, 0])]
    raise ValueError(f"no form {form!r}: one of {', '.join(FORMS)}")


_OUTLINES = {form: _outlines(form) for form in FORMS}


def on_canvas(points: Points) -> list[tuple[float, float]]:
    """Points of the picture's -1 .. 1 square on the oversampled canvas."""
    return [(x, y) for x, y in ((points + 1) * (SIDE * OVERSAMPLE / 2)).tolist()]


def _shrunk(canvas: Image.Image) -> Plane:
    """The oversampled grey canvas at the picture's size, 0 .. 1."""
    return np.asarray(canvas.reduce(OVERSAMPLE), np.float32) / np.float32(255)


def _coverage(loops: Sequence[Points]) -> Plane:
    """How much of each pixel lies inside the form."""
    canvas = Image.new("L", (SIDE * OVERSAMPLE, SIDE * OVERSAMPLE))
    pen = ImageDraw.Draw(canvas)
    for loop, level in zip(loops, (255, 0), strict=False):
        pen.polygon(on_canvas(loop), fill=level)
    return _shrunk(canvas)


def _ramp(rng: Generator) -> Plane:
    """A slope across the picture in a random direction, about -1 .. 1."""
    angle = rng.uniform(0, 2 * np.pi)
    slope: Plane = np.float32(np.cos(angle)) * _X + np.float32(np.sin(angle)) * _Y
    return slope


def _pattern(rng: Generator) -> Plane:
    """Plain, stripes, checks or a slope, 0 .. 1."""
    kind, wave, phase, along = rng.integers(4), rng.uniform(8, 24), rng.uniform(0, 6), _ramp(rng)
    pattern = np.zeros_like(along)
    if kind == 1:
        pattern[np.sin(wave * along + phase) > 0] = 1
    elif kind == 2:
        pattern[np.sin(wave * _X + phase) * np.sin(wave * _Y) > 0] = 1
    elif kind == 3:
        pattern += (along + 1) / 2
    return pattern


def _fill(colour: str, rng: Generator) -> NDArray[np.float32]:
    """A patterned surface of the colour, [SIDE, SIDE, 3]: the pattern goes towards a darker or a paler shade."""
    hue, spread = HUES[colour]
    hue += rng.uniform(-spread, spread)
    ink = np.array(colorsys.hsv_to_rgb(hue % 1, rng.uniform(0.75, 1), rng.uniform(0.75, 1)), np.float32)
    shade = ink + np.float32(rng.uniform(0.2, 0.5)) * (rng.integers(2) - ink)
    return ink + _pattern(rng)[..., None] * (shade.astype(np.float32) - ink)


def _background(rng: Generator) -> NDArray[np.float32]:
    """Two dull colours in a pattern, under light and dark strokes and spots, [SIDE, SIDE, 3]."""
    inks = [colorsys.hsv_to_rgb(rng.random(), rng.uniform(0, 0.35), rng.uniform(0.15, 1)) for _ in range(2)]
    near, far = np.array(inks, np.float32)
    image = near + np.float32(rng.uniform(0.2, 1)) * _pattern(rng)[..., None] * (far - near)
    canvas = Image.new("L", (SIDE * OVERSAMPLE, SIDE * OVERSAMPLE), 128)
    pen = ImageDraw.Draw(canvas)
    for _ in range(rng.integers(2, 9)):
        level, width = int(rng.integers(0, 256)), int(rng.integers(4, 14))
        (x, y), (dx, dy) = rng.uniform(0, SIDE * OVERSAMPLE, 2), rng.uniform(-80, 80, 2)
        if rng.random() < 0.5:
            pen.line((x, y, x + dx, y + dy), fill=level, width=width)
        else:
            pen.ellipse((x, y, x + 2 * width, y + 2 * width), fill=level)
    clutter: NDArray[np.float32] = image + 0.7 * (_shrunk(canvas)[..., None] - 0.5)
    return clutter
