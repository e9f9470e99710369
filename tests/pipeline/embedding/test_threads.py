"""Every batch is computed with one thread, several side by side; an older cache with the threads it was begun with."""

from __future__ import annotations

import io
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from rich.console import Console
from torch import nn

from mma.cache import open_cache
from mma.pipeline.caches.repair import repair_cache
from mma.pipeline.embedding import header
from mma.pipeline.embedding import run as stage_one
from mma.pipeline.embedding.clip import FrozenClip
from mma.pipeline.embedding.threads import side_by_side

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


@pytest.fixture
def two_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    """Caches are begun with two threads, as earlier versions did on two cores."""
    monkeypatch.setattr(header, "OF_A_BATCH", 2)
    torch.set_num_threads(2)


def test_a_cache_has_the_same_bytes_whatever_cores_a_machine_has(embed: Embed, used: Used, tmp_path: Path) -> None:
    found = []
    for cores in (1, 2, 3):
        torch.set_num_threads(cores)
        path, _ = embed(cache=tmp_path / f"{cores}.zarr", batch_size=4)
        found.append({file: of for file, of in snapshot(path).items() if "embedding" in file})
        assert set(used) == {1}
        assert torch.get_num_threads() == cores
    assert found[0] == found[1] == found[2]


def test_results_come_in_order_and_so_many_are_computed_at_once() -> None:
    running, most, lock = 0, 0, threading.Lock()

    def work(number: int) -> int:
        nonlocal running, most
        with lock:
            running += 1
            most = max(most, running)
        time.sleep(0.01 * (number % 3))
        with lock:
            running -= 1
        return number

    assert list(side_by_side(work, range(12), 3, nn.Identity())) == list(range(12))
    assert most == 3


def test_who_leaves_does_not_wait_for_a_pass_of_the_model() -> None:
    class Slow(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            time.sleep(0.05)
            return x

    model, passes = nn.Sequential(*(Slow() for _ in range(100))), iter(range(5))
    found = side_by_side(lambda _: model(torch.zeros(1)), passes, 2, model)
    begun, main = time.monotonic(), threading.main_thread().ident
    threading.Timer(0.1, signal.pthread_kill, (main, signal.SIGINT)).start()
    with pytest.raises(KeyboardInterrupt):
        next(found)
    assert time.monotonic() - begun < 3  # one pass takes five seconds
    assert not any(block._forward_pre_hooks for block in model)


@pytest.mark.slow
def test_repair_computes_with_the_threads_of_the_cache(embed: Embed, used: Used, two_threads: None) -> None:
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
    embed: Embed, used: Used, two_threads: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

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
