from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from sklearn.linear_model import LogisticRegression

from mma.adapters import AdapterError, Recipe, fit, predict
from mma.adapters.linear_probe import LinearProbe

from .toy import toy


@pytest.mark.slow
def test_trained_to_the_end_it_is_logistic_regression() -> None:
    data = toy(classes=3, shots=8, dim=8, dtype=torch.float64)
    support = replace(data.support, logit_scale=1.0)
    decay, rows = 0.01, len(support.label)
    probe = LinearProbe(init="zero")
    recipe = Recipe(optimizer="adam", lr=0.02, weight_decay=decay, batch=rows, epochs=1500, schedule="cosine")
    fit(probe, support, recipe, seed=0)
    regression = LogisticRegression(C=1 / (rows * decay), fit_intercept=False, tol=1e-10, max_iter=10_000)
    regression.fit(support.image.numpy(), support.label.numpy())
    expected = torch.from_numpy(regression.predict_log_proba(data.test.image.numpy()))
    logits = predict(probe, data.test.image, support.text)
    torch.testing.assert_close(logits.log_softmax(dim=-1), expected, atol=1e-4, rtol=0)


@pytest.mark.parametrize(("init", "starts_at"), [("zero-shot", 1.0), ("zero", 0.0)])
def test_it_starts_from_the_texts_or_from_zero(init: str, starts_at: float) -> None:
    data = toy()
    probe = LinearProbe(init=init)  # type: ignore[arg-type]
    probe.start(data.support)
    assert torch.equal(probe.weight, starts_at * data.support.text)


def test_an_unknown_start_is_refused() -> None:
    with pytest.raises(AdapterError, match="init = 'random' is not one of zero-shot, zero"):
        LinearProbe(init="random")  # type: ignore[arg-type]
