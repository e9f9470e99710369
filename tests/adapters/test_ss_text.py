"""SS-Text against its equations written plainly, one class at a time."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from mma.adapters import AdapterError, Support, begin
from mma.adapters.ss_text import SimpleShotText

from .toy import toy


def uneven() -> Support:
    """Seven shots of the first class, one of the second, none of the last, three of the others."""
    support = toy(classes=5, shots=7, dtype=torch.float64).support
    kept = [row for k, n in enumerate((7, 1, 3, 3, 0)) for row in (support.label == k).nonzero()[:n, 0].tolist()]
    return replace(support, image=support.image[kept], label=support.label[kept])


@pytest.mark.parametrize("share", [1.0, 0.3])
@pytest.mark.parametrize("form", ["ss-text", "ss-text+"])
def test_the_weights_are_those_of_the_equations(form: str, share: float) -> None:
    support = uneven()
    total = len(support.label)
    blended = []
    for k, text in enumerate(support.text):
        shots = support.image[support.label == k]
        over_lam = max(1, len(shots)) if form == "ss-text+" else total
        blended.append(text + share * 100.0 / total * over_lam * shots.sum(0))
    mean = sum(blended, torch.zeros(())) / 5
    weights = []
    for v in blended:
        away = (2 * v - mean) / (2 * v - mean).norm() if form == "ss-text+" else 0
        weights.append((v - away) / (v - away).norm())
    adapter = SimpleShotText(form=form, share=share)  # type: ignore[arg-type]
    begin(adapter, support, seed=0)
    image = toy(dtype=torch.float64).test.image
    torch.testing.assert_close(adapter(image, support.text), 100 * image @ torch.stack(weights).mT)


def test_a_class_without_shots_keeps_its_text_in_the_plain_form() -> None:
    support = uneven()
    adapter = SimpleShotText(form="ss-text")
    begin(adapter, support, seed=0)
    torch.testing.assert_close(adapter.weight[4], support.text[4])


def test_the_pull_to_the_text_is_never_weaker_than_released() -> None:
    many = toy(classes=2, shots=1500, dtype=torch.float64).support  # 1 / 1500 and 1 / 3000 are below 1e-3
    for form in ("ss-text", "ss-text+"):
        adapter = SimpleShotText(form=form)  # type: ignore[arg-type]
        begin(adapter, many, seed=0)
        blended = torch.stack(
            [t + 100 / 3000 * 1000 * many.image[many.label == k].sum(0) for k, t in enumerate(many.text)]
        )
        if form == "ss-text+":
            blended = blended - torch.nn.functional.normalize(2 * blended - blended.mean(0), dim=-1)
        torch.testing.assert_close(adapter.weight, torch.nn.functional.normalize(blended, dim=-1), atol=1e-12, rtol=0)


def test_a_wrong_option_is_named_in_one_line() -> None:
    with pytest.raises(AdapterError, match="form = 'plus' is not one of"):
        SimpleShotText(form="plus")  # type: ignore[arg-type]
    with pytest.raises(AdapterError, match=r"share = -1\.0 is below 0"):
        SimpleShotText(share=-1.0)
