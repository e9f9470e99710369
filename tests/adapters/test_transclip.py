from __future__ import annotations

import torch
from torch import Tensor
from torch.distributions import MultivariateNormal

from mma.adapters import accuracy, fit, predict, unit, zero_shot_logits
from mma.adapters.transclip import TransClip, gaussians, log_gaussian, most_certain_means, neighbour_graph, neighbours

from .toy import toy


def rows_and_assignments() -> tuple[Tensor, Tensor]:
    image = toy(dtype=torch.float64).test.image
    z = torch.rand(len(image), 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    return image, z / z.sum(-1, keepdim=True)


def test_means_are_unit_and_the_variance_is_shared() -> None:
    image, z = rows_and_assignments()
    mean, spread = gaussians(image, z)
    for k in range(3):
        weighted = sum(float(z[i, k]) * image[i] for i in range(len(image)))
        assert isinstance(weighted, Tensor)
        torch.testing.assert_close(mean[k], weighted / weighted.norm())
    around = sum(float(z[i, k]) * (image[i] - mean[k]) ** 2 for i in range(len(image)) for k in range(3))
    assert isinstance(around, Tensor)
    torch.testing.assert_close(spread, around / len(image))


def test_the_likelihood_is_that_of_gaussians_with_one_diagonal_covariance() -> None:
    image, z = rows_and_assignments()
    mean, spread = gaussians(image, z)
    expected = torch.stack([MultivariateNormal(m, torch.diag(spread)).log_prob(image) for m in mean], dim=1)
    ours = log_gaussian(image, mean, spread)
    torch.testing.assert_close(ours - ours[:, :1], expected - expected[:, :1])


def test_neighbours_are_the_nearest_other_rows() -> None:
    image = toy(dtype=torch.float64).test.image
    index, affinity = neighbours(image, 3)
    cosine = image @ image.mT
    for i, row in enumerate(cosine):
        others = [j for j in row.argsort(descending=True).tolist() if j != i][:3]
        assert index[i].tolist() == others
        torch.testing.assert_close(affinity[i], row[others].clamp(min=0))


def test_neighbours_weigh_a_sixth_each_way() -> None:
    image = toy(dtype=torch.float64).test.image
    cosine = image @ image.mT
    plain = torch.zeros_like(cosine)
    for i, row in enumerate(cosine):
        for j in [j for j in row.argsort(descending=True).tolist() if j != i][:3]:
            plain[i, j] = max(0.0, float(row[j]))
    torch.testing.assert_close(neighbour_graph(image, 3).to_dense(), (plain + plain.mT) / 6)


def test_a_class_starts_at_the_unit_mean_of_its_eight_most_certain_rows() -> None:
    image, z = rows_and_assignments()
    mean = most_certain_means(image, z)
    for k in range(3):
        rows = sorted(range(len(image)), key=lambda i: -float(z[i, k]))[:8]
        torch.testing.assert_close(mean[k], unit(image[rows].mean(0)))


def test_it_is_the_published_algorithm_step_by_step() -> None:
    """Start, likelihood / 50, symmetric neighbours, unit means, and the assignments once more at the end."""
    data = toy(dtype=torch.float64)
    image, text = data.test.image, data.support.text
    rows, classes, dim = len(image), len(text), image.shape[1]
    adapter = TransClip(lam=0.8, iterations=2)
    fit(adapter, data.support, adapter.recipe, seed=0)

    of_text = (100 * image @ text.mT).softmax(-1).log()
    cosine = image @ image.mT - 9 * torch.eye(rows, dtype=torch.float64)
    near = torch.zeros(rows, rows, dtype=torch.float64)
    near.scatter_(1, cosine.topk(3).indices, cosine.topk(3).values.clamp(min=0))
    graph = (near + near.mT) / 6

    z = of_text.exp()
    mean = unit(torch.stack([image[z[:, k].topk(8).indices].mean(0) for k in range(classes)]))
    spread = torch.full((dim,), 1 / dim, dtype=torch.float64)

    def assigned(z: Tensor) -> Tensor:
        far = torch.stack([((image - m) ** 2 / spread).sum(-1) for m in mean], dim=1)  # [B, C]
        return (-far / 2 / 50 + graph @ z + 0.8 * of_text).softmax(-1)

    for _ in range(2):
        for _ in range(5):
            z = assigned(z)
        mean = unit(z.mT @ image)
        spread = sum(z[:, k, None] * (image - mean[k]) ** 2 for k in range(classes)).sum(0) / rows  # type: ignore[union-attr]
    torch.testing.assert_close(predict(adapter, image, text).softmax(-1), assigned(z))


def test_a_class_that_no_row_is_assigned_to_keeps_everything_finite() -> None:
    image, z = rows_and_assignments()
    mean, spread = gaussians(image, torch.cat([z, torch.zeros_like(z[:, :1])], dim=1))
    assert log_gaussian(image, mean, spread).isfinite().all()
    assert torch.equal(mean[3], torch.zeros_like(mean[3]))


def test_rows_that_cluster_are_classified_better_together() -> None:
    data = toy(classes=4, shots=40, dim=16, noise=1.0)
    support = data.support
    blurred = torch.nn.functional.normalize(support.text + 0.35, dim=-1)  # texts that are all off to one side
    adapter = TransClip()
    fit(adapter, support, adapter.recipe, seed=0)
    together = accuracy(predict(adapter, support.image, blurred), support.label)
    assert together > accuracy(zero_shot_logits(support.image, blurred, 100.0), support.label)
