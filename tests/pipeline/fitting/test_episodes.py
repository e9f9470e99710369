from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mma.pipeline.errors import UsageError
from mma.pipeline.fitting.coop import coop_draw
from mma.pipeline.fitting.episodes import Labels, draw_episode, most_shots, natural_shots
from mma.pipeline.fitting.protocols import BaseToNew, Classes, FewShot, Rows, usual_protocol

FEW_SHOT = FewShot(shots=4)


def split_classes(count: int, protocol: BaseToNew) -> dict[str, Rows]:
    return {test.name: test.classes for test in protocol.tests(names(count))}


def labels_of(counts: dict[str, list[int]], failed: tuple[int, ...] = ()) -> dict[str, Labels]:
    """Labels of splits with so many rows per class; `failed` are train rows without an embedding."""
    found = {}
    for split, rows in counts.items():
        label = np.repeat(np.arange(len(rows), dtype=np.int32), rows)
        ok = np.ones(len(label), bool)
        if split == "train":
            ok[list(failed)] = False
        found[split] = Labels.of(label, ok, len(rows))
    return found


def names(count: int) -> list[Classes]:
    return [Classes("small", [f"class {c}" for c in range(count)])]


@given(st.integers(2, 12), st.integers(0, 1000), st.integers(1, 8), st.integers(1, 8))
def test_a_smaller_support_is_inside_a_larger_one_and_has_exactly_its_shots(
    classes: int, seed: int, few: int, more: int
) -> None:
    labels = labels_of({"train": [20] * classes, "val": [5] * classes, "test": [3] * classes})
    few, more = sorted((few, more))
    small = draw_episode([labels], names(classes), FewShot(shots=few), seed)
    large = draw_episode([labels], names(classes), FewShot(shots=more), seed)
    assert set(small.support.rows) <= set(large.support.rows)
    assert np.array_equal(np.bincount(small.support.label, minlength=classes), np.full(classes, few))
    assert np.array_equal(small.support.rows // 20, small.support.label)


@given(st.integers(2, 8), st.integers(0, 1000), st.integers(1, 10))
def test_validation_from_left_over_train_rows_never_meets_the_support(classes: int, seed: int, shots: int) -> None:
    labels = labels_of({"train": [15] * classes, "test": [3] * classes})
    episode = draw_episode([labels], names(classes), FewShot(shots=shots), seed)
    assert episode.validation is not None
    assert not set(episode.validation.rows) & set(episode.support.rows)
    assert np.array_equal(np.bincount(episode.validation.label), np.full(classes, min(shots, 4)))


def test_a_class_is_drawn_the_same_whatever_other_classes_there_are() -> None:
    two = draw_episode([labels_of({"train": [9, 9], "val": [4] * 2, "test": [1] * 2})], names(2), FEW_SHOT, 3)
    five = draw_episode([labels_of({"train": [9] * 5, "val": [4] * 5, "test": [1] * 5})], names(5), FEW_SHOT, 3)
    assert np.array_equal(two.support.rows, five.support.rows[: len(two.support.rows)])


def test_seeds_draw_different_supports_and_the_same_seed_the_same() -> None:
    labels = labels_of({"train": [30] * 3, "val": [4] * 3, "test": [2] * 3})
    first, again, other = (draw_episode([labels], names(3), FEW_SHOT, seed).support.rows for seed in (0, 0, 1))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)


def test_base_is_the_first_half_of_the_classes_rounded_up_unless_floor_is_asked_for() -> None:
    ceil, floor = (split_classes(47, BaseToNew(base_rule=rule)) for rule in ("ceil", "floor"))
    assert (len(ceil["base"]), len(ceil["new"])) == (24, 23)
    assert (len(floor["base"]), len(floor["new"])) == (23, 24)
    assert np.array_equal(np.concatenate([ceil["base"], ceil["new"]]), np.arange(47))


@pytest.mark.parametrize(("ratio", "base"), [(1, 10), (3, 15), (4, 16), (9, 18)])
def test_the_base_ratio_sets_base_against_new(ratio: float, base: int) -> None:
    assert len(split_classes(20, BaseToNew(base_ratio=ratio))["base"]) == base


def test_each_test_has_only_its_own_classes_as_candidates_and_all_their_rows() -> None:
    labels = labels_of({"train": [5] * 5, "val": [4] * 5, "test": [3] * 5})
    episode = draw_episode([labels], names(5), BaseToNew(shots=2), 0)
    base, new = episode.tests
    assert np.array_equal(episode.classes, base.candidates.classes)
    assert np.array_equal(base.rows, np.arange(9))
    assert np.array_equal(new.rows, np.arange(9, 15))
    assert set(episode.support.label) == {0, 1, 2}


def test_rows_without_an_embedding_are_never_drawn() -> None:
    labels = labels_of({"train": [6, 6], "val": [4, 4], "test": [2, 2]}, failed=(0, 1, 7))
    for seed in range(20):
        rows = draw_episode([labels], names(2), FEW_SHOT, seed).support.rows
        assert not {0, 1, 7} & set(rows)


def test_a_class_with_too_few_images_is_named_with_the_shots_that_work() -> None:
    labels = labels_of({"train": [20, 3], "val": [4, 4], "test": [2, 2]})
    with pytest.raises(UsageError, match=r"'class 1' has 3 usable training images, fewer than 4 shots: use `shots=3`"):
        draw_episode([labels], names(2), FEW_SHOT, 0)


def test_no_rows_left_for_validation_is_refused_with_the_two_ways_out() -> None:
    labels = labels_of({"train": [4, 4], "test": [2, 2]})
    with pytest.raises(UsageError, match="`shots=3` or fewer, or `select=last`"):
        draw_episode([labels], names(2), FEW_SHOT, 0)
    assert draw_episode([labels], names(2), FEW_SHOT, 0, validate=False).validation is None


def test_default_shots_are_sixteen_or_what_leaves_something_to_validate_on() -> None:
    assert most_shots(labels_of({"train": [50] * 2, "test": [1] * 2}), FewShot()) == 16
    assert most_shots(labels_of({"train": [50, 12], "val": [4] * 2, "test": [1] * 2}), FewShot()) == 12
    assert most_shots(labels_of({"train": [50, 12], "test": [1] * 2}), FewShot()) == 8


@given(st.integers(2, 10), st.integers(0, 100), st.sampled_from([0.1, 0.25, 0.5, 1.0]))
def test_label_noise_replaces_its_share_of_labels_with_wrong_ones_on_the_same_rows(
    classes: int, seed: int, share: float
) -> None:
    labels = labels_of({"train": [8] * classes, "val": [4] * classes, "test": [1] * classes})
    clean = draw_episode([labels], names(classes), FewShot(shots=8), seed)
    noisy = draw_episode([labels], names(classes), FewShot(shots=8, label_noise=share), seed)
    assert np.array_equal(clean.support.rows, noisy.support.rows)
    assert (clean.support.label != noisy.support.label).sum() == round(share * 8 * classes)
    assert set(noisy.support.label) <= set(range(classes))


def test_imbalance_runs_from_all_shots_down_to_their_share() -> None:
    labels = labels_of({"train": [16] * 9, "val": [4] * 9, "test": [1] * 9})
    episode = draw_episode([labels], names(9), FewShot(shots=16, imbalance=8), 0)
    counts = np.sort(np.bincount(episode.support.label))
    assert (counts[0], counts[-1]) == (2, 16)


@pytest.mark.parametrize(
    "wrong", [{"draws": "few"}, {"base_rule": "round"}, {"label_noise": 1.5}, {"imbalance": 0.5}, {"base_ratio": 0}]
)
def test_a_protocol_that_cannot_be_is_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(UsageError):
        BaseToNew(**wrong)  # type: ignore[arg-type]


def test_coop_splits_are_the_published_draws_of_all_classes_then_the_rows_of_those_trained_on() -> None:
    labels = labels_of({"train": [9] * 5, "val": [6] * 5, "test": [2] * 5})
    support, validation = coop_draw(labels["train"].label, labels["val"].label, 4, 1)
    whole = draw_episode([labels], names(5), FewShot(shots=4, draws="coop"), 1)
    assert whole.validation is not None
    assert validation is not None
    assert np.array_equal(whole.support.rows, support)
    assert np.array_equal(whole.validation.rows, validation)
    base = draw_episode([labels], names(5), BaseToNew(shots=4, draws="coop"), 1)
    assert np.array_equal(base.support.rows, support[support < 27])


def test_coop_splits_refuse_a_draw_without_an_embedding_and_a_missing_val_split() -> None:
    labels = labels_of({"train": [5] * 3, "val": [4] * 3, "test": [2] * 3}, failed=(0,))
    drawing = next(seed for seed in range(20) if 0 in coop_draw(labels["train"].label, None, 4, seed)[0])
    with pytest.raises(UsageError, match="draws row 0 of train, which has no embedding"):
        draw_episode([labels], names(3), FewShot(shots=4, draws="coop"), drawing)
    without = labels_of({"train": [8] * 3, "test": [2] * 3})
    with pytest.raises(UsageError, match="there is none: use `select=last`"):
        draw_episode([without], names(3), FewShot(shots=4, draws="coop"), 0)


def test_base_to_new_needs_two_classes_a_side() -> None:
    assert [len(classes) for classes in split_classes(4, BaseToNew()).values()] == [2, 2]
    with pytest.raises(UsageError, match="two or more of each: use `protocol=few-shot`"):
        split_classes(3, BaseToNew())


@pytest.mark.parametrize(
    ("dataset", "classes", "targets", "protocol", "why"),
    [
        ("dtd", 47, 0, "base-to-new", "dtd is a published data set"),
        ("stanford_cars_vitb32", 196, 0, "base-to-new", "stanford_cars_vitb32 is a published data set"),
        ("imagenet-a-limit50", 200, 0, "base-to-new", "imagenet-a-limit50 is a published data set"),
        ("shapes", 24, 0, "base-to-new", "shapes is a published data set"),
        ("photos", 3, 0, "few-shot", "photos is none of the published data sets"),
        ("dtdx", 47, 0, "few-shot", "dtdx is none of the published data sets"),
        ("dtd", 3, 0, "few-shot", "the 3 classes of dtd leave none to hold out as new ones"),
        ("photos", 40, 1, "cross-dataset", "there are targets"),
    ],
)
def test_the_protocol_where_none_is_given_is_base_to_new_for_published_data_alone(
    dataset: str, classes: int, targets: int, protocol: str, why: str
) -> None:
    assert usual_protocol(dataset, classes, targets) == (protocol, why)


@given(st.lists(st.integers(1, 30), min_size=2, max_size=10), st.data())
def test_natural_shots_follow_the_classes_and_contain_smaller_draws(counts: list[int], data: st.DataObject) -> None:
    few, more = sorted(data.draw(st.integers(len(counts), sum(counts))) for _ in range(2))
    small, large = (natural_shots(np.array(counts), total) for total in (few, more))
    assert (small.sum(), large.sum()) == (few, more)
    assert (small >= 1).all()
    assert (small <= large).all()
    assert (large <= counts).all()
    order = np.argsort(counts, kind="stable")
    assert (np.diff(large[order]) >= -1).all()  # a larger class has no fewer, but for a tie


def test_a_natural_support_has_the_sizes_of_the_data_set_and_the_total_of_an_equal_one() -> None:
    counts = [40, 20, 10, 2]
    labels = labels_of({"train": counts, "val": counts, "test": [2] * 4})
    episode = draw_episode([labels], names(4), FewShot(shots=9, supports="natural"), 0)
    assert np.bincount(episode.support.label).tolist() == [20, 10, 5, 1]  # 36 rows, as 40 : 20 : 10 : 2
    assert episode.validation is not None
    assert np.bincount(episode.validation.label).tolist() == [4, 4, 4, 1]


def test_a_natural_support_may_leave_a_class_without_validation_rows_and_is_refused_past_all_rows() -> None:
    labels = labels_of({"train": [30, 1], "test": [2] * 2})
    episode = draw_episode([labels], names(2), FewShot(shots=4, supports="natural"), 0)
    assert np.bincount(episode.support.label).tolist() == [7, 1]
    assert episode.validation is not None
    assert set(episode.validation.label.tolist()) == {0}
    assert most_shots(labels, FewShot(supports="natural"), validate=False) == 15
    with pytest.raises(UsageError, match="31 usable training images, fewer than 16 x 2 classes: use `shots=15`"):
        draw_episode([labels], names(2), FewShot(shots=16, supports="natural"), 0, validate=False)
    with pytest.raises(UsageError, match="has class sizes of its own"):
        FewShot(supports="natural", imbalance=2)


def test_without_validation_rows_the_support_may_have_every_row() -> None:
    labels = labels_of({"train": [50, 12], "test": [1] * 2})
    assert most_shots(labels, FewShot(), validate=False) == 12
