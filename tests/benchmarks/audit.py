"""How many flipped labels does an audit find? `python audit.py FEATURES.npz [SEEDS]`, all rows of a file of features.

5 and 10 % of the labels are flipped to a class drawn at random. Beside the audit's margins stands confident learning
(Northcutt et al., 2021) as cleanlab has it, on out-of-fold probabilities of the same folds: rows whose most likely
class among those above their own threshold (the mean probability of the rows that have this label) is not their label
come first, in the order of `normalized_margin`, then all others in this order. Its probabilities are of the same
discriminant at the temperature that the given labels make likeliest, or of a logistic regression on the images.
"""

from __future__ import annotations

import sys

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.special import softmax
from sklearn.linear_model import LogisticRegression

from mma.pipeline.reports.calibration import fit_temperature
from mma.pipeline.using.audit import folds, out_of_fold, wrong_labels

SHARES = (0.05, 0.1)
LOGIT_SCALE = 100.0


def confident_learning(probability: NDArray[np.float64], label: NDArray[np.int64]) -> NDArray[np.int64]:
    """Rows [N] in the order in which confident learning suspects them."""
    rows = np.arange(len(label))
    threshold = np.array([probability[label == c, c].mean() for c in range(probability.shape[1])])  # [C]
    confident = np.where(probability >= threshold, probability, -1.0)
    issue = (confident.max(1) >= 0) & (confident.argmax(1) != label)
    others = probability.copy()
    others[rows, label] = -1
    margin = probability[rows, label] - others.max(1)
    return np.lexsort((margin, ~issue))


def logistic(image: NDArray[np.float32], label: NDArray[np.int64], classes: int) -> NDArray[np.float64]:
    """Probabilities [N, C] out of fold, of rows to a standard scale."""
    scaled, fold = (image - image.mean(0)) / image.std(0), folds(label)
    probability = np.zeros((len(label), classes))
    for number in np.unique(fold):
        model = LogisticRegression(C=1e-2).fit(scaled[fold != number], label[fold != number])
        probability[fold == number] = model.predict_proba(scaled[fold == number])
    return probability


def main(file: str, seeds: str = "3") -> None:
    """Print for each share and order: flipped in % of the first n / 2 and n rows, and of all flipped those in 2n."""
    data = np.load(file)
    image = np.concatenate([data["image_train"], data["image_test"]]).astype(np.float32)
    image /= np.linalg.norm(image, axis=1, keepdims=True)
    text = data["text"] / np.linalg.norm(data["text"], axis=1, keepdims=True)
    label = np.concatenate([data["label_train"], data["label_test"]]).astype(np.int64)
    torch.set_num_threads(1)
    for share in SHARES:
        found: dict[str, list[tuple[float, float, float]]] = {}
        for seed in range(int(seeds)):
            rng, n = np.random.default_rng(seed), round(share * len(label))
            flipped = np.zeros(len(label), bool)
            flipped[rng.choice(len(label), n, replace=False)] = True
            given = label.copy()
            given[flipped] = (label[flipped] + rng.integers(1, len(text), n)) % len(text)
            arrays = torch.from_numpy(image), given, torch.from_numpy(text), LOGIT_SCALE
            logits = out_of_fold(*arrays)
            tempered = softmax(logits / fit_temperature(given, logits).value, axis=1)
            orders = {
                "margin of logits (mma audit)": np.argsort(-wrong_labels(*arrays)[0], kind="stable"),
                "confident learning, same fits": confident_learning(tempered, given),
                "confident learning, logistic": confident_learning(logistic(image, given, len(text)), given),
            }
            for name, order in orders.items():
                hit = flipped[order]
                row = (hit[: n // 2].mean(), hit[:n].mean(), hit[: 2 * n].sum() / n)
                found.setdefault(name, []).append(row)
        for name, rows in found.items():
            half, whole, twice = 100 * np.mean(rows, axis=0)
            print(f"{share:.0%} flipped, {name}: first n/2 {half:.1f} %, first n {whole:.1f} %, in 2n {twice:.1f} %")


if __name__ == "__main__":
    main(*sys.argv[1:])
