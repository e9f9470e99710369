from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import torch
from sklearn.covariance import ShrunkCovariance
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from torch import Tensor

from mma.adapters import fit, predict, zero_shot_logits
from mma.adapters.gda import GaussianDiscriminant

from .toy import Toy, toy


def fitted(data: Toy, alpha: float = 1.0, neighbours: int = 64) -> GaussianDiscriminant:
    adapter = GaussianDiscriminant(alpha=alpha, neighbours=neighbours)
    fit(adapter, data.support, adapter.recipe, seed=0)
    return adapter


def test_two_classes_of_one_text_keep_their_own_gaussians() -> None:
    data = toy()
    text = data.support.text.clone()
    text[1] = text[0]
    adapter = fitted(replace(data, support=replace(data.support, text=text)), alpha=10.0)
    predicted = predict(adapter, data.test.image, text).argmax(dim=-1)
    for k in (0, 1):
        assert (predicted[data.test.label == k] == k).double().mean() > 0.5


def test_a_new_class_in_the_place_of_its_shots_is_scored() -> None:
    data = toy()
    adapter = fitted(data, neighbours=1)
    assert predict(adapter, data.test.image, data.support.image[:2]).isfinite().all()


def test_its_classifier_is_scikit_learns_with_the_same_shrinkage() -> None:
    data = toy(shots=6, dtype=torch.float64)
    count, dim = data.support.image.shape
    lda = LinearDiscriminantAnalysis(
        solver="lsqr", covariance_estimator=ShrunkCovariance(shrinkage=dim / (count - 1 + dim)), priors=np.full(5, 0.2)
    )
    lda.fit(data.support.image.numpy(), data.support.label.numpy())
    # scikit-learn divides by N and mixes with shares that add to 1; GDA's covariance is this constant times that.
    ratio = count * (count - 1 + dim) / (dim * (count - 1))
    weight = torch.from_numpy(lda.coef_) / ratio
    bias = math.log(0.2) + (torch.from_numpy(lda.intercept_) - math.log(0.2)) / ratio
    adapter = fitted(data)
    torch.testing.assert_close(adapter.weight, weight)
    torch.testing.assert_close(adapter.bias, bias)


def test_the_classifier_is_added_to_zero_shot() -> None:
    data = toy(dtype=torch.float64)
    adapter = fitted(data, alpha=0.7)
    expected = zero_shot_logits(data.test.image, data.support.text, 100.0) + 0.7 * (
        data.test.image @ adapter.weight.mT + adapter.bias
    )
    torch.testing.assert_close(predict(adapter, data.test.image, data.support.text), expected)


def published_rule(shots: Tensor, text: Tensor, neighbours: int) -> tuple[Tensor, Tensor]:
    """W and b of new classes with every inverse taken as written."""
    dim, means, inverses = text.shape[1], [], []
    for t in text:
        near = shots[(shots @ t).topk(neighbours).indices]
        means.append(torch.cat([near, t.repeat(16, 1)]).mean(0))
        covariance = (near - t).mT @ (near - t) / (neighbours - 1)
        inverses.append(
            dim * torch.linalg.pinv((neighbours - 1) * covariance + covariance.trace() * torch.eye(dim).double())
        )
    mean, inverse = torch.stack(means), torch.stack(inverses).mean(0)
    weight = mean @ inverse
    return weight, -math.log(len(text)) - torch.stack([m @ inverse @ m for m in mean]) / 2


def test_new_classes_follow_the_published_rule() -> None:
    data = toy(dtype=torch.float64)
    adapter = fitted(data, neighbours=6)
    weight, bias = published_rule(data.support.image, data.new_text, 6)
    ours, our_bias = adapter.of_classes(data.new_text)
    torch.testing.assert_close(ours, weight)
    torch.testing.assert_close(our_bias, bias)


def test_a_class_with_shots_keeps_its_weights_beside_new_ones() -> None:
    data = toy(dtype=torch.float64)
    adapter = fitted(data)
    weight, bias = adapter.of_classes(torch.cat([data.new_text, data.support.text]))
    new_weight, new_bias = adapter.of_classes(data.new_text)
    assert torch.equal(weight, torch.cat([new_weight, adapter.weight]))
    assert torch.equal(bias, torch.cat([new_bias, adapter.bias]))


def test_every_view_is_a_shot() -> None:
    data = toy(views=3)
    assert len(fitted(data).shots) == 3 * len(data.support.label)


def test_one_shot_without_views_leaves_zero_shot() -> None:
    data = toy(shots=1)
    logits = predict(fitted(data), data.test.image, data.support.text)
    zero_shot = zero_shot_logits(data.test.image, data.support.text, 100.0)
    assert torch.equal(logits.argmax(dim=-1), zero_shot.argmax(dim=-1))
