"""Every built-in adapter keeps what the contract promises, and adapters that break it are caught."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from mma.adapters import (
    Adapter,
    AdapterError,
    Shapes,
    Support,
    adapter_class,
    adapters,
    fit,
    options_of,
    zero_shot_logits,
)
from mma.adapters.checks import CHECKS, Known, check_adapter, checks
from mma.adapters.linear_probe import LinearProbe
from mma.adapters.zero_shot import ZeroShot

from .toy import toy

CASES = [  # an adapter, and options in place of its defaults where those take another path
    *adapters(),
    "mma lam_text=0",
    "mma lam_image=0",
    "mma mask=pair",
    "mma mask=bias",
    "mma mask=none",
    "mma mask=within",
    "clip-adapter side=text",
    "clip-adapter side=both",
    "rada queries=image",
    "rada queries=text",
    "rada queries=rational",
    "rada regulariser=l2",
    "rada candidates=3 all_up_to=2",
    "rada-adapter candidates=3 all_up_to=2",
    "linear-probe init=zero",
    "kron-ridge beta=0",
    "proker form=derived",
    "lp++ form=released",
    "ss-text form=ss-text",
]
QUICK = set(adapters()) - {"kron-ridge", "rada-ttt"}  # every adapter with its defaults, but for those that take seconds
OURS = {name for name, kind in adapters().items() if kind.__module__.startswith("mma.adapters.")}

# The options that switch a method off: its logits are then zero-shot CLIP's to the bit.
OFF: dict[str, dict[str, Any]] = {
    "zero-shot": {},
    "mma": {"lam": 0.0, "lam_text": None, "lam_image": None},
    "mm-mlp": {"lam": 0.0},
    "clip-adapter": {"ratio": 0.0},
    "taskres": {"alpha": 0.0},
    "tip-adapter": {"alpha": 0.0, "beta": 1.0},
    "tip-adapter-f": {"alpha": 0.0, "beta": 1.0},
    "gda": {"alpha": 0.0},
    "proker": {"lam": math.inf, "beta": 1.0, "form": "derived"},
    "kron-ridge": {"w": 0.0},
    "ape": {"alpha": 0.0, "beta": 1.0, "gamma": 0.0},
    "ss-text": {"form": "ss-text", "share": 0.0},
    "tda": {"alpha": 0.0, "negative_alpha": 0.0},
    "dmn": {"weight": 0.0},
    "transclip": {"iterations": 0},
    "transclip-fs": {"iterations": 0, "gamma": 0.01},
}
# These have no such option, but start there: zero-shot before the first step, but for rounding.
STARTS_OFF: dict[str, dict[str, Any]] = {
    "rada": {},
    "rada-adapter": {},
    "rla": {},
    "lfa": {"beta": 1.0},
    "ape-t": {"alpha": 0.0, "beta": 1.0},
    "prolip": {},
    "rada-projections": {},
    "linear-probe": {},
    "clap": {},
    "cross-modal": {},
    "rada-ttt": {"steps": 0},
}
NEITHER = {"lp++"}  # starts at the shots' sums, whatever the texts say
# These draw their weights at random. The others start at zero, the texts or the shots, or have no weights.
DRAWN = {"mma", "mm-mlp", "clip-adapter", "rada", "rada-adapter", "rada-projections", "rada-ttt"}
# A bias is drawn for each class: another class in its place gets another draw.
# And whatever the weight of the shots in the means, ten validation rows have the same answers.
BROKEN = {
    "lp++ form=released": {"permuting the classes permutes the logits"},
    "transclip-fs": {"no value of the grid beats what is chosen on validation"},
}
OTHER = {"queries": "image+text"}  # legal values of options whose type does not tell one


@pytest.mark.parametrize("case", [pytest.param(c, marks=() if c in QUICK else pytest.mark.slow) for c in CASES])
def test_an_adapter_keeps_every_promise(case: str) -> None:
    name, *typed = case.split()
    kind = adapter_class(name)
    accepted = {option.name: option for option in options_of(kind)}
    options = {key: accepted[key].parse(value) for key, value in (word.split("=") for word in typed)}
    known = Known(
        off=OFF.get(name),
        starts_off=None if case == "linear-probe init=zero" else STARTS_OFF.get(name),
        draws=name in DRAWN or case == "lp++ form=released" if name in OURS else None,
        other=OTHER,
    )
    found = list(checks(kind, known=known, **options))
    assert {check.name: check.message for check in found if not check.ok}.keys() == BROKEN.get(case, set())
    assert len(found) >= 17


@pytest.mark.parametrize("name", [name for name, kind in adapters().items() if kind.trains])
def test_every_named_recipe_trains_and_says_where_it_is_from(name: str) -> None:
    kind, data = adapter_class(name), toy()
    assert kind.recipe == next(iter(kind.recipes.values())).recipe
    for named in kind.recipes.values():
        assert named.source
        assert "\n" not in named.source
        assert named.select in ("val", "last")
        history = fit(kind(), data.support, replace(named.recipe, epochs=1), seed=0, validation=data.validation)
        assert len(history.loss) == 1


def test_every_adapter_can_be_zero_shot_or_is_known_not_to() -> None:
    assert set(OFF) | set(STARTS_OFF) | NEITHER == OURS


def test_every_check_has_an_adapter_that_it_concerns() -> None:
    concerned = set[str]()
    known = Known(off={}, starts_off={}, draws=True, other=OTHER)
    for name in ("zero-shot", "linear-probe", "mm-mlp", "gda", "tda", "transclip"):
        concerned |= {check.name for check in checks(adapter_class(name), known=known)}
    assert concerned == {check.__name__.replace("_", " ") for check in CHECKS}


class NotFinite(ZeroShot):
    def forward(self, image: Tensor, text: Tensor) -> Tensor:
        return super().forward(image, text).where(torch.tensor(False), torch.nan)


class Forgets(ZeroShot):
    def __init__(self, *, share: float = 0.5) -> None:
        super().__init__()
        self.share = 0.5


class PositionOfClass(ZeroShot):
    def forward(self, image: Tensor, text: Tensor) -> Tensor:
        return super().forward(image, text) + torch.arange(len(text)) / 100


class PositionOfImage(ZeroShot):
    def forward(self, image: Tensor, text: Tensor) -> Tensor:
        return super().forward(image, text) + torch.arange(len(image))[:, None] / 10


class LooksAtTheBatch(ZeroShot):
    def forward(self, image: Tensor, text: Tensor) -> Tensor:
        return super().forward(image, text) + image.mean(0) @ text.mT


class StreamOfNothing(ZeroShot):
    transductive = "stream"


class BatchOfNothing(ZeroShot):
    transductive = "batch"


class Idle(ZeroShot):
    trains = True

    def build(self, shapes: Shapes) -> None:
        super().build(shapes)
        self.weight = nn.Parameter(torch.zeros(1))


class UsesTheRandomState(ZeroShot):
    def forward(self, image: Tensor, text: Tensor) -> Tensor:
        torch.rand(1)
        return super().forward(image, text)


class SpoilsItsSupport(ZeroShot):
    def start(self, support: Support) -> None:
        super().start(support)
        support.image[0] = support.image[1]


class NotSaved(ZeroShot):
    def start(self, support: Support) -> None:
        super().start(support)
        self.shift = 0.01 * support.image.sum()

    def forward(self, image: Tensor, text: Tensor) -> Tensor:
        return super().forward(image, text) + self.shift


class OldClassesOnly(ZeroShot):
    class_free = False


class Guesses(ZeroShot):
    def forward(self, image: Tensor, text: Tensor) -> Tensor:
        return -super().forward(image, text)


class WrongGradient(LinearProbe):
    def loss(self, image: Tensor, text: Tensor, label: Tensor) -> Tensor:
        loss = super().loss(image, text, label)
        return 2 * loss - loss.detach()


class ViewsUnsaid(ZeroShot):
    def start(self, support: Support) -> None:
        super().start(support)
        if support.views is not None:
            self.logit_scale *= 2


class OpenByDefault(ZeroShot):
    tunes = {"share": (0.1, 0.2)}  # noqa: RUF012

    def __init__(self, *, share: float | None = 0.1) -> None:
        super().__init__()
        self.share = share


@pytest.mark.parametrize(
    ("kind", "promise"),
    [
        (NotFinite, "logits are finite and one per image and class"),
        (Forgets, "options survive json and the command line"),
        (OpenByDefault, "what is chosen on validation is an option that can be left open"),
        (Guesses, "more than half of an easy problem is solved"),
        (Idle, "weights are learned exactly if it trains"),
        (PositionOfClass, "permuting the classes permutes the logits"),
        (PositionOfImage, "permuting the images permutes the rows"),
        (LooksAtTheBatch, "an image does not depend on the rest of the test rows"),
        (StreamOfNothing, "in a stream a row depends on rows before it and on none after"),
        (BatchOfNothing, "in a batch every row depends on every other"),
        (NotSaved, "a saved adapter gives the same logits to the bit"),
        (OldClassesOnly, "weights of other classes are refused with the reason"),
        (WrongGradient, "gradients are those of finite differences"),
        (ViewsUnsaid, "views are used exactly where that is declared"),
        (UsesTheRandomState, "a fit leaves its support and the random state alone"),
        (SpoilsItsSupport, "a fit leaves its support and the random state alone"),
    ],
)
def test_an_adapter_that_breaks_a_promise_is_caught(kind: type[Adapter], promise: str) -> None:
    assert promise in [check.name for check in checks(kind) if not check.ok]
    with pytest.raises(AdapterError, match=f"^{kind.__name__} breaks the promise ") as refused:
        check_adapter(kind)
    assert "\n" not in str(refused.value)


def test_an_adapter_of_another_package_is_checked_without_being_registered() -> None:
    class Sound(ZeroShot):
        def forward(self, image: Tensor, text: Tensor) -> Tensor:
            return zero_shot_logits(image, text, self.logit_scale)

    check_adapter(Sound, known=Known(off={}, draws=False))


@pytest.mark.parametrize(
    ("known", "promise"),
    [
        (Known(off={}), "switched off it is exactly zero shot"),
        (Known(draws=True), "another seed gives other weights exactly where they are drawn"),
    ],
)
def test_what_the_author_knows_is_checked(known: Known, promise: str) -> None:
    with pytest.raises(AdapterError, match=f"^LinearProbe breaks the promise '{promise}'"):
        check_adapter(LinearProbe, known=known)
