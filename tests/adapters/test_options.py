from __future__ import annotations

from typing import Annotated, Any, Literal

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mma.adapters import Adapter, AdapterError, AdapterOption, options_of


class Sample(Adapter):
    def __init__(
        self,
        *,
        share: float = 0.5,
        heads: int = 4,
        rank: int | None = 8,
        alpha: float | None = None,
        side: Literal["left", "right"] = "left",
        shuffle: bool = True,
        name: str = "a",
    ) -> None:
        super().__init__()


OPTIONS = {option.name: option for option in options_of(Sample)}


def test_options_are_read_from_the_signature_in_its_order() -> None:
    assert list(OPTIONS.values()) == [
        AdapterOption("share", float, (), False, 0.5),
        AdapterOption("heads", int, (), False, 4),
        AdapterOption("rank", int, (), True, 8),
        AdapterOption("alpha", float, (), True, None),
        AdapterOption("side", str, ("left", "right"), False, "left"),
        AdapterOption("shuffle", bool, (), False, True),
        AdapterOption("name", str, (), False, "a"),
    ]


@pytest.mark.parametrize(
    ("name", "typed", "value"),
    [
        ("share", "0.25", 0.25),
        ("share", "1e-3", 1e-3),
        ("share", "inf", float("inf")),
        ("heads", "8", 8),
        ("rank", "none", None),
        ("rank", "None", None),
        ("alpha", "0", 0.0),
        ("side", "right", "right"),
        ("shuffle", "False", False),
        ("name", "image+text", "image+text"),
    ],
)
def test_what_is_typed_becomes_a_value(name: str, typed: str, value: Any) -> None:
    assert OPTIONS[name].parse(typed) == value


@pytest.mark.parametrize(
    ("name", "typed", "message"),
    [
        ("share", "much", "share = 'much' is not a number"),
        ("heads", "1.5", "heads = '1.5' is not a whole number"),
        ("heads", "none", "heads = 'none' is not a whole number"),
        ("side", "up", "side = 'up' is not one of left, right"),
        ("shuffle", "1", "shuffle = '1' is not true or false"),
    ],
)
def test_what_cannot_be_is_refused_in_one_line(name: str, typed: str, message: str) -> None:
    with pytest.raises(AdapterError, match=f"^{message}$"):
        OPTIONS[name].parse(typed)


@pytest.mark.parametrize(
    ("name", "given_value", "value"),
    [
        ("share", "0.25", 0.25),
        ("share", 1, 1.0),
        ("share", np.float32(0.5), 0.5),
        ("heads", 8, 8),
        ("heads", np.int64(8), 8),
        ("rank", None, None),
        ("rank", 4, 4),
        ("alpha", None, None),
        ("side", "right", "right"),
        ("shuffle", False, False),
        ("name", "b", "b"),
    ],
)
def test_a_value_is_taken_typed_or_from_python(name: str, given_value: Any, value: Any) -> None:
    taken = OPTIONS[name].value(given_value)
    assert taken == value
    assert type(taken) is type(value)


@pytest.mark.parametrize(
    ("name", "given_value", "message"),
    [
        ("heads", 4.7, "heads = 4.7 is not a whole number"),
        ("heads", True, "heads = True is not a whole number"),
        ("heads", None, "heads = None is not a whole number"),
        ("heads", "4.7", "heads = '4.7' is not a whole number"),
        ("rank", 4.0, "rank = 4.0 is not a whole number"),
        ("share", False, "share = False is not a number"),
        ("share", [0.5], r"share = \[0.5\] is not a number"),
        ("shuffle", 1, "shuffle = 1 is not true or false"),
        ("side", 1, "side = 1 is not one of left, right"),
        ("name", 1, "name = 1 is not a text"),
    ],
)
def test_a_value_of_another_kind_is_refused_in_one_line(name: str, given_value: Any, message: str) -> None:
    with pytest.raises(AdapterError, match=f"^{message}$") as refused:
        OPTIONS[name].value(given_value)
    assert refused.value.exit_code == 2


@pytest.mark.parametrize(
    ("name", "meaning"),
    [("share", "float"), ("rank", "int|none"), ("side", "left|right"), ("shuffle", "bool"), ("alpha", "float|none")],
)
def test_the_meaning_says_what_may_be_given(name: str, meaning: str) -> None:
    assert OPTIONS[name].meaning == meaning


@given(st.floats(allow_nan=False))
def test_every_number_survives_being_typed(value: float) -> None:
    assert OPTIONS["share"].parse(str(value)) == value


def test_help_stands_beside_an_option_and_may_be_left_out() -> None:
    class Helped(Adapter):
        def __init__(
            self,
            *,
            lam: Annotated[float, "weight, 0 to 1"] = 0.2,
            rank: Annotated[int, "inner dimension"] | None = None,
            mask: Annotated[Literal["a", "b"], "who sees whom"] = "a",
            plain: int = 3,
        ) -> None:
            super().__init__()

    found = {option.name: (option.meaning, option.help) for option in options_of(Helped)}
    assert found == {
        "lam": ("float", "weight, 0 to 1"),
        "rank": ("int|none", "inner dimension"),
        "mask": ("a|b", "who sees whom"),
        "plain": ("int", ""),
    }
