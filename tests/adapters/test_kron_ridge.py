from __future__ import annotations

from dataclasses import replace
from itertools import product

import numpy as np
import pytest
import torch
from sklearn.linear_model import Ridge as LinearRidge
from torch import Tensor
from torch.nn import functional

from mma.adapters import (
    AdapterError,
    Support,
    accuracy,
    fit,
    from_bytes,
    kron_ridge,
    predict,
    to_bytes,
    unit,
    zero_shot_logits,
)
from mma.adapters.kron_ridge import HeldOut, HyperParameters, KroneckerRidge, Ridge, choose, divisions
from mma.adapters.proker import Form, ProximalKernelRidge

from .toy import Toy, toy

KERNELS = list(product([0.0, 2.0], [0.0, 1.5], [0.0, 0.7]))  # beta, gamma, delta
OPEN: dict[str, float | None] = dict.fromkeys(HyperParameters._fields)


def problem(classes: int = 5, dim: int = 32) -> Toy:
    return toy(classes, shots=3, dim=dim, dtype=torch.float64)


def fitted(support: Support, **options: float | None) -> KroneckerRidge:
    adapter = KroneckerRidge(**options)  # type: ignore[arg-type]
    fit(adapter, support, adapter.recipe, seed=0)
    return adapter


def images(a: Tensor, b: Tensor, beta: float) -> Tensor:
    return a @ b.mT if beta == 0 else torch.exp(-beta * (1 - a @ b.mT))


def texts(a: Tensor, b: Tensor, support: Support, gamma: float) -> Tensor:
    centre = support.text.mean(0)
    return images(unit(a - centre), unit(b - centre), gamma)


def centred(scores: Tensor) -> Tensor:
    return scores - scores.mean(dim=1, keepdim=True)


def plain(
    support: Support, image: Tensor, text: Tensor | None, beta: float, gamma: float, delta: float, lam: float
) -> Tensor:
    """g [B, C] from the whole N C x N C system, solved as it stands; `text` of new classes, or None for the known."""
    rows, classes = len(support.image), len(support.text)
    own = texts(support.text, support.text, support, gamma) + delta * torch.eye(classes).double()
    target = functional.one_hot(support.label, classes).double()
    residual = centred(target) - centred(support.image @ support.text.mT)
    system = torch.kron(images(support.image, support.image, beta), own) + lam * torch.eye(rows * classes).double()
    solution = torch.linalg.solve(system, residual.flatten()).view(rows, classes)
    of_classes = own if text is None else texts(support.text, text, support, gamma)
    return images(image, support.image, beta) @ solution @ of_classes


@pytest.mark.parametrize(
    ("classes", "dim"), [(5, 32), (12, 8)]
)  # of twelve texts in eight dimensions C has no full rank
@pytest.mark.parametrize(("beta", "gamma", "delta"), KERNELS)
def test_it_solves_the_whole_system_of_pairs(beta: float, gamma: float, delta: float, classes: int, dim: int) -> None:
    data = problem(classes, dim)
    adapter = fitted(data.support, beta=beta, gamma=gamma, delta=delta, lam=0.3, w=0.4, w_new=0.2)
    for text, w in ((None, 0.4), (data.new_text, 0.2)):
        candidates = data.support.text if text is None else text
        learned = plain(data.support, data.test.image, text, beta, gamma, delta, 0.3)
        expected = zero_shot_logits(data.test.image, candidates, 100.0) + 100 * w * learned
        torch.testing.assert_close(predict(adapter, data.test.image, candidates), expected, atol=1e-9, rtol=0)


def without(support: Support, row: int) -> Support:
    kept = torch.arange(len(support.label)) != row
    return replace(support, image=support.image[kept], label=support.label[kept])


@pytest.mark.parametrize(("classes", "dim"), [(5, 32), (12, 8)])
@pytest.mark.parametrize(("beta", "gamma", "delta"), KERNELS)
def test_a_left_out_row_is_scored_as_by_a_fit_without_it(
    beta: float, gamma: float, delta: float, classes: int, dim: int
) -> None:
    support = problem(classes, dim).support
    rows = torch.arange(0, len(support.label), 4)
    expected = [
        plain(without(support, int(row)), support.image[row, None], None, beta, gamma, delta, 0.3) for row in rows
    ]
    left_out = Ridge.of(support, beta, gamma).left_out(delta, 0.3, rows)
    torch.testing.assert_close(left_out, torch.cat(expected), atol=1e-9, rtol=0)


@pytest.mark.parametrize(("beta", "gamma", "delta"), KERNELS)
def test_left_out_classes_are_scored_as_new_ones_by_a_fit_without_them(beta: float, gamma: float, delta: float) -> None:
    support = problem().support
    known, new = torch.tensor([0, 2, 3]), torch.tensor([4, 1])
    inside = torch.isin(support.label, known)
    label = torch.searchsorted(known, support.label[inside])
    others = Support(support.image[inside], label, support.text[known], 100.0)
    part = HeldOut.of(support, beta, gamma, new)
    in_order = support.text[[1, 4]]
    expected = plain(others, support.image[~inside], in_order, beta, gamma, delta, 0.3)
    torch.testing.assert_close(part.scores(delta, 0.3), expected, atol=1e-9, rtol=0)
    torch.testing.assert_close(part.prior, support.image[~inside] @ in_order.mT)
    assert part.label.tolist() == [int(k == 4) for k in support.label[~inside]]


@pytest.mark.parametrize(("form", "w"), [("derived", 1.0), ("released", 0.3)])  # the released form is lam times as much
def test_with_delta_alone_it_is_proker(form: Form, w: float) -> None:
    data = problem()
    proker = ProximalKernelRidge(beta=2.0, lam=0.3, form=form)
    fit(proker, data.support, proker.recipe, seed=0)
    huge = 1e9  # beside it the texts' kernel is nothing
    adapter = fitted(data.support, beta=2.0, delta=huge, lam=0.3 * huge, w=w)
    ours, theirs = (predict(each, data.test.image, data.support.text) for each in (adapter, proker))
    torch.testing.assert_close(centred(ours), centred(theirs), atol=1e-5, rtol=0)


def test_with_linear_kernels_alone_it_is_a_bilinear_map_with_a_ridge_penalty() -> None:
    data = problem(dim=6)
    support, lam = data.support, 0.3
    centre = support.text.mean(0)
    u, new = unit(support.text - centre), unit(data.new_text - centre)
    residual = centred(functional.one_hot(support.label, 5).double()) - centred(support.image @ support.text.mT)
    pairs = torch.einsum("nd,ce->ncde", support.image, u).reshape(-1, 36)  # x_i u_j' of every pair
    penalised = LinearRidge(alpha=lam, fit_intercept=False, tol=1e-12).fit(pairs.numpy(), residual.flatten().numpy())
    m = torch.from_numpy(np.asarray(penalised.coef_)).view(6, 6)
    adapter = fitted(support, beta=0.0, gamma=0.0, delta=0.0, lam=lam, w=1.0)
    for text, directions in ((support.text, u), (data.new_text, new)):
        expected = zero_shot_logits(data.test.image, text, 100.0) + 100 * data.test.image @ m @ directions.mT
        torch.testing.assert_close(predict(adapter, data.test.image, text), expected, atol=1e-7, rtol=0)


@pytest.mark.parametrize("options", [{"w": 0.0}, {"lam": float("inf")}])
def test_without_weight_or_under_an_infinite_penalty_it_is_zero_shot(options: dict[str, float]) -> None:
    data = problem()
    adapter = fitted(replace(data.support, new_classes=False), **options)
    for text in (data.support.text, data.new_text):
        logits = predict(adapter, data.test.image, text)
        assert torch.equal(logits, zero_shot_logits(data.test.image, text, 100.0))


def test_a_class_with_shots_keeps_its_weights_beside_new_ones() -> None:
    data = problem()
    adapter = fitted(data.support, beta=1.0, delta=1.0, lam=0.3, w=0.4, w_new=0.2)
    both = predict(adapter, data.test.image, torch.cat([data.new_text, data.support.text[1:3]]))
    torch.testing.assert_close(both[:, :-2], predict(adapter, data.test.image, data.new_text))
    torch.testing.assert_close(both[:, -2:], predict(adapter, data.test.image, data.support.text)[:, 1:3])


def test_landmarks_that_span_the_shots_approximate_nothing() -> None:
    data = problem()
    options = {"beta": 2.0, "delta": 1.0, "lam": 0.3, "w": 0.4, "w_new": 0.4}
    twice = replace(
        data.support, image=data.support.image.repeat_interleave(2, 0), label=data.support.label.repeat_interleave(2)
    )
    exact = fitted(twice, **options)
    spanned = fitted(twice, **options, landmarks=15)
    assert len(exact.points) == 30
    assert len(spanned.points) == 15
    for text in (data.support.text, data.new_text):
        torch.testing.assert_close(
            predict(spanned, data.test.image, text), predict(exact, data.test.image, text), atol=1e-6, rtol=0
        )


def test_only_a_large_support_is_spanned_by_fewer_shots(monkeypatch: pytest.MonkeyPatch) -> None:
    options = {"beta": 2.0, "delta": 1.0, "lam": 0.3, "w": 0.4, "w_new": 0.4}
    monkeypatch.setattr(kron_ridge, "LANDMARKS", 7)
    for exact, points in ((15, 15), (14, 7)):
        monkeypatch.setattr(kron_ridge, "EXACT", exact)
        assert len(fitted(problem().support, **options).points) == points


def test_what_is_chosen_has_the_best_accuracy_on_left_out_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    tried = {"beta": (1.0, 6.0), "delta": (0.0, 2.0), "lam": (3.0, 0.1), "w": (0.0, 0.1, 1.0), "w_new": (0.0,)}
    monkeypatch.setattr(kron_ridge, "TRIED", tried)
    support = problem().support
    rows = range(len(support.label))
    prior, scored = support.image @ support.text.mT, {}
    for beta, delta, lam in product(*(tried[name] for name in ("beta", "delta", "lam"))):
        left_out = torch.cat(
            [plain(without(support, row), support.image[row, None], None, beta, 0.0, delta, lam) for row in rows]
        )
        for w in tried["w"]:
            scored[beta, delta, lam, w] = accuracy(prior + w * left_out, support.label)
    chosen = fitted(support).setting.tolist()
    assert scored[tuple(chosen[:4])] == max(scored.values()) > min(scored.values())
    assert chosen[4] == chosen[3]  # where no new classes will be scored there is nothing to choose w_new by


def test_what_is_chosen_for_new_classes_has_the_best_harmonic_mean(monkeypatch: pytest.MonkeyPatch) -> None:
    tried = {"beta": (2.0,), "delta": (0.0, 2.0), "lam": (3.0, 0.1), "w": (0.0, 0.1, 1.0), "w_new": (0.0, 0.1, 1.0)}
    monkeypatch.setattr(kron_ridge, "TRIED", tried)
    support = replace(toy(8, shots=4, dim=16, dtype=torch.float64).support, new_classes=True)
    parts = [HeldOut.of(support, 2.0, 0.0, part) for part in divisions(support.label, 8)]
    ridge, prior, rows = Ridge.of(support, 2.0, 0.0), support.image @ support.text.mT, torch.arange(32)
    scored = {}
    for delta, lam, w, w_new in product(*(tried[name] for name in ("delta", "lam", "w", "w_new"))):
        base = accuracy(prior + w * ridge.left_out(delta, lam, rows), support.label)
        new = np.mean([accuracy(part.prior + w_new * part.scores(delta, lam), part.label) for part in parts])
        scored[delta, lam, w, w_new] = 2 * base * new / (base + new)
    chosen = choose(support, OPEN, 0.0)
    assert scored[chosen[1:]] == pytest.approx(max(scored.values()))
    assert scored[chosen[1:]] > min(scored.values())


def test_given_options_stay_and_only_the_rest_is_chosen() -> None:
    support = replace(problem().support, new_classes=True)
    assert fitted(support, beta=7.0, lam=0.07).setting[[0, 2]].tolist() == [7.0, 0.07]
    assert fitted(support, beta=7.0, delta=1, lam=0.07, w=0.3, w_new=0.2).setting.tolist() == [7.0, 1.0, 0.07, 0.3, 0.2]


def test_classes_are_held_out_two_or_more_at_a_time_leaving_two_or_more() -> None:
    for classes in range(1, 12):
        sizes = [len(part) for part in divisions(torch.arange(classes).repeat(2), classes)]
        assert (len(sizes) == 0) == (classes < 4)
        assert all(2 <= size <= classes - 2 for size in sizes)
        assert sum(sizes) == (5 * classes if classes >= 4 else 0)
    assert sum(len(part) for part in divisions(torch.arange(300), 300)) == 300


def test_of_too_few_classes_to_hold_some_out_rows_alone_choose() -> None:
    support = toy(3, dtype=torch.float64).support
    assert choose(replace(support, new_classes=True), OPEN, 0.0) == choose(support, OPEN, 0.0)


def test_validation_rows_change_nothing() -> None:
    data = toy()
    adapter = fitted(data.support)
    validated = KroneckerRidge()
    history = fit(validated, data.support, validated.recipe, seed=0, validation=data.validation)
    assert history.chosen == dict(zip(HyperParameters._fields, adapter.setting.tolist(), strict=True))
    assert torch.equal(validated.own, adapter.own)


def test_what_is_given_is_no_choice() -> None:
    adapter = fitted(toy().support, w=0.5, beta=1.0)
    assert list(adapter.choices()) == ["delta", "lam", "w_new"]
    assert adapter.choices()["lam"] == float(adapter.setting[2])


def test_logits_in_single_precision_are_those_in_double() -> None:
    """At scale 100, under the weakest penalty that is tried."""
    single, double = (toy(20, shots=16, dim=64, dtype=dtype) for dtype in (torch.float32, torch.float64))
    options = {"beta": 1.0, "delta": 10.0, "lam": 0.01, "w": 1.0}
    logits, exact = (
        predict(fitted(data.support, **options), data.test.image, data.support.text) for data in (single, double)
    )
    assert exact.std() > 5
    torch.testing.assert_close(logits.double(), exact, atol=5e-3, rtol=0)


def test_a_saved_fit_knows_what_was_chosen() -> None:
    adapter = fitted(toy().support)
    loaded = from_bytes(to_bytes(adapter))
    assert isinstance(loaded, KroneckerRidge)
    assert torch.equal(loaded.setting, adapter.setting)
    assert loaded.setting.dtype == torch.float64


def test_a_penalty_of_zero_is_refused() -> None:
    with pytest.raises(AdapterError, match=r"^lam = 0.0 is not above 0$"):
        KroneckerRidge(lam=0.0)
