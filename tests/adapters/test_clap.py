from __future__ import annotations

from dataclasses import replace

import torch
from torch.nn import functional

from mma.adapters import fit, predict, zero_shot_logits
from mma.adapters.clap import ClassAdaptiveProbe

from .toy import toy


def test_a_class_is_held_by_its_own_shots_zero_shot_probability() -> None:
    data = toy()
    adapter = ClassAdaptiveProbe()
    adapter.start(data.support)
    probability = zero_shot_logits(data.support.image, data.support.text, 100.0).softmax(dim=-1)
    for k in range(5):
        torch.testing.assert_close(adapter.confidence[k], probability[data.support.label == k, k].mean())


def test_logits_are_scaled_cosines_however_long_the_weights() -> None:
    data = toy(dtype=torch.float64)
    adapter = ClassAdaptiveProbe()
    adapter.start(data.support)
    with torch.no_grad():
        adapter.weight.mul_(torch.arange(1.0, 6.0)[:, None]).add_(0.1)
    image = data.test.image
    expected = 100 * functional.cosine_similarity(image[:, None], adapter.weight.detach(), dim=-1)
    torch.testing.assert_close(predict(adapter, image, data.support.text), expected)


def test_the_penalty_is_the_mean_over_classes_of_the_weighted_squared_distance_from_the_texts() -> None:
    data = toy(dtype=torch.float64)
    rows = data.support.image, data.support.text, data.support.label
    held, free = ClassAdaptiveProbe(penalty=2.0), ClassAdaptiveProbe(penalty=0.0)
    for adapter in (held, free):
        adapter.start(data.support)
        with torch.no_grad():
            adapter.weight += 0.1
    distance = data.support.text.shape[1] * 0.1**2
    torch.testing.assert_close(held.loss(*rows) - free.loss(*rows), 2.0 * distance * held.confidence.mean())


def test_a_larger_penalty_keeps_the_weights_nearer() -> None:
    data = toy()
    distances = []
    for penalty in (0.0, 10.0, 100.0):
        adapter = ClassAdaptiveProbe(penalty=penalty)
        fit(adapter, data.support, replace(adapter.recipe, epochs=30), seed=0)
        distances.append(float((adapter.weight.detach() - 8 * data.support.text).norm()))
    assert distances[0] > distances[1] > distances[2]


def test_a_step_is_one_on_texts_of_length_eight() -> None:
    """The released code's first step after the warm-up, on embeddings 8 times as long as ours."""
    data = toy(dtype=torch.float64)
    image, label, text = data.support.image, data.support.label, 8 * data.support.text
    adapter = ClassAdaptiveProbe()
    fit(adapter, data.support, replace(adapter.recipe, epochs=1, warmup=0), seed=0)
    weight = text.clone().requires_grad_()
    functional.cross_entropy(100 * image @ functional.normalize(weight, dim=-1).mT, label).backward()
    assert weight.grad is not None
    torch.testing.assert_close(adapter.weight.detach(), text - 0.1 * weight.grad)
