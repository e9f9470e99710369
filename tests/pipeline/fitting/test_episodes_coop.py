"""`coop_draw` gives the rows that the published sampler gives."""

from __future__ import annotations

import random
from collections import defaultdict
from typing import NamedTuple

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mma.pipeline.fitting.coop import coop_draw


class Item(NamedTuple):
    """A row of a split file, as the published code carries it."""

    path: str
    label: int


def published(train: list[Item], val: list[Item], shots: int, seed: int) -> tuple[list[Item], list[Item]]:
    """What the published code does, step by step: CoOp's data sets call Dassl's sampler for train, then for val, on
    Python's global generator, which was seeded with the run's seed.
    """
    random.seed(seed)

    def sample(items: list[Item], count: int) -> list[Item]:
        tracker = defaultdict(list)
        for item in items:
            tracker[item.label].append(item)
        drawn: list[Item] = []
        for found in tracker.values():
            drawn.extend(random.sample(found, count) if len(found) >= count else found)
        return drawn

    return sample(train, shots), sample(val, min(shots, 4))


def items(labels: list[int], split: str) -> list[Item]:
    return [Item(f"{split}/{row}.jpg", label) for row, label in enumerate(labels)]


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.integers(0, 5), min_size=1, max_size=80),
    st.lists(st.integers(0, 5), min_size=1, max_size=40),
    st.sampled_from([1, 2, 4, 8, 16]),
    st.integers(0, 10_000),
)
def test_the_same_rows_come_out_in_the_same_order(train: list[int], val: list[int], shots: int, seed: int) -> None:
    state = random.getstate()
    support, validation = coop_draw(train, val, shots, seed)
    assert random.getstate() == state
    given_train, given_val = items(train, "train"), items(val, "val")
    assert validation is not None
    assert ([given_train[r] for r in support], [given_val[r] for r in validation]) == published(
        given_train, given_val, shots, seed
    )


def test_a_draw_of_known_labels_is_pinned() -> None:
    labels = [0, 1, 2] * 10
    support, validation = coop_draw(labels, labels, 2, 1)
    assert support.tolist() == [6, 3, 13, 4, 23, 29]
    assert validation is not None
    assert validation.tolist() == [21, 18, 10, 4, 23, 2]


def test_the_order_of_the_file_decides_as_much_as_the_seed() -> None:
    labels = np.repeat(np.arange(4), 10)
    one, _ = coop_draw(labels, None, 4, 1)
    other, _ = coop_draw(labels[::-1], None, 4, 1)
    assert labels[one].tolist() == [0] * 4 + [1] * 4 + [2] * 4 + [3] * 4
    assert labels[::-1][other].tolist() == [3] * 4 + [2] * 4 + [1] * 4 + [0] * 4
    assert not np.array_equal(one, coop_draw(labels, None, 4, 2)[0])


@pytest.mark.parametrize("shots", [1, 2, 4, 8, 16])
def test_a_class_gives_its_shots_or_all_it_has_and_validation_at_most_four(shots: int) -> None:
    train, val = np.repeat(np.arange(3), [2, 20, 20]), np.repeat(np.arange(3), 10)
    support, validation = coop_draw(train, val, shots, 0)
    assert np.bincount(train[support]).tolist() == [min(shots, 2), shots, shots]
    assert validation is not None
    assert np.bincount(val[validation]).tolist() == [min(shots, 4)] * 3
    assert coop_draw(train, None, shots, 0)[1] is None
