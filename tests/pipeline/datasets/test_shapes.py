"""`shapes` is a fixed, balanced data set although no file of it exists."""

from __future__ import annotations

import hashlib
from collections import Counter

import numpy as np
import pytest

from mma.pipeline.datasets.shapes import FORMS, HUES, SIDE, DrawnSplit, draw_form, shapes


def digest(split: DrawnSplit, row: int) -> str:
    return hashlib.sha256(split.read(row).tobytes()).hexdigest()


def split_of(name: str, seed: int = 0) -> DrawnSplit:
    split = shapes(seed).splits[name]
    assert isinstance(split, DrawnSplit)
    return split


def test_a_row_is_rgb_bytes() -> None:
    pixels = split_of("train").read(0)
    assert pixels.dtype == np.uint8
    assert pixels.shape == (SIDE, SIDE, 3)


def test_pixels_do_not_depend_on_the_order_of_reading() -> None:
    rows = [5, 1199, 0, 600]
    forwards = [digest(split_of("test"), row) for row in rows]
    backwards = [digest(split_of("test"), row) for row in reversed(rows)]
    assert forwards == backwards[::-1]


def test_another_seed_gives_other_images_of_the_same_classes() -> None:
    one, two = split_of("val", seed=0), split_of("val", seed=1)
    assert all(digest(one, row) != digest(two, row) for row in range(20))
    assert one.paths == two.paths
    np.testing.assert_array_equal(one.labels, two.labels)


@pytest.mark.slow
def test_no_image_occurs_twice_within_or_across_splits() -> None:
    splits = [split_of(name) for name in ("train", "val", "test")]
    seen = Counter(digest(split, row) for split in splits for row in range(len(split.paths)))
    assert seen.total() == sum(len(split.paths) for split in splits) > 3000
    assert max(seen.values()) == 1


@pytest.mark.parametrize(("name", "rows"), [("train", 32), ("val", 8), ("test", 25)])
def test_every_class_has_equally_many_rows_named_after_it(name: str, rows: int) -> None:
    dataset, split = shapes(), split_of(name)
    assert len(dataset.classnames) == len(set(dataset.classnames)) == 48
    assert split.labels.dtype == np.int32
    np.testing.assert_array_equal(np.bincount(split.labels, minlength=48), rows)
    assert len(set(split.paths)) == len(split.paths) == len(split.labels)
    for path, label in zip(split.paths, split.labels, strict=True):
        assert path.split("/")[:2] == [name, dataset.classnames[label]]


def test_splits_come_in_order_train_val_test() -> None:
    assert list(shapes().splits) == ["train", "val", "test"]


def test_base_and_new_classes_each_hold_every_colour_and_every_form_equally_often() -> None:
    names = shapes().classnames
    for half in (names[:24], names[24:]):
        words = Counter(word for name in half for word in name.split())
        assert all(words[colour] == len(FORMS) / 2 for colour in HUES)
        assert all(words[form] == len(HUES) / 2 for form in FORMS)


def test_the_picture_shows_the_colour_it_is_named_after() -> None:
    """The most saturated pixels have the class's hue."""
    for colour, (hue, _) in HUES.items():
        for seed in range(10):
            pixels = draw_form(colour, "circle", np.random.default_rng(seed)).reshape(-1, 3).astype(float)
            vivid = pixels[np.argsort(np.ptp(pixels, axis=1))[-100:]].mean(0)
            r, g, b = vivid / vivid.max()
            angle = np.arctan2(np.sqrt(3) * (g - b), 2 * r - g - b) / (2 * np.pi)
            assert abs((angle - hue + 0.5) % 1 - 0.5) < 0.08, (colour, seed)


def test_an_unknown_form_is_refused_by_name() -> None:
    with pytest.raises(KeyError, match="dodecagon"):
        draw_form("red", "dodecagon", np.random.default_rng(0))
