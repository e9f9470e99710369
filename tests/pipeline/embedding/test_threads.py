"""A cache is continued and repaired with the threads it was begun with, whatever the machine has."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from rich.console import Console

from mma.cache import open_cache
from mma.pipeline.caches.repair import repair_cache
from mma.pipeline.embedding import run as stage_one
from mma.pipeline.embedding.clip import FrozenClip

from ...cache.writing import snapshot

Embed = Callable[..., tuple[Path, str]]
Used = list[int]


@pytest.fixture
def used(monkeypatch: pytest.MonkeyPatch) -> Iterator[Used]:
    """The threads of every picture's and text's encoding; torch has its own again at the end."""
    before, found = torch.get_num_threads(), list[int]()
    for name in ("see", "read"):
        true = getattr(FrozenClip, name)

        def counted(self: FrozenClip, given: object, true: Callable[..., object] = true) -> object:
            found.append(torch.get_num_threads())
            return true(self, given)

        monkeypatch.setattr(FrozenClip, name, counted)
    yield found
    torch.set_num_threads(before)


@pytest.mark.slow
def test_repair_computes_with_the_threads_of_the_cache(embed: Embed, used: Used) -> None:
    torch.set_num_threads(2)
    path, _ = embed()
    before = snapshot(path)
    assert open_cache(path).header.source["threads"] == 2
    torch.set_num_threads(1)
    used.clear()
    for name in ("image/train/embedding/c/0/0/0", "text/default/embedding/c/0/0/0"):
        (path / name).write_bytes(b"?")
    repair_cache(path, {}, None, Console(file=io.StringIO()))
    assert set(used) == {2}
    assert torch.get_num_threads() == 1
    assert snapshot(path) == before


@pytest.mark.slow
def test_a_run_is_continued_with_the_threads_of_the_first(
    embed: Embed, used: Used, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    torch.set_num_threads(2)
    with monkeypatch.context() as patch:
        patch.setattr(stage_one, "embed_images", interrupt)
        with pytest.raises(KeyboardInterrupt):
            embed()
    interrupted = tmp_path / "photos.zarr"
    whole, _ = embed(cache=tmp_path / "whole.zarr")
    torch.set_num_threads(1)
    embed(cache=interrupted)
    arrays = [{f: of for f, of in snapshot(path).items() if f[:6] == "image/"} for path in (interrupted, whole)]
    assert arrays[0] == arrays[1]  # the header says how many rows a chunk has, which the probe decides
    assert used[-1] == 2
