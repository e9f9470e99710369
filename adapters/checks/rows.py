"""Which test rows the logits of a row depend on: on itself alone, on those before it, or on all."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from mma.adapters.base import Adapter
from mma.adapters.checks.subject import Promise, Subject, near, promise
from mma.adapters.memory import stream_order
from mma.adapters.toy import Toy
from mma.adapters.training import predict


def permuting_the_images_permutes_the_rows(s: Subject) -> Any:
    """But in a stream."""
    if s.kind.transductive == "stream":
        return NotImplemented
    order = torch.randperm(len(s.data.test.label), generator=torch.Generator().manual_seed(1))
    return near(predict(s.usual, s.data.test.image[order], s.data.support.text), s.logits[order], 2e-4, 1e-5)


def an_image_does_not_depend_on_the_rest_of_the_test_rows(s: Subject) -> Any:
    """Unless the adapter is transductive."""
    if s.kind.transductive != "no":
        return NotImplemented
    alone = torch.cat([predict(s.usual, row[None], s.data.support.text) for row in s.data.test.image])
    return near(alone, s.logits, 2e-4, 1e-5)


def in_a_stream_a_row_depends_on_rows_before_it_and_on_none_after(s: Subject) -> Any:
    """What has been seen is remembered, and a row that is still to come has not been."""
    if s.kind.transductive != "stream":
        return NotImplemented
    data = replace(s.data, support=replace(s.data.support, logit_scale=10.0))  # at 100, p is 0 or 1 whatever is kept
    for shuffle in (False, True) if "shuffle" in s.names else (False,):
        order = stream_order(len(data.test.image), shuffle)
        moved = depends(s.fitted(data, **s.shuffled(shuffle)), data)[order][:, order]
        promise(not moved.tril(-1).any(), "a row depends on one after it")
        promise(moved.triu(1).any(dim=0)[1:].all(), "a row depends on none before it")
    return None


def a_stream_may_end_after_any_row(s: Subject) -> Any:
    """The first rows are what they are without the others."""
    if s.kind.transductive != "stream":
        return NotImplemented
    adapter = s.fitted(s.data, **s.shuffled(False))
    logits = predict(adapter, s.data.test.image, s.data.support.text)
    return near(predict(adapter, s.data.test.image[:9], s.data.support.text), logits[:9], 2e-4, 1e-5)


def in_a_batch_every_row_depends_on_every_other(s: Subject) -> Any:
    """What is estimated from all test rows moves with each of them."""
    if s.kind.transductive != "batch":
        return NotImplemented
    return promise(depends(s.usual, s.data).all(), "a row does not depend on another")


def depends(adapter: Adapter, data: Toy) -> Tensor:
    """Whether the logits of test row i move when row j is another image: entry [j, i] of [B, B]."""
    image, text = data.test.image, data.support.text
    logits, moved = predict(adapter, image, text), []
    for row in range(len(image)):
        other = image.clone()
        other[row] = data.new_test.image[0]
        moved.append((predict(adapter, other, text) - logits).abs().amax(dim=-1) > 1e-4)
    return torch.stack(moved)


PROMISES: tuple[Promise, ...] = (
    permuting_the_images_permutes_the_rows,
    an_image_does_not_depend_on_the_rest_of_the_test_rows,
    in_a_stream_a_row_depends_on_rows_before_it_and_on_none_after,
    a_stream_may_end_after_any_row,
    in_a_batch_every_row_depends_on_every_other,
)
