"""A model in Python: `mma.load_model("models/photos").predict("new.jpg")`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from mma.pipeline.datasets.unlabelled import InMemory, Unlabelled
from mma.pipeline.device import pick_device
from mma.pipeline.errors import UsageError
from mma.pipeline.options import settings_from
from mma.pipeline.using.model import About, open_model
from mma.pipeline.using.predict import answers_for, make_scorer
from mma.pipeline.using.score import Prediction, Scorer
from mma.pipeline.using.settings import PredictSettings
from mma.pipeline.using.source import Encoder, Images

UNIT = 1e-2  # how far a row may be from length 1: float16 keeps it within a tenth of that


class LoadedModel:
    """An opened model folder. The encoder is loaded when images are first asked about."""

    def __init__(self, folder: str | Path, *, device: str = "auto", **encoder: Any) -> None:
        """Open and check a folder; `encoder` says where its CLIP is (`clip`, `pretrained`, `workers`). UsageError."""
        self.folder, self._device = Path(folder), pick_device(device)
        self._model = open_model(self.folder, self._device.type)
        known = {"clip": None, "pretrained": None, "workers": None}
        if unknown := next((name for name in encoder if name not in known), None):
            raise UsageError(f"unknown option {unknown!r}: {', '.join(known)}")
        found = {**known, **encoder}
        self._encoder = Encoder(
            self._model.about.encoder, self._device, found["workers"], found["clip"], found["pretrained"]
        )

    @property
    def about(self) -> About:
        """All that its model.json says."""
        return self._model.about

    @property
    def classnames(self) -> list[str]:
        """[C]."""
        return self._model.about.classnames

    def predict(self, what: str | Path | Sequence[str | Path], **options: Any) -> list[Prediction]:
        """An answer for every image of files, folders, manifests, shards or caches, in order.

        `options` are those of `mma predict`: top, threshold, coverage, classes, split, why. An image that cannot be
        read is an answer with a reason. Raises UsageError.
        """
        several = [what] if isinstance(what, str | Path) else list(what)
        given = {"model": self.folder, "what": tuple(map(str, several)), **options}
        return answers_for(settings_from(PredictSettings, given), self._model, self._encoder)

    def predict_bytes(self, images: Sequence[bytes], **options: Any) -> list[Prediction]:
        """As `predict`, of encoded images (JPEG, PNG, ...) that are at hand; each one's path is its number."""
        given = {"model": self.folder, "what": (), **options}
        scorer = make_scorer(self._model, self._encoder, settings_from(PredictSettings, given))
        found = Images(Unlabelled(InMemory(images), ""), self._encoder).batches(0)
        return [answer for batch in found for answer in scorer.score(batch.paths, batch.image, batch.reasons)]

    def why(self, what: str | Path | Sequence[str | Path], **options: Any) -> list[Prediction]:
        """As `predict`; each answer's `why` has its margins over the other classes and its nearest shots."""
        return self.predict(what, why=True, **options)

    def predict_embeddings(self, image: ArrayLike, **options: Any) -> list[Prediction]:
        """An answer for every row of unit embeddings [N, D] of the model's encoder; its path is its number.

        Raises UsageError where rows are not of length 1, or of another dimension.
        """
        rows = self._checked(image)
        given = {"model": self.folder, "what": (), **options}
        scorer = make_scorer(self._model, self._encoder, settings_from(PredictSettings, given))
        return scorer.score([str(row) for row in range(len(rows))], rows, {})

    def logits(self, image: ArrayLike) -> NDArray[np.float64]:
        """Logits [N, C] of unit embeddings [N, D]. Raises UsageError as `predict_embeddings`."""
        return Scorer(self._model, self.classnames, self._model.text).logits(self._checked(image))

    def _checked(self, image: ArrayLike) -> Tensor:
        rows, dim = np.asarray(image, dtype=np.float32), self.about.dim
        if rows.ndim != 2 or rows.shape[1] != dim:
            raise UsageError(f"embeddings have the shape {list(rows.shape)}: the model takes [N, {dim}]")
        length = np.linalg.norm(rows, axis=1)
        wrong = np.flatnonzero(~(np.abs(length - 1) <= UNIT))
        if len(wrong):
            raise UsageError(
                f"row {wrong[0]} of the embeddings has length {length[wrong[0]]:.3g}, and the model takes unit rows: "
                "divide each by its length"
            )
        return torch.from_numpy(rows).to(self._device)
