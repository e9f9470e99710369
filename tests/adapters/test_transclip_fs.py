"""TransCLIP with shots against its equations written plainly, row by row."""

from __future__ import annotations

import numpy as np
import torch

from mma.adapters import fit, predict
from mma.adapters.transclip import TransClip
from mma.adapters.transclip_fs import TransClipShots, weighted_gaussians

from .toy import toy


def softmax(x: np.ndarray) -> np.ndarray:
    share = np.exp(x - x.max())
    return share / share.sum()


def test_logits_are_those_of_the_equations() -> None:
    data = toy(dtype=torch.float64)
    adapter = TransClipShots(gamma=0.2, lam=0.7, neighbours=2, iterations=3)
    fit(adapter, data.support, adapter.recipe, seed=0)
    found = predict(adapter, data.test.image, data.support.text).numpy()

    shots, label, text, image = (
        x.numpy() for x in (data.support.image, data.support.label, data.support.text, data.test.image)
    )
    x, known, classes = np.concatenate([shots, image]), len(shots), len(text)
    cosine = x @ x.T
    w = np.zeros_like(cosine)
    for i in range(len(x)):
        for j in [j for j in np.argsort(-cosine[i]) if j != i][:2]:
            w[i, j] = max(0.0, cosine[i, j])
    w = (w + w.T) / 4
    y = np.stack([softmax(100 * image[i] @ text.T) for i in range(len(image))])
    z = np.concatenate([np.eye(classes)[label], y])
    mean = np.stack([shots[label == k].sum(0) for k in range(classes)])
    mean /= np.linalg.norm(mean, axis=1, keepdims=True)
    variance = np.full(x.shape[1], 1 / x.shape[1])
    weight = [0.2 / known] * known + [1 / len(image)] * len(image)

    def logit(i: int) -> np.ndarray:
        likelihood = -((x[known + i] - mean) ** 2 / variance).sum(1) / 2
        return likelihood / 50 + w[known + i] @ z + 0.7 * np.log(y[i])

    for _ in range(3):
        for _ in range(5):
            z = np.concatenate([z[:known], [softmax(logit(i)) for i in range(len(image))]])
        mean = np.stack([sum(weight[i] * z[i, k] * x[i] for i in range(len(x))) for k in range(classes)])
        mean /= np.linalg.norm(mean, axis=1, keepdims=True)
        around = [weight[i] * z[i, k] * (x[i] - mean[k]) ** 2 for i in range(len(x)) for k in range(classes)]
        variance = np.sum(around, axis=0) / 1.2
    expected = np.stack([logit(i) for i in range(len(image))])
    assert np.array_equal(found.argmax(1), expected.argmax(1))
    np.testing.assert_allclose(found - found[:, :1], expected - expected[:, :1], rtol=1e-8, atol=1e-8)


def test_among_classes_without_shots_it_is_transclip() -> None:
    data = toy(dtype=torch.float64)
    with_shots, without = TransClipShots(gamma=0.01), TransClip()
    for adapter in (with_shots, without):
        fit(adapter, data.support, adapter.recipe, seed=0)
    rows = data.new_test.image, data.new_text
    assert torch.equal(predict(with_shots, *rows), predict(without, *rows))


def test_a_class_is_known_by_its_text_wherever_it_stands() -> None:
    data = toy(dtype=torch.float64)
    adapter = TransClipShots(gamma=0.01)
    fit(adapter, data.support, adapter.recipe, seed=0)
    texts = torch.cat([data.new_text[:1], data.support.text[[3, 1]]])
    shots, label = adapter.shots_of(texts)
    assert label.tolist() == [2, 2, 2, 1, 1, 1]
    assert torch.equal(shots, data.support.image[[3, 4, 5, 9, 10, 11]])


def test_the_more_the_shots_weigh_the_nearer_the_means_stay_to_theirs() -> None:
    data = toy(dtype=torch.float64)
    z = torch.cat([torch.eye(5, dtype=torch.float64)[data.support.label], torch.full((20, 5), 0.2).double()])
    rows, own = torch.cat([data.support.image, data.test.image]), torch.zeros(5, 32, dtype=torch.float64)
    own = torch.nn.functional.normalize(own.index_add(0, data.support.label, data.support.image))
    away = []
    for gamma in (0.002, 0.2, 1e6):
        weight = torch.cat([torch.full((15,), gamma / 15), torch.full((20,), 1 / 20)]).double()
        away.append(float((weighted_gaussians(rows, z, weight)[0] - own).norm()))
    assert away[0] > away[1] > 100 * away[2]
    logits = []
    for gamma in (0.002, 0.2):
        adapter = TransClipShots(gamma=gamma)
        fit(adapter, data.support, adapter.recipe, seed=0)
        logits.append(predict(adapter, data.test.image, data.support.text))
    assert (logits[0] - logits[1]).abs().max() > 1e-2
