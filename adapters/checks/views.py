"""Several views of an image: used exactly where the class says so."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch

from mma.adapters.checks.subject import Promise, Subject, promise
from mma.adapters.toy import toy
from mma.adapters.training import predict


def views_are_used_exactly_where_that_is_declared(s: Subject) -> None:
    """Those of the support change the logits if `uses_views` is train."""
    data = toy(views=4)
    plain = replace(data, support=replace(data.support, views=None))
    given = {option: grid[-1] for option, grid in s.kind.tunes.items()}
    with_views, without = (
        predict(s.fitted(each, **given), data.test.image, data.support.text) for each in (data, plain)
    )
    same = torch.equal(with_views, without)
    promise(
        same == (s.kind.uses_views != "train"), f"`uses_views` is {s.kind.uses_views}, and views are another matter"
    )


def views_of_a_test_image_beyond_the_first_change_its_logits(s: Subject) -> Any:
    """Where `uses_views` is test, and the option `test_views` does not leave them out."""
    if s.kind.uses_views != "test":
        return NotImplemented
    has_option = "test_views" in s.names
    adapter = s.fitted(s.data, **({"test_views": None} if has_option else {}))
    image, text = s.data.test.image, s.data.support.text
    views = torch.stack([image.roll(shift, 0) for shift in (0, 1, 5, 9)], dim=1)  # [B, V, D]
    first, every = predict(adapter, views[:, :1], text), predict(adapter, views, text)
    promise(torch.equal(first, predict(adapter, image, text)), "one view is not as the image [B, D]")
    promise(every.shape == first.shape, f"logits of views are {list(every.shape)}")
    promise(every.isfinite().all(), "a logit is not finite")
    promise(((every - first).abs().amax(dim=-1) > 1e-3).double().mean() > 0.5, "more views change little")
    if has_option:
        one = predict(s.fitted(s.data, test_views=1), views, text)
        promise(torch.equal(one, first), "test_views = 1 is not the first view")
    return None


PROMISES: tuple[Promise, ...] = (
    views_are_used_exactly_where_that_is_declared,
    views_of_a_test_image_beyond_the_first_change_its_logits,
)
