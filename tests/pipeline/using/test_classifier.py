from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from rich.console import Console

import mma
from mma.pipeline.using.export import export
from mma.pipeline.using.settings import ExportSettings

pytest.importorskip("sklearn.utils.validation", reason="pip install 'mma[sklearn]'")

from sklearn.base import clone
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer
from sklearn.utils.estimator_checks import parametrize_with_checks


@pytest.mark.slow
@parametrize_with_checks([mma.FewShotClassifier("gda"), mma.FewShotClassifier("mma", epochs=15)])
def test_scikit_learn_finds_a_classifier_of_its_kind(estimator: Any, check: Callable[[Any], None]) -> None:
    check(estimator)


@pytest.fixture(scope="module")
def rows(small_cache: Path) -> dict[str, Any]:
    """Images, labels and texts of the small cache, as arrays."""
    features = mma.load_features(small_cache)
    found: dict[str, Any] = {"text": features.text.embedding.numpy()}
    for split in ("train", "test"):
        usable = features.labels[split].all(np.arange(len(features.classnames)))
        found[split] = features.images.images(split)[torch.from_numpy(usable)].numpy()
        found[f"{split}_label"] = features.labels[split].label[usable]
    return found


def test_texts_that_are_given_are_used(rows: dict[str, Any]) -> None:
    fitted = mma.FewShotClassifier("zero-shot").fit(rows["train"], rows["train_label"], text=rows["text"])
    np.testing.assert_allclose(fitted.logits(rows["test"]), 100 * rows["test"] @ rows["text"].T, rtol=1e-4, atol=1e-3)
    names = np.array([f"class {c}" for c in range(len(rows["text"]))])
    by_name = mma.FewShotClassifier("zero-shot").fit(
        rows["train"], names[rows["train_label"]], text=dict(zip(names, rows["text"], strict=True))
    )
    np.testing.assert_array_equal(by_name.predict(rows["test"]), names[fitted.predict(rows["test"])])


@pytest.mark.slow
def test_what_is_fitted_is_what_export_fits(rows: dict[str, Any], small_cache: Path, tmp_path: Path) -> None:
    options = {"adapter": "gda", "alpha": 1.0, "neighbours": 8}
    given = {name: value for name, value in options.items() if name != "adapter"}
    export(
        ExportSettings(cache=str(small_cache), adapter="gda", options=given, out=tmp_path / "m"), Console(quiet=True)
    )
    features = mma.load_features(small_cache)
    labelled = [s for s in ("train", "val") if s in features.labels]
    classes = np.arange(len(features.classnames))
    usable = {s: features.labels[s].all(classes) for s in labelled}
    image = np.concatenate([features.images.images(s)[torch.from_numpy(usable[s])].numpy() for s in labelled])
    label = np.concatenate([features.labels[s].label[usable[s]] for s in labelled])
    scale = features.logit_scale
    fitted = mma.FewShotClassifier(**options, logit_scale=scale).fit(image, label, text=rows["text"])
    expected = mma.load_model(tmp_path / "m").logits(rows["test"])
    np.testing.assert_allclose(fitted.logits(rows["test"]), expected, rtol=1e-3, atol=1e-3)


def test_it_is_searched_in_a_pipeline(rows: dict[str, Any]) -> None:
    pipeline = make_pipeline(FunctionTransformer(), mma.FewShotClassifier("gda"))
    grid = {"fewshotclassifier__alpha": [0.1, 10.0], "fewshotclassifier__neighbours": [4, 8]}
    search = GridSearchCV(pipeline, grid, cv=2)
    search.fit(rows["train"], rows["train_label"], fewshotclassifier__text=dict(enumerate(rows["text"])))
    assert search.best_params_.keys() == grid.keys()
    assert search.score(rows["test"], rows["test_label"]) > 0.5
    scores = search.cv_results_["mean_test_score"]
    assert search.best_estimator_[-1].get_params()["alpha"] == search.best_params_["fewshotclassifier__alpha"]
    assert scores.max() == search.best_score_


def test_open_hyper_parameters_are_chosen_on_rows_that_are_held_out(rows: dict[str, Any]) -> None:
    fitted = mma.FewShotClassifier("gda").fit(rows["train"], rows["train_label"], text=rows["text"])
    assert fitted.chosen_.keys() == {"alpha"}
    assert mma.FewShotClassifier("gda", alpha=2.0).fit(rows["train"], rows["train_label"]).chosen_ == {}
    trained = mma.FewShotClassifier("linear-probe", epochs=3).fit(rows["train"], rows["train_label"])
    assert trained.best_epoch_ in (1, 2, 3)
    last = mma.FewShotClassifier("linear-probe", epochs=3, select="last").fit(rows["train"], rows["train_label"])
    assert last.best_epoch_ is None


def test_a_copy_has_what_was_given_and_what_was_not() -> None:
    classifier = mma.FewShotClassifier("mma", lam=0.5, epochs=7, seed=3)
    again = clone(classifier)
    assert again.get_params() == classifier.get_params()
    assert again.get_params()["lam"] == 0.5
    assert again.get_params()["mask"] == "cross"
    assert again.set_params(mask="pair").get_params()["mask"] == "pair"
    assert repr(mma.FewShotClassifier("gda", alpha=2)).startswith("FewShotClassifier(")


@pytest.mark.parametrize(
    ("made", "message"),
    [
        ({"adapter": "gdda"}, "unknown adapter 'gdda': did you mean gda"),
        ({"adapter": "gda", "alhpa": 1.0}, "alhpa is no option of gda: did you mean alpha"),
        ({"adapter": "gda", "alpha": "much"}, "alpha = 'much' is not a number"),
        ({"adapter": "tda"}, "tda learns from the images that it is asked about"),
        ({"adapter": "gda", "select": "test"}, "neither val nor last"),
    ],
)
def test_what_cannot_be_fitted_is_said_in_a_line(made: dict[str, Any], message: str, rows: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=message) as refused:
        mma.FewShotClassifier(**made).fit(rows["train"], rows["train_label"])
    assert "\n" not in str(refused.value)


def test_texts_of_other_classes_are_refused(rows: dict[str, Any]) -> None:
    classifier = mma.FewShotClassifier("zero-shot")
    with pytest.raises(mma.UsageError, match=r"texts have the shape \[2, "):
        classifier.fit(rows["train"], rows["train_label"], text=rows["text"][:2])
    with pytest.raises(mma.UsageError, match="there is no text for the class 1"):
        classifier.fit(rows["train"], rows["train_label"], text={0: rows["text"][0]})
    with pytest.raises(ValueError, match="'lamm' is no parameter of FewShotClassifier: did you mean lam"):
        mma.FewShotClassifier("mma").set_params(lamm=1)


@pytest.mark.slow
def test_without_scikit_learn_one_line_says_what_to_install() -> None:
    code = """
import sys; sys.modules['sklearn'] = None
import mma
try: mma.FewShotClassifier
except mma.UsageError as error: print(error)
"""
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert ran.stdout == "FewShotClassifier needs scikit-learn, 1.6 or later: pip install 'mma[sklearn]'\n"
