from __future__ import annotations

import pytest
import torch
from sklearn.kernel_ridge import KernelRidge
from torch.nn import functional

from mma.adapters import AdapterError, fit, predict, zero_shot_logits
from mma.adapters.proker import Form, ProximalKernelRidge

from .toy import toy


def test_the_derived_form_is_kernel_ridge_regression_on_what_zero_shot_leaves() -> None:
    data = toy(dtype=torch.float64)
    image, text = data.support.image, data.support.text
    adapter = ProximalKernelRidge(beta=2.0, lam=0.3, form="derived")
    fit(adapter, data.support, adapter.recipe, seed=0)
    residual = functional.one_hot(data.support.label, 5) - image @ text.mT
    # exp(-beta (1 - <x, x'>)) = exp(-beta / 2 |x - x'|^2) on unit vectors: scikit-learn's rbf with gamma = beta / 2
    ridge = KernelRidge(alpha=0.3, kernel="rbf", gamma=1.0).fit(image.numpy(), residual.numpy())
    expected = 100 * (data.test.image @ text.mT + torch.from_numpy(ridge.predict(data.test.image.numpy())))
    torch.testing.assert_close(predict(adapter, data.test.image, text), expected)


def test_the_released_form_is_the_published_equation() -> None:
    """f0(x) + k(x, X) (K / lam + I)^-1 (Y - f0(X)), as it stands."""
    data = toy(dtype=torch.float64)
    image, text, test = data.support.image, data.support.text, data.test.image
    adapter = ProximalKernelRidge(beta=2.0, lam=0.3)
    fit(adapter, data.support, adapter.recipe, seed=0)
    kernel, of_test = torch.exp(-2.0 * (1 - image @ image.mT)), torch.exp(-2.0 * (1 - test @ image.mT))
    residual = functional.one_hot(data.support.label, 5) - image @ text.mT
    correction = of_test @ torch.linalg.inv(kernel / 0.3 + torch.eye(len(image), dtype=torch.float64)) @ residual
    torch.testing.assert_close(predict(adapter, test, text), 100 * (test @ text.mT + correction))


@pytest.mark.parametrize(("form", "lam"), [("released", 1e-12), ("derived", 1e12)])
def test_each_form_has_zero_shot_at_one_end_of_lam(form: Form, lam: float) -> None:
    data = toy(dtype=torch.float64)
    adapter = ProximalKernelRidge(beta=2.0, lam=lam, form=form)
    fit(adapter, data.support, adapter.recipe, seed=0)
    expected = zero_shot_logits(data.test.image, data.support.text, 100.0)
    torch.testing.assert_close(predict(adapter, data.test.image, data.support.text), expected, atol=1e-6, rtol=0)


@pytest.mark.parametrize("form", ["released", "derived"])
def test_the_search_yields_what_forward_gives_but_for_the_scale(form: Form) -> None:
    data = toy(dtype=torch.float64)
    adapter = ProximalKernelRidge(form=form)
    adapter.start(data.support)
    for number, (values, logits) in enumerate(adapter.combinations(data.test.image, data.support.text)):
        if number % 17 == 0:
            given = ProximalKernelRidge(beta=values["beta"], lam=values["lam"], form=form)
            fit(given, data.support, given.recipe, seed=0)
            torch.testing.assert_close(predict(given, data.test.image, data.support.text), 100 * logits)


def test_the_search_spans_the_widest_published_ranges() -> None:
    beta, lam = ProximalKernelRidge.tunes["beta"], ProximalKernelRidge.tunes["lam"]
    assert (min(beta), max(beta), min(lam), max(lam)) == (0.1, 10.0, 0.001, 10.0)


def test_a_penalty_of_zero_is_refused() -> None:
    with pytest.raises(AdapterError, match=r"^lam = 0.0 is not above 0$"):
        ProximalKernelRidge(lam=0.0)
