"""Which other data may a fit be scored on?"""

from __future__ import annotations

from collections.abc import Sequence

from mma.pipeline.errors import UsageError
from mma.pipeline.fitting.features import Features

WEIGHTS = "weights_sha256"  # of a fingerprint
TAKEN = ("source", "mean")  # columns of the table


def check_targets(source: Features, targets: Sequence[Features]) -> None:
    """Refuse a target that is the source, or whose embeddings are not of the same space. Raises UsageError."""
    names: list[str] = []
    for target in targets:
        _check_target(source, target)
        name = target.images.dataset
        if name in names or name in TAKEN:
            raise UsageError(
                f"the target {_where(target)} is called {name}, and so is another column: import or embed it under "
                "another name"
            )
        names.append(name)


def _check_target(source: Features, target: Features) -> None:
    where = _where(target)
    if target.images is source.images or target.data.digest == source.data.digest:
        raise UsageError(f"the target {where} is the data that is fitted: its column is called source; leave it out")
    own, other = source.images.cache.header, target.images.cache.header
    for what, theirs, ours in (
        ("embeddings of dimension", other.dim, own.dim),
        ("a logit scale of", other.logit_scale, own.logit_scale),
        ("the model", _model(target), _model(source)),
    ):
        if theirs != ours and "" not in (theirs, ours):
            raise UsageError(
                f"the target {where} has {what} {theirs}, and {_where(source)} has {ours}: both must be of one model"
            )


def _model(features: Features) -> str:
    """The model of embeddings in words; empty where they were imported and no one knows it."""
    fingerprint = features.images.cache.header.fingerprint
    if not fingerprint.get(WEIGHTS):
        return ""
    activation = "QuickGELU" if fingerprint.get("quick_gelu") else "GELU"
    return f"{fingerprint.get('model')} with {activation} and weights {fingerprint[WEIGHTS][:12]}"


def _where(features: Features) -> str:
    return str(features.images.cache.location)
