"""Kronecker ridge: kernel ridge regression on pairs of an image and a class, with zero-shot as its prior. Our own.

f(x, k) = s (<x, t_k> + w g(x, k))          g(x, k) = sum_ij kappa(x, x_i) c(k, j) A_ij          K A C + lam A = R

kappa(x, x') = exp(-beta (1 - <x, x'>)), or <x, x'> where beta = 0, is the kernel of images [N, N]. The kernel of
classes c(k, j) is that of their texts, <u_k, u_j> or exp(-gamma (1 - <u_k, u_j>)) with u = unit(t - mean text), plus
delta where k = j: a class learns from its neighbours' shots, and delta lets it have its own. R = (Y - 1/C) - (Z - mean
of each row), Y one-hot and Z = X T', is what zero-shot leaves to explain. A new class is scored by what its neighbours
have learned; no shot of its own speaks for that, so there the weight is another, w_new.

Relatives: delta alone and w = 1 is ProKeR, as derived (arXiv 2501.11175); beta, gamma and delta 0 a bilinear map
x'(I + M)u with a ridge penalty on M (ESZSL, Romera-Paredes and Torr, ICML 2015); Kronecker kernel ridge regression
(Stock et al., "A comparative study of pairwise learning methods based on kernel ridge regression", Neural Computation
30, 2018).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product
from typing import Annotated, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from mma.adapters.base import (
    Adapter,
    AdapterError,
    Shapes,
    Support,
    check_at_least,
    same_classes,
    unit,
    zero_shot_logits,
)

WEIGHTS = (0.0, 0.03, 0.05, 0.1, 0.2, 0.3, 0.5, 1.0)
TRIED: Mapping[str, Sequence[float]] = {  # for what is left open; of equally good settings the first is taken
    "beta": (1.0, 3.0),
    "delta": (0.0, 1.0, 3.0, 10.0),
    "lam": (3.0, 1.0, 0.3, 0.1, 0.03, 0.01),
    "w": WEIGHTS,
    "w_new": WEIGHTS,
}
EXACT = 4096  # shots up to which nothing is approximated ...
LANDMARKS = 2048  # ... and how many span the kernel of images, of more
SCORED = 1024  # left-out rows that are scored for a choice, at most
PARTS = 3  # the classes are divided into, each held out once as new ones
REPEATS, HELD_OUT = 5, 100  # few classes are divided anew, so many times or until so many are held out in all
ROUNDING = 1e-10  # eigenvalues below this part of the largest are rounding


class HyperParameters(NamedTuple):
    """The hyper-parameters in force."""

    beta: float
    delta: float
    lam: float
    w: float
    w_new: float


class KroneckerRidge(Adapter):
    """Kernel ridge regression on pairs of an image and a class, with zero-shot as its prior.

    What is None is chosen in `start` by leaving rows and classes of the support out: validation rows are not needed,
    and not looked at. Exact up to 4,096 shots, or with beta = 0; of more, 2,048 span the images' kernel (Nystrom).
    """

    source = "Kronecker ridge, this project: docs/methods.md"
    trains = False
    classes: Tensor  # [C, D] the texts of the support
    points: Tensor  # [m, D] what images are compared with
    shared: Tensor  # [m, C] coefficients of c_text(., j), times w_new
    own: Tensor  # [m, C] the weights of the support's classes, times w
    setting: Tensor  # [5] float64: a Setting, as given or chosen

    def __init__(
        self,
        *,
        beta: Annotated[float | None, "sharpness of the images' kernel; 0: linear"] = None,
        gamma: Annotated[float, "sharpness of the texts' kernel; 0: linear"] = 0.0,
        delta: Annotated[
            float | None, "how much a class has of its own, beside what it shares with its neighbours"
        ] = None,
        lam: Annotated[float | None, "ridge penalty; infinity: zero-shot"] = None,
        w: Annotated[float | None, "weight beside zero-shot for classes with shots; 0: zero-shot"] = None,
        w_new: Annotated[float | None, "the same for classes without shots"] = None,
        landmarks: Annotated[
            int | None, "shots that span the images' kernel; none: all of up to 4,096, else 2,048"
        ] = None,
    ) -> None:
        super().__init__()
        for name, value in (("beta", beta), ("gamma", gamma), ("delta", delta), ("w", w), ("w_new", w_new)):
            check_at_least(name, value, 0)
        if lam is not None and not lam > 0:
            raise AdapterError(f"lam = {lam} is not above 0")
        if landmarks is not None:
            check_at_least("landmarks", landmarks, 1)
        self.beta, self.gamma, self.delta, self.lam, self.w, self.w_new = beta, gamma, delta, lam, w, w_new
        self.landmarks = landmarks

    def build(self, shapes: Shapes) -> None:
        """The texts, what images are compared with, and the weights of the classes."""
        super().build(shapes)
        self.register_buffer("classes", torch.empty(shapes.classes, shapes.dim))
        self.register_buffer("setting", torch.empty(len(HyperParameters._fields), dtype=torch.float64))
        for name in ("points", "shared", "own"):
            self.register_buffer(name, nn.UninitializedBuffer())

    @torch.no_grad()
    def start(self, support: Support) -> None:
        """Choose what is open, and solve, in float64."""
        super().start(support)
        exact = replace(support, image=support.image.double(), text=support.text.double())
        given: dict[str, float | None] = {name: getattr(self, name) for name in HyperParameters._fields}
        setting = choose(exact, given, self.gamma, self.landmarks)
        ridge = Ridge.of(exact, setting.beta, self.gamma, self.landmarks)
        shared = ridge.basis @ ridge.coefficients(setting.delta, setting.lam)
        own = shared @ ridge.similarity + setting.delta * shared
        self.classes, self.setting = support.text, torch.tensor(setting, dtype=torch.float64)
        self.points, self.shared, self.own = (
            x.to(support.text) for x in (ridge.points, setting.w_new * shared, setting.w * own)
        )

    def forward(self, image: Tensor, text: Tensor) -> Tensor:
        """Logits [B, C] of unit `image` [B, D] against unit `text` [C, D], of classes with shots, new ones, or both: a
        class of the support is known by its text.
        """
        weights = self.own if same_classes(text, self.classes) else self.of_classes(text)
        beta = float(self.setting[0]) if self.beta is None else self.beta
        correction = kernel(image, self.points, beta) @ weights
        return zero_shot_logits(image, text, self.logit_scale) + self.logit_scale * correction

    def choices(self) -> dict[str, float]:
        """What `start` chose on the support."""
        in_force = dict(zip(HyperParameters._fields, self.setting.tolist(), strict=True))
        return {name: value for name, value in in_force.items() if getattr(self, name) is None}

    def of_classes(self, text: Tensor) -> Tensor:
        """Weights [m, C] of the classes with these texts."""
        similarity, place = (text @ self.classes.mT).max(dim=-1)
        new = self.shared @ class_kernel(self.classes, text, self.classes, self.gamma)
        return torch.where(similarity > 1 - 1e-5, self.own[:, place], new)


@dataclass(frozen=True)
class Ridge:
    """The two decompositions of one support: every delta, lam and w costs no further one."""

    points: Tensor  # [m, D] landmarks among the images, or the axes of space where beta = 0
    basis: Tensor  # [m, r] kernel(x, points) @ basis are the features of an image x
    rows: Tensor  # [N, r] features of the support: K = rows rows', and rows' rows = diag(of_images)
    of_images: Tensor  # [r] eigenvalues e of K
    similarity: Tensor  # [C, C] c_text of the support's classes
    of_classes: Tensor  # [q] its eigenvalues c ...
    vectors: Tensor  # [C, q] ... and their vectors V
    residual: Tensor  # [N, C] R
    projected: Tensor  # [r, C] P'R, P the rows
    rotated: Tensor  # [r, q] P'R V

    @classmethod
    def of(cls, support: Support, beta: float, gamma: float, landmarks: int | None = None) -> Ridge:
        """Decompose the kernels of images and texts: r^3 and q^3, r at most EXACT or D, q = C or D."""
        image, text = support.image, support.text
        most = landmarks or (EXACT if len(image) <= EXACT else LANDMARKS)
        points = torch.eye(image.shape[1]).to(image) if beta == 0 else spread(image, most)
        e, vectors = positive(kernel(points, points, beta))
        basis = vectors / e.sqrt()
        rows = kernel(image, points, beta) @ basis
        if points is not image:  # rows' rows is not yet diagonal
            e, rotation = positive(rows.mT @ rows)
            basis, rows = basis @ rotation, rows @ rotation
        similarity = class_kernel(text, text, text, gamma)
        c, v = positive(similarity)
        target = functional.one_hot(support.label, len(text)).to(image)
        residual = centred(target) - centred(image @ text.mT)
        projected = rows.mT @ residual
        return cls(points, basis, rows, e, similarity, c, v, residual, projected, projected @ v)

    # With P the rows' features, K = P P', and V completed to a basis W of all classes, column j of P'A W solves
    #     (e_i c_j + lam) (P'A W)_ij = (P'R W)_ij        c_j = c + delta within V, delta outside of it
    # so P'A = P'R h(delta) + (P'R V)(h(c + delta) - h(delta)) V' with h(c)_ij = 1 / (e_i c_j + lam): W is not needed.
    def coefficients(self, delta: float, lam: float) -> Tensor:
        """P'A [r, C]: g(x, k) = features(x) (P'A) c(:, k)."""
        outside = 1 / (self.of_images[:, None] * delta + lam)  # [r, 1]
        inside = 1 / (self.of_images[:, None] * (self.of_classes + delta) + lam)  # [r, q]
        return self.projected * outside + (self.rotated * (inside - outside)) @ self.vectors.mT

    # In the basis W the columns are ridge regressions of their own, with kernel c_j K: F = P (P'R W . g) with g_ij =
    # c_j / (e_i c_j + lam). A left-out row is left out of all columns, so by the usual formula each has the residual
    # (r - f) / (1 - l) there, l its leverage sum_m P_m^2 g_mj. Outside of V all c_j and l are one: no W here either.
    def left_out(self, delta: float, lam: float, chosen: Tensor) -> Tensor:
        """g [n, C] of the rows `chosen` [n] of the support, each as if it had not been there."""
        rows, residual = self.rows[chosen], self.residual[chosen]
        eigenvalues = torch.cat([self.of_classes.new_full((1,), delta), self.of_classes + delta])  # outside, then in V
        gain = eigenvalues / (self.of_images[:, None] * eigenvalues + lam)  # [r, 1 + q]
        factor = 1 / (1 - rows.square() @ gain)  # [n, 1 + q]
        outside = (residual - rows @ (self.projected * gain[:, :1])) * factor[:, :1]  # [n, C] were c_j = delta in V too
        inside = (residual @ self.vectors - rows @ (self.rotated * gain[:, 1:])) * factor[:, 1:]  # [n, q]
        return residual - outside - (inside - outside @ self.vectors) @ self.vectors.mT


@dataclass(frozen=True)
class HeldOut:
    """A part of the classes held out as new ones: their rows scored by the ridge of the others, among themselves."""

    ridge: Ridge
    features: Tensor  # [n, r] of their rows
    similarity: Tensor  # [C - C', C'] c_text of the others with them
    prior: Tensor  # [n, C'] cosines
    label: Tensor  # [n] in 0..C'-1

    # Without the rows and the columns of a part neither kernel keeps its eigenvectors. A block formula on those of the
    # whole would cost C (|S|^2 N + |S|^3) for each delta and lam, S the part's rows; decomposing what is left costs
    # (N - |S|)^3 once. So a part is a fit to the other classes.
    @classmethod
    def of(cls, support: Support, beta: float, gamma: float, part: Tensor, landmarks: int | None = None) -> HeldOut:
        """Fit to all classes but `part` [C']."""
        new = torch.zeros(len(support.text), dtype=torch.bool, device=part.device)
        new[part] = True
        place = torch.where(new, new.cumsum(0), (~new).cumsum(0)) - 1  # of a class among its own kind
        outside = new[support.label]
        label, text = place[support.label], support.text
        known = Support(support.image[~outside], label[~outside], text[~new], support.logit_scale)
        image, label = spread(support.image[outside], SCORED), spread(label[outside], SCORED)
        ridge = Ridge.of(known, beta, gamma, landmarks)
        features = kernel(image, ridge.points, beta) @ ridge.basis
        similarity = class_kernel(text[~new], text[new], text[~new], gamma)
        return cls(ridge, features, similarity, image @ text[new].mT, label)

    def scores(self, delta: float, lam: float) -> Tensor:
        """g [n, C']."""
        return self.features @ (self.ridge.coefficients(delta, lam) @ self.similarity)


def choose(
    support: Support, given: Mapping[str, float | None], gamma: float, landmarks: int | None = None
) -> HyperParameters:
    """What is given, and for the rest what scores left-out rows best; if new classes will be scored, what has the best
    H of left-out rows and left-out classes.
    """
    parts = divisions(support.label, len(support.text)) if support.new_classes else []
    if given["w_new"] is None and not parts:  # there is nothing to choose it by
        setting = choose(support, {**given, "w_new": 0.0}, gamma, landmarks)
        return setting._replace(w_new=setting.w)
    tried = {name: TRIED[name] if value is None else (value,) for name, value in given.items()}
    if all(len(values) == 1 for values in tried.values()):
        return HyperParameters(*(value for (value,) in tried.values()))
    found = [each for beta in tried["beta"] for each in estimates(support, beta, gamma, tried, parts, landmarks)]
    setting, _ = max(found, key=lambda each: each[1])
    return setting


def estimates(
    support: Support,
    beta: float,
    gamma: float,
    tried: Mapping[str, Sequence[float]],
    parts: Sequence[Tensor],
    landmarks: int | None,
) -> Iterator[tuple[HyperParameters, float]]:
    """Every delta and lam with the w that is best for left-out rows and the w_new that is best for left-out classes;
    and H of the two accuracies, or where no classes are left out the first of them.
    """
    ridge = Ridge.of(support, beta, gamma, landmarks)
    held_out = [HeldOut.of(support, beta, gamma, part, landmarks) for part in parts]
    chosen = spread(torch.arange(len(support.label), device=support.label.device), SCORED)
    prior, label = support.image[chosen] @ support.text.mT, support.label[chosen]
    for delta, lam in product(tried["delta"], tried["lam"]):
        left_out = ridge.left_out(delta, lam, chosen)
        w, of_rows = best({w: accuracy(prior + w * left_out, label) for w in tried["w"]})
        scored = [(part, part.scores(delta, lam)) for part in held_out]
        w_new, of_classes = best(
            {
                w: mean([accuracy(part.prior + w * scores, part.label) for part, scores in scored])
                for w in tried["w_new"]
            }
        )
        yield HyperParameters(beta, delta, lam, w, w_new), harmonic_mean(of_rows, of_classes) if parts else of_rows


def divisions(label: Tensor, classes: int) -> list[Tensor]:
    """Classes to hold out together, two or more at a time; none where there are fewer than four."""
    parts, generator = min(PARTS, classes // 2), torch.Generator().manual_seed(0)
    found: list[Tensor] = []
    for _ in range(max(1, min(REPEATS, HELD_OUT // classes)) if parts > 1 else 0):
        order = torch.randperm(classes, generator=generator).to(label.device)
        found += [order[part::parts] for part in range(parts)]
    # with wrong labels, or shots of some classes alone, a part may have no rows, or all of them
    return [part for part in found if 0 < int(torch.isin(label, part).sum()) < len(label)]


def kernel(image: Tensor, points: Tensor, beta: float) -> Tensor:
    """The kernel of images: [B, D], [m, D] -> [B, m]."""
    cosine = image @ points.mT
    return cosine if beta == 0 else torch.exp(-beta * (1 - cosine))


def class_kernel(a: Tensor, b: Tensor, classes: Tensor, gamma: float) -> Tensor:
    """The kernel of texts a [A, D] and b [B, D], seen from the mean of the support's `classes` [C, D]: [A, B]."""
    origin = classes.mean(dim=0)
    return kernel(unit(a - origin), unit(b - origin), gamma)


def positive(symmetric: Tensor) -> tuple[Tensor, Tensor]:
    """Eigenvalues [r] that are more than rounding, and their vectors [n, r]."""
    values, vectors = torch.linalg.eigh(symmetric)
    kept = values > ROUNDING * values[-1]
    return values[kept], vectors[:, kept]


def spread(rows: Tensor, most: int) -> Tensor:
    """At most so many of the rows, evenly spaced; all of them if they are no more."""
    if len(rows) <= most:
        return rows
    return rows[torch.linspace(0, len(rows) - 1, most, device=rows.device).round().long()]


def centred(scores: Tensor) -> Tensor:
    """Scores [N, C] less the mean of each row: what is added to all classes changes nothing."""
    return scores - scores.mean(dim=-1, keepdim=True)


def accuracy(scores: Tensor, label: Tensor) -> float:
    """Share of rows [N, C] whose best class is their label [N]."""
    return float((scores.argmax(dim=-1) == label).double().mean())


def best(scores: Mapping[float, float]) -> tuple[float, float]:
    """The first value of the best score, and that score."""
    value = max(scores, key=lambda value: scores[value])
    return value, scores[value]


def mean(values: Sequence[float]) -> float:
    """The mean; 0 of none."""
    return sum(values) / len(values) if values else 0.0


def harmonic_mean(a: float, b: float) -> float:
    """H of two accuracies."""
    return 2 * a * b / (a + b) if a + b else 0.0
