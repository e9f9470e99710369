"""What is shown of an adapter's inside is what its plain form computes."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from mma.adapters import Adapter, Recipe, adapter_class, fit, predict, zero_shot_logits
from mma.adapters.base import blend
from mma.adapters.mma import MultiModalAdapter
from mma.adapters.plain.mma import PlainMultiModalAdapter, score_mask
from mma.adapters.plain.rada import PlainRAda
from mma.adapters.rada import RAda
from mma.adapters.toy import toy
from mma.pipeline.explaining.attention import attention_of
from mma.pipeline.explaining.channels import masked_by
from mma.pipeline.explaining.shots import rows_of_shots, said_by_shots
from mma.pipeline.explaining.words import degrees, toward_class

TIGHT = {"atol": 1e-9, "rtol": 1e-9}


def fitted(adapter: Adapter, epochs: int = 5) -> tuple[Adapter, Tensor, Tensor]:
    """An adapter after a few epochs, an image and the texts; in float64."""
    data = toy(dtype=torch.float64)
    fit(adapter, data.support, Recipe(lr=0.05, epochs=epochs), seed=0)
    return adapter.eval(), data.test.image[3], data.support.text


@pytest.mark.parametrize("mask", ["cross", "bias", "none", "within"])
def test_attention_is_what_torch_gives_for_the_plain_form(mask: str) -> None:
    adapter, image, text = fitted(MultiModalAdapter(mask=mask, lam_text=0.3))
    plain = PlainMultiModalAdapter(mask=mask, lam_text=0.3)
    plain.start(toy(dtype=torch.float64).support)
    plain.load_state_dict(adapter.state_dict())
    z = torch.cat([plain.lower(text), plain.lower(image[None])])[:, None]  # [C + 1, 1, W]
    _, weight = plain.mha(
        z, z, z, attn_mask=score_mask(mask, len(z)).to(z), need_weights=True, average_attn_weights=False
    )
    weight = weight[0]  # [H, C + 1, C + 1]
    found = attention_of(adapter, image, text)
    torch.testing.assert_close(found.to_prompts, weight[:, -1, :-1], **TIGHT)
    torch.testing.assert_close(found.to_itself, weight[:, -1, -1], **TIGHT)
    torch.testing.assert_close(found.gate, weight[:, :-1, -1], **TIGHT)


@pytest.mark.parametrize("mask", ["cross", "pair", "bias", "none", "within"])
def test_adapted_embeddings_are_those_of_the_plain_form(mask: str) -> None:
    adapter, image, text = fitted(MultiModalAdapter(mask=mask, lam_text=0.3))
    plain = PlainMultiModalAdapter(mask=mask, lam_text=0.3)
    plain.start(toy(dtype=torch.float64).support)
    plain.load_state_dict(adapter.state_dict())
    delta_image, delta_text = plain.deltas(image[None], text)
    found = attention_of(adapter, image, text)
    torch.testing.assert_close(found.image, blend(delta_image[0], image, 0.2), **TIGHT)
    torch.testing.assert_close(found.text, blend(delta_text[0], text, 0.3), **TIGHT)


@pytest.mark.parametrize("candidates", [None, 3])
def test_the_mask_is_that_of_the_plain_form_among_the_candidates(candidates: int | None) -> None:
    adapter, image, text = fitted(RAda(heads=2, candidates=candidates))
    plain = PlainRAda(heads=2)
    plain.start(toy(dtype=torch.float64).support)
    plain.load_state_dict(adapter.state_dict())
    found = masked_by(adapter, image, text)
    seen: list[Tensor] = []
    plain.out.register_forward_hook(lambda layer, given, out: seen.append(out))
    logits = plain(image[None], text[found.classes])[0]
    torch.testing.assert_close(found.mask, torch.relu(1 + seen[0][0]), **TIGHT)
    torch.testing.assert_close((found.mask * found.rational).sum(-1), logits, **TIGHT)
    unmasked, masked = found.shares(0, 1)
    torch.testing.assert_close(masked.sum(), logits[0] - logits[1], **TIGHT)
    torch.testing.assert_close(
        unmasked.sum(), adapter.logit_scale * (image @ text[found.classes[0]] - image @ text[found.classes[1]]), **TIGHT
    )


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("tip-adapter", {"alpha": 1.5, "beta": 2.0}),
        ("ape", {"alpha": 1.5, "beta": 2.0, "gamma": 0.4}),
        ("proker", {"beta": 1.0, "lam": 0.1}),
        ("kron-ridge", {}),
    ],
)
def test_zero_shot_and_what_the_shots_say_add_up_to_the_logits(name: str, options: dict[str, float]) -> None:
    adapter, image, text = fitted(adapter_class(name)(**options))
    said = said_by_shots(adapter, image, text)
    assert said is not None
    total = zero_shot_logits(image[None], text, adapter.logit_scale)[0] + said.sum(0)
    torch.testing.assert_close(total, predict(adapter, image[None], text)[0], **TIGHT)
    support = len(toy().support.label)
    assert rows_of_shots(adapter, said, support) == list(range(support))


def test_views_of_a_shot_are_of_its_row() -> None:
    assert rows_of_shots(adapter_class("proker")(), torch.zeros(6, 2), 3) == [0, 0, 1, 1, 2, 2]


def test_a_method_that_keeps_no_shots_says_nothing_by_them() -> None:
    adapter, image, text = fitted(adapter_class("clip-adapter")())
    assert said_by_shots(adapter, image, text) is None


def test_degrees_and_the_class_that_a_prompt_moves_toward() -> None:
    x, y = torch.eye(3)[:2]
    half = (x + y) / 2**0.5
    torch.testing.assert_close(degrees(half[None], x), torch.tensor([45.0]))
    prompts = torch.eye(3)
    moved = prompts.clone()
    moved[0] = half
    assert toward_class(moved, prompts)[0] == 1
