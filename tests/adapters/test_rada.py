from __future__ import annotations

import subprocess
import sys
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor
from torch.nn import functional

from mma.adapters import AdapterError, Support, predict
from mma.adapters import blocks as blocks_module
from mma.adapters.plain.rada import QUERIES, PlainRAda
from mma.adapters.rada import RAda

from .toy import Toy, toy

PUBLISHED = {
    "q_proj1": "q_image",
    "q_proj2": "q_text",
    "q_proj3": "q_rational",
    "k_proj": "key",
    "v_proj": "value",
    "out_proj": "out",
}
SUBSETS = ["+".join(names) for count in (1, 2, 3) for names in combinations(QUERIES, count)]


LARGE_STEP = """
import pathlib, torch
from mma.adapters import Support, unit
from mma.adapters.rada import RAda

torch.set_num_threads(2)
image, text, label = unit(torch.randn(32, 512)), unit(torch.randn(1000, 512)), torch.randint(1000, (32,))
adapter = RAda(candidates=None)
adapter.start(Support(image, label, text, 100.0))
optimizer = adapter.optimizer(adapter.recipe)
adapter.loss(image, text, label).backward()
optimizer.step()
print(pathlib.Path("/proc/self/status").read_text())
"""


@pytest.fixture(scope="module")
def golden(shared: Path) -> dict[str, Tensor]:
    return load_file(shared / "golden" / "rada.safetensors")


def under_our_names(golden: dict[str, Tensor], part: str) -> dict[str, Tensor]:
    found = {}
    for key, tensor in golden.items():
        if key.startswith(f"{part}."):
            _, module, kind = key.split(".")
            found[f"{PUBLISHED[module]}.{kind}"] = tensor
    return found


def loaded(golden: dict[str, Tensor]) -> RAda:
    adapter = RAda(alpha=0.1, temperature=1.0, regulariser="linf", candidates=None)
    adapter.start(Support(golden["image"], golden["label"], golden["text"], 100.0))
    adapter.load_state_dict(under_our_names(golden, "init"))
    return adapter


def perturbed(kind: type[PlainRAda], data: Toy, **options: Any) -> PlainRAda:
    """Started from the same weights whatever the kind, the output's among them."""
    torch.manual_seed(0)
    adapter = kind(**options)
    adapter.start(data.support)
    torch.nn.init.normal_(adapter.out.weight, std=0.1)
    torch.nn.init.normal_(adapter.out.bias, std=0.1)
    return adapter


def test_published_logits_losses_and_gradients_are_reproduced(golden: dict[str, Tensor]) -> None:
    adapter = loaded(golden)
    logits, distance = adapter.masked(golden["image"], golden["text"], regularised=True)
    torch.testing.assert_close(logits, golden["logits"], atol=1e-4, rtol=0)
    torch.testing.assert_close(distance.mean(), golden["loss_reg"], atol=1e-5, rtol=0)
    torch.testing.assert_close(functional.cross_entropy(logits, golden["label"]), golden["loss_ce"], atol=1e-4, rtol=0)
    adapter.loss(golden["image"], golden["text"], golden["label"]).backward()
    gradients = under_our_names(golden, "grad")
    for name, weight in adapter.named_parameters():
        assert weight.grad is not None
        assert (weight.grad - gradients[name]).norm() <= 1e-3 * gradients[name].norm(), name


def test_published_training_run_is_reproduced(golden: dict[str, Tensor]) -> None:
    adapter = loaded(golden)
    optimizer = torch.optim.Adam(adapter.parameters(), lr=1e-3)
    for expected in golden["loss_curve"]:
        optimizer.zero_grad()
        loss = adapter.loss(golden["image"], golden["text"], golden["label"])
        torch.testing.assert_close(loss.detach(), expected, atol=2e-3, rtol=0)
        loss.backward()
        optimizer.step()
    torch.testing.assert_close(
        predict(adapter, golden["image"], golden["text"]), golden["logits_final"], atol=1e-2, rtol=0
    )


def test_published_number_of_weights() -> None:
    adapter = RAda()
    adapter.start(Support(torch.eye(512)[:2], torch.arange(2), torch.eye(512)[:2], 100.0))
    assert sum(weight.numel() for weight in adapter.parameters()) == 1_575_936


@pytest.mark.parametrize("regulariser", ["linf", "l2"])
@pytest.mark.parametrize("queries", SUBSETS)
def test_the_lean_form_is_the_plain_form(queries: str, regulariser: str) -> None:
    data = toy(dtype=torch.float64)
    options = {"queries": queries, "regulariser": regulariser, "temperature": 0.7, "alpha": 0.3}
    rows = data.test.image, data.support.text, data.test.label
    results = []
    for kind in (RAda, PlainRAda):
        adapter = perturbed(kind, data, **options)
        loss = adapter.loss(*rows)
        results.append([adapter(*rows[:2]), loss, *torch.autograd.grad(loss, list(adapter.parameters()))])
    for lean, plain in zip(*results, strict=True):
        torch.testing.assert_close(lean, plain)


@pytest.mark.parametrize("candidates", [None, 3])
@pytest.mark.parametrize("queries", ["image", "image+text+rational"])
def test_blocks_change_neither_logits_nor_gradients(
    queries: str, candidates: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = toy(dtype=torch.float64)
    adapter = perturbed(RAda, data, queries=queries, candidates=candidates, all_up_to=0)
    rows = data.test.image, data.support.text, data.test.label
    whole = torch.autograd.grad(adapter.loss(*rows), list(adapter.parameters()))
    monkeypatch.setattr(blocks_module, "BLOCK", 3 * adapter.floats_per_image(data.support.text))
    for kept in (blocks_module.KEPT, 0):  # a block's own numbers are kept, or worked out again
        monkeypatch.setattr(blocks_module, "KEPT", kept)
        apart = torch.autograd.grad(adapter.loss(*rows), list(adapter.parameters()))
        for one, other in zip(whole, apart, strict=True):
            torch.testing.assert_close(one, other)


@pytest.mark.parametrize("candidates", [5, 6, None])
def test_with_as_many_candidates_as_classes_it_is_the_published_form_to_the_bit(candidates: int | None) -> None:
    data = toy()  # five classes
    few, whole = perturbed(RAda, data, candidates=candidates, all_up_to=0), perturbed(RAda, data, candidates=None)
    rows = data.test.image, data.support.text, data.test.label
    assert torch.equal(few(*rows[:2]), whole(*rows[:2]))
    assert torch.equal(few.loss(*rows), whole.loss(*rows))


@pytest.mark.parametrize("regulariser", ["linf", "l2"])
@pytest.mark.parametrize("queries", SUBSETS)
def test_among_candidates_it_is_the_plain_form_on_those_classes_and_zero_shot_on_others(
    queries: str, regulariser: str
) -> None:
    data = toy(classes=7, dtype=torch.float64)
    options = {"queries": queries, "regulariser": regulariser, "alpha": 0.3}
    few, plain = perturbed(RAda, data, candidates=3, all_up_to=6, **options), perturbed(PlainRAda, data, **options)
    text, image, label = data.support.text, data.test.image, data.test.label
    logits, losses = [], []
    for x, y in zip(image, label.tolist(), strict=True):
        nearest = (text @ x).argsort(descending=True)[:3].tolist()
        apart = 100 * text @ x
        logits.append(apart.index_put((torch.tensor(nearest),), plain(x[None], text[nearest])[0]))
        learned = nearest if y in nearest else [*nearest[:2], y]
        masked, distance = plain.masked(x[None], text[learned], regularised=True)
        score = apart.index_put((torch.tensor(learned),), masked[0])
        losses.append(score.logsumexp(0) - score[y] + 0.3 * distance[0])
    assert any(y not in (text @ x).topk(3).indices for x, y in zip(image, label, strict=True))
    loss, expected = few.loss(image, text, label), torch.stack(losses).mean()
    torch.testing.assert_close(few(image, text), torch.stack(logits))
    torch.testing.assert_close(loss, expected)
    ours, plainly = (
        torch.autograd.grad(total, list(of.parameters())) for total, of in ((loss, few), (expected, plain))
    )
    for one, other in zip(ours, plainly, strict=True):
        torch.testing.assert_close(one, other)


def test_of_few_classes_all_are_candidates() -> None:
    data = toy(classes=7)
    few, whole = perturbed(RAda, data, candidates=3, all_up_to=7), perturbed(RAda, data, candidates=None)
    rows = data.test.image, data.support.text
    assert torch.equal(few(*rows), whole(*rows))
    assert not torch.equal(perturbed(RAda, data, candidates=3, all_up_to=6)(*rows), whole(*rows))


def test_only_the_output_learns_in_the_first_step() -> None:
    data = toy()
    adapter = RAda()
    adapter.start(data.support)
    adapter.loss(data.support.image, data.support.text, data.support.label).backward()
    moved = {name for name, weight in adapter.named_parameters() if weight.grad is not None and weight.grad.any()}
    assert moved == {"out.weight", "out.bias"}


def test_a_logit_depends_on_which_classes_are_candidates() -> None:
    data = toy()
    adapter = perturbed(RAda, data)
    all_five = predict(adapter, data.test.image, data.support.text)
    three = predict(adapter, data.test.image, data.support.text[:3])
    assert not torch.allclose(all_five[:, :3], three, atol=1e-2)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"queries": "image+audio"}, "queries = 'audio' is not one of"),
        ({"queries": "text+text"}, "names a query twice"),
        ({"temperature": 0.0}, "temperature = 0.0 is not above 0"),
        ({"alpha": -1.0}, "alpha = -1.0 is below 0"),
        ({"regulariser": "l1"}, "regulariser = 'l1'"),
        ({"heads": 0}, "heads = 0"),
        ({"candidates": 1}, "candidates = 1 is below 2"),
    ],
)
def test_a_wrong_option_is_named_in_one_line(options: dict[str, Any], message: str) -> None:
    with pytest.raises(AdapterError, match=message):
        RAda(**options)


def test_heads_that_do_not_divide_the_dimension_are_refused() -> None:
    with pytest.raises(AdapterError, match="heads = 5 does not divide the 32 dimensions"):
        RAda(heads=5).start(toy().support)


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_a_step_at_a_thousand_classes_stays_under_three_gib() -> None:
    step = subprocess.run([sys.executable, "-c", LARGE_STEP], capture_output=True, text=True, check=True)
    status = dict(line.split(":", 1) for line in step.stdout.splitlines() if line)
    peak = int(status["VmHWM"].removesuffix("kB")) / 2**20  # getrusage's would be this process's where that is larger
    assert peak < 3  # the scores and maps of three queries for the whole batch alone would be 5.7
