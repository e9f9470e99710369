"""scikit-learn's way: `mma.FewShotClassifier(adapter="gda").fit(image, label, text=text).predict(image_test)`.

The one file that imports scikit-learn, which is an extra: `pip install 'mma[sklearn]'`.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Literal, Self

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from scipy.special import softmax

from mma.adapters import Adapter, AdapterError, Labelled, Recipe, Support, adapter_class, fit, options_of, predict
from mma.pipeline.errors import UsageError, nearest
from mma.pipeline.fitting.cells import RECIPE
from mma.pipeline.fitting.settings import AUTO, FACTORS
from mma.pipeline.using.auto import FAST, pick_for
from mma.pipeline.using.model import refuse_unservable
from mma.pipeline.using.threads import one_thread

try:
    from sklearn.base import BaseEstimator, ClassifierMixin
    from sklearn.utils.multiclass import check_classification_targets
    from sklearn.utils.validation import check_is_fitted, validate_data
except ImportError as missing:
    raise UsageError("FewShotClassifier needs scikit-learn, 1.6 or later: pip install 'mma[sklearn]'") from missing

HELD_OUT = 5  # one row in so many of a class chooses epochs and open hyper-parameters, as in `mma export`
LOGIT_SCALE = 100.0  # of OpenAI's CLIP, and of nearly every other

Floats = NDArray[np.float32] | NDArray[np.float64]


class FewShotClassifier(ClassifierMixin, BaseEstimator):  # type: ignore[misc]  # scikit-learn has no types
    """An adapter as a scikit-learn classifier of embeddings [N, D]; "auto" is a fast one that a fifth of every class
    chooses.

    `options` are the adapter's hyper-parameters and its recipe's (`lam=0.5`, `lr=0.001`, `epochs=50`): grid search sees
    them all. With `select="val"` a fifth of every class chooses the epoch and the hyper-parameters that were left
    open, and the fit is then made again on all rows with these; "last" chooses nothing.

    Rows are divided by their length; float32 is computed in float32, and all else in float64.

    After `fit`: `adapter_` (fitted), `adapter_name_`, `classes_` [C], `text_` [C, D], `chosen_` (hyper-parameters by
    name), `best_epoch_` (None where none was chosen), `n_features_in_`.
    """

    def __init__(
        self,
        adapter: str = "mma",
        *,
        seed: int = 0,
        select: Literal["val", "last"] = "val",
        logit_scale: float = LOGIT_SCALE,
        **options: Any,
    ) -> None:
        self.adapter = adapter
        self.seed = seed
        self.select = select
        self.logit_scale = logit_scale
        self._options = options

    def fit(self, X: ArrayLike, y: ArrayLike, text: ArrayLike | Mapping[Any, ArrayLike] | None = None) -> Self:
        """Fit on embeddings X [N, D] and labels y [N].

        `text` has an embedding for every class: [C, D] in the order of the sorted labels, or a mapping from label to
        [D], of which those are taken that occur. Without it, a class's text is the mean of its rows.

        Raises AdapterError or UsageError, both ValueErrors, for what cannot be fitted.
        """
        image, label = validate_data(self, X, y, dtype=[np.float64, np.float32])
        check_classification_targets(label)
        if self.adapter != AUTO:
            self._configured()
        self.classes_, index = np.unique(label, return_inverse=True)
        rows = _unit(image)
        self.text_ = _means(rows, index, len(self.classes_)) if text is None else self._texts(text, rows.dtype)
        with one_thread():
            self.adapter_name_ = self._pick(rows, index) if self.adapter == AUTO else self.adapter
            kind, options, recipe = self._configured()
            self.adapter_ = self._fit(kind, options, recipe, rows, index.astype(np.int64))
        return self

    def _pick(self, rows: Floats, label: NDArray[np.int64]) -> str:
        """The fast adapter that a fifth of every class chooses. Raises UsageError where that cannot be."""
        if self.select != "val" or self._options:
            raise UsageError("adapter='auto' takes no options, and chooses by select='val'")
        held = _held_out(label, self.seed)
        validation = Labelled(torch.from_numpy(rows[held]), torch.from_numpy(label[held]))
        support = {name: self._support(adapter_class(name), rows[~held], label[~held]) for name in FAST}
        return pick_for(support, validation, seed=self.seed).name

    def logits(self, X: ArrayLike) -> NDArray[np.float64]:
        """Logits [N, C] of embeddings [N, D]."""
        check_is_fitted(self)
        rows = _unit(validate_data(self, X, reset=False, dtype=self.text_.dtype))
        with one_thread():
            logits = predict(self.adapter_, torch.from_numpy(rows), torch.from_numpy(self.text_))
        return logits.double().numpy()

    def predict_proba(self, X: ArrayLike) -> NDArray[np.float64]:
        """The softmax of the logits, [N, C]. To calibrate it, use scikit-learn's CalibratedClassifierCV."""
        found: NDArray[np.float64] = softmax(self.logits(X), axis=1)
        return found

    def predict(self, X: ArrayLike) -> NDArray[Any]:
        """Labels [N]."""
        best = self.logits(X).argmax(axis=1)
        found: NDArray[Any] = self.classes_[best]
        return found

    def get_params(self, deep: bool = True) -> dict[str, Any]:
        """All that can be set: also what is an option of the adapter or of its recipe, and was left as it is."""
        return {**{name: getattr(self, name) for name in _own()}, **self._defaults(), **self._options}

    def set_params(self, **params: Any) -> Self:
        """Raises ValueError for what is neither one of the classifier's parameters nor an option of its adapter."""
        for name in _own() & params.keys():
            setattr(self, name, params.pop(name))
        known = self.get_params()
        if unknown := next((name for name in params if name not in known and isinstance(self.adapter, str)), None):
            raise ValueError(f"{unknown!r} is no parameter of {type(self).__name__}: {nearest(unknown, known)}")
        self._options = {**self._options, **params}
        return self

    def _defaults(self) -> dict[str, Any]:
        """Every option by name; nothing where there is no such adapter, which `fit` will say."""
        try:
            kind = adapter_class(self.adapter)
        except (AdapterError, TypeError, AttributeError):
            return {}
        recipe = {name: getattr(kind.recipe, name) for name in RECIPE} if kind.trains else {}
        return {**{option.name: option.default for option in options_of(kind)}, **recipe}

    def _configured(self) -> tuple[type[Adapter], dict[str, Any], Recipe]:
        """The adapter's class, its options and its recipe. Raises AdapterError or UsageError."""
        if not isinstance(self.adapter, str):
            raise UsageError(f"adapter = {self.adapter!r} is not a name: `mma adapters` lists them")
        name = self.adapter_name_ if self.adapter == AUTO else self.adapter
        refuse_unservable(name)
        if self.select not in ("val", "last"):
            raise UsageError(f"select = {self.select!r} is neither val nor last")
        kind = adapter_class(name)
        known = {option.name: option for option in options_of(kind)}
        options, recipe = {}, {}
        for name, value in self._options.items():
            if name in known:
                options[name] = known[name].value(value)
            elif name in RECIPE and kind.trains:
                recipe[name] = FACTORS[name].value(value)
            elif value is not None:
                raise UsageError(f"{name} is no option of {self.adapter}: {nearest(name, self._defaults())}")
        return kind, options, replace(kind.recipe, **recipe)

    def _texts(self, text: ArrayLike | Mapping[Any, ArrayLike], dtype: np.dtype[Any]) -> Floats:
        """Unit texts [C, D] of the classes that occur. Raises UsageError where there is not one for each."""
        if isinstance(text, Mapping):
            if missing := [c for c in self.classes_.tolist() if c not in text]:
                raise UsageError(f"there is no text for the class {missing[0]!r}")
            text = [np.asarray(text[c]) for c in self.classes_.tolist()]
        found = np.asarray(text, dtype=dtype)
        wanted = (len(self.classes_), self.n_features_in_)
        if found.shape != wanted or not np.isfinite(found).all():
            raise UsageError(
                f"texts have the shape {list(found.shape)}, and finite ones of {list(wanted)} are needed: one row for "
                "each of the sorted labels, or a mapping from label to row"
            )
        return _unit(found)

    def _fit(
        self, kind: type[Adapter], options: dict[str, Any], recipe: Recipe, rows: Floats, label: NDArray[np.int64]
    ) -> Adapter:
        """Choose on a fifth of every class what is to be chosen, then fit on all rows."""
        self.chosen_, self.best_epoch_ = {}, None
        chooser = kind(**options)
        open_options = chooser.open_options()
        if self.select == "val" and (kind.trains or open_options):
            held = _held_out(label, self.seed)
            if open_options and not held.any():
                raise UsageError(
                    f"no class has a second row to choose {open_options[0]} by (n_samples = {len(label)}): "
                    f"give {open_options[0]}, or more rows"
                )
            if held.any():
                validation = Labelled(torch.from_numpy(rows[held]), torch.from_numpy(label[held]))
                support = self._support(kind, rows[~held], label[~held])
                history = fit(chooser, support, recipe, seed=self.seed, validation=validation)
                self.chosen_, self.best_epoch_ = history.chosen, history.best_epoch
        adapter = kind(**{**options, **self.chosen_})
        recipe = replace(recipe, epochs=self.best_epoch_ or recipe.epochs)
        fit(adapter, self._support(kind, rows, label), recipe, seed=self.seed)
        return adapter.eval()

    def _support(self, kind: type[Adapter], rows: Floats, label: NDArray[np.int64]) -> Support:
        if not kind.few_shot:
            rows, label = rows[:0], label[:0]
        text = torch.from_numpy(self.text_)
        return Support(torch.from_numpy(rows), torch.from_numpy(label), text, float(self.logit_scale))


def _own() -> set[str]:
    """The classifier's own parameters."""
    return set(inspect.signature(FewShotClassifier).parameters) - {"options"}


def _unit(rows: Floats) -> Floats:
    """Rows of length 1; one of zeros stays one."""
    length = np.linalg.norm(rows, axis=1, keepdims=True)
    found: Floats = np.divide(rows, length, out=np.zeros_like(rows), where=length > 0)
    return found


def _means(rows: Floats, label: NDArray[np.int64], classes: int) -> Floats:
    """Unit class means [C, D]."""
    return _unit(np.stack([rows[label == c].mean(axis=0) for c in range(classes)]))


def _held_out(label: NDArray[np.int64], seed: int) -> NDArray[np.bool_]:
    """[N] the rows that choose: a fifth of every class, at least one, and none of a class of one row."""
    held = np.zeros(len(label), dtype=bool)
    for c in np.unique(label):
        rows = np.flatnonzero(label == c)
        count = max(1, len(rows) // HELD_OUT) if len(rows) > 1 else 0
        held[np.random.default_rng([seed, c]).permutation(rows)[:count]] = True
    return held
