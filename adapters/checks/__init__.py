"""What every adapter promises, whatever its method: a suite for its author, as scikit-learn has `check_estimator`.

check_adapter(MyAdapter)                         # AdapterError with the first promise that does not hold
for check in checks(MyAdapter, known=Known(draws=True)):
    print(check)
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import torch

from mma.adapters.base import Adapter, AdapterError
from mma.adapters.blame import blamed
from mma.adapters.checks import choices, declared, logits, new_classes, rows, views, weights
from mma.adapters.checks.subject import Broken, Known, Promise, Subject

CHECKS: tuple[Promise, ...] = (
    *declared.PROMISES,
    *choices.PROMISES,
    *logits.PROMISES,
    *weights.PROMISES,
    *rows.PROMISES,
    *new_classes.PROMISES,
    *views.PROMISES,
)


class Check(NamedTuple):
    """One promise, and whether it holds."""

    name: str
    ok: bool
    message: str  # what broke; empty if nothing


def check_adapter(kind: type[Adapter], *, known: Known | None = None, **options: Any) -> None:
    """Raise AdapterError naming the first promise that `kind`, with these options, does not hold."""
    for check in checks(kind, known=known, **options):
        if not check.ok:
            raise AdapterError(f"{kind.__name__} breaks the promise {check.name!r}: {check.message}")


def checks(kind: type[Adapter], *, known: Known | None = None, **options: Any) -> Iterator[Check]:
    """Every promise that concerns `kind`, made with `options` in place of its defaults, as it is checked."""
    if known is None:
        known = getattr(kind, "known", Known())
    subject = Subject(kind, options, known)
    for check in CHECKS:
        name = check.__name__.replace("_", " ")
        try:
            with torch.random.fork_rng(devices=[]):
                if check(subject) is NotImplemented:
                    continue
        except Exception as error:  # whatever an adapter does wrong is the answer, not an accident
            message = " ".join(str(error).split())
            if not isinstance(error, Broken):
                message = f"{type(error).__name__}: {message}{blamed(error, kind)}"
            yield Check(name, False, message)
        else:
            yield Check(name, True, "")


__all__ = ["CHECKS", "Check", "Known", "check_adapter", "checks"]
